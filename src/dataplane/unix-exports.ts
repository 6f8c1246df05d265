// Volumes served to any NBD client on a Unix socket: the sockets are made and removed here, on the main thread,
// and listened to by the volume's data-plane thread, which owns the descriptor from its answer on.

import { randomBytes } from 'node:crypto';
import { chmod, lstat, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errorText, HoldfastError } from '../core/errors.ts';
import { native } from './native.ts';
import type { ExportHandle } from './node-storage.ts';
import type { ThreadHandle } from './thread-handle.ts';
import type { VolumeTurns } from './volume-turns.ts';

const LISTEN_BACKLOG = 1024;

export class UnixExports {
  readonly #turns: VolumeTurns;
  #nextExportId = 1;

  constructor(turns: VolumeTurns) {
    this.#turns = turns;
  }

  async add(thread: ThreadHandle, volumeId: string, exportName: string, path: string): Promise<ExportHandle> {
    const fd = await listenAt(path);
    const exportId = this.#nextExportId;
    this.#nextExportId += 1;
    const listening = thread.ask({ type: 'listen', exportId, fd, volumeId, exportName });
    try {
      await this.#turns.answer(volumeId, `exporting volume ${volumeId}`, listening);
    } catch (error) {
      // Refused, the descriptor is ours again; late, nobody knows of the export that the thread then has.
      void listening
        .then(
          () => thread.ask({ type: 'unlisten', exportId }),
          () => native.close(fd),
        )
        .catch(() => undefined);
      await rm(path, { force: true });
      throw error;
    }
    const close = async (): Promise<void> => {
      await rm(path, { force: true });
      const ending = thread.ask({ type: 'unlisten', exportId });
      await this.#turns.answer(volumeId, `ending the export of volume ${volumeId}`, ending);
    };
    let closing: Promise<void> | undefined;
    return {
      path,
      close: () => {
        // What failed may be asked for again; the thread does it once.
        closing ??= close().catch((error: unknown) => {
          closing = undefined;
          throw error;
        });
        return closing;
      },
    };
  }
}

/**
 * A listening socket at `path`: made under a name of its own, so that two daemons never share one, then
 * renamed into place. A stale socket is replaced, anything else is refused.
 */
async function listenAt(path: string): Promise<number> {
  const standing = await lstat(path).catch(() => undefined);
  if (standing !== undefined && !standing.isSocket()) {
    throw new HoldfastError('ALREADY_EXISTS', `${path} exists and is no socket: choose another path`);
  }
  const temporary = join(dirname(path), `.${basename(path).slice(0, 40)}.${randomBytes(3).toString('hex')}`);
  let fd: number;
  try {
    fd = native.listenUnix(temporary, 0o600, LISTEN_BACKLOG);
  } catch (error) {
    throw new HoldfastError(
      'INVALID',
      `cannot listen at ${path}: ${errorText(error)}; is the directory there, and the path below 100 bytes?`,
      { cause: error },
    );
  }
  try {
    await chmod(temporary, 0o600);
    await rename(temporary, path);
    return fd;
  } catch (error) {
    native.close(fd);
    await rm(temporary, { force: true });
    throw new HoldfastError('INVALID', `cannot make the socket ${path}: ${errorText(error)}`, {
      cause: error,
    });
  }
}
