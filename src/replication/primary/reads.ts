// What becomes of reads that have ended: a client's, those of the reconciliation, and those of a resync. A client's read
// that failed waits for a copy that has the bytes: this one hands its place over, and the frontend asks the next primary.

import type { RangeLocks } from '../range-locks.ts';
import type { Reconcile } from './reconcile.ts';
import { COPY_READ, REWRITE } from '../requests.ts';
import type { Admission } from './admission.ts';
import type { Replies } from './replies.ts';
import type { Settling } from './settling.ts';
import type { PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

export class Reads {
  readonly #state: PrimaryState;
  readonly #locks: RangeLocks;
  readonly #reconcile: Reconcile;
  readonly #streams: Streams;
  readonly #replies: Replies;
  readonly #admission: Admission;
  readonly #settling: Settling;

  constructor(
    state: PrimaryState,
    locks: RangeLocks,
    reconcile: Reconcile,
    streams: Streams,
    replies: Replies,
    admission: Admission,
    settling: Settling,
  ) {
    this.#state = state;
    this.#locks = locks;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#replies = replies;
    this.#admission = admission;
    this.#settling = settling;
  }

  /** True: the local copy has failed, and others have the bytes. */
  done(request: number, errno: number): boolean {
    const { table } = this.#state.hub;
    if (table.kind[request] === REWRITE) return this.#rewriteRead(request, errno);
    if (table.kind[request] === COPY_READ) return this.#copyRead(request, errno);
    table.error[request] = errno;
    if (errno === 0 || this.#state.isSole || this.#state.phase === 'ended') {
      this.#settling.finish(request);
      return false;
    }
    this.#admission.unlock(request);
    this.#replies.waitForOtherCopy(request);
    return true;
  }

  #rewriteRead(request: number, errno: number): boolean {
    if (errno === 0 && this.#state.phase !== 'ended') this.#reconcile.readDone(request);
    else {
      if (errno !== 0) this.#reconcile.readFailed(request);
      this.#locks.release(request);
      this.#state.hub.ports.release(request);
    }
    return errno !== 0;
  }

  #copyRead(request: number, errno: number): boolean {
    const seat = this.#state.seatOfLink(this.#state.hub.table.origin[request] as number);
    if (seat?.resync !== undefined) seat.resync.readDone(request, errno);
    else this.#admission.endCopy(request);
    // A bad block is read again, and with it everything before it, but not at once.
    if (errno !== 0 && seat !== undefined) this.#streams.giveUp(seat, this.#state.hub.ports.nowMs());
    return false;
  }
}
