// The two logs of a replica on disk, for its data-plane thread: rounds of the intent log and merges of the
// generations file, one of each at a time, as Extents orders them. Sectors are encoded into two blocks of the
// thread's memory that the volume keeps for itself.

import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, GENERATION_BLOCKS_PER_EXTENT } from '../core/units.ts';
import { type Extents, STAMP_UNKNOWN } from '../replication/extents.ts';
import {
  decodeGenerationSector,
  encodeGenerationSector,
  GENERATION_SECTOR_BYTES,
  generationFileOffset,
} from '../replication/layout/generations.ts';
import { encodeIntentSector, INTENT_SECTOR_BYTES, intentSectorOffset } from '../replication/layout/intent.ts';
import { isNotBegun, RWF_DSYNC } from './ring.ts';
import { TAG_GENERATION, TAG_INTENT } from './tags.ts';
import type { Thread } from './thread.ts';

const EIO = 5;
const SECTORS_PER_BUFFER = BLOCK_BYTES / INTENT_SECTOR_BYTES;

// What the entries with TAG_GENERATION are doing.
const MERGE_READING = 0;
const MERGE_WRITING = 1;
const MERGE_FLUSHING = 2;

/** Who orders rounds and merges, and hears of their ends. */
export interface LogsHost {
  readonly extents: Extents;
  readonly epoch: number;
  intentRoundDone(errno: number): void;
  generationsMerged(errno: number): void;
}

export interface LogsOptions {
  readonly intentFd: number;
  readonly generationsFd: number;
}

export class VolumeLogs {
  readonly #thread: Thread;
  readonly #index: number;
  readonly #message: LogsOptions;
  readonly #core: () => LogsHost;
  readonly #intentBuffer: number;
  readonly #generationBuffer: number;
  /** [0]: file offset of the intent write under way; [1..8]: of the generation sectors. */
  readonly #metaOffsets = new Float64Array(1 + SECTORS_PER_BUFFER);
  #roundNext = 0;
  #roundPending = 0;
  #roundFlags = 0;
  #mergeNext = 0;
  #mergeCount = 0;
  #mergePending = 0;
  #mergePhase = MERGE_READING;
  #mergeErrno = 0;
  readonly #mergeStamps = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT);

