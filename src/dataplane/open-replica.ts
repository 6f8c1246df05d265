// A replica that is open for serving: its files, locked, and what its last process left behind.

import { join } from 'node:path';
import type { Durability } from '../replication/layout/superblock.ts';
import type { WindowEntry } from '../replication/layout/window.ts';
import { storageError } from './durable-files.ts';
import { type Inheritance, inherit, type LastEnd } from './inheritance.ts';
import type { Pool } from './pool.ts';
import type { IoMode } from './pool-directory.ts';
import { closeFiles, openFiles, type ReplicaFiles } from './replica-lock.ts';
import { SUPERBLOCK_FILE_NAME, SuperblockFile } from './superblock-file.ts';

export class OpenReplica {
  readonly volumeId: string;
  readonly replicaId: string;
  readonly directory: string;
  readonly ioMode: IoMode;
  readonly bootId: string;
  /** Durable state; the clean mark goes here, after the data was flushed and nothing is served any more. */
  readonly superblock: SuperblockFile;
  readonly lastEnd: LastEnd;
  readonly isIncarnationRedrawn: boolean;
  readonly hotBits: Uint8Array;
  readonly suspectIntentSectorCount: number;
  readonly windowEntries: readonly WindowEntry[] | 'unknown';
  /** For the main thread's own operations on the files (growing). */
  readonly files: ReplicaFiles;
  #released: Promise<void> | undefined;

  constructor(
    pool: Pool,
    directory: string,
    bootId: string,
    files: ReplicaFiles,
    superblock: SuperblockFile,
    inheritance: Inheritance,
  ) {
    this.volumeId = superblock.current.volumeId;
    this.replicaId = superblock.current.replicaId;
    this.directory = directory;
    this.ioMode = pool.ioMode;
    this.bootId = bootId;
    this.files = files;
    this.superblock = superblock;
    this.lastEnd = inheritance.lastEnd;
    this.isIncarnationRedrawn = inheritance.isIncarnationRedrawn;
    this.hotBits = inheritance.hotBits;
    this.suspectIntentSectorCount = inheritance.suspectIntentSectorCount;
    this.windowEntries = inheritance.windowEntries;
  }

  get sizeBytes(): number {
    return this.superblock.current.sizeBytes;
  }

  /** Opened with O_DIRECT in direct mode: offsets, lengths and memory are then aligned to 4096 bytes. */
  get dataFd(): number {
    return this.files.data.fd;
  }

  get intentFd(): number {
    return this.files.intent.fd;
  }

  get generationsFd(): number {
    return this.files.generations.fd;
  }

  /** WINDOW_FILE_BYTES long and allocated throughout: a store to its mapping never meets a full disk. */
  get windowFd(): number {
    return this.files.window.fd;
  }

  /** Closes everything; rings and mappings must have let go first, or the lock stays with them. Twice does no harm. */
  release(): Promise<void> {
    this.#released ??= this.superblock.settled().then(() => closeFiles(this.files));
    return this.#released;
  }
}

/**
 * Opens, locks and judges a replica. BUSY: another description holds a lock; a killed daemon's requests may
 * still be landing, so the caller tries again for a while. NOT_FOUND, CORRUPT, IO.
 * `storeDurability`: what the store says; after a reboot the weaker of it and the superblock counts.
 */
export async function openReplica(
  pool: Pool,
  volumeId: string,
  bootId: string,
  storeDurability: Durability = 'writethrough',
): Promise<OpenReplica> {
  const directory = pool.replicaDirectory(volumeId);
  try {
    const files = await openFiles(directory, volumeId, pool.ioMode);
    try {
      const superblock = await SuperblockFile.load(files.superblock, join(directory, SUPERBLOCK_FILE_NAME));
      const inheritance = await inherit(files, directory, superblock, bootId, storeDurability);
      return new OpenReplica(pool, directory, bootId, files, superblock, inheritance);
    } catch (error) {
      await closeFiles(files);
      throw error;
    }
  } catch (error) {
    throw storageError(error, `opening the replica of volume ${volumeId} in pool '${pool.name}'`);
  }
}
