// File operations of the main thread whose effect survives a power cut once they resolve. All run on libuv's
// pool; nothing here blocks the event loop.
//
// A new or renamed name is durable only after an fsync of its directory, so whoever makes names calls
// syncDirectory. A failed fsync is never repeated and believed: the kernel may have dropped the data.

import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';

export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await synced(directory.sync(), path);
  } finally {
    await directory.close();
  }
}

/** A sync of `what`. Its failure says so (hasLostWrites): what was written before may be gone. */
export async function synced(sync: Promise<void>, what: string): Promise<void> {
  try {
    await sync;
  } catch (error) {
    throw lostWrites(error, `flushing ${what}`);
  }
}

/** Writes all of `bytes` at `offset`; not yet durable. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const { bytesWritten } = await file.write(bytes, written, bytes.length - written, offset + written);
    written += bytesWritten;
  }
}

/** From offset 0 up to `byteCount` bytes or the end of the file. */
export async function readFully(file: FileHandle, byteCount: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(byteCount);
  let read = 0;
  while (read < byteCount) {
    const { bytesRead } = await file.read(bytes, read, byteCount - read, read);
    if (bytesRead === 0) break;
    read += bytesRead;
  }
  return bytes.subarray(0, read);
}

/** A new file with these contents, on stable storage; its name is not until the directory is synced. */
export async function createFile(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await writeFully(file, bytes, 0);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** These contents at `path`, durably: after a crash the old ones or the new ones. One caller at a time. */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const draft = `${path}.new`;
  await rm(draft, { force: true });
  await createFile(draft, bytes);
  await rename(draft, path);
  await syncDirectory(dirname(path));
}

/** Removes a directory of files and makes that durable. Gone already is success. */
export async function removeDirectory(parent: string, name: string): Promise<void> {
  const path = join(parent, name);
  await rm(path, { recursive: true, force: true });
  await syncDirectory(parent);
}

export function hasErrno(error: unknown, code: string): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === code;
}

/**
 * As storageError, of a write or sync after which the disk may lack what was written before: tried again it would
 * succeed without that, so the replica must not be believed again by itself.
 */
export function lostWrites(error: unknown, doing: string): HoldfastError {
  const { code, message } = storageError(error, doing);
  return new HoldfastError(code, message, { cause: error, details: { lostWrites: true } });
}

export function hasLostWrites(error: unknown): error is HoldfastError {
  return isHoldfastError(error) && error.details['lostWrites'] === true;
}

/** What a failed file operation means to callers. `doing` completes 'while …'; HoldfastErrors pass unchanged. */
export function storageError(error: unknown, doing: string): HoldfastError {
  if (isHoldfastError(error)) return error;
  if (hasErrno(error, 'ENOSPC') || hasErrno(error, 'EDQUOT')) {
    return new HoldfastError(
      'NO_SPACE',
      `no space left while ${doing}: free space in the pool or use another one`,
      {
        cause: error,
      },
    );
  }
  return new HoldfastError(
    'IO',
    `${errorText(error)} while ${doing}: check the pool's disk and the kernel log`,
    {
      cause: error,
    },
  );
}
