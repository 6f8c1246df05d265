// The NBD servers that tests run against, each in a process of its own.

import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isListening } from './listening.ts';
import type { ServerProcessCounters, ServerProcessOptions } from './nbd-server.fixture.ts';

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

export interface HoldfastServer extends NbdServer {
  counters(): Promise<ServerProcessCounters>;
}

/** Our data plane with one volume in a fresh pool. `stop` closes the volume clean and fails when that fails. */
export async function startHoldfast(
  sizeBytes: number,
  ioMode: ServerProcessOptions['ioMode'],
  name = 'data',
): Promise<HoldfastServer> {
  // Not below /tmp, which may be a file system that takes no O_DIRECT.
  const directory = mkdtempSync('/var/tmp/holdfast-nbd-');
  const socketPath = join(directory, 'socket');
  const pool = join(directory, 'pool');
  mkdirSync(pool);
  const options: ServerProcessOptions = { directory: pool, socketPath, exportName: name, sizeBytes, ioMode };
  const child = fork(new URL('./nbd-server.fixture.ts', import.meta.url), [JSON.stringify(options)], {
    execArgv: [],
  });
  const exited = once(child, 'exit').then(([code, signal]) => String(code ?? signal));
  const answer = async (): Promise<unknown> => {
    const message = new Promise((resolve) => child.once('message', resolve));
    const died = exited.then((how) => Promise.reject(new Error(`the server ended: ${how}`)));
    return Promise.race([message, died]);
  };
  await answer();
  return {
    socketPath,
    exportName: name,
    sizeBytes,
    pid: child.pid ?? 0,
    counters: async () => {
      child.send('counters');
      return (await answer()) as ServerProcessCounters;
    },
    stop: async () => {
      try {
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error('the server died on the way');
        child.send('stop');
        const killer = setTimeout(() => child.kill('SIGKILL'), 20_000);
        const how = await exited;
        clearTimeout(killer);
        if (how !== '0') throw new Error(`the server did not stop clean: ${how}`);
      } finally {
        rmSync(directory, { recursive: true, force: true });
      }
    },
  };
}

export async function waitForSocket(child: ChildProcess, path: string): Promise<void> {
  for (let waitedMs = 0; !isListening(path); waitedMs += 20) {
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
