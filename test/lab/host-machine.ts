// This host as a Machine: for the demo where the host's own kernel has nbd.

import { execFile, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import {
  type Command,
  commandScript,
  commandText,
  DEFAULT_RUN_TIMEOUT_MS,
  type Job,
  LabError,
  type Machine,
  type RunOptions,
  type RunResult,
} from './machine.ts';

const SIGNAL_EXIT_CODES = { SIGKILL: 137, SIGTERM: 143, SIGINT: 130 } as const;

export class HostMachine implements Machine, AsyncDisposable {
  readonly name = 'this host';
  readonly exchangeDir: string;
  readonly #logAtStart: string;
  readonly #running = new Set<Job>();
  #jobCount = 0;

  private constructor(exchangeDir: string, logAtStart: string) {
    this.exchangeDir = exchangeDir;
    this.#logAtStart = logAtStart;
  }

  static async create(): Promise<HostMachine> {
    return new HostMachine(await mkdtemp(join(tmpdir(), 'holdfast-host-')), await kernelRing());
  }

  async run(command: Command, options: RunOptions = {}): Promise<RunResult> {
    return await this.start(command, options).ended;
  }

  start(command: Command, options: RunOptions = {}): Job {
    const files = join(this.exchangeDir, `job-${++this.#jobCount}`);
    const out = openSync(`${files}.out`, 'w');
    const err = openSync(`${files}.err`, 'w');
    const path = `${dirname(process.execPath)}:${process.env['PATH']}:/usr/sbin:/sbin`;
    const child = spawn('bash', ['-c', commandScript(command, options.env)], {
      detached: true, // a process group of its own, to be killed as one
      stdio: ['ignore', out, err],
      env: { ...process.env, PATH: path },
    });
    closeSync(out);
    closeSync(err);
    const stdout = () => readFile(`${files}.out`, 'utf8');
    const stderr = () => readFile(`${files}.err`, 'utf8');
    let isOver = false;
    const kill: Job['kill'] = (signal) => {
      if (!isOver && child.pid !== undefined) process.kill(-child.pid, `SIG${signal}`);
    };
    const timeoutMs = options.timeoutMs ?? DEFAULT_RUN_TIMEOUT_MS;
    const exited = new Promise<number>((resolve, reject) => {
      let why: string | undefined;
      const end = (reason: string) => {
        why = reason;
        kill('KILL');
      };
      const timer = setTimeout(() => end(`no end after ${timeoutMs} ms`), timeoutMs);
      const abort = () => end('aborted');
      options.signal?.addEventListener('abort', abort, { once: true });
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        isOver = true;
        clearTimeout(timer);
        options.signal?.removeEventListener('abort', abort);
        if (why !== undefined) reject(new LabError(`${this.name}: ${why}: ${commandText(command)}`));
        else resolve(code ?? SIGNAL_EXIT_CODES[signal as keyof typeof SIGNAL_EXIT_CODES] ?? 255);
      });
    });
    const ended = exited.then(async (exitCode) => ({
      stdout: await stdout(),
      stderr: await stderr(),
      exitCode,
    }));
    const job: Job = { ended, stdout, stderr, kill };
    this.#running.add(job);
    const forget = () => void this.#running.delete(job);
    ended.then(forget, forget);
    return job;
  }

  /** Without the lines that were there before. */
  async kernelLog(): Promise<string> {
    const log = await kernelRing();
    // The ring drops its oldest lines meanwhile: what is new comes after the line that was the last one then.
    const last = this.#logAtStart.trimEnd().split('\n').at(-1) ?? '';
    const at = last === '' ? -1 : log.lastIndexOf(last);
    return at < 0 ? log : log.slice(at + last.length);
  }

  /** Without waiting: a job may need something else to go before it can end. */
  killJobs(): void {
    for (const job of this.#running) job.kill('KILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.killJobs();
    await Promise.allSettled([...this.#running].map((job) => job.ended));
    await rm(this.exchangeDir, { recursive: true, force: true });
  }
}

async function kernelRing(): Promise<string> {
  return (await promisify(execFile)('dmesg', { maxBuffer: 64 * 1024 * 1024 })).stdout;
}
