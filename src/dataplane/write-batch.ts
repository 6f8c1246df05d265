// Buffered writes of one turn, made together by one call instead of ring entries.
//
// Why not the ring: a file system whose buffered writes may block (ext4) has io_uring hand every one of them
// to a kernel worker thread, one at a time per file; copying 4 KiB into the page cache costs less than waking
// that thread. See docs/adr/0002-buffered-writes.md for the figures.
// Why not always: the call blocks when the kernel makes writers wait (dirty pages, a journal commit), and the
// whole thread with it. So a batch that took long sends the writes of the next second through the ring.

import { native } from './native.ts';
import type { Slots } from './slots.ts';
import { REQUEST_CAPACITY } from './thread-memory.ts';

const NUMBERS_PER_WRITE = 4;
/** Slept longer than this in a batch, and the kernel makes writers wait. */
const STALL_MICROS = 2000;
const DETOUR_MS = 1000;

export class WriteBatch {
  readonly #memory: Uint8Array;
  readonly #slots: Slots;
  // Two sets: while the results of one are read, what they let start is added to the other.
  #entries = new Float64Array(REQUEST_CAPACITY * NUMBERS_PER_WRITE);
  #requests = new Int32Array(REQUEST_CAPACITY);
  #doneEntries = new Float64Array(REQUEST_CAPACITY * NUMBERS_PER_WRITE);
  #doneRequests = new Int32Array(REQUEST_CAPACITY);
  #count = 0;
  /** [0]: until when writes go through the ring. */
  readonly #detourUntilMs = new Float64Array(1);

  constructor(memory: Uint8Array, slots: Slots) {
    this.#memory = memory;
    this.#slots = slots;
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  /** False: this write goes through the ring. */
  add(request: number, fd: number, clockMs: Float64Array): boolean {
    if ((clockMs[0] as number) < (this.#detourUntilMs[0] as number)) return false;
    const slots = this.#slots;
    const at = this.#count * NUMBERS_PER_WRITE;
    this.#entries[at] = fd;
    this.#entries[at + 1] = slots.ioBuffer[request] as number;
    this.#entries[at + 2] = slots.ioLeft[request] as number;
    this.#entries[at + 3] = slots.ioOffset[request] as number;
    this.#requests[this.#count] = request;
    this.#count += 1;
    return true;
  }

  /** Makes all of them. Returns how many; results and requests are then read by position until the next run. */
  run(clockMs: Float64Array): number {
    const count = this.#count;
    if (count === 0) return 0;
    this.#count = 0;
    const entries = this.#entries;
    const requests = this.#requests;
    this.#entries = this.#doneEntries;
    this.#requests = this.#doneRequests;
    this.#doneEntries = entries;
    this.#doneRequests = requests;
    const micros = native.writeBatch(this.#memory, entries, count);
    if (micros > STALL_MICROS) this.#detourUntilMs[0] = (clockMs[0] as number) + DETOUR_MS;
    return count;
  }

  request(position: number): number {
    return this.#doneRequests[position] as number;
  }

  /** Bytes written, or a negative errno. */
  result(position: number): number {
    return this.#doneEntries[position * NUMBERS_PER_WRITE] as number;
  }
}
