// Lab guests: User-Mode Linux machines with kernels of their own (nbd, device mapper, cgroups), as
// ordinary processes of this machine. A guest boots in about two seconds, runs scripts, and can lose power.
//
// Every guest is held by a supervisor process: it dies with its owner, at its time limit, when its signal
// aborts, and at stop() or cutPower(). Nothing of it stays on the host: its root is the host's root under
// an overlay in memory; only its exchange directory, the disks and the shared directories are the host's.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../../src/core/units.ts';
import {
  type Command,
  commandScript,
  commandText,
  DEFAULT_RUN_TIMEOUT_MS,
  type Job,
  LabError,
  type Machine,
  mustRun,
  quote,
  type RunOptions,
  type RunResult,
  tail,
} from './machine.ts';
import type { LabNetwork } from './network.ts';
import { findProgram, missingRequirements } from './requirements.ts';

const DEFAULT_MEMORY_MIB = 512;
const DEFAULT_TIMEOUT_MS = 600_000;
const BOOT_TIMEOUT_MS = 60_000;
const HALT_TIMEOUT_MS = 20_000;
const GUEST_FILES = ['guest-init.sh', 'guest-agent.sh', 'guest-supervisor.sh'] as const;

export interface GuestOptions {
  /** Host name inside and name in messages. */
  readonly name?: string;
  readonly memoryMib?: number;
  /** Files or block devices of the host: /dev/ubda, /dev/ubdb, … in this order. */
  readonly disks?: readonly string[];
  /** vhost-user sockets, ForgetfulDisk's: /dev/vda, /dev/vdb, … with a volatile write cache. */
  readonly virtioDisks?: readonly string[];
  /** Kernel modules with parameters: 'nbd max_part=0'. */
  readonly modules?: readonly string[];
  /** Host directories the guest may write, under the same path. */
  readonly shared?: readonly string[];
  readonly network?: LabNetwork;
  /** On that network, with its prefix length, of `takeAddress`: for a machine that boots again. A new one by default. */
  readonly address?: string;
  /** More words for the kernel's command line. */
  readonly kernelWords?: readonly string[];
  /** The guest is killed after this, whatever it does. Default 10 minutes. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

interface PendingJob {
  readonly exited: (exitCode: number) => void;
  readonly lost: (error: Error) => void;
}

export class Guest implements Machine, AsyncDisposable {
  readonly name: string;
  readonly exchangeDir: string;
  /** Address without prefix length on the network it was started with. */
  readonly address: string | undefined;
  readonly #dir: string;
  readonly #supervisor: ChildProcess;
  readonly #agent: Writable;
  readonly #jobs = new Map<number, PendingJob>();
  readonly #exited: Promise<void>;
  #isDead = false;
  #jobCount = 0;
  #markReady: () => void = () => {};

