// After a promotion: brings every member to the primary's bytes wherever an unfinished write of an earlier
// opening may have left them different (I8). Ordinary writes of the new epoch, under the range's lock; requests
// that touch a suspect extent wait until it is done.

import { BLOCK_BYTES, EXTENT_BYTES, roundUp } from '../../core/units.ts';
import { firstExtentOf, lastExtentOf } from '../extents.ts';
import type { Hub } from '../hub.ts';
import { NONE, REWRITE, type RequestTable } from '../requests.ts';

const PIECE_BYTES = 256 * 1024;
const PIECES_IN_FLIGHT = 8;

interface Piece {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export class Reconcile {
  readonly #hub: Hub;
  readonly #table: RequestTable;
  /** Has its lock and its bytes: the primary writes it. */
  readonly #write: (request: number) => void;
  #lock: (request: number) => boolean = () => true;
  #pieces: Piece[] = [];
  readonly #known = new Set<string>();
  #next = 0;
  #inFlightCount = 0;
  /** Pieces left by extent. */
  readonly #left = new Map<number, number>();
  #isAlone: () => boolean = () => false;
  /** Pieces in flight whose bytes nobody needs. */
  readonly #stampedOnly = new Set<number>();
  #isStarted = false;
  isTold = false;
  bytes = 0;

  constructor(hub: Hub, write: (request: number) => void) {
    this.#hub = hub;
    this.#table = hub.table;
    this.#write = write;
  }

  get isOver(): boolean {
    return this.#isStarted && this.#next >= this.#pieces.length && this.#inFlightCount === 0;
  }

  /** A write of any alignment. Its pieces are whole blocks: disks read nothing else, and a partial block was merged whole. */
  suspect(offsetBytes: number, lengthBytes: number): void {
    const wholeBytes = roundUp(this.#hub.known.config.sizeBytes, BLOCK_BYTES);
    const endBytes = Math.min(roundUp(offsetBytes + lengthBytes, BLOCK_BYTES), wholeBytes);
    for (let at = Math.floor(offsetBytes / BLOCK_BYTES) * BLOCK_BYTES; at < endBytes; ) {
      const end = Math.min(endBytes, at + PIECE_BYTES, (Math.floor(at / EXTENT_BYTES) + 1) * EXTENT_BYTES);
      const extent = firstExtentOf(at);
      if (!this.#known.has(`${at}-${end}`)) {
        this.#known.add(`${at}-${end}`);
        this.#pieces.push({ offsetBytes: at, lengthBytes: end - at });
        this.#left.set(extent, (this.#left.get(extent) ?? 0) + 1);
        this.bytes += end - at;
      }
      at = end;
    }
  }

  /** `isAlone`: no other copy remains, and ranges are only stamped from now on. */
  start(isAlone: () => boolean, lock: (request: number) => boolean): void {
    this.#isStarted = true;
    this.#isAlone = isAlone;
    this.#lock = lock;
    if (isAlone() && this.#hub.broken.reconcileStampsAlone) {
      this.#pieces = [];
      this.#left.clear();
    }
    this.step();
  }

  stop(): void {
    this.#next = this.#pieces.length;
  }

  /** The request touches an extent that is not settled yet. */
  blocks(request: number): boolean {
    if (this.#left.size === 0) return false;
    const offset = this.#table.offsetBytes[request] as number;
    const last = lastExtentOf(offset, this.#table.lengthBytes[request] as number);
    for (let extent = firstExtentOf(offset); extent <= last; extent++)
      if (this.#left.has(extent)) return true;
    return false;
  }

  step(): void {
    const table = this.#table;
    while (this.#isStarted && this.#inFlightCount < PIECES_IN_FLIGHT && this.#next < this.#pieces.length) {
      const piece = this.#pieces[this.#next] as Piece;
      const isAlone = this.#isAlone();
      const request = this.#hub.ports.takeRequest(isAlone ? 0 : piece.lengthBytes);
      if (request === NONE) return;
      this.#next += 1;
      this.#inFlightCount += 1;
      table.kind[request] = REWRITE;
      table.flags[request] = 0;
      // Of no session: the slot's last request may have come from one that is revoked.
      table.origin[request] = NONE;
      table.offsetBytes[request] = piece.offsetBytes;
      table.lengthBytes[request] = piece.lengthBytes;
      if (isAlone) this.#stampedOnly.add(request);
      if (this.#lock(request)) this.locked(request);
    }
  }

  locked(request: number): void {
    if (this.#stampedOnly.delete(request)) this.#write(request);
    else this.#hub.ports.startRead(request);
  }

  /** Its bytes cannot be read: tried again at the next step, and only stamped if no other copy is left by then. */
  readFailed(request: number): void {
    const { offsetBytes, lengthBytes } = this.#table;
    this.#pieces.push({
      offsetBytes: offsetBytes[request] as number,
      lengthBytes: lengthBytes[request] as number,
    });
    this.#inFlightCount -= 1;
  }

  /** Its bytes are in its buffer. */
  readDone(request: number): void {
    this.#write(request);
  }

  done(request: number): void {
    const extent = firstExtentOf(this.#table.offsetBytes[request] as number);
    const left = (this.#left.get(extent) ?? 1) - 1;
    if (left === 0) this.#left.delete(extent);
    else this.#left.set(extent, left);
    this.#inFlightCount -= 1;
    this.#hub.ports.release(request);
    this.step();
  }
}
