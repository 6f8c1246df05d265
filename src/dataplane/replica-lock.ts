// The files of a replica and their lock. Each file is opened exactly once, and the lock is an flock on that very
// description: a ring keeps the description of a file while requests on it are in flight, also after its
// process was killed, so nobody can lock a replica into which old writes may still land.

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { hasErrno } from './durable-files.ts';
import { native } from './native.ts';
import type { IoMode } from './pool-directory.ts';
import { SUPERBLOCK_FILE_NAME } from './superblock-file.ts';

export const DATA_FILE_NAME = 'data';
export const INTENT_FILE_NAME = 'intent';
export const GENERATIONS_FILE_NAME = 'generations';

/** The descriptions of one replica's files, each holding its lock. */
export interface ReplicaFiles {
  readonly superblock: FileHandle;
  readonly data: FileHandle;
  readonly intent: FileHandle;
  readonly generations: FileHandle;
}

/** All files of a replica, each opened once and locked. The superblock comes first: without it nothing is made. */
export async function openFiles(directory: string, volumeId: string, ioMode: IoMode): Promise<ReplicaFiles> {
  const opened: FileHandle[] = [];
  const openLocked = async (name: string, flags: number): Promise<FileHandle> => {
    const file = await openExisting(join(directory, name), flags, volumeId);
    opened.push(file);
    if (!native.tryLock(file.fd)) {
      throw new HoldfastError(
        'BUSY',
        `the replica of volume ${volumeId} is in use: another process serves it, or requests of one that was ` +
          'killed are still on their way to the disk; try again in a moment',
        { details: { volumeId, file: name } },
      );
    }
    return file;
  };
  try {
    const make = constants.O_RDWR | constants.O_CREAT;
    return {
      superblock: await openLocked(SUPERBLOCK_FILE_NAME, constants.O_RDWR),
      data: await openLocked(
        DATA_FILE_NAME,
        constants.O_RDWR | (ioMode === 'direct' ? constants.O_DIRECT : 0),
      ),
      intent: await openLocked(INTENT_FILE_NAME, make),
      generations: await openLocked(GENERATIONS_FILE_NAME, make),
    };
  } catch (error) {
    for (const file of opened.reverse()) await file.close();
    throw error;
  }
}

async function openExisting(path: string, flags: number, volumeId: string): Promise<FileHandle> {
  try {
    return await open(path, flags, 0o600);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
    throw new HoldfastError(
      'NOT_FOUND',
      `there is no replica of volume ${volumeId} here: ${path} does not exist`,
      {
        cause: error,
        details: { volumeId, path },
      },
    );
  }
}

export async function closeFiles(files: ReplicaFiles): Promise<void> {
  for (const file of [files.generations, files.intent, files.data, files.superblock]) await file.close();
}
