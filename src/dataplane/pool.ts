// A pool: a directory of this node that holds replicas, each a directory of its own named by its volume id.
//
//   pool.json                  identity; its presence makes the directory a pool
//   lock                       flock'ed while a daemon uses the pool; holds that daemon's process id
//   <volumeId>/                a replica (replica-files.ts)
//   creating-<volumeId>/       half-created: nobody was told that it exists; removed at open
//   deleting-<volumeId>/       half-deleted: finished at open
//
// Names are durable (their directory fsynced) before anyone is told; what the pool does not know it never
// touches. Room for volumes is counted here: the sum of their sizes, against the file system's size and the
// overcommit ratio. Whether the disk has room for a write is the data plane's question.

import { type FileHandle, stat, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, GIB, roundUp } from '../core/units.ts';
import { CHANGES_AT_A_TIME, DiskGate } from './disk-gate.ts';
import { hasErrno, storageError } from './durable-files.ts';
import type { PoolStatus } from './node-storage.ts';
import {
  CREATING,
  chooseIoMode,
  DELETING,
  finishLeftovers,
  type IoMode,
  LOCK_FILE,
  identify,
  lockPool,
  makeDirectory,
  replicaNames,
  requirePool,
  VOLUME_ID,
} from './pool-directory.ts';
import { readSuperblock } from './superblock-file.ts';

export interface PoolOptions {
  /** undefined: direct where the file system takes O_DIRECT. */
  readonly ioMode?: IoMode | undefined;
  /** undefined: 1 GiB, or 5 % of the file system where that is less. */
  readonly reserveBytes?: number | undefined;
  /** The sizes of all replicas may add up to the file system's size × this. */
  readonly overcommitRatio: number;
}

export interface OpenPool extends PoolOptions {
  /** The pool that must be there; undefined: any, or a new one. */
  readonly expectedId?: string | undefined;
}

const DEFAULT_RESERVE_BYTES = GIB;
const DEFAULT_RESERVE_SHARE = 0.05;

export class Pool {
  readonly name: string;
  readonly directory: string;
  readonly id: string;
  readonly ioMode: IoMode;
  readonly reserveBytes: number;
  readonly overcommitRatio: number;
  /** Whoever uses the pool's files from the main thread goes through it. */
  readonly gate: DiskGate;
  readonly #lock: FileHandle;
  /** Sizes by volume id, of replicas that are there or being created. */
  readonly #provisioned = new Map<string, number>();
  /** Volumes whose replica is being created, deleted or grown. */
  readonly #inProgress = new Set<string>();
  #problem: HoldfastError | undefined;

  /**
   * Locks the pool, makes it if the directory is missing or empty, and finishes what a crash left half done.
   * BUSY: another process has it. INVALID: not a pool, or another pool than `name`. UNSUPPORTED: no O_DIRECT.
   * UNAVAILABLE: not the pool that is expected; what was found instead is untouched.
   */
  static async open(name: string, directory: string, options: OpenPool): Promise<Pool> {
    const path = resolve(directory);
    const { expectedId } = options;
    try {
      if (expectedId !== undefined) await requirePool(name, path, expectedId);
      await makeDirectory(path);
      const lock = await lockPool(path);
      try {
        // Asked again: what is mounted may have changed meanwhile.
        const id = await (expectedId === undefined
          ? identify(name, path)
          : requirePool(name, path, expectedId));
        await finishLeftovers(path);
        const ioMode = await chooseIoMode(path, options.ioMode);
        const reserveBytes = options.reserveBytes ?? (await defaultReserveBytes(path));
        const pool = new Pool(name, path, id, ioMode, reserveBytes, options.overcommitRatio, lock);
        await pool.#countReplicas();
        return pool;
      } catch (error) {
        await lock.close();
        throw error;
      }
    } catch (error) {
      throw storageError(error, `opening pool '${name}' at ${path}`);
    }
  }

  private constructor(
    name: string,
    directory: string,
    id: string,
    ioMode: IoMode,
    reserveBytes: number,
    overcommitRatio: number,
    lock: FileHandle,
  ) {
    this.name = name;
    this.directory = directory;
    this.gate = new DiskGate(name, directory);
    this.id = id;
    this.ioMode = ioMode;
    this.reserveBytes = reserveBytes;
    this.overcommitRatio = overcommitRatio;
    this.#lock = lock;
  }

  /** Releases the lock. Every replica of the pool must be closed. Twice does no harm. */
  async close(): Promise<void> {
    await this.#lock.close();
  }

  /** UNAVAILABLE, IO. */
  async volumeIds(): Promise<string[]> {
    return await this.#look('listing the replicas', replicaNames);
  }

  /** UNAVAILABLE when it cannot be told, because the pool's disk was taken from under the daemon. */
  async has(volumeId: string): Promise<boolean> {
    try {
      await stat(this.replicaDirectory(volumeId));
      return true;
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw storageError(error, `looking for volume ${volumeId}`);
      await this.requirePresent();
      return false;
    }
  }

  /** Why nothing can be done with it though it is open, as the last look at it found; undefined: nothing is wrong. */
  get problem(): HoldfastError | undefined {
    return this.gate.problem ?? this.#problem;
  }

