// The way of a request out of the copies: every copy that counts has answered → settled (its window entry is free) →
// its range is free → its reply. A write that failed here is settled only where no other copy has it: one that has takes
// the place over, and is asked again.
//
// Writes that a lost, still named member lacks are done, but their window entries stay until it is out or filled.

import type { Hub } from '../hub.ts';
import type { Reconcile } from './reconcile.ts';
import { REWRITE } from '../requests.ts';
import type { Admission } from './admission.ts';
import type { InFlight } from './in-flight.ts';
import type { Replies } from './replies.ts';
import { LOCAL, type PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

export class Settling {
  readonly #state: PrimaryState;
  readonly #hub: Hub;
  readonly #inFlight: InFlight;
  readonly #reconcile: Reconcile;
  readonly #streams: Streams;
  readonly #admission: Admission;
  readonly #replies: Replies;
  readonly #rewritten: () => void;

  /** `rewritten`: a piece of the reconciliation is settled. */
  constructor(
    state: PrimaryState,
    inFlight: InFlight,
    reconcile: Reconcile,
    streams: Streams,
    admission: Admission,
    replies: Replies,
    rewritten: () => void,
  ) {
    this.#state = state;
    this.#hub = state.hub;
    this.#inFlight = inFlight;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#admission = admission;
    this.#replies = replies;
    this.#rewritten = rewritten;
  }

  /** The copy of this bit has the write. */
  answered(request: number, bit: number): void {
    const { waitMask } = this.#hub.table;
    const mask = (waitMask[request] as number) & ~bit;
    waitMask[request] = mask;
    if (this.#state.phase === 'ended') {
      if (bit === LOCAL) this.#abandon(request);
    } else if (mask === 0 || (this.#hub.broken.ackWaitsForEveryMember && (mask & LOCAL) === 0))
      this.#settleIfKept(request);
  }

  /** Every copy that counts has it: it is settled, unless a higher epoch still waits for its promises. */
  #settleIfKept(request: number): void {
    const { table, copy, broken } = this.#hub;
    if (!this.#state.isEpochKept(true) && !broken.epochKeptBeforeAck) return;
    // Where the other members are lost its range must come free, or they could not be filled and take over.
    const hasFailed = (table.error[request] as number) !== 0 && !broken.failedWriteIsNotSettled;
    if (hasFailed && !this.#state.isAlone) return;
    const sequence = table.sequence[request] as number;
    if (this.#state.isAnyLost) this.#inFlight.keep(sequence);
    else {
      this.#inFlight.clear(sequence);
      copy.settle(sequence);
      this.#advance();
    }
    this.finish(request);
    this.#admission.useRoom();
  }

  #advance(): void {
    this.#inFlight.advance();
    this.#hub.copy.settleUpTo(this.#inFlight.settled);
    for (const seat of this.#state.seats) this.#streams.tellSettled(seat);
  }

  /** Settled, or read: the reply leaves now or when it may. */
  finish(request: number): void {
    // The range is free before the reply may leave: what is settled may be overwritten, and resyncs go on meanwhile.
    this.#admission.unlock(request);
    if (this.#hub.table.kind[request] === REWRITE) {
      this.#reconcile.done(request);
      this.#rewritten();
    } else this.#replies.replyOrWait(request);
  }

  /** Who counts has changed, or a promise became durable: what waits for nobody any more is settled. */
  settleWaiting(): void {
    const { waitMask } = this.#hub.table;
    const last = this.#inFlight.newest;
    for (let sequence = this.#inFlight.settled + 1; sequence <= last; sequence++) {
      const request = this.#inFlight.holder(sequence);
      if (request >= 0 && waitMask[request] === 0) this.#settleIfKept(request);
    }
  }

  /** No lost member is named any more: what was kept for it is settled, in the epoch that dropped or filled it. */
  settleKept(): void {
    const last = this.#inFlight.newest;
    for (let sequence = this.#inFlight.settled + 1; sequence <= last; sequence++) {
      if (!this.#inFlight.isKept(sequence)) continue;
      this.#inFlight.clear(sequence);
      this.#hub.copy.settle(sequence);
    }
    this.#advance();
  }

  // ---- the end

  /** The opening is over: what the local copy has ended goes back. */
  end(): void {
    const { waitMask } = this.#hub.table;
    for (const request of this.#inFlight.requests())
      if (((waitMask[request] as number) & LOCAL) === 0) this.#abandon(request);
  }

  /** A write in flight that this process will not settle: its window entry stays, for whoever does. */
  #abandon(request: number): void {
    const { table, ports } = this.#hub;
    const sequence = table.sequence[request] as number;
    if (this.#inFlight.holder(sequence) === request) this.#inFlight.clear(sequence);
    this.#admission.unlock(request);
    if (table.kind[request] === REWRITE) ports.release(request);
    else this.#replies.giveBack(request);
  }
}
