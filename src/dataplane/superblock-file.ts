// A replica's superblock on disk: read it, and change it one durable step at a time.
//
// Every update goes to both slots, one after the other, each on stable storage before the next step: after a
// crash at any point at least one slot is whole, and it holds the state before or the state after. Because
// both slots carry what was answered, a slot that rots later takes nothing with it: falling back to an older
// state could bring a clean mark back to life or a promise down.
//
// A failed write or fsync makes the file failed for good: the state on disk is then unknown, every later
// update throws the same error, and the replica must leave.

import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError, isHoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import {
  type DecodedSuperblock,
  decodeSuperblockSlots,
  encodeSuperblock,
  SUPERBLOCK_FILE_BYTES,
  type Superblock,
  superblockSlotOffset,
} from '../replication/layout/superblock.ts';
import { hasErrno, lostWrites, readFully, storageError, synced, writeFully } from './durable-files.ts';

export const SUPERBLOCK_FILE_NAME = 'superblock';

/** Both slots of a new replica. */
export function encodeSuperblockFile(superblock: Superblock): Uint8Array {
  const bytes = new Uint8Array(SUPERBLOCK_FILE_BYTES);
  for (const sequence of [1, 2])
    bytes.set(encodeSuperblock(superblock, sequence), superblockSlotOffset(sequence));
  return bytes;
}

/** A look without a lock: the state before or after an update that is under way. NOT_FOUND, CORRUPT, IO. */
export async function readSuperblock(replicaDirectory: string): Promise<Superblock> {
  const path = join(replicaDirectory, SUPERBLOCK_FILE_NAME);
  try {
    const file = await open(path, 'r');
    try {
      return (await readSlots(file, path)).superblock;
    } finally {
      await file.close();
    }
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) {
      throw new HoldfastError('NOT_FOUND', `there is no superblock at ${path}`, { cause: error });
    }
    throw storageError(error, `reading ${path}`);
  }
}

async function readSlots(file: FileHandle, path: string): Promise<DecodedSuperblock> {
  const bytes = await readFully(file, SUPERBLOCK_FILE_BYTES);
  try {
    return decodeSuperblockSlots(bytes);
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    throw new HoldfastError(error.code, `${path}: ${error.message}`, {
      cause: error,
      details: { ...error.details, path },
    });
  }
}

export class SuperblockFile {
  readonly #file: FileHandle;
  readonly #path: string;
  #current: Superblock;
  #sequence: number;
  #failure: HoldfastError | undefined;
  #onFailure: (error: HoldfastError) => void = () => undefined;
  #tail: Promise<unknown> = Promise.resolve();

  /** `file`: open for reading and writing, locked, and this object's alone; its owner closes it after settled(). */
  static async load(file: FileHandle, path: string): Promise<SuperblockFile> {
    const { superblock, sequence } = await readSlots(file, path);
    return new SuperblockFile(file, path, superblock, sequence);
  }

  private constructor(file: FileHandle, path: string, current: Superblock, sequence: number) {
    this.#file = file;
    this.#path = path;
    this.#current = current;
    this.#sequence = sequence;
  }

  /**
   * What the last finished update wrote. Before the first update it is only what was read: a predecessor may
   * have died between its write and its fsync, so whoever relies on it updates once first (an empty change does).
   */
  get current(): Superblock {
    return this.#current;
  }

  /** Set for good once a write or fsync failed: the replica must leave. */
  get failure(): HoldfastError | undefined {
    return this.#failure;
  }

  /** Hears the failure before the caller of the update does. One listener. */
  onFailure(listener: (error: HoldfastError) => void): void {
    this.#onFailure = listener;
  }

  /** Durable when it resolves. Updates run one at a time, in the order of the calls. CONFLICT, NO_SPACE, IO. */
  update(change: Partial<Superblock>): Promise<Superblock> {
    const done = this.#tail.then(() => this.#write({ ...this.#current, ...change }));
    this.#tail = done.catch(() => undefined);
    return done;
  }

  /** Resolves when no update is under way. */
  async settled(): Promise<void> {
    await this.#tail;
  }

  async #write(next: Superblock): Promise<Superblock> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#refuseSteppingBack(next);
    const copies = [this.#sequence + 1, this.#sequence + 2].map((sequence) => ({
      bytes: encodeSuperblock(next, sequence),
      offset: superblockSlotOffset(sequence),
    }));
    try {
      for (const { bytes, offset } of copies) {
        await writeFully(this.#file, bytes, offset);
        await synced(this.#file.datasync(), this.#path);
      }
    } catch (error) {
      this.#failure = writeError(error, this.#path);
      this.#onFailure(this.#failure);
      throw this.#failure;
    }
    this.#sequence += copies.length;
    this.#current = next;
    return next;
  }

  #refuseSteppingBack(next: Superblock): void {
    const current = this.#current;
    invariant(next.sizeBytes >= current.sizeBytes, 'a replica never shrinks');
    for (const field of ['promisedEpoch', 'attachmentNumber'] as const) {
      if (next[field] >= current[field]) continue;
      throw new HoldfastError(
        'CONFLICT',
        `${field} of volume ${current.volumeId} is ${current[field]} on disk and cannot go back to ${next[field]}: ` +
          'the store is older than this replica; restore a newer store or promote by hand',
        { details: { field, haveValue: current[field], wantedValue: next[field] } },
      );
    }
  }
}

/** A write that found no room has lost nothing; after any other failure the disk may. */
function writeError(error: unknown, path: string): HoldfastError {
  const known = storageError(error, `writing ${path}`);
  return isHoldfastError(error) || known.code === 'NO_SPACE' ? known : lostWrites(error, `writing ${path}`);
}
