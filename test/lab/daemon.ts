// `holdfast daemon` on a machine, started as an operator would start it.

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, LabError, type Machine, mustRun, tail } from './machine.ts';

export const REPOSITORY = join(import.meta.dirname, '../..');
export const HOLDFAST = join(REPOSITORY, 'bin/holdfast');
/** Longer than any test: the machine ends first. */
const DAEMON_LIFE_MS = 24 * 3600_000;
const START_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 60_000;

export interface DaemonOptions {
  /** bin/holdfast of another tree than this one. */
  readonly program?: string;
  readonly dataDir: string;
  readonly poolDir: string;
  /** Unix sockets, on the machine's own file system: they do not cross kernels. */
  readonly apiPath: string;
  readonly csiPath?: string;
  /** 'lab' by default. */
  readonly nodeName?: string;
  /** More flags. */
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export class LabDaemon {
  readonly options: DaemonOptions;
  readonly #machine: Machine;
  readonly #job: Job;
  #isOver = false;

  private constructor(machine: Machine, options: DaemonOptions, job: Job) {
    this.#machine = machine;
    this.options = options;
    this.#job = job;
    const over = () => {
      this.#isOver = true;
    };
    job.ended.then(over, over);
  }

  /** Resolves when its sockets answer; rejects with its log when it ends before. */
  static async start(machine: Machine, options: DaemonOptions): Promise<LabDaemon> {
    // A socket that a killed daemon left is no sign of life.
    const sockets = [options.apiPath, options.csiPath ?? options.apiPath];
    await mustRun(machine, ['rm', '-f', ...sockets]);
    const daemon = LabDaemon.launch(machine, options);
    const areThere = sockets.map((path) => `[ -S '${path}' ]`).join(' && ');
    const probe = machine.start(`until ${areThere}; do sleep 0.1; done`, { timeoutMs: START_TIMEOUT_MS });
    const isUp = probe.ended.then(() => true);
    isUp.catch(() => {}); // raced against the end of the daemon
    try {
      if (await Promise.race([isUp, daemon.#job.ended.then(() => false)])) return daemon;
      throw new LabError('it ended');
    } catch (error) {
      probe.kill('KILL');
      daemon.#job.kill('KILL');
      throw new LabError(`the daemon did not start; its log:\n${await daemon.log()}`, { cause: error });
    }
  }

  /** Starts it without waiting. */
  static launch(machine: Machine, options: DaemonOptions): LabDaemon {
    const script = `exec ${LabDaemon.words(options)}`;
    const job = machine.start(script, {
      timeoutMs: DAEMON_LIFE_MS,
      ...(options.env && { env: options.env }),
    });
    return new LabDaemon(machine, options, job);
  }

  /** The command, for a shell. */
  static words({
    program = HOLDFAST,
    dataDir,
    poolDir,
    apiPath,
    csiPath,
    nodeName = 'lab',
    flags = [],
  }: DaemonOptions): string {
    const words = [
      [program, 'daemon', '--data-dir', dataDir, '--pool', `default=${poolDir}`],
      ['--node-name', nodeName, '--api', apiPath],
      csiPath === undefined ? [] : ['--csi', csiPath],
      flags,
    ].flat();
    return words.map((word) => `'${word}'`).join(' ');
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** SIGKILL, to everything it started. Resolves when it is gone. */
  async kill(): Promise<void> {
    this.#job.kill('KILL');
    await this.#job.ended;
  }

  /** SIGTERM, and the end in order: anything but exit code 0 is an error. */
  async stop(): Promise<void> {
    this.#job.kill('TERM');
    const timeout = sleep(STOP_TIMEOUT_MS, undefined, { ref: false });
    const result = await Promise.race([this.#job.ended, timeout]);
    if (result === undefined) throw new LabError(`the daemon did not stop; its log:\n${await this.log()}`);
    if (result.exitCode !== 0) {
      throw new LabError(
        `the daemon stopped with exit code ${result.exitCode}; its log:\n${await this.log()}`,
      );
    }
  }

  async log(): Promise<string> {
    return tail(`${await this.#job.stdout()}\n${await this.#job.stderr()}`, 60);
  }

  /** `holdfast WORDS --json`, parsed. */
  async cli(...words: readonly string[]): Promise<unknown> {
    const argv = [HOLDFAST, ...words, '--json', '--api', this.options.apiPath];
    return JSON.parse(await mustRun(this.#machine, argv)) as unknown;
  }
}
