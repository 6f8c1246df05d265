// A replica that is open for serving: its files, locked, and what its last process left behind.

import { join } from 'node:path';
import { storageError } from './durable-files.ts';
import { type InheritedLogs, inheritLogs, judgeLastEnd, type LastEnd } from './inheritance.ts';
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
    lastEnd: LastEnd,
    logs: InheritedLogs,
  ) {
    this.volumeId = superblock.current.volumeId;
    this.replicaId = superblock.current.replicaId;
    this.directory = directory;
    this.ioMode = pool.ioMode;
    this.files = files;
    this.window = window;
    this.superblock = superblock;
    this.lastEnd = lastEnd;
    this.hotBits = logs.hotBits;
    this.suspectIntentSectorCount = logs.suspectIntentSectorCount;
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
 * Opens and locks a replica. BUSY: another description holds a lock; a killed daemon's requests may still be landing, so
 * the caller tries again for a while. NOT_FOUND, CORRUPT, NO_SPACE (the run directory), IO. What the copy is worth the
 * replication core judges by what the store says: its superblock stays as the last process left it.
 */
export async function openReplica(
  pool: Pool,
  windows: WindowFiles,
  volumeId: string,
  bootId: string,
): Promise<OpenReplica> {
  const directory = pool.replicaDirectory(volumeId);
  try {
    const files = await openFiles(directory, volumeId, pool.ioMode);
    let window: InheritedWindow | undefined;
    try {
      const superblock = await SuperblockFile.load(files.superblock, join(directory, SUPERBLOCK_FILE_NAME));
      // Before anything changes: a full run directory leaves the copy as it was.
      window = await windows.open(pool.id, volumeId, directory, bootId);
      const logs = await inheritLogs(files, directory, superblock.current);
      const lastEnd = judgeLastEnd(superblock.current, bootId);
      return new OpenReplica(pool, directory, files, window, superblock, lastEnd, logs);
    } catch (error) {
      await window?.file.close();
      await closeFiles(files);
      throw error;
    }
  } catch (error) {
    throw storageError(error, `opening the replica of volume ${volumeId} in pool '${pool.name}'`);
  }
}