  /**
   * UNAVAILABLE unless the directory is still the one that was opened: what is not there may be elsewhere, and what
   * is written there may be on another file system.
   */
  async requirePresent(): Promise<void> {
    const [ours, found] = await Promise.all([
      this.#lock.stat(),
      stat(join(this.directory, LOCK_FILE)).catch(() => undefined),
    ]);
    if (found?.ino === ours.ino && found.dev === ours.dev) {
      this.#problem = undefined;
      return;
    }
    this.#problem = new HoldfastError(
      'UNAVAILABLE',
      `pool '${this.name}' is no longer at ${this.directory}: mount its disk there again and restart the daemon`,
      { details: { pool: this.name } },
    );
    throw this.#problem;
  }

  replicaDirectory(volumeId: string): string {
    return join(this.directory, nameOf(volumeId));
  }

  /** The name, within the pool's directory, under which a replica is made before anyone may see it. */
  creatingName(volumeId: string): string {
    return CREATING + nameOf(volumeId);
  }

  deletingName(volumeId: string): string {
    return DELETING + nameOf(volumeId);
  }

  /** `availableBytes` is what the file system reports; the reserve is not yet taken off. UNAVAILABLE, IO. */
  async status(): Promise<PoolStatus> {
    const { totalBytes, availableBytes } = await this.#look('asking for the space', space);
    return {
      name: this.name,
      directory: this.directory,
      ioMode: this.ioMode,
      totalBytes,
      availableBytes,
      reserveBytes: this.reserveBytes,
      provisionedBytes: this.#provisionedBytes(),
      overcommitRatio: this.overcommitRatio,
    };
  }

  /** Runs one operation on a volume's replica at a time; BUSY while another one runs. */
  async exclusively<Result>(volumeId: string, operation: () => Promise<Result>): Promise<Result> {
    if (this.#inProgress.has(volumeId)) {
      throw new HoldfastError(
        'BUSY',
        `another operation on the replica of volume ${volumeId} is in progress: try again`,
      );
    }
    this.#inProgress.add(volumeId);
    try {
      return await operation();
    } finally {
      this.#inProgress.delete(volumeId);
    }
  }

  /** Counts a replica of this size from now on, in place of the size it counted with before. NO_SPACE, UNAVAILABLE. */
  async claim(volumeId: string, sizeBytes: number): Promise<void> {
    const { totalBytes } = await this.#look('asking for the space', space);
    // No await between the check and the claim: two claims at a time cannot both take the last room.
    const limitBytes = Math.floor(totalBytes * this.overcommitRatio);
    const othersBytes = this.#provisionedBytes() - (this.#provisioned.get(volumeId) ?? 0);
    if (othersBytes + sizeBytes > limitBytes) {
      throw new HoldfastError(
        'NO_SPACE',
        `pool '${this.name}' has room for ${Math.max(0, limitBytes - othersBytes)} more bytes of volumes and ` +
          `${sizeBytes} are asked for: use another pool, delete volumes, or raise the pool's overcommit`,
        { details: { pool: this.name, limitBytes, provisionedBytes: othersBytes, wantedBytes: sizeBytes } },
      );
    }
    this.#provisioned.set(volumeId, sizeBytes);
  }

  /** The size that counts for a replica; undefined: none. */
  claimedBytes(volumeId: string): number | undefined {
    return this.#provisioned.get(volumeId);
  }

  /** Sets back what claim() changed; undefined: the replica is gone. */
  unclaim(volumeId: string, sizeBytes: number | undefined): void {
    if (sizeBytes === undefined) this.#provisioned.delete(volumeId);
    else this.#provisioned.set(volumeId, sizeBytes);
  }

  /** At the pool's own directory, never at a mount point without its disk. What goes wrong is its problem from then on. */
  async #look<Result>(doing: string, look: (directory: string) => Promise<Result>): Promise<Result> {
    await this.requirePresent();
    try {
      return await look(this.directory);
    } catch (error) {
      this.#problem = storageError(error, `${doing} of pool '${this.name}'`);
      throw this.#problem;
    }
  }

  #provisionedBytes(): number {
    let sumBytes = 0;
    for (const sizeBytes of this.#provisioned.values()) sumBytes += sizeBytes;
    return sumBytes;
  }

  async #countReplicas(): Promise<void> {
    const ids = await this.volumeIds();
    // A few at a time: a disk that hangs must not hold all of libuv's threads.
    const countOn = async (): Promise<void> => {
      for (let volumeId = ids.pop(); volumeId !== undefined; volumeId = ids.pop()) {
        this.#provisioned.set(volumeId, await sizeOnDisk(this.replicaDirectory(volumeId)));
      }
    };
    await Promise.all(Array.from({ length: CHANGES_AT_A_TIME }, countOn));
  }
}

function nameOf(volumeId: string): string {
  if (VOLUME_ID.test(volumeId)) return volumeId;
  throw new HoldfastError('INVALID', `'${volumeId}' is no volume id: 32 hexadecimal digits are expected`);
}

/** An unreadable replica still takes its room: its data file tells how much. */
async function sizeOnDisk(replicaDirectory: string): Promise<number> {
  try {
    return (await readSuperblock(replicaDirectory)).sizeBytes;
  } catch {
    const data = await stat(join(replicaDirectory, 'data')).catch(() => undefined);
    return data?.size ?? 0;
  }
}

async function space(directory: string): Promise<{ totalBytes: number; availableBytes: number }> {
  const { bsize, blocks, bavail } = await statfs(directory);
  return { totalBytes: blocks * bsize, availableBytes: bavail * bsize };
}

async function defaultReserveBytes(directory: string): Promise<number> {
  const { totalBytes } = await space(directory);
  return Math.min(DEFAULT_RESERVE_BYTES, roundUp(totalBytes * DEFAULT_RESERVE_SHARE, BLOCK_BYTES));
}
