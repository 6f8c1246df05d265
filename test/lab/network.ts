// A wire between guests: one uml_switch process as a hub on a Unix socket of its own. With `hasHost` this machine is on
// it as well, in a network namespace of its own (as root): for what is to outlive the guests, and be seen by nobody else.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isListening } from '../support/listening.ts';
import { LabError } from './machine.ts';
import { findProgram } from './requirements.ts';

const NAMESPACE_PREFIX = 'holdfast-lab-';
let namespaces = 0;

export class LabNetwork implements AsyncDisposable {
  readonly socketPath: string;
  /** This machine's own address on the wire, if it is on it. */
  readonly hostAddress = '10.77.0.254';
  readonly #dir: string;
  readonly #process: ChildProcess;
  #namespace: string | undefined;
  #addressCount = 0;

  private constructor(dir: string, socketPath: string, process: ChildProcess) {
    this.#dir = dir;
    this.socketPath = socketPath;
    this.#process = process;
  }

  static async create({ hasHost = false } = {}): Promise<LabNetwork> {
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-net-'));
    const socketPath = join(dir, 'switch');
    namespaces += 1;
    const tap = `hf${process.pid}-${namespaces}`;
    const words = ['-unix', socketPath, '-hub', ...(hasHost ? ['-tap', tap] : [])];
    if (hasHost) ip('tuntap', 'add', 'mode', 'tap', 'name', tap);
    // It does not outlive this process: a tap without its network keeps it busy for ever.
    const command = ['--pdeathsig', 'KILL', findProgram('uml_switch') ?? 'uml_switch', ...words];
    const child = spawn('setpriv', command, {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    child.on('error', () => {}); // seen below: the socket never appears
    for (let tries = 0; !isListening(socketPath); tries++) {
      if (tries === 500 || child.exitCode !== null) {
        child.kill('SIGKILL');
        if (hasHost) ip('link', 'del', tap);
        await rm(dir, { recursive: true, force: true });
        throw new LabError('uml_switch did not start: is the package uml-utilities installed?');
      }
      await sleep(20);
    }
    const network = new LabNetwork(dir, socketPath, child);
    if (hasHost) network.#join(tap);
    return network;
  }

  /** What goes before a command that is to run on this machine's side of the wire. It ends with this process. */
  get hostLauncher(): readonly string[] {
    if (this.#namespace === undefined) throw new LabError('this machine is not on the wire: hasHost');
    return ['nsenter', `--net=/run/netns/${this.#namespace}`, 'setpriv', '--pdeathsig', 'KILL'];
  }

  /** The next free address of this wire, with its prefix length. */
  takeAddress(): string {
    this.#addressCount++;
    return `10.77.0.${this.#addressCount}/24`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#namespace !== undefined) ip('netns', 'del', this.#namespace);
    this.#namespace = undefined;
    this.#process.kill('SIGKILL');
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** The switch holds the tap already; its other end goes into the namespace. */
  #join(tap: string): void {
    this.#namespace = `${NAMESPACE_PREFIX}${tap}`;
    removeLeftovers();
    ip('netns', 'add', this.#namespace);
    ip('link', 'set', tap, 'netns', this.#namespace);
    const inside = ['-n', this.#namespace];
    ip(...inside, 'link', 'set', 'lo', 'up');
    ip(...inside, 'addr', 'add', `${this.hostAddress}/24`, 'dev', tap);
    ip(...inside, 'link', 'set', tap, 'up');
  }
}

/** What a test run that was killed has left. */
function removeLeftovers(): void {
  for (const [name, owner] of ip('netns', 'list').matchAll(
    new RegExp(`^${NAMESPACE_PREFIX}hf(\\d+)-\\d+`, 'gm'),
  ))
    if (!existsSync(`/proc/${owner}`)) ip('netns', 'del', name);
}

function ip(...words: string[]): string {
  return execFileSync('ip', words, { encoding: 'utf8' });
}
