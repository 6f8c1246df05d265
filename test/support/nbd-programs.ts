// The NBD servers that tests run against, each in a process of its own.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface NbdServer {
  readonly socketPath: string;
  readonly exportName: string;
  readonly sizeBytes: number;
  /** The process that serves. */
  readonly pid: number;
  stop(): Promise<void>;
}

/** nbdkit's memory plugin: the yardstick for what the protocol demands. */
export async function startNbdkitMemory(sizeBytes: number): Promise<NbdServer> {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-nbdkit-'));
  const socketPath = join(directory, 'socket');
  const child = spawn('nbdkit', ['--foreground', '--unix', socketPath, 'memory', String(sizeBytes)], {
    // It complains of every bad request, which is what it gets.
    stdio: 'ignore',
  });
  await waitForSocket(child, socketPath);
  return {
    socketPath,
    exportName: '',
    sizeBytes,
    pid: child.pid ?? 0,
    stop: async () => {
      await endProcess(child);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

export async function waitForSocket(child: ChildProcess, path: string): Promise<void> {
  for (let waitedMs = 0; !existsSync(path); waitedMs += 20) {
    if (waitedMs > 10_000 || child.exitCode !== null) throw new Error(`no server came up at ${path}`);
    await sleep(20);
  }
}

/** SIGTERM, and SIGKILL for what does not listen. */
export async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await ended;
  clearTimeout(killer);
}
