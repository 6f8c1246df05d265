// Reads and writes of the page cache that gather during a turn and are made together by one call of the addon.
// Two sets of entries: while the results of one are read, what they let start is added to the other.

import type { Slots } from './slots.ts';
import { REQUEST_CAPACITY } from './thread-memory.ts';

const NUMBERS_PER_TRANSFER = 4;

export class TransferBatch {
  readonly #slots: Slots;
  #entries = new Float64Array(REQUEST_CAPACITY * NUMBERS_PER_TRANSFER);
  #requests = new Int32Array(REQUEST_CAPACITY);
  #doneEntries = new Float64Array(REQUEST_CAPACITY * NUMBERS_PER_TRANSFER);
  #doneRequests = new Int32Array(REQUEST_CAPACITY);
  #count = 0;

  constructor(slots: Slots) {
    this.#slots = slots;
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  /** What the request's ioOffset, ioBuffer and ioLeft say. */
  add(request: number, fd: number): void {
    const slots = this.#slots;
    const at = this.#count * NUMBERS_PER_TRANSFER;
    this.#entries[at] = fd;
    this.#entries[at + 1] = slots.ioBuffer[request] as number;
    this.#entries[at + 2] = slots.ioLeft[request] as number;
    this.#entries[at + 3] = slots.ioOffset[request] as number;
    this.#requests[this.#count] = request;
    this.#count += 1;
  }

  /** Takes what has gathered; the caller has `entries` carried out, then reads results by position. */
  take(): number {
    const count = this.#count;
    this.#count = 0;
    const entries = this.#entries;
    const requests = this.#requests;
    this.#entries = this.#doneEntries;
    this.#requests = this.#doneRequests;
    this.#doneEntries = entries;
    this.#doneRequests = requests;
    return count;
  }

  /** Of the set that was taken last. */
  get entries(): Float64Array {
    return this.#doneEntries;
  }

  request(position: number): number {
    return this.#doneRequests[position] as number;
  }

  /** Bytes moved, or a negative errno. */
  result(position: number): number {
    return this.#doneEntries[position * NUMBERS_PER_TRANSFER] as number;
  }
}
