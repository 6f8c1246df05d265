// Where commands run: on this host or in a lab guest. The demo, the CSI suite and the lab tests are
// written against this interface, so that a real machine with nbd takes the guest's place unchanged.

/** A bash script, or an argument vector that no shell interprets. */
export type Command = string | readonly string[];

export interface RunOptions {
  /** The command's whole process group is killed after this; the promise rejects. Default 60 s. */
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
  /** 128 + n for death by signal n, as a shell says it. */
  readonly exitCode: number;
}

/** A command that runs beside others until it ends or is killed. Output is readable while it runs. */
export interface Job {
  /** Resolves when the command has ended, however it ended; rejects when its machine died first. */
  readonly ended: Promise<RunResult>;
  stdout(): Promise<string>;
  stderr(): Promise<string>;
  /** Signals the command's whole process group. A job that has ended: nothing. */
  kill(signal: 'TERM' | 'KILL' | 'INT' | 'STOP' | 'CONT'): void;
}

export interface Machine {
  readonly name: string;
  /** A directory with the same path here and on the machine. Files only: sockets do not cross kernels. */
  readonly exchangeDir: string;
  start(command: Command, options?: RunOptions): Job;
  /** Runs to the end, whatever the exit code. Rejects with LabError at the time limit or when the machine dies. */
  run(command: Command, options?: RunOptions): Promise<RunResult>;
  /** What the kernel has logged since this machine was taken into use. */
  kernelLog(): Promise<string>;
}

export class LabError extends Error {
  override readonly name = 'LabError';
}

export const DEFAULT_RUN_TIMEOUT_MS = 60_000;

/** Runs a command that has to succeed; returns its standard output. The error carries both outputs' ends. */
export async function mustRun(machine: Machine, command: Command, options: RunOptions = {}): Promise<string> {
  const result = await machine.run(command, options);
  if (result.exitCode === 0) return result.stdout;
  throw new LabError(
    `${machine.name}: exit code ${result.exitCode} from: ${commandText(command)}\n` +
      `${tail(result.stdout)}\n${tail(result.stderr)}`,
  );
}

export function commandText(command: Command): string {
  return typeof command === 'string' ? command : command.map(quote).join(' ');
}

/** The command as the contents of a bash script, environment first. */
export function commandScript(command: Command, env: Readonly<Record<string, string>> = {}): string {
  const exports = Object.entries(env).map(([name, value]) => `export ${name}=${quote(value)}\n`);
  return `${exports.join('')}${typeof command === 'string' ? command : `exec ${commandText(command)}`}\n`;
}

export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

export function tail(text: string, lineCount = 40): string {
  return text.trimEnd().split('\n').slice(-lineCount).join('\n');
}
