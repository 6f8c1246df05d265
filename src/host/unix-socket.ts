// Listening Unix sockets of a daemon: one that a dead process left is replaced in one step, a live one is
// refused, and nobody ever finds the socket with a looser mode than it is to have.

import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { isErrno } from './run-command.ts';

const LIVENESS_PROBE_MS = 2000;

export interface BoundSocket {
  /** Removes the socket file, unless it is another process's by now. */
  remove(): Promise<void>;
}

/**
 * `bind` listens at the path that it is given, inside a directory nobody else may enter; then the socket gets
 * its mode and is renamed to `path`. CONFLICT, ending with `remedy`, while somebody answers at `path`.
 */
export async function bindUnixSocket(
  path: string,
  { bind, remedy }: { bind: (path: string) => Promise<void>; remedy: string },
): Promise<BoundSocket> {
  await mkdir(dirname(path), { recursive: true });
  await requireReplaceable(path, remedy);
  const privateDirectory = join(dirname(path), `.${randomBytes(3).toString('hex')}`);
  await mkdir(privateDirectory, { mode: 0o700 });
  try {
    const bound = join(privateDirectory, 's');
    await bind(bound);
    await chmod(bound, 0o600);
    await rename(bound, path);
  } finally {
    await rm(privateDirectory, { recursive: true, force: true });
  }
  const { ino: inode } = await lstat(path);
  return {
    async remove() {
      const there = await lstat(path).catch(() => undefined);
      if (there?.ino === inode) await rm(path, { force: true });
    },
  };
}

/** CONFLICT, ending with `remedy`, unless `path` is free or a dead process's socket. */
export async function requireReplaceable(path: string, remedy: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined);
  if (there === undefined) return;
  if (!there.isSocket()) throw new HoldfastError('CONFLICT', `${path} exists and is no socket: ${remedy}`);
  if (await isLive(path))
    throw new HoldfastError('CONFLICT', `another process answers at ${path}: ${remedy}`);
}

async function isLive(path: string): Promise<boolean> {
  return await new Promise((resolve, reject) => {
    const socket = connect(path);
    const answer = (live: boolean): void => {
      socket.destroy();
      resolve(live);
    };
    socket.setTimeout(LIVENESS_PROBE_MS);
    socket.once('connect', () => answer(true));
    // Somebody listens who does not accept: busy, not dead.
    socket.once('timeout', () => answer(true));
    socket.once('error', (error) => {
      if (isErrno(error, 'ECONNREFUSED', 'ENOENT')) answer(false);
      else if (isErrno(error, 'EAGAIN')) answer(true);
      else reject(error);
    });
  });
}
