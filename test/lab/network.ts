// A wire between guests: one uml_switch process as a hub on a Unix socket of its own.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LabError } from './machine.ts';
import { findProgram } from './requirements.ts';

export class LabNetwork implements AsyncDisposable {
  readonly socketPath: string;
  readonly #dir: string;
  readonly #process: ChildProcess;
  #addressCount = 0;

  private constructor(dir: string, socketPath: string, process: ChildProcess) {
    this.#dir = dir;
    this.socketPath = socketPath;
    this.#process = process;
  }

  static async create(): Promise<LabNetwork> {
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-net-'));
    const socketPath = join(dir, 'switch');
    // The switch ends at end of file on its standard input, so it does not outlive this process.
    const child = spawn(findProgram('uml_switch') ?? 'uml_switch', ['-unix', socketPath, '-hub'], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    child.on('error', () => {}); // seen below: the socket never appears
    for (let tries = 0; !existsSync(socketPath); tries++) {
      if (tries === 500 || child.exitCode !== null) {
        child.kill('SIGKILL');
        await rm(dir, { recursive: true, force: true });
        throw new LabError('uml_switch did not start: is the package uml-utilities installed?');
      }
      await sleep(20);
    }
    return new LabNetwork(dir, socketPath, child);
  }

  /** The next free address of this wire, with its prefix length. */
  takeAddress(): string {
    this.#addressCount++;
    return `10.77.0.${this.#addressCount}/24`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill('SIGKILL');
    await rm(this.#dir, { recursive: true, force: true });
  }
}
