// The way of a request into the primary: held while it does not serve → range lock → extents hot → room in the window →
// sequence, window, stamp → local data and every stream. What becomes of it then is judged elsewhere.

import { WINDOW_SPAN } from '../copy.ts';
import type { Hub } from '../hub.ts';
import type { RangeLocks } from '../range-locks.ts';
import type { Reconcile } from './reconcile.ts';
import { COPY_READ, FLUSH, NONE, READ, RequestQueue, REWRITE } from '../requests.ts';
import type { Resync } from './resync.ts';
import type { Flushes } from './flushes.ts';
import type { InFlight } from './in-flight.ts';
import type { Replies } from './replies.ts';
import type { PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

const EIO = 5;
/** Writes that a stream may be behind: what it is sent waits in buffers. */
const UNANSWERED_LIMIT = WINDOW_SPAN / 2;

export class Admission {
  readonly #state: PrimaryState;
  readonly #hub: Hub;
  readonly #inFlight: InFlight;
  readonly #locks: RangeLocks;
  readonly #reconcile: Reconcile;
  readonly #streams: Streams;
  readonly #flushes: Flushes;
  readonly #replies: Replies;
  /** Admitted before it serves, or while it drains. */
  readonly #held: RequestQueue;
  #heldCount = 0;
  /** They touch what is not reconciled yet. */
  readonly #waitingForReconcile: RequestQueue;
  readonly #waitingForRoom: RequestQueue;

  constructor(
    state: PrimaryState,
    inFlight: InFlight,
    locks: RangeLocks,
    reconcile: Reconcile,
    streams: Streams,
    flushes: Flushes,
    replies: Replies,
  ) {
    this.#state = state;
    this.#hub = state.hub;
    this.#inFlight = inFlight;
    this.#locks = locks;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#flushes = flushes;
    this.#replies = replies;
    this.#held = new RequestQueue(state.hub.table);
    this.#waitingForReconcile = new RequestQueue(state.hub.table);
    this.#waitingForRoom = new RequestQueue(state.hub.table);
  }

  /** Requests that are not begun, and hold nothing. */
  get heldCount(): number {
    return this.#heldCount;
  }

  /** The range is inside the volume and not empty, except of a flush. */
  admit(request: number): void {
    this.#replies.admitted();
    const { phase } = this.#state;
    if (phase === 'ended') this.#replies.giveBack(request);
    else if (phase === 'serving') this.#begin(request);
    else {
      this.#held.push(request);
      this.#heldCount += 1;
    }
  }

  /** It serves, now or again. */
  beginHeld(): void {
    const held = new RequestQueue(this.#hub.table);
    this.#held.moveTo(held);
    this.#heldCount = 0;
    for (let request = held.shift(); request !== NONE; request = held.shift()) this.#begin(request);
  }

  #begin(request: number): void {
    const kind = this.#hub.table.kind[request] as number;
    if (kind !== READ && this.#hub.copy.hasFailed && this.#state.isSole) this.#replies.fail(request, EIO);
    else if (kind === FLUSH) this.#flushes.flush(request);
    else if (this.#reconcile.blocks(request)) this.#waitingForReconcile.push(request);
    else this.#lock(request);
  }

  /** Some extent is settled. */
  beginReconciled(): void {
    const waiting = new RequestQueue(this.#hub.table);
    this.#waitingForReconcile.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift()) {
      if (this.#state.phase === 'ended') this.#replies.giveBack(request);
      else if (this.#reconcile.blocks(request)) this.#waitingForReconcile.push(request);
      else this.#lock(request);
    }
  }

  // ---- range locks

  #lock(request: number): void {
    const { broken, table } = this.#hub;
    const isFree =
      (broken.readsWaitForOverlappingWrites && table.kind[request] === READ) || broken.overlapsInOrder;
    if (isFree || this.#locks.acquire(request)) this.locked(request);
  }

  unlock(request: number): void {
    const { broken, table } = this.#hub;
    const isFree =
      (broken.readsWaitForOverlappingWrites && table.kind[request] === READ) ||
      (broken.overlapsInOrder && table.kind[request] !== COPY_READ && table.kind[request] !== REWRITE);
    if (!isFree) this.#locks.release(request);
  }

  locked(request: number): void {
    const kind = this.#hub.table.kind[request] as number;
    if (kind === COPY_READ) {
      const resync = this.#resyncOf(request);
      if (resync !== undefined) resync.locked(request);
      else this.endCopy(request);
    } else if (kind === REWRITE) {
      if (this.#state.phase !== 'ended') this.#reconcile.locked(request);
      else this.#dropUnsent(request);
    } else if (!this.#isOver(request)) {
      if (kind === READ) this.#hub.ports.startRead(request);
      else this.prepare(request);
    }
  }

  #resyncOf(request: number): Resync | undefined {
    return this.#state.seatOfLink(this.#hub.table.origin[request] as number)?.resync;
  }

  /** A resync's copy whose stream is gone. */
  endCopy(request: number): void {
    if (!this.#hub.broken.copyUnderRangeLock) this.#locks.release(request);
    this.#hub.ports.release(request);
  }

  /** It need not start any more, and has gone: the opening is over, or its attachment. */
  #isOver(request: number): boolean {
    if (this.#state.phase === 'ended') {
      this.#dropUnsent(request);
      return true;
    }
    if (this.#isUnheard(request)) {
      this.#dropUnsent(request);
      return true;
    }
    if (!this.#replies.isRevoked(request)) return false;
    this.unlock(request);
    this.#replies.fail(request, EIO);
    return true;
  }

  /** A client's, of a session that is over. */
  #isUnheard(request: number): boolean {
    return (this.#hub.table.kind[request] as number) <= FLUSH && this.#replies.isUnheard(request);
  }

  #dropUnsent(request: number): void {
    this.unlock(request);
    if (this.#hub.table.kind[request] === REWRITE) this.#hub.ports.release(request);
    else this.#replies.giveBack(request);
  }

  // ---- writes

  /** A write, zeroing or rewrite that has its lock and its bytes. */
  prepare(request: number): void {
    if (this.#hub.copy.prepare(request)) this.prepared(request);
  }

  /** Its extents are hot. */
  prepared(request: number): void {
    if (this.#isOver(request)) return;
    if (this.#hasRoom()) this.#send(request);
    else this.#waitingForRoom.push(request);
  }

  useRoom(): void {
    while (!this.#waitingForRoom.isEmpty && this.#hasRoom()) this.prepared(this.#waitingForRoom.shift());
  }

  /** The window takes another write, and no stream is too far behind. */
  #hasRoom(): boolean {
    if (this.#inFlight.isFull) return false;
    for (const seat of this.#state.seats) if (seat.unansweredCount >= UNANSWERED_LIMIT) return false;
    return true;
  }

  #send(request: number): void {
    const { table, copy, ports } = this.#hub;
    this.#inFlight.add(request);
    table.sentMs[request] = ports.nowMs();
    table.waitMask[request] = this.#state.wantedMask;
    table.refusedMask[request] = 0;
    table.error[request] = 0;
    copy.start(request, this.#state.config.epoch);
    this.#streams.forwardToAll(request);
  }

  // ---- sessions that are over

  /**
   * What has not begun of them gives its slot and its range up, for the same requests of the next session; what has begun
   * runs to its end unheard.
   */
  discardUnheard(): void {
    const isUnheard = (request: number): boolean => this.#isUnheard(request);
    const giveBack = (request: number): void => this.#replies.giveBack(request);
    this.#held.takeOut(isUnheard, (request) => {
      this.#heldCount -= 1;
      giveBack(request);
    });
    this.#waitingForReconcile.takeOut(isUnheard, giveBack);
    this.#waitingForRoom.takeOut(isUnheard, (request) => this.#dropUnsent(request));
    for (let r = this.#locks.findWaiting(isUnheard); r !== NONE; r = this.#locks.findWaiting(isUnheard)) {
      this.#locks.forget(r);
      giveBack(r);
    }
    this.#flushes.discardUnheard();
    this.#replies.discardUnheard();
  }

  // ---- the end

  /** The opening is over: what was not begun goes back. */
  end(): void {
    for (const queue of [this.#held, this.#waitingForReconcile])
      for (let request = queue.shift(); request !== NONE; request = queue.shift())
        this.#replies.giveBack(request);
    this.#heldCount = 0;
  }

  /** And what had its lock and no room. */
  endPrepared(): void {
    const queue = this.#waitingForRoom;
    for (let request = queue.shift(); request !== NONE; request = queue.shift()) this.prepared(request);
  }

  describe(): string {
    const count = (queue: RequestQueue): number => [...queue.requests()].length;
    return `held ${this.#heldCount} room ${count(this.#waitingForRoom)} reconcile ${count(this.#waitingForReconcile)}`;
  }
}
