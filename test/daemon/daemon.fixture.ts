// Real daemons and real commands, each a process of its own, in directories that go with the test.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

export const HOLDFAST = fileURLToPath(new URL('../../bin/holdfast', import.meta.url));
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;

interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly [key: string]: unknown;
}

export interface CommandResult {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one command against the daemon whose API socket is `api`. */
export async function holdfast(api: string, ...args: string[]): Promise<CommandResult> {
  const env = { HOLDFAST_API: api };
  const { exitCode, stdout, stderr } = await execa(HOLDFAST, args, { env, reject: false, timeout: 30_000 });
  return { exitCode, stdout, stderr };
}

/** The JSON that a command prints; fails with its error text. */
export async function holdfastJson<T>(api: string, ...args: string[]): Promise<T> {
  const { exitCode, stdout, stderr } = await holdfast(api, ...args, '--json');
  if (exitCode !== 0) throw new Error(`holdfast ${args.join(' ')}: exit code ${exitCode}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

export async function until<T>(what: string, look: () => T | Promise<T>, timeoutMs = 10_000): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await delay(20);
  }
}

/** A child process whose output is kept, and which never outlives its test. */
export class Child {
  readonly process: ChildProcess;
  readonly lines: string[] = [];
  readonly exited: Promise<number | null>;

  /** `launcher`: a command that becomes the one behind it, in another namespace, say. */
  constructor(args: readonly string[], env: NodeJS.ProcessEnv = {}, launcher: readonly string[] = []) {
    const [program = '', ...rest] = [...launcher, HOLDFAST, ...args];
    this.process = spawn(program, rest, {
      env: { ...process.env, HOLDFAST_API: undefined, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      if (stream !== null) createInterface(stream).on('line', (line) => this.lines.push(line));
    }
    this.exited = once(this.process, 'close').then(([code]) => code as number | null);
  }

  /** Bounded, so that a process that hangs fails its test by name. */
  async end(signal?: NodeJS.Signals): Promise<number | null> {
    if (signal !== undefined) this.process.kill(signal);
    const timeout = delay(STOP_TIMEOUT_MS, 'timeout', { ref: false });
    const result = await Promise.race([this.exited, timeout]);
    if (result !== 'timeout') return result as number | null;
    this.process.kill('SIGKILL');
    throw new Error(`not ended within ${STOP_TIMEOUT_MS} ms:\n${this.lines.join('\n')}`);
  }
}

export class Daemon extends Child {
  readonly dataDir: string;
  readonly api: string;

  constructor(
    dataDir: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv,
    launcher: readonly string[] = [],
  ) {
    super(['daemon', '--data-dir', dataDir, '--node-name', 'test-node', ...args], env, launcher);
    this.dataDir = dataDir;
    this.api = join(dataDir, 'api.sock');
  }

  get log(): LogLine[] {
    return this.lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogLine);
  }

  /** Resolves when the daemon serves; throws its output when it ends before. */
  async serving(): Promise<this> {
    const isOver = (): boolean =>
      this.log.some(({ msg }) => msg === 'serving') || this.process.exitCode !== null;
    try {
      await until('the daemon serves', isOver, START_TIMEOUT_MS);
    } catch (cause) {
      throw new Error(`the daemon does not serve:\n${this.lines.join('\n')}`, { cause });
    }
    if (this.process.exitCode !== null) throw new Error(`the daemon ended:\n${this.lines.join('\n')}`);
    return this;
  }

  run(...args: string[]): Promise<CommandResult> {
    return holdfast(this.api, ...args);
  }

  json<T>(...args: string[]): Promise<T> {
    return holdfastJson<T>(this.api, ...args);
  }
}

/** Owns what a test starts and makes; `dispose` ends and removes all of it. */
export class Workplace {
  readonly directory: string;
  /** Shared by its daemons, as a machine's is. */
  readonly #runDirectory: string;
  readonly #children: Child[] = [];

  static async create(): Promise<Workplace> {
    return new Workplace(
      await mkdtemp(join(tmpdir(), 'holdfast-daemon-')),
      await mkdtemp('/dev/shm/holdfast-daemon-'),
    );
  }

  private constructor(directory: string, runDirectory: string) {
    this.directory = directory;
    this.#runDirectory = runDirectory;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  daemon(
    args: readonly string[] = [],
    env: NodeJS.ProcessEnv = {},
    dataDir = 'data',
    launcher: readonly string[] = [],
  ): Daemon {
    const ownEnv = { HOLDFAST_RUN_DIR: this.#runDirectory, ...env };
    const daemon = new Daemon(this.path(dataDir), args, ownEnv, launcher);
    this.#children.push(daemon);
    return daemon;
  }

  async serving(
    args: readonly string[] = [],
    env: NodeJS.ProcessEnv = {},
    dataDir = 'data',
  ): Promise<Daemon> {
    return await this.daemon(args, env, dataDir).serving();
  }

  /** A command that stays in the foreground. */
  child(args: readonly string[], env: NodeJS.ProcessEnv = {}): Child {
    const child = new Child(args, env);
    this.#children.push(child);
    return child;
  }

  async dispose(): Promise<void> {
    for (const child of this.#children.reverse()) child.process.kill('SIGKILL');
    await Promise.all(this.#children.map((child) => child.exited));
    for (const path of [this.directory, this.#runDirectory]) await rm(path, { recursive: true, force: true });
  }
}
