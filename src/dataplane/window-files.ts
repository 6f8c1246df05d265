// The in-flight windows of this node's replicas: one small file each, in the run directory (memory).
//
// A window is believed only by a later process of the same boot and only if it is that of the copy's last
// serving: a daemon that was told another run directory in between leaves an older window behind, in this
// boot, with nothing wrong about it. So a token stands in both: in the window's header, beside the boot id, and
// in the replica's directory. It needs no sync: a kill keeps what the page cache holds, and a reboot ends the boot.
//
// Who may open a replica is decided by the locks of its other files (replica-lock.ts): nothing in flight of a
// dead daemon can touch its window.

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import {
  decodeWindow,
  encodeWindow,
  WINDOW_FILE_BYTES,
  type WindowEntry,
} from '../replication/layout/window.ts';
import { hasErrno, readFully, writeFully } from './durable-files.ts';
import { windowDirectoryOf } from './run-directory.ts';

export const WINDOW_TOKEN_FILE_NAME = 'window';
const TOKEN_BYTES = 8;
const TOKEN_TEXT_BYTES = 2 * TOKEN_BYTES + 1;

export interface InheritedWindow {
  /** WINDOW_FILE_BYTES long and allocated throughout: a store to its mapping never meets a full tmpfs. */
  readonly file: FileHandle;
  /** What adopt() and reset() of its WindowFile take. */
  readonly owner: string;
  /** The ranges in flight when the last process ended; 'unknown': no window of this boot was found whole. */
  readonly entries: readonly WindowEntry[] | 'unknown';
}

/** The token file of a new replica; its contents fit no window yet. */
export function encodeToken(): Uint8Array {
  return new TextEncoder().encode(`${randomBytes(TOKEN_BYTES).toString('hex')}\n`);
}

export class WindowFiles {
  readonly #runDirectory: string;

  constructor(runDirectory: string) {
    this.#runDirectory = runDirectory;
  }

  /** The caller holds the replica's locks and closes the file. NO_SPACE: the run directory is full. */
  async open(
    poolId: string,
    volumeId: string,
    replicaDirectory: string,
    bootId: string,
  ): Promise<InheritedWindow> {
    const path = await this.#path(poolId, volumeId);
    const file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      const tokenPath = join(replicaDirectory, WINDOW_TOKEN_FILE_NAME);
      const token = await readToken(tokenPath);
      if (token !== undefined) {
        const owner = ownerOf(bootId, token);
        const entries = await readWindow(file, owner);
        if (entries !== 'unknown') return { file, owner, entries };
      }
      // The token first: what an older window says is not believed from here on, whatever comes between.
      const fresh = await writeToken(tokenPath);
      await allocate(file, path);
      return { file, owner: ownerOf(bootId, fresh), entries: 'unknown' };
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Of a replica that is deleted. Gone is success. */
  async remove(poolId: string, volumeId: string): Promise<void> {
    await rm(await this.#path(poolId, volumeId), { force: true });
  }

  async #path(poolId: string, volumeId: string): Promise<string> {
    return join(await windowDirectoryOf(this.#runDirectory), `${poolId}-${volumeId}`);
  }
}

function ownerOf(bootId: string, token: string): string {
  return `${bootId} ${token}`;
}

async function readWindow(file: FileHandle, owner: string): Promise<WindowEntry[] | 'unknown'> {
  const { size, blocks } = await file.stat();
  // Storing to a hole or past the end of a mapping would end the process (SIGBUS) where no room is left.
  if (size !== WINDOW_FILE_BYTES || blocks * 512 < WINDOW_FILE_BYTES) return 'unknown';
  return decodeWindow(await readFully(file, WINDOW_FILE_BYTES), owner);
}

/** Every page is written, which allocates it: Node has no fallocate, and this comes to the same on a tmpfs. */
async function allocate(file: FileHandle, path: string): Promise<void> {
  try {
    await file.truncate(WINDOW_FILE_BYTES);
    await writeFully(file, encodeWindow(''), 0);
  } catch (error) {
    if (!hasErrno(error, 'ENOSPC') && !hasErrno(error, 'EDQUOT')) throw error;
    throw new HoldfastError(
      'NO_SPACE',
      `the run directory is full: ${path} needs ${WINDOW_FILE_BYTES} bytes; make room in that tmpfs, or name ` +
        'another one with --run-dir',
      { cause: error, details: { path, needBytes: WINDOW_FILE_BYTES } },
    );
  }
}

async function readToken(path: string): Promise<string | undefined> {
  try {
    const file = await open(path, 'r');
    try {
      const text = new TextDecoder().decode(await readFully(file, TOKEN_TEXT_BYTES));
      return /^[0-9a-f]{16}\n$/.test(text) ? text.trim() : undefined;
    } finally {
      await file.close();
    }
  } catch (error) {
    // EIO too: without a token the window is unknown, which costs work and nothing else.
    if (hasErrno(error, 'ENOENT') || hasErrno(error, 'EIO')) return undefined;
    throw error;
  }
}

/** In place, where the file was made with the replica: a full pool takes it too. */
async function writeToken(path: string): Promise<string> {
  const bytes = encodeToken();
  const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    await writeFully(file, bytes, 0);
  } finally {
    await file.close();
  }
  return new TextDecoder().decode(bytes).trim();
}
