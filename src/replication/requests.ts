// The table of requests in flight. A request is a slot number; everything about it stands in flat typed
// arrays, so that the path of a request allocates nothing. Numbers that do not fit 31 bits (offsets)
// are passed by slot, never as an argument: an argument would be boxed by the engine.
//
// Invariant: a slot is in at most one list at a time (`next` links it), and is released exactly once.

import { invariant } from '../core/invariant.ts';

export const READ = 0;
export const WRITE = 1;
/** Reads as zeroes afterwards; may give space back unless NO_HOLE. TRIM is one of these. */
export const ZERO = 2;
export const FLUSH = 3;
/** The primary's own: brings the members to its bytes after a promotion. */
export const REWRITE = 4;
/** A joining replica's: bytes of a resync. */
export const COPY = 5;
/** The primary's own: reads what a resync sends, and keeps writers away meanwhile. */
export const COPY_READ = 6;

/** Its data operation takes bytes from the disk and puts none there. */
export function readsData(kind: number): boolean {
  return kind === READ || kind === COPY_READ || kind === REWRITE;
}

export const FLAG_FUA = 1;
export const FLAG_NO_HOLE = 2;

/** In an errno of a write or zeroing: the copy had no room for it, and nothing of it was written. */
export const UNTOUCHED = 0x100;

export const NONE = -1;

export class RequestTable {
  readonly capacity: number;
  readonly kind: Uint8Array;
  readonly flags: Uint8Array;
  /** As the client asked; any alignment. */
  readonly offsetBytes: Float64Array;
  readonly lengthBytes: Uint32Array;
  /** Link of whatever list the request waits in. */
  readonly next: Int32Array;
  /** Number of a write within its opening; of a copy within its stream. */
  readonly sequence: Float64Array;
  /** Bit n: the copy in seat n has not yet answered (0 is the local one). */
  readonly waitMask: Uint16Array;
  /** Bit n: the copy in seat n refused it, untouched. */
  readonly refusedMask: Uint16Array;
  /** Link or session that the request came from, and when, for whoever needs it. */
  readonly origin: Int32Array;
  readonly sentMs: Float64Array;
  /** The name its client gave it. */
  readonly tag: Float64Array;
  /** 1: the range read as zeroes, or is to: no payload goes with it. */
  readonly isHole: Uint8Array;
  /** Window entry while a write is in flight, else NONE. */
  readonly windowEntry: Int16Array;
  /** Sub-operations still running. */
  readonly pending: Int32Array;
  /** First error of any sub-operation: a positive errno, perhaps UNTOUCHED; 0 for none. */
  readonly error: Int32Array;
  readonly #free: Int32Array;
  #freeCount: number;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.kind = new Uint8Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.offsetBytes = new Float64Array(capacity);
    this.lengthBytes = new Uint32Array(capacity);
    this.next = new Int32Array(capacity).fill(NONE);
    this.sequence = new Float64Array(capacity);
    this.waitMask = new Uint16Array(capacity);
    this.refusedMask = new Uint16Array(capacity);
    this.origin = new Int32Array(capacity).fill(NONE);
    this.sentMs = new Float64Array(capacity);
    this.tag = new Float64Array(capacity);
    this.isHole = new Uint8Array(capacity);
    this.windowEntry = new Int16Array(capacity).fill(NONE);
    this.pending = new Int32Array(capacity);
    this.error = new Int32Array(capacity);
    this.#free = new Int32Array(capacity);
    this.#freeCount = capacity;
    for (let i = 0; i < capacity; i++) this.#free[i] = capacity - 1 - i;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** A free slot, or NONE: then the caller stops reading from its client until one is released. */
  take(): number {
    if (this.#freeCount === 0) return NONE;
    this.#freeCount -= 1;
    const request = this.#free[this.#freeCount] as number;
    this.next[request] = NONE;
    this.windowEntry[request] = NONE;
    this.pending[request] = 0;
    this.error[request] = 0;
    this.flags[request] = 0;
    this.waitMask[request] = 0;
    this.isHole[request] = 0;
    return request;
  }

  release(request: number): void {
    invariant(this.#freeCount < this.capacity, 'a request is released once');
    this.#free[this.#freeCount] = request;
    this.#freeCount += 1;
  }
}

/** A first-in first-out list of requests, linked through the table. */
export class RequestQueue {
  readonly #table: RequestTable;
  readonly #next: Int32Array;
  #head = NONE;
  #tail = NONE;

  constructor(table: RequestTable) {
    this.#table = table;
    this.#next = table.next;
  }

  get isEmpty(): boolean {
    return this.#head === NONE;
  }

  get head(): number {
    return this.#head;
  }

  push(request: number): void {
    this.#next[request] = NONE;
    if (this.#tail === NONE) this.#head = request;
    else this.#next[this.#tail] = request;
    this.#tail = request;
  }

  /** The oldest request, or NONE. */
  shift(): number {
    const request = this.#head;
    if (request === NONE) return NONE;
    this.#head = this.#next[request] as number;
    if (this.#head === NONE) this.#tail = NONE;
    this.#next[request] = NONE;
    return request;
  }

  /** From the oldest on. The queue must not change meanwhile. */
  *requests(): Generator<number> {
    for (let request = this.#head; request !== NONE; request = this.#next[request] as number) yield request;
  }

  /** Takes those out for which this holds; the others keep their order. */
  takeOut(isOut: (request: number) => boolean, then: (request: number) => void): void {
    const all = new RequestQueue(this.#table);
    const out = new RequestQueue(this.#table);
    this.moveTo(all);
    for (let request = all.shift(); request !== NONE; request = all.shift())
      (isOut(request) ? out : this).push(request);
    for (let request = out.shift(); request !== NONE; request = out.shift()) then(request);
  }

  /** Moves everything to the end of another queue of the same table. */
  moveTo(other: RequestQueue): void {
    if (this.#head === NONE) return;
    if (other.#tail === NONE) other.#head = this.#head;
    else other.#next[other.#tail] = this.#head;
    other.#tail = this.#tail;
    this.#head = NONE;
    this.#tail = NONE;
  }
}
