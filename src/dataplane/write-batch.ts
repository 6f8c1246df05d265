// Buffered writes of one turn, made together by one call instead of ring entries.
//
// Why not the ring: a file system whose buffered writes may block (ext4) has io_uring hand every one of them
// to a kernel worker thread, one at a time per file; copying 4 KiB into the page cache costs less than waking
// that thread. See docs/adr/0002-buffered-writes.md for the figures.
// Why not always: the call blocks when the kernel makes writers wait (dirty pages, a journal commit), and the
// whole thread with it. So after a batch that took long, writes go through the ring for twenty times as long,
// a second at most: there they are slower. And a disk that leaves what is in the ring unanswered is not called at
// all: such a call could hold up the thread for as long as the disk hangs. One batch is for one pool.

import { native } from './native.ts';
import { Outstanding } from './outstanding.ts';
import type { Slots } from './slots.ts';
import { TransferBatch } from './transfer-batch.ts';

/** Slept longer than this in a batch, and the kernel makes writers wait. */
const STALL_MICROS = 2000;
const DETOUR_PER_STALL = 20;
const LONGEST_DETOUR_MS = 1000;
const RING_WRITE_LIMIT_MS = 100;
/** A flush of much data takes its time on a sound disk. */
const FLUSH_LIMIT_MS = 1000;

export class WriteBatch extends TransferBatch {
  /** Writes and zeroing in the ring. */
  readonly ringWrites = new Outstanding(RING_WRITE_LIMIT_MS);
  readonly flushes = new Outstanding(FLUSH_LIMIT_MS);
  readonly #memory: Uint8Array;
  /** [0]: until when writes go through the ring. */
  readonly #detourUntilMs = new Float64Array(1);

  constructor(memory: Uint8Array, slots: Slots) {
    super(slots);
    this.#memory = memory;
  }

  /** False: writes go through the ring now. */
  isOpen(clockMs: Float64Array): boolean {
    return (
      (clockMs[0] as number) >= (this.#detourUntilMs[0] as number) &&
      !this.ringWrites.isOverdue(clockMs) &&
      !this.flushes.isOverdue(clockMs)
    );
  }

  /** Makes all of them. Returns how many; results and requests are then read by position until the next run. */
  run(clockMs: Float64Array): number {
    const count = this.take();
    const micros = native.writeBatch(this.#memory, this.entries, count);
    if (micros > STALL_MICROS) {
      const stallMs = micros / 1000;
      const detourMs = Math.min(stallMs * DETOUR_PER_STALL, LONGEST_DETOUR_MS);
      this.#detourUntilMs[0] = (clockMs[0] as number) + stallMs + detourMs;
    }
    return count;
  }
}
