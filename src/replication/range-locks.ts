// Who may touch which bytes now. Writes exclude everything that overlaps them, reads exclude writes, and
// nobody overtakes an overlapping request that came before (I5: a read never shows a write that is not
// acknowledged; I6: overlapping writes are applied in the order of their arrival).
//
// Ranges are whole blocks: a partial block is read, merged and written under the lock of the whole block.
// The scan is linear: some dozens of requests are in flight, and a scan over three flat arrays is cheaper
// than keeping a tree.

import { BLOCK_BYTES } from '../core/units.ts';
import { NONE, READ, type RequestTable } from './requests.ts';

export class RangeLocks {
  readonly #table: RequestTable;
  readonly #onGranted: (request: number) => void;
  /** Position of a holder in the dense arrays below. */
  readonly #position: Int32Array;
  readonly #heldBy: Int32Array;
  readonly #startBlock: Float64Array;
  readonly #endBlock: Float64Array;
  readonly #isShared: Uint8Array;
  #heldCount = 0;
  /** In order of arrival; rarely anything. */
  readonly #waiting: Int32Array;
  #waitingCount = 0;

  /** `onGranted` is called, from release(), for a request whose acquire() returned false. */
  constructor(table: RequestTable, onGranted: (request: number) => void) {
    this.#table = table;
    this.#onGranted = onGranted;
    this.#position = new Int32Array(table.capacity).fill(NONE);
    this.#heldBy = new Int32Array(table.capacity);
    this.#startBlock = new Float64Array(table.capacity);
    this.#endBlock = new Float64Array(table.capacity);
    this.#isShared = new Uint8Array(table.capacity);
    this.#waiting = new Int32Array(table.capacity);
  }

  get isIdle(): boolean {
    return this.#heldCount === 0 && this.#waitingCount === 0;
  }

  get heldCount(): number {
    return this.#heldCount;
  }

  /** True: the range is locked. False: the request waits, and `onGranted` will be called. */
  acquire(request: number): boolean {
    if (!this.#conflictsWithHeld(request) && !this.#conflictsWithWaiting(request, this.#waitingCount)) {
      this.#hold(request);
      return true;
    }
    this.#waiting[this.#waitingCount] = request;
    this.#waitingCount += 1;
    return false;
  }

  /** A request that waits is not granted its range any more. */
  forget(request: number): void {
    const at = this.#waiting.subarray(0, this.#waitingCount).indexOf(request);
    if (at < 0) return;
    this.#waiting.copyWithin(at, at + 1, this.#waitingCount);
    this.#waitingCount -= 1;
    if (this.#waitingCount > 0) this.#grantWaiting();
  }

  /** A request that waits, and for which this holds, or NONE. */
  findWaiting(holds: (request: number) => boolean): number {
    for (let i = 0; i < this.#waitingCount; i++) {
      const request = this.#waiting[i] as number;
      if (holds(request)) return request;
    }
    return NONE;
  }

  release(request: number): void {
    const position = this.#position[request] as number;
    this.#heldCount -= 1;
    const last = this.#heldCount;
    if (position !== last) {
      const moved = this.#heldBy[last] as number;
      this.#heldBy[position] = moved;
      this.#startBlock[position] = this.#startBlock[last] as number;
      this.#endBlock[position] = this.#endBlock[last] as number;
      this.#isShared[position] = this.#isShared[last] as number;
      this.#position[moved] = position;
    }
    this.#position[request] = NONE;
    if (this.#waitingCount > 0) this.#grantWaiting();
  }

  /** A granted request may finish at once and release in turn: start over until a pass grants nothing. */
  #grantWaiting(): void {
    let i = 0;
    while (i < this.#waitingCount) {
      const request = this.#waiting[i] as number;
      if (this.#conflictsWithHeld(request) || this.#conflictsWithWaiting(request, i)) {
        i += 1;
        continue;
      }
      this.#waiting.copyWithin(i, i + 1, this.#waitingCount);
      this.#waitingCount -= 1;
      this.#hold(request);
      this.#onGranted(request);
      i = 0;
    }
  }

  #hold(request: number): void {
    const position = this.#heldCount;
    this.#heldCount += 1;
    const offset = this.#table.offsetBytes[request] as number;
    const length = this.#table.lengthBytes[request] as number;
    this.#heldBy[position] = request;
    this.#startBlock[position] = Math.floor(offset / BLOCK_BYTES);
    this.#endBlock[position] = Math.ceil((offset + length) / BLOCK_BYTES);
    this.#isShared[position] = this.#table.kind[request] === READ ? 1 : 0;
    this.#position[request] = position;
  }

  #conflictsWithHeld(request: number): boolean {
    const count = this.#heldCount;
    if (count === 0) return false;
    const offset = this.#table.offsetBytes[request] as number;
    const start = Math.floor(offset / BLOCK_BYTES);
    const end = Math.ceil((offset + (this.#table.lengthBytes[request] as number)) / BLOCK_BYTES);
    const isShared = this.#table.kind[request] === READ ? 1 : 0;
    for (let i = 0; i < count; i++) {
      if (
        (this.#startBlock[i] as number) < end &&
        start < (this.#endBlock[i] as number) &&
        ((this.#isShared[i] as number) & isShared) === 0
      ) {
        return true;
      }
    }
    return false;
  }

  #conflictsWithWaiting(request: number, beforeIndex: number): boolean {
    if (beforeIndex === 0) return false;
    const table = this.#table;
    const offset = table.offsetBytes[request] as number;
    const start = Math.floor(offset / BLOCK_BYTES);
    const end = Math.ceil((offset + (table.lengthBytes[request] as number)) / BLOCK_BYTES);
    const isRead = table.kind[request] === READ;
    for (let i = 0; i < beforeIndex; i++) {
      const other = this.#waiting[i] as number;
      const otherOffset = table.offsetBytes[other] as number;
      const otherStart = Math.floor(otherOffset / BLOCK_BYTES);
      const otherEnd = Math.ceil((otherOffset + (table.lengthBytes[other] as number)) / BLOCK_BYTES);
      if (otherStart < end && start < otherEnd && !(isRead && table.kind[other] === READ)) return true;
    }
    return false;
  }
}