  /** `index`: the volume's, for the completions; `core` is asked only after the volume stands. */
  constructor(thread: Thread, index: number, message: LogsOptions, core: () => LogsHost) {
    this.#thread = thread;
    this.#index = index;
    this.#message = message;
    this.#core = core;
    this.#intentBuffer = thread.memory.allocate(BLOCK_BYTES, 0);
    this.#generationBuffer = thread.memory.allocate(BLOCK_BYTES, 0);
    if (this.#intentBuffer >= 0 && this.#generationBuffer >= 0) return;
    if (this.#intentBuffer >= 0) thread.memory.free(this.#intentBuffer);
    throw new HoldfastError(
      'BUSY',
      'the data-plane thread has no memory free for another volume now: try again',
    );
  }

  dispose(): void {
    this.#thread.memory.free(this.#intentBuffer);
    this.#thread.memory.free(this.#generationBuffer);
  }

  startIntentRound(durable: boolean): void {
    this.#roundNext = 0;
    this.#roundFlags = durable && !this.#thread.faults.noIntentFlush ? RWF_DSYNC : 0;
    this.#writeIntentRun();
  }

  intentWritten(result: number): void {
    if (isNotBegun(result)) {
      this.#submitIntentRun();
      return;
    }
    if (result !== this.#roundPending) {
      this.#core().intentRoundDone(result < 0 ? -result : EIO);
      return;
    }
    if (this.#roundNext < this.#core().extents.roundSectorCount) this.#writeIntentRun();
    else this.#core().intentRoundDone(0);
  }

  startGenerationMerge(): void {
    this.#mergeNext = 0;
    this.#mergeErrno = 0;
    this.#readGenerations();
  }

  generationDone(result: number): void {
    const expected = this.#mergePhase === MERGE_FLUSHING ? 0 : GENERATION_SECTOR_BYTES;
    if (result !== expected && this.#mergeErrno === 0) this.#mergeErrno = result < 0 ? -result : EIO;
    this.#mergePending -= 1;
    if (this.#mergePending > 0) return;
    if (this.#mergeErrno !== 0 || this.#mergePhase === MERGE_FLUSHING) {
      this.#core().generationsMerged(this.#mergeErrno);
      return;
    }
    if (this.#mergePhase === MERGE_READING) {
      this.#writeGenerations();
      return;
    }
    this.#mergeNext += this.#mergeCount;
    if (this.#mergeNext < this.#core().extents.coolingCount) this.#readGenerations();
    else this.#flushGenerations();
  }

  /** As many neighbouring sectors of the round as one block takes. */
  #writeIntentRun(): void {
    const { roundSectors, roundSectorCount, bits } = this.#core().extents;
    const bytes = this.#thread.memory.bytes;
    const first = roundSectors[this.#roundNext] as number;
    let count = 0;
    while (
      count < SECTORS_PER_BUFFER &&
      this.#roundNext < roundSectorCount &&
      roundSectors[this.#roundNext] === first + count
    ) {
      encodeIntentSector(bytes, this.#intentBuffer + count * INTENT_SECTOR_BYTES, first + count, bits);
      this.#roundNext += 1;
      count += 1;
    }
    this.#roundPending = count * INTENT_SECTOR_BYTES;
    this.#metaOffsets[0] = intentSectorOffset(first);
    this.#submitIntentRun();
  }

  #submitIntentRun(): void {
    this.#thread.ring.write(
      this.#message.intentFd,
      this.#intentBuffer,
      this.#roundPending,
      this.#metaOffsets,
      0,
      this.#index,
      TAG_INTENT,
      this.#roundFlags,
    );
  }

  #readGenerations(): void {
    const extents = this.#core().extents;
    this.#mergeCount = Math.min(SECTORS_PER_BUFFER, extents.coolingCount - this.#mergeNext);
    this.#mergePhase = MERGE_READING;
    this.#mergePending = this.#mergeCount;
    for (let i = 0; i < this.#mergeCount; i++) {
      const extent = extents.coolingExtents[this.#mergeNext + i] as number;
      this.#metaOffsets[1 + i] = generationFileOffset(extent);
      const at = this.#generationBuffer + i * GENERATION_SECTOR_BYTES;
      this.#thread.ring.read(
        this.#message.generationsFd,
        at,
        GENERATION_SECTOR_BYTES,
        this.#metaOffsets,
        1 + i,
        this.#index,
        TAG_GENERATION,
      );
    }
  }

  /** Later of what stands there and of what was written since; what nobody knows was written in this epoch. */
  #writeGenerations(): void {
    const extents = this.#core().extents;
    const bytes = this.#thread.memory.bytes;
    const merged = this.#mergeStamps;
    this.#mergePhase = MERGE_WRITING;
    this.#mergePending = this.#mergeCount;
    for (let i = 0; i < this.#mergeCount; i++) {
      const extent = extents.coolingExtents[this.#mergeNext + i] as number;
      const at = this.#generationBuffer + i * GENERATION_SECTOR_BYTES;
      readStamps(bytes, at, extent, merged);
      const stamps = extents.stampMemory;
      const base = extents.stampOffset(extent);
      for (let block = 0; block < GENERATION_BLOCKS_PER_EXTENT; block++) {
        const newest = Math.max(merged[block] as number, stamps[base + block] as number);
        merged[block] = newest === STAMP_UNKNOWN ? this.#core().epoch : newest;
      }
      encodeGenerationSector(bytes, at, extent, merged, 0);
      this.#thread.ring.write(
        this.#message.generationsFd,
        at,
        GENERATION_SECTOR_BYTES,
        this.#metaOffsets,
        1 + i,
        this.#index,
        TAG_GENERATION,
        0,
      );
    }
  }

  #flushGenerations(): void {
    this.#mergePhase = MERGE_FLUSHING;
    this.#mergePending = 1;
    this.#thread.ring.fdatasync(this.#message.generationsFd, this.#index, TAG_GENERATION);
  }
}

/** A sector that cannot be read, or is of another version, says nothing: its blocks count as written just now. */
function readStamps(bytes: Uint8Array, at: number, extent: number, stamps: Uint32Array): void {
  try {
    decodeGenerationSector(bytes, at, extent, stamps, 0);
  } catch {
    stamps.fill(STAMP_UNKNOWN);
  }
}
