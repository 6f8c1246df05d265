// Buffered reads of one turn, taken from the page cache by one call. What is not there (-EAGAIN, or a short
// read) goes on as a ring entry, which waits for the disk without holding up the thread.
//
// Why not the ring at once: the kernel does the same there, but an entry, its completion and another turn of
// the loop cost as much again as the copy of 4 KiB. See docs/adr/0004-inline-calls.md.

import { native } from './native.ts';
import type { Slots } from './slots.ts';
import { TransferBatch } from './transfer-batch.ts';

export class ReadBatch extends TransferBatch {
  readonly #memory: Uint8Array;

  constructor(memory: Uint8Array, slots: Slots) {
    super(slots);
    this.#memory = memory;
  }

  /** Makes all of them. Returns how many; results and requests are then read by position until the next run. */
  run(): number {
    const count = this.take();
    native.readBatch(this.#memory, this.entries, count);
    return count;
  }
}
