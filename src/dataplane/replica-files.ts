// Replicas as directories of a pool: made, deleted, grown, described. Opening one to serve it is
// open-replica.ts; what is in the files is src/replication/layout/.
//
// Each operation may be interrupted at any point and repeated: a name appears only when what it names is
// whole and durable, and disappears before its files do.

import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, EXTENT_BYTES, MAX_VOLUME_BYTES, MIN_VOLUME_BYTES } from '../core/units.ts';
import { generationFileBytes } from '../replication/layout/generations.ts';
import {
  encodeIntent,
  encodeIntentSector,
  INTENT_SECTOR_BYTES,
  intentSectorCount,
  intentSectorOffset,
} from '../replication/layout/intent.ts';
import type { Superblock } from '../replication/layout/superblock.ts';
import {
  createFile,
  hasErrno,
  removeDirectory,
  storageError,
  syncDirectory,
  synced,
  writeFully,
} from './durable-files.ts';
import type { ReplicaSpec } from './node-storage.ts';
import { drawIncarnation, fillMissingGenerations } from './inheritance.ts';
import { native } from './native.ts';
import type { OpenReplica } from './open-replica.ts';
import type { Pool } from './pool.ts';
import {
  closeFiles,
  DATA_FILE_NAME,
  GENERATIONS_FILE_NAME,
  INTENT_FILE_NAME,
  openFiles,
  type ReplicaFiles,
} from './replica-lock.ts';
import {
  encodeSuperblockFile,
  readSuperblock,
  SUPERBLOCK_FILE_NAME,
  SuperblockFile,
} from './superblock-file.ts';
import { encodeToken, WINDOW_TOKEN_FILE_NAME, type WindowFiles } from './window-files.ts';

/**
 * Durable, name included, when it resolves. The same spec again: nothing happens.
 * ALREADY_EXISTS (another replica or size), NO_SPACE, OUT_OF_RANGE, BUSY, IO. UNAVAILABLE: the pool's disk is not at
 * its place, before or after: a copy that was made meanwhile may be on the file system below it.
 */
export async function createReplica(pool: Pool, spec: ReplicaSpec): Promise<void> {
  checkSize(spec.sizeBytes);
  await run(pool, spec.volumeId, 'creating', async () => {
    await pool.requirePresent();
    const directory = pool.replicaDirectory(spec.volumeId);
    if (await isThere(directory)) {
      await confirmSame(pool, directory, spec);
      return pool.requirePresent();
    }
    await pool.claim(spec.volumeId, spec.sizeBytes);
    const name = pool.creatingName(spec.volumeId);
    try {
      await removeDirectory(pool.directory, name);
      await writeFiles(join(pool.directory, name), spec);
      await rename(join(pool.directory, name), directory);
    } catch (error) {
      pool.unclaim(spec.volumeId, undefined);
      // What cannot be removed now is removed when the pool is opened next.
      await rm(join(pool.directory, name), { recursive: true, force: true }).catch(() => undefined);
      throw error;
    }
    await syncDirectory(pool.directory);
    await pool.requirePresent();
  });
}

/** Gone is success, UNAVAILABLE when that cannot be told. The replica must not be open. */
export async function deleteReplica(pool: Pool, windows: WindowFiles, volumeId: string): Promise<void> {
  await run(pool, volumeId, 'deleting', async () => {
    await pool.requirePresent();
    const directory = pool.replicaDirectory(volumeId);
    const name = pool.deletingName(volumeId);
    if (await isThere(directory)) {
      // Before the name goes: nobody would come back for it. A replica that stays after all does without.
      await windows.remove(pool.id, volumeId);
      await removeDirectory(pool.directory, name);
      await rename(directory, join(pool.directory, name));
      pool.unclaim(volumeId, undefined);
    }
    await syncDirectory(pool.directory);
    await removeDirectory(pool.directory, name);
    await pool.requirePresent();
  });
}

