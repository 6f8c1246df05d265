// Whether a socket file may be replaced: a dead process's may, a live one's and anything else may not.

import { lstat } from 'node:fs/promises';
import { connect } from 'node:net';
import { HoldfastError } from '../core/errors.ts';

const LIVENESS_PROBE_MS = 2000;

/** True when somebody listens on the socket at `path`. */
async function isLive(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.setTimeout(LIVENESS_PROBE_MS);
    const answer = (live: boolean): void => {
      socket.destroy();
      resolve(live);
    };
    socket.once('connect', () => answer(true));
    // Somebody listens who does not accept: busy, not dead.
    socket.once('timeout', () => answer(true));
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') answer(false);
      else if (error.code === 'EAGAIN') answer(true);
      else reject(error);
    });
  });
}

/** CONFLICT unless `path` is free or a dead process's socket. `remedy` ends the message. */
export async function requireReplaceable(path: string, remedy: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there === undefined) return;
  if (!there.isSocket()) throw new HoldfastError('CONFLICT', `${path} exists and is no socket: ${remedy}`);
  if (await isLive(path))
    throw new HoldfastError('CONFLICT', `another process answers at ${path}: ${remedy}`);
}
