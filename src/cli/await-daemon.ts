// Waits for a daemon that may be starting: its API socket comes last. A command that follows `holdfast daemon &`
// in a script works as written, then.
//
// Waits only where a daemon is to be expected: the socket's directory is there, and the socket is missing or nobody
// listens on it. Never fails: the call that follows tells what is wrong.

import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const PATIENCE_MS = 10_000;
/** A start takes less; who waits longer wants to know what for. */
const SILENT_MS = 2000;
const INTERVAL_MS = 100;

export interface AwaitDaemonOptions {
  readonly patienceMs?: number;
  readonly silentMs?: number;
  /** Called once, when it takes long. */
  readonly say: (text: string) => void;
}

export async function awaitDaemon(path: string, options: AwaitDaemonOptions): Promise<void> {
  const { patienceMs = PATIENCE_MS, silentMs = SILENT_MS, say } = options;
  const began = performance.now();
  let hasSpoken = false;
  while (await mayBeStarting(path)) {
    const waitedMs = performance.now() - began;
    if (waitedMs >= patienceMs) return;
    if (waitedMs >= silentMs && !hasSpoken) {
      hasSpoken = true;
      say(
        `no daemon answers at ${path} yet; waiting up to ${patienceMs / 1000} s for one that may be starting`,
      );
    }
    await sleep(INTERVAL_MS);
  }
}

async function mayBeStarting(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return false;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ECONNREFUSED' || (code === 'ENOENT' && (await isDirectory(dirname(path))));
  } finally {
    socket.destroy();
  }
}

async function isDirectory(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined); // not to be seen is not there
  return found?.isDirectory() ?? false;
}