/**
 * Grows data, then metadata, then the superblock, each durably; the same or a smaller size than it has already:
 * nothing happens. `replica`: when it is open here. NO_SPACE, OUT_OF_RANGE, NOT_FOUND, BUSY, IO.
 */
export async function growReplica(
  pool: Pool,
  volumeId: string,
  sizeBytes: number,
  replica?: OpenReplica,
): Promise<void> {
  checkSize(sizeBytes);
  await run(pool, volumeId, 'growing', async () => {
    if (replica !== undefined) return growFiles(pool, replica.files, replica.superblock, sizeBytes);
    const directory = pool.replicaDirectory(volumeId);
    const files = await openFiles(directory, volumeId, pool.ioMode);
    try {
      const superblock = await SuperblockFile.load(files.superblock, join(directory, SUPERBLOCK_FILE_NAME));
      await growFiles(pool, files, superblock, sizeBytes);
    } finally {
      await closeFiles(files);
    }
  });
}

export interface ReplicaDescription {
  readonly superblock: Superblock | undefined;
  /** Why there is no superblock to show. */
  readonly problem: string | undefined;
  readonly allocatedBytes: number;
}

/** What the files say, without opening the replica for use. Never throws for a damaged one. */
export async function describeReplica(pool: Pool, volumeId: string): Promise<ReplicaDescription> {
  const directory = pool.replicaDirectory(volumeId);
  const allocatedBytes = await allocated(directory);
  try {
    return { superblock: await readSuperblock(directory), problem: undefined, allocatedBytes };
  } catch (error) {
    return { superblock: undefined, problem: errorText(error), allocatedBytes };
  }
}

/**
 * Whether any block of the data file was ever written and not given back since. A file system that cannot tell
 * (no SEEK_DATA) shows data wherever it has allocated anything.
 */
export async function holdsData(pool: Pool, volumeId: string): Promise<boolean> {
  const file = await open(join(pool.replicaDirectory(volumeId), DATA_FILE_NAME), 'r');
  try {
    const { size, blocks } = await file.stat();
    if (size === 0 || blocks === 0) return false;
    return await native.hasData(file.fd);
  } finally {
    await file.close();
  }
}

async function run<Result>(
  pool: Pool,
  volumeId: string,
  verb: string,
  operation: () => Promise<Result>,
): Promise<Result> {
  try {
    return await pool.exclusively(volumeId, operation);
  } catch (error) {
    throw storageError(error, `${verb} the replica of volume ${volumeId} in pool '${pool.name}'`);
  }
}

function checkSize(sizeBytes: number): void {
  if (sizeBytes >= MIN_VOLUME_BYTES && sizeBytes <= MAX_VOLUME_BYTES && sizeBytes % BLOCK_BYTES === 0) return;
  throw new HoldfastError(
    'OUT_OF_RANGE',
    `a volume has ${MIN_VOLUME_BYTES} to ${MAX_VOLUME_BYTES} bytes, a multiple of ${BLOCK_BYTES}; ${sizeBytes} is not`,
  );
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

async function confirmSame(pool: Pool, directory: string, spec: ReplicaSpec): Promise<void> {
  const found = await readSuperblock(directory);
  const differing = (['volumeId', 'replicaId', 'lineage', 'sizeBytes'] as const).filter(
    (field) => found[field] !== spec[field],
  );
  if (differing.length > 0) {
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `pool '${pool.name}' has another replica of volume ${spec.volumeId} (${differing.join(', ')} differ): delete it first`,
      { details: { volumeId: spec.volumeId, differing } },
    );
  }
  // Who made it may have died between the rename and this.
  await syncDirectory(pool.directory);
}

