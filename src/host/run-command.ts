// Child processes with an end. Everything that may block on a device (mount, fsck, statfs, a read of a
// dead disk) runs in a process of its own, never in libuv's pool, whose four threads all file calls share.
//
// - A command has a deadline. When it runs out the whole process group is killed, so that no helper
//   outlives the command that started it.
// - A process stuck in the kernel cannot be killed. Then the call still ends, with TIMEOUT, and the process
//   is left behind: a lock must never be held for ever because of it.
// - Output is bounded; what does not fit is dropped, and the command is not blocked by it.

import { spawn } from 'node:child_process';
import { setTimeout } from 'node:timers/promises';
import { errorText, HoldfastError } from '../core/errors.ts';
import { KIB } from '../core/units.ts';

/** After SIGKILL, how long the call waits to see the process end. */
const KILL_GRACE_MS = 2000;

export interface CommandOptions {
  readonly timeoutMs: number;
  /** Exit codes that are answers and not failures. Default: only 0. */
  readonly exitCodes?: readonly number[];
  readonly maxOutputBytes?: number;
  /** The command as errors show it, where an argument must not be shown. Default: all of it. */
  readonly shownAs?: string;
}

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/**
 * Runs `file` without a shell, in the C locale, standard input closed.
 * UNSUPPORTED: not installed. TIMEOUT: the deadline ran out. IO: another exit code or a signal; `details`
 * holds `exitCode` and the message what the command said.
 */
export async function runCommand(
  file: string,
  args: readonly string[],
  {
    timeoutMs,
    exitCodes = [0],
    maxOutputBytes = 64 * KIB,
    shownAs = [file, ...args].join(' '),
  }: CommandOptions,
): Promise<CommandResult> {
  const child = spawn(file, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true, // a process group of its own
    env: {
      ...process.env,
      LC_ALL: 'C',
      PATH: `${process.env['PATH'] ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`,
    },
  });
  const stdout = collect(child.stdout, maxOutputBytes);
  const stderr = collect(child.stderr, maxOutputBytes);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const outcome = await withDeadline(ended, timeoutMs, () => killGroup(child.pid)).catch((error: unknown) => {
    throw isErrno(error, 'ENOENT')
      ? new HoldfastError('UNSUPPORTED', `${file} is not installed on this node; install it and try again`, {
          cause: error,
        })
      : new HoldfastError('IO', `${file} cannot be run: ${errorText(error)}`, { cause: error });
  });
  if (outcome === 'timeout') {
    child.stdout.destroy();
    child.stderr.destroy();
    child.unref();
    throw new HoldfastError('TIMEOUT', `${shownAs} did not end within ${timeoutMs} ms`);
  }
  const said = stderr().toString().trim();
  if (outcome === null || !exitCodes.includes(outcome)) {
    const how = outcome === null ? `was ended by signal ${child.signalCode}` : `failed with ${outcome}`;
    throw new HoldfastError('IO', `${shownAs} ${how}${said === '' ? '' : `: ${said}`}`, {
      details: { exitCode: outcome },
    });
  }
  return { exitCode: outcome, stdout: stdout(), stderr: said };
}

/** The promise's value, or 'timeout': then `expire` was called and the end awaited for a little. */
async function withDeadline<T>(
  promise: Promise<T>,
  timeoutMs: number,
  expire: () => void,
): Promise<T | 'timeout'> {
  const deadline = new AbortController();
  const expired = async (): Promise<'timeout'> => {
    await setTimeout(timeoutMs, undefined, { signal: deadline.signal });
    return 'timeout';
  };
  try {
    const first = await Promise.race([promise, expired()]);
    if (first !== 'timeout') return first;
    expire();
    const ended = promise.then(
      () => undefined,
      () => undefined,
    );
    await Promise.race([ended, setTimeout(KILL_GRACE_MS, undefined, { signal: deadline.signal })]);
    return 'timeout';
  } finally {
    deadline.abort();
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

function collect(stream: NodeJS.ReadableStream, maxBytes: number): () => Buffer {
  const chunks: Buffer[] = [];
  let byteCount = 0;
  stream.on('data', (chunk: Buffer) => {
    const kept = chunk.subarray(0, maxBytes - byteCount);
    byteCount += kept.length;
    if (kept.length > 0) chunks.push(kept);
  });
  return () => Buffer.concat(chunks);
}

/** An error of a system call, as Node reports it. */
export function isErrno(error: unknown, ...codes: string[]): error is NodeJS.ErrnoException {
  return error instanceof Error && codes.includes((error as NodeJS.ErrnoException).code ?? '');
}
