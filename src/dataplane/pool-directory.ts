// The steps of opening a pool's directory: make it, lock it, know it, tidy it, see what I/O it takes.
//
// It never initialises a directory that holds anything, nor one where a pool is expected: a pool whose disk is
// not mounted must not silently become a new, empty one.

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES } from '../core/units.ts';
import { createFile, hasErrno, removeDirectory, syncDirectory, writeFully } from './durable-files.ts';
import { native } from './native.ts';
import { whyNotEnded } from './process-state.ts';
import type { PoolStatus } from './node-storage.ts';

export type IoMode = PoolStatus['ioMode'];

const POOL_FILE = 'pool.json';
export const LOCK_FILE = 'lock';
export const VOLUME_ID = /^[0-9a-f]{32}$/;
export const CREATING = 'creating-';
export const DELETING = 'deleting-';
/** What a new file system or our own interrupted initialisation leaves in a directory. */
const HARMLESS_NAMES = new Set(['lost+found', LOCK_FILE, `${POOL_FILE}.new`]);

const poolFileSchema = z.strictObject({ version: z.literal(1), id: z.string(), name: z.string() });

export async function makeDirectory(path: string): Promise<void> {
  const firstMade = await mkdir(path, { recursive: true, mode: 0o700 });
  if (firstMade === undefined) return;
  // Every directory that got a new entry, from the pool's parent up to that of the first one made.
  const top = dirname(firstMade);
  for (let parent = dirname(path); ; parent = dirname(parent)) {
    await syncDirectory(parent);
    if (parent === top) return;
  }
}

export async function lockPool(directory: string): Promise<FileHandle> {
  const path = join(directory, LOCK_FILE);
  const lock = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    if (!native.tryLock(lock.fd)) {
      const holder = (await readFile(path, 'ascii').catch(() => '')).trim();
      const ending = await whyNotEnded(Number(holder));
      throw new HoldfastError(
        'BUSY',
        ending === undefined
          ? `the pool at ${directory} is used by ${/^\d+$/.test(holder) ? `process ${holder}` : 'another process'}: ` +
              'stop that daemon first, or give this one another directory'
          : `the pool at ${directory} is not free yet: ${ending}`,
        { details: { directory, holderPid: Number(holder) || undefined } },
      );
    }
    // For people only, so a full or failing disk does not matter; fixed length, so that it is overwritten in place.
    await writeFully(lock, Buffer.from(`${process.pid}`.padEnd(15).concat('\n')), 0).catch(() => undefined);
    return lock;
  } catch (error) {
    await lock.close();
    throw error;
  }
}

/** UNAVAILABLE unless the directory is that very pool. Changes nothing: it may be a mount point without its disk. */
export async function requirePool(name: string, directory: string, expectedId: string): Promise<string> {
  const path = join(directory, POOL_FILE);
  const text = await readIdentity(path);
  const found = text === undefined ? undefined : checkIdentity(name, path, text);
  if (found === expectedId) return expectedId;
  throw new HoldfastError(
    'UNAVAILABLE',
    `pool '${name}' was ${expectedId} before, and ${directory} holds ${found === undefined ? 'no pool' : `pool ${found}`}: ` +
      `mount its disk there, or, if that pool is gone for good, "holdfast pool forget ${name}"`,
    { details: { pool: name, expectedId, foundId: found ?? null } },
  );
}

/** Returns the pool's id; makes the pool when the directory is empty. */
export async function identify(name: string, directory: string): Promise<string> {
  const path = join(directory, POOL_FILE);
  const text = await readIdentity(path);
  if (text !== undefined) return checkIdentity(name, path, text);
  const strangers = (await readdir(directory)).filter((entry) => !HARMLESS_NAMES.has(entry));
  if (strangers.length > 0) {
    throw new HoldfastError(
      'INVALID',
      `${directory} is no pool and is not empty (it holds '${strangers[0]}'): name an empty directory, or mount the pool's disk`,
    );
  }
  const id = randomBytes(16).toString('hex');
  await rm(`${path}.new`, { force: true });
  await createFile(`${path}.new`, Buffer.from(`${JSON.stringify({ version: 1, id, name })}\n`));
  await rename(`${path}.new`, path);
  await syncDirectory(directory);
  return id;
}

async function readIdentity(path: string): Promise<string | undefined> {
  return await readFile(path, 'utf8').catch((error: unknown) => {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  });
}

function checkIdentity(name: string, path: string, text: string): string {
  let contents: unknown;
  try {
    contents = JSON.parse(text);
  } catch {
    contents = undefined;
  }
  const parsed = poolFileSchema.safeParse(contents);
  if (!parsed.success) {
    throw new HoldfastError(
      'CORRUPT',
      `${path} is damaged or of another version: start the Holdfast version that wrote it, or restore this file`,
      { cause: parsed.error },
    );
  }
  if (parsed.data.name !== name) {
    throw new HoldfastError(
      'INVALID',
      `${dirname(path)} is pool '${parsed.data.name}', not '${name}': correct the pool's name or directory`,
    );
  }
  return parsed.data.id;
}

/** Sorted. */
export async function replicaNames(directory: string): Promise<string[]> {
  const names = await readdir(directory);
  return names.filter((entry) => VOLUME_ID.test(entry)).sort();
}

export async function finishLeftovers(directory: string): Promise<void> {
  for (const entry of await readdir(directory)) {
    if (entry.startsWith(CREATING) || entry.startsWith(DELETING)) await removeDirectory(directory, entry);
  }
}

export async function chooseIoMode(directory: string, wanted: IoMode | undefined): Promise<IoMode> {
  if (wanted === 'buffered') return 'buffered';
  if (await takesDirectIo(directory)) return 'direct';
  if (wanted === undefined) return 'buffered';
  throw new HoldfastError(
    'UNSUPPORTED',
    `the file system of ${directory} does not take O_DIRECT: open the pool with io=buffered`,
  );
}

/** Some file systems open with O_DIRECT and then refuse the I/O, so one aligned block is read; a full pool passes too. */
async function takesDirectIo(directory: string): Promise<boolean> {
  const memory = native.createMemory(BLOCK_BYTES);
  try {
    const file = await open(join(directory, POOL_FILE), constants.O_RDONLY | constants.O_DIRECT);
    try {
      await file.read(new Uint8Array(memory.buffer, 0, BLOCK_BYTES), 0, BLOCK_BYTES, 0);
      return true;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (hasErrno(error, 'EINVAL') || hasErrno(error, 'EOPNOTSUPP')) return false;
    throw error;
  } finally {
    native.freeMemory(memory);
  }
}