async function writeFiles(directory: string, spec: ReplicaSpec): Promise<void> {
  const extentCount = Math.ceil(spec.sizeBytes / EXTENT_BYTES);
  await mkdir(directory, { mode: 0o700 });
  await createSparse(join(directory, DATA_FILE_NAME), spec.sizeBytes);
  // Sparse: a hole says 'never written'. Its blocks come out of the pool's reserve as extents cool.
  await createSparse(join(directory, GENERATIONS_FILE_NAME), generationFileBytes(extentCount));
  await createFile(join(directory, INTENT_FILE_NAME), encodeIntent(new Uint8Array(0), extentCount));
  await createFile(join(directory, WINDOW_TOKEN_FILE_NAME), encodeToken());
  await createFile(join(directory, SUPERBLOCK_FILE_NAME), encodeSuperblockFile(newSuperblock(spec)));
  await syncDirectory(directory);
}

async function createSparse(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.truncate(sizeBytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

function newSuperblock(spec: ReplicaSpec): Superblock {
  return {
    volumeId: spec.volumeId,
    volumeName: spec.volumeName,
    replicaId: spec.replicaId,
    sizeBytes: spec.sizeBytes,
    lineage: spec.lineage,
    promisedEpoch: spec.epoch,
    incarnation: drawIncarnation(),
    // In sync is what the store says it is; its first opening records that here.
    lastInSyncIncarnation: null,
    earlierIncarnations: [],
    inSync: { epoch: 0, members: [] },
    bootId: null,
    earlierBootIds: [],
    storedBootId: null,
    cleanMark: null,
    attachmentNumber: 0,
    durability: spec.durability,
    failureMode: spec.failureMode,
    wrappedKey: null,
    fileSystemMade: null,
  };
}

async function growFiles(
  pool: Pool,
  files: ReplicaFiles,
  superblock: SuperblockFile,
  sizeBytes: number,
): Promise<void> {
  const { volumeId, sizeBytes: oldSizeBytes } = superblock.current;
  if (sizeBytes <= oldSizeBytes) return;
  await pool.claim(volumeId, sizeBytes);
  try {
    const oldExtentCount = Math.ceil(oldSizeBytes / EXTENT_BYTES);
    const extentCount = Math.ceil(sizeBytes / EXTENT_BYTES);
    await extend(files.data, sizeBytes, 'the data');
    await fillMissingGenerations(files.generations, oldExtentCount);
    await extend(files.generations, generationFileBytes(extentCount), 'the generation table');
    await addIntentSectors(files, intentSectorCount(oldExtentCount), intentSectorCount(extentCount));
    await superblock.update({ sizeBytes });
  } catch (error) {
    pool.unclaim(volumeId, oldSizeBytes);
    throw error;
  }
}

async function extend(file: ReplicaFiles['data'], sizeBytes: number, what: string): Promise<void> {
  if ((await file.stat()).size < sizeBytes) await file.truncate(sizeBytes);
  await synced(file.sync(), what);
}

/** Only sectors that no extent of the old size uses: the others belong to whoever serves the replica. */
async function addIntentSectors(files: ReplicaFiles, oldCount: number, count: number): Promise<void> {
  if (count === oldCount) return;
  const bytes = new Uint8Array((count - oldCount) * INTENT_SECTOR_BYTES);
  const none = new Uint8Array(0);
  for (let index = oldCount; index < count; index++) {
    encodeIntentSector(bytes, (index - oldCount) * INTENT_SECTOR_BYTES, index, none);
  }
  await writeFully(files.intent, bytes, intentSectorOffset(oldCount));
  await synced(files.intent.sync(), 'the intent log');
}

async function allocated(directory: string): Promise<number> {
  let sumBytes = 0;
  const names = [
    DATA_FILE_NAME,
    INTENT_FILE_NAME,
    GENERATIONS_FILE_NAME,
    WINDOW_TOKEN_FILE_NAME,
    SUPERBLOCK_FILE_NAME,
  ];
  for (const name of names) {
    const found = await stat(join(directory, name)).catch(() => undefined);
    sumBytes += (found?.blocks ?? 0) * 512;
  }
  return sumBytes;
}