  private constructor(name: string, dir: string, address: string | undefined, supervisor: ChildProcess) {
    this.name = name;
    this.exchangeDir = join(dir, 'exchange');
    this.address = address?.split('/')[0];
    this.#dir = dir;
    this.#supervisor = supervisor;
    this.#exited = new Promise((resolve) => {
      supervisor.once('exit', () => resolve());
      supervisor.once('error', () => resolve());
    });
    void this.#exited.then(() => this.#died()); // #died cannot fail
    this.#agent = supervisor.stdio[3] as Writable;
    this.#agent.on('error', () => {}); // a dead guest closes its end: seen as its exit
    const answers = createInterface({ input: supervisor.stdio[4] as Readable });
    answers.on('line', (line) => this.#onAnswer(line));
  }

  static async start(options: GuestOptions = {}): Promise<Guest> {
    const missing = missingRequirements('guest');
    if (missing !== undefined) throw new LabError(`the lab lacks packages: run\n  ${missing.remedy}`);
    options.signal?.throwIfAborted();
    const name = options.name ?? 'guest';
    const dir = await realpath(await mkdtemp(join(tmpdir(), 'holdfast-guest-')));
    let guest: Guest | undefined;
    try {
      const address = options.address ?? options.network?.takeAddress();
      const words = await prepare(dir, name, address, options);
      guest = new Guest(name, dir, address, superviseKernel(dir, words, options));
      const { signal } = options;
      if (signal !== undefined) {
        const cut = () => void guest?.cutPower(); // cannot fail; awaited by nobody but the disposal
        signal.addEventListener('abort', cut, { once: true });
        void guest.#exited.then(() => signal.removeEventListener('abort', cut));
      }
      await guest.#booted();
      return guest;
    } catch (error) {
      await guest?.cutPower();
      const log = (await readFile(join(dir, 'kernel.log'), 'utf8').catch(() => '')) || '(no kernel log)';
      await rm(dir, { recursive: true, force: true });
      throw new LabError(`${name} did not start; its kernel log ends with:\n${tail(log)}`, { cause: error });
    }
  }

  async run(command: Command, options: RunOptions = {}): Promise<RunResult> {
    return await this.start(command, options).ended;
  }

  start(command: Command, options: RunOptions = {}): Job {
    const id = ++this.#jobCount;
    const jobDir = join(this.#dir, 'jobs', String(id));
    const stdout = () => readFile(join(jobDir, 'stdout'), 'utf8').catch(() => '');
    const stderr = () => readFile(join(jobDir, 'stderr'), 'utf8').catch(() => '');
    const kill: Job['kill'] = (signal) => {
      if (this.#jobs.has(id)) this.#agent.write(`signal ${id} ${signal}\n`);
    };
    const exitCode = this.#runJob(id, jobDir, command, options, () => kill('KILL'));
    const ended = exitCode.then(async (code) => ({
      stdout: await stdout(),
      stderr: await stderr(),
      exitCode: code,
    }));
    ended.catch(() => {}); // a job that nobody waits for may be lost with its guest
    return { ended, stdout, stderr, kill };
  }

  async kernelLog(): Promise<string> {
    return (await readFile(join(this.#dir, 'kernel.log'), 'utf8')).replaceAll('\r', '');
  }

  /** The machine loses power: every process of the guest is killed at once. Resolves when all are gone. */
  async cutPower(): Promise<void> {
    if (!this.#isDead) {
      const guestId = Number(await readFile(join(this.#dir, 'pid'), 'utf8').catch(() => '0'));
      if (guestId > 0) await killGroup(guestId);
      else this.#supervisor.stdin?.destroy(); // too early for an id: the supervisor kills it
    }
    await this.#exited;
  }

  /** Nothing reaches or leaves the guest any more; its sockets notice by silence only. */
  async cutNetwork(): Promise<void> {
    await mustRun(this, 'ip link set eth0 down', { timeoutMs: 20_000 });
  }

  async healNetwork(): Promise<void> {
    await mustRun(this, 'ip link set eth0 up', { timeoutMs: 20_000 });
  }

  /** Syncs and halts, or cuts the power if that takes too long; removes what the guest left. Twice without harm. */
  async stop(): Promise<void> {
    if (!this.#isDead) {
      this.#agent.write('halt\n');
      const timer = setTimeout(() => void this.cutPower(), HALT_TIMEOUT_MS);
      await this.#exited;
      clearTimeout(timer);
    }
    await rm(this.#dir, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cutPower();
    await rm(this.#dir, { recursive: true, force: true });
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  async #runJob(
    id: number,
    jobDir: string,
    command: Command,
    options: RunOptions,
    kill: () => void,
  ): Promise<number> {
    const timeoutMs = options.timeoutMs ?? DEFAULT_RUN_TIMEOUT_MS;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const fail = (why: string) => reject(new LabError(`${this.name} ${why}: ${commandText(command)}`));
    promise.catch(() => {}); // the guest may die before anybody waits: whoever awaits it below still hears
    if (this.#isDead) {
      fail('is not running, cannot run');
      return await promise;
    }
    let giveUp: NodeJS.Timeout | undefined;
    let isLate = false;
    const end = (why: string) => {
      isLate = true;
      kill();
      giveUp = setTimeout(() => fail(`did not end a killed command (${why})`), 10_000);
    };
    const timer = setTimeout(() => end(`no end after ${timeoutMs} ms`), timeoutMs);
    const abort = () => end('aborted');
    options.signal?.addEventListener('abort', abort, { once: true });
    this.#jobs.set(id, {
      exited: (exitCode) => (isLate ? fail(`stopped a command after ${timeoutMs} ms`) : resolve(exitCode)),
      lost: reject,
    });
    try {
      await mkdir(jobDir);
      await writeFile(join(jobDir, 'command'), commandScript(command, options.env));
      this.#agent.write(`run ${id}\n`);
      return await promise;
    } finally {
      clearTimeout(timer);
      clearTimeout(giveUp);
      options.signal?.removeEventListener('abort', abort);
      this.#jobs.delete(id);
    }
  }

  #onAnswer(line: string): void {
    const [word, id, exitCode] = line.trim().split(' ');
    if (word === 'ready') this.#markReady();
    if (word === 'exit') this.#jobs.get(Number(id))?.exited(Number(exitCode));
  }

  async #booted(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#markReady = resolve;
    const timer = setTimeout(() => reject(new LabError('no word from its agent')), BOOT_TIMEOUT_MS);
    void this.#exited.then(() => reject(new LabError('its kernel ended')));
    try {
      await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #died(): void {
    this.#isDead = true;
    this.#supervisor.stdin?.destroy();
    this.#agent.destroy();
    for (const job of this.#jobs.values())
      job.lost(new LabError(`${this.name} died under a running command`));
  }
}

/** Lays out the guest's directory; returns the kernel's command line. */
async function prepare(
  dir: string,
  name: string,
  address: string | undefined,
  options: GuestOptions,
): Promise<string[]> {
  const memoryMib = options.memoryMib ?? DEFAULT_MEMORY_MIB;
  await mkdir(join(dir, 'jobs'));
  await mkdir(join(dir, 'exchange'));
  await mkdir(join(dir, 'uml'));
  for (const file of GUEST_FILES) {
    await copyFile(join(import.meta.dirname, file), join(dir, file.replace('guest-', '')));
  }
  const path = `${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
  const modules = [...(options.virtioDisks === undefined ? [] : ['virtio_blk']), ...(options.modules ?? [])];
  const config = [
    `lab_path=${quote(path)}`,
    `lab_hostname=${quote(name)}`,
    `lab_address=${quote(address ?? '')}`,
    `lab_shared=(${(options.shared ?? []).map(quote).join(' ')})`,
    `lab_modules=(${modules.map(quote).join(' ')})`,
  ];
  await writeFile(join(dir, 'config'), `${config.join('\n')}\n`);
  const disks = (options.disks ?? []).map((disk, index) => `ubd${index}=${disk}`);
  const virtioDisks = (options.virtioDisks ?? []).map((socket) => `virtio_uml.device=${socket}:2`);
  // A machine that boots again has the Ethernet address that the others remember.
  const ethernet = (address?.split('/')[0] ?? '').split('.').map((part) => Number(part).toString(16));
  const mac = ['02', '00', ...ethernet].map((part) => part.padStart(2, '0')).join(':');
  const wire = options.network === undefined ? [] : [`eth0=daemon,${mac},unix,${options.network.socketPath}`];
  return [
    `mem=${memoryMib}M`,
    'rootfstype=hostfs rootflags=/ ro',
    `init=${join(dir, 'init.sh')}`,
    `uml_dir=${join(dir, 'uml')} umid=guest`,
    'con=null con0=null,fd:1 con1=fd:3,fd:4 ignore_loglevel',
    ...disks,
    ...virtioDisks,
    ...wire,
    ...(options.kernelWords ?? []),
  ].flatMap((words) => words.split(' '));
}

function superviseKernel(dir: string, words: readonly string[], options: GuestOptions): ChildProcess {
  const log = openSync(join(dir, 'kernel.log'), 'w');
  try {
    const limitSeconds = String(Math.ceil((options.timeoutMs ?? DEFAULT_TIMEOUT_MS) / 1000));
    const kernel = findProgram('linux.uml') ?? 'linux.uml';
    return spawn('/bin/bash', [join(dir, 'supervisor.sh'), dir, limitSeconds, kernel, ...words], {
      detached: true,
      stdio: ['pipe', log, log, 'pipe', 'pipe'],
      env: { ...process.env, TMPDIR: memoryDir(dir, options.memoryMib ?? DEFAULT_MEMORY_MIB) },
    });
  } finally {
    closeSync(log);
  }
}

/** Where the kernel may keep the guest's memory, a file it maps executable: containers often allow little. */
function memoryDir(dir: string, memoryMib: number): string {
  try {
    const mount = readFileSync('/proc/mounts', 'latin1').match(/^\S+ \/dev\/shm \S+ (\S+)/m);
    if (mount === null || mount[1]?.split(',').includes('noexec')) return dir;
    const { bavail, bsize } = statfsSync('/dev/shm');
    return bavail * bsize > 2 * memoryMib * MIB ? '/dev/shm' : dir;
  } catch {
    return dir;
  }
}

/**
 * Kills a guest's process group and waits until none of it can still write to a disk. The whole group by one
 * call: were the tracing kernel killed first, the guest's processes would run on for a moment untraced, and
 * their system calls would be this host's.
 */
async function killGroup(id: number): Promise<void> {
  try {
    process.kill(-id, 'SIGKILL');
  } catch {
    // gone already
  }
  for (let tries = 0; tries < 500 && groupIsAlive(id); tries++) await sleep(10);
}

/** Whether a process of the group still runs; the dead that nobody has collected do not count. */
function groupIsAlive(id: number): boolean {
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const [state, , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(group) === id && state !== 'Z' && state !== 'X') return true;
    } catch {
      // ended between the two calls
    }
  }
  return false;
}
