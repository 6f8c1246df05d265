// A replica that is open for serving: its files, locked, and what its last process left behind.

import { join } from 'node:path';
import type { Durability } from '../replication/layout/superblock.ts';
import { storageError } from './durable-files.ts';
import { type Inheritance, inherit, inheritLogs, judgeLastEnd, type LastEnd } from './inheritance.ts';
import type { Pool } from './pool.ts';
import type { IoMode } from './pool-directory.ts';
import { closeFiles, openFiles, type ReplicaFiles } from './replica-lock.ts';
import { SUPERBLOCK_FILE_NAME, SuperblockFile } from './superblock-file.ts';
import type { InheritedWindow, WindowFiles } from './window-files.ts';

export class OpenReplica {
  readonly volumeId: string;
  readonly replicaId: string;
  readonly directory: string;
  readonly ioMode: IoMode;
  /** Durable state; the clean mark goes here, after the data was flushed and nothing is served any more. */
  readonly superblock: SuperblockFile;
  readonly lastEnd: LastEnd;
  readonly isIncarnationRedrawn: boolean;
  readonly hotBits: Uint8Array;
  readonly suspectIntentSectorCount: number;
  /**
   * Its entries are the suspects ('unknown': all hot extents). They stay in the file: who serves the replica settles
   * them, then calls adopt() or reset() of its WindowFile with the window's owner.
   */
  readonly window: InheritedWindow;
  /** For the main thread's own operations on the files (growing). */
  readonly files: ReplicaFiles;
  #released: Promise<void> | undefined;

  constructor(
    pool: Pool,
    directory: string,
    files: ReplicaFiles,
    window: InheritedWindow,
    superblock: SuperblockFile,
    inheritance: Inheritance,
  ) {
    this.volumeId = superblock.current.volumeId;
    this.replicaId = superblock.current.replicaId;
    this.directory = directory;
    this.ioMode = pool.ioMode;
    this.files = files;
    this.window = window;
    this.superblock = superblock;
    this.lastEnd = inheritance.lastEnd;
    this.isIncarnationRedrawn = inheritance.isIncarnationRedrawn;
    this.hotBits = inheritance.hotBits;
    this.suspectIntentSectorCount = inheritance.suspectIntentSectorCount;
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

  get windowFd(): number {
    return this.window.file.fd;
  }

  /** Closes everything; rings and mappings must have let go first, or the lock stays with them. Twice does no harm. */
  release(): Promise<void> {
    this.#released ??= this.#close();
    return this.#released;
  }

  async #close(): Promise<void> {
    await this.superblock.settled();
    await this.window.file.close();
    await closeFiles(this.files);
  }
}

/**
 * Opens, locks and judges a replica. BUSY: another description holds a lock; a killed daemon's requests may
 * still be landing, so the caller tries again for a while. NOT_FOUND, CORRUPT, NO_SPACE (the run directory), IO.
 * `storeDurability`: what the store says; after a reboot the weaker of it and the superblock counts.
 */
export function openReplica(
  pool: Pool,
  windows: WindowFiles,
  volumeId: string,
  bootId: string,
  storeDurability: Durability = 'writethrough',
): Promise<OpenReplica> {
  return openAnd(pool, windows, volumeId, bootId, (files, directory, superblock) =>
    inherit(files, directory, superblock, bootId, storeDurability),
  );
}

/**
 * The same for the replication core, which judges what the copy is worth by what the store says: its superblock
 * stays as the last process left it.
 */
export function openUnjudged(
  pool: Pool,
  windows: WindowFiles,
  volumeId: string,
  bootId: string,
): Promise<OpenReplica> {
  return openAnd(pool, windows, volumeId, bootId, async (files, directory, superblock) => ({
    lastEnd: judgeLastEnd(superblock.current, bootId),
    isIncarnationRedrawn: false,
    ...(await inheritLogs(files, directory, superblock.current)),
  }));
}

async function openAnd(
  pool: Pool,
  windows: WindowFiles,
  volumeId: string,
  bootId: string,
  inheritFrom: (files: ReplicaFiles, directory: string, superblock: SuperblockFile) => Promise<Inheritance>,
): Promise<OpenReplica> {
  const directory = pool.replicaDirectory(volumeId);
  try {
    const files = await openFiles(directory, volumeId, pool.ioMode);
    let window: InheritedWindow | undefined;
    try {
      const superblock = await SuperblockFile.load(files.superblock, join(directory, SUPERBLOCK_FILE_NAME));
      // Before anything changes: a full run directory leaves the copy as it was.
      window = await windows.open(pool.id, volumeId, directory, bootId);
      const inheritance = await inheritFrom(files, directory, superblock);
      return new OpenReplica(pool, directory, files, window, superblock, inheritance);
    } catch (error) {
      await window?.file.close();
      await closeFiles(files);
      throw error;
    }
  } catch (error) {
    throw storageError(error, `opening the replica of volume ${volumeId} in pool '${pool.name}'`);
  }
}
