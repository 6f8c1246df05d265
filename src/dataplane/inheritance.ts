// What a replica's last process left: inherited hot marks are on stable storage again before anything is served. What
// cannot be read counts as suspect, never as clean. What the copy is worth by that is the replication core's to judge
// (replication/recovery.ts).
//
// An unreadable intent log or table costs work, not the incarnation: acknowledged writes are in the
// data file. An unreadable superblock is refused.

import { randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { EXTENT_BYTES, GENERATION_BLOCKS_PER_EXTENT } from '../core/units.ts';
import {
  encodeGenerationSector,
  GENERATION_SECTOR_BYTES,
  generationFileBytes,
  generationFileOffset,
  NEWEST_STAMP,
} from '../replication/layout/generations.ts';
import { decodeIntent, encodeIntent, intentFileBytes } from '../replication/layout/intent.ts';
import type { Superblock } from '../replication/layout/superblock.ts';
import { readFully, syncDirectory, synced, writeFully } from './durable-files.ts';
import { DATA_FILE_NAME, type ReplicaFiles } from './replica-lock.ts';

/** How the last process that had this replica open ended, as far as its disk tells. */
export type LastEnd = 'never opened' | 'clean' | 'killed' | 'rebooted';

export interface InheritedLogs {
  /** Extents that were hot: bit n is byte n >> 3, bit n & 7. Marked durably; the caller may take the array over. */
  readonly hotBits: Uint8Array;
  /** Sectors of the intent log that could not be read: their extents are among the hot ones. */
  readonly suspectIntentSectorCount: number;
}

/** The data is there, marks are durable again, and the tables are whole. */
export async function inheritLogs(
  files: ReplicaFiles,
  directory: string,
  found: Superblock,
): Promise<InheritedLogs> {
  await checkData(files.data, found, directory);
  const extentCount = Math.ceil(found.sizeBytes / EXTENT_BYTES);
  const { bits, suspectSectorCount } = await inheritMarks(files.intent, extentCount);
  await fillMissingGenerations(files.generations, extentCount);
  // Metadata files that were missing have been made anew by now.
  await syncDirectory(directory);
  return { hotBits: bits, suspectIntentSectorCount: suspectSectorCount };
}

export function judgeLastEnd(found: Superblock, bootId: string): LastEnd {
  if (found.cleanMark !== null) return 'clean';
  if (found.bootId === null) return 'never opened';
  return found.bootId === bootId ? 'killed' : 'rebooted';
}

export function drawIncarnation(): string {
  return randomBytes(16).toString('hex');
}

async function checkData(data: FileHandle, found: Superblock, directory: string): Promise<void> {
  const { size } = await data.stat();
  if (size >= found.sizeBytes) return;
  throw new HoldfastError(
    'CORRUPT',
    `${join(directory, DATA_FILE_NAME)} has ${size} bytes and the volume ${found.sizeBytes}: data is missing; ` +
      'restore the file, or delete this replica and let it be rebuilt from another copy',
    { details: { volumeId: found.volumeId, haveBytes: size, needBytes: found.sizeBytes } },
  );
}

async function inheritMarks(
  intent: FileHandle,
  extentCount: number,
): Promise<ReturnType<typeof decodeIntent>> {
  const decoded = decodeIntent(await readFully(intent, intentFileBytes(extentCount)), extentCount);
  // A mark that was read may be in the page cache only. Writes to a hot extent rely on it, so it is written
  // again; after a failed fsync of a predecessor, syncing alone would promise what is not there.
  if (decoded.bits.some((byte) => byte !== 0)) {
    await writeFully(intent, encodeIntent(decoded.bits, extentCount), 0);
    await synced(intent.datasync(), 'the intent log');
  }
  return decoded;
}

/** A table cut short must not read as 'never written' once a later sector is written: what is missing is newest. */
export async function fillMissingGenerations(generations: FileHandle, extentCount: number): Promise<void> {
  const { size } = await generations.stat();
  if (size >= generationFileBytes(extentCount)) return;
  const newest = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT).fill(NEWEST_STAMP);
  const batchExtents = 2048;
  for (let first = Math.floor(size / GENERATION_SECTOR_BYTES); first < extentCount; first += batchExtents) {
    const count = Math.min(batchExtents, extentCount - first);
    const bytes = new Uint8Array(generationFileBytes(count));
    for (let index = 0; index < count; index++) {
      encodeGenerationSector(bytes, generationFileOffset(index), first + index, newest, 0);
    }
    await writeFully(generations, bytes, generationFileOffset(first));
  }
  await synced(generations.datasync(), 'the generation table');
}
