// The way of a request out of the copies: every copy that counts has answered → settled (its window entry is free) →
// its range is free → its reply. A write that failed here is settled only where no other copy has it: one that has takes
// the place over, and is asked again. A write that every copy refused for want of room, untouched, is settled as well:
// it is on all of them what it is on each, and the application hears that the volume's pools are full.
//
// Writes that a lost, still named member lacks are done, but their window entries stay until it is out or filled.

import { memberOf } from '../config.ts';
import type { Hub } from '../hub.ts';
import type { Reconcile } from './reconcile.ts';
import { NONE, REWRITE, UNTOUCHED } from '../requests.ts';
import type { Admission } from './admission.ts';
import type { Seat } from './seat.ts';
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
  readonly #fail: (mask: number) => void;

  /** `rewritten`: a piece of the reconciliation is settled. `fail`: the disks of these copies failed. */
  constructor(
    state: PrimaryState,
    inFlight: InFlight,
    reconcile: Reconcile,
    streams: Streams,
    admission: Admission,
    replies: Replies,
    rewritten: () => void,
    fail: (mask: number) => void,
  ) {
    this.#state = state;
    this.#hub = state.hub;
    this.#inFlight = inFlight;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#admission = admission;
    this.#replies = replies;
    this.#rewritten = rewritten;
    this.#fail = fail;
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

  /**
   * Notes that a copy has refused a write, and is not held to have failed until the others have answered. False: the errno
   * says nothing of the kind.
   */
  isRefusal(request: number, seat: Seat, errno: number): boolean {
    const { table } = this.#hub;
    if ((errno & UNTOUCHED) === 0 || request < 0 || table.kind[request] === REWRITE) return false;
    if (((table.waitMask[request] as number) & seat.bit) === 0) return false;
    table.refusedMask[request] = (table.refusedMask[request] as number) | seat.bit;
    return true;
  }

  /** The same of the local copy. When the opening is over nobody waits for the others: it is nobody's failure. */
  isLocalRefusal(request: number, errno: number): boolean {
    const { refusedMask } = this.#hub.table;
    if ((errno & UNTOUCHED) === 0) return false;
    refusedMask[request] = (refusedMask[request] as number) | LOCAL;
    return true;
  }

  /**
   * All that count have the write, or all have refused it. Else those which refused it have failed, and it waits until they
   * are out.
   */
  #isAgreed(request: number): boolean {
    const { table, broken } = this.#hub;
    if (table.refusedMask[request] === 0) return true;
    const wanted = this.#askedMask(table.sequence[request] as number);
    const refused = (table.refusedMask[request] as number) & wanted;
    // A lost member is not asked, nor waited for: its range must come free, so that it can be filled. No reply leaves before.
    const isByAll = refused === wanted && !(broken.refusedBesideLost && this.#state.isAnyLost);
    if (refused === 0 || isByAll || (broken.refusedByAll && (refused & LOCAL) !== 0)) return true;
    table.refusedMask[request] = 0;
    table.waitMask[request] = refused & ~LOCAL;
    table.error[request] = (table.error[request] as number) & ~UNTOUCHED;
    this.#fail(refused);
    return false;
  }

  /** The bits of all that count, but those which are about to join and have this write by their stream only. */
  #askedMask(sequence: number): number {
    let mask = this.#state.wantedMask;
    for (const seat of this.#state.seats) if (this.#isBeforeGate(seat, sequence)) mask &= ~seat.bit;
    return mask;
  }

  /** Nobody waited for its answer to this write, and no set that names it has been proposed. */
  #isBeforeGate(seat: Seat, sequence: number): boolean {
    const { pending } = this.#hub;
    if (!seat.isGating || sequence >= seat.gateSequence) return false;
    return pending === undefined || memberOf(pending, seat.replicaId) === undefined;
  }

  /** Every copy that counts has answered: it is settled, unless a higher epoch still waits for its promises. */
  #settleIfKept(request: number): void {
    const { table, copy, broken } = this.#hub;
    if (!this.#state.isEpochKept(true) && !broken.epochKeptBeforeAck) return;
    if (!this.#isAgreed(request)) return;
    const error = table.error[request] as number;
    // Where the other members are lost its range must come free, or they could not be filled and take over.
    const hasFailed = error !== 0 && !broken.failedWriteIsNotSettled;
    if (hasFailed && (error & UNTOUCHED) === 0 && !this.#state.isAlone) return;
    const sequence = table.sequence[request] as number;
    if (hasFailed) this.#endFillings(request, (error & UNTOUCHED) !== 0);
    if (this.#state.isAnyLost) {
      this.#inFlight.keep(sequence);
      // Who was not asked may have room: when it is back, or out, that is seen.
      table.error[request] = error & ~UNTOUCHED;
    } else {
      this.#inFlight.clear(sequence);
      copy.settle(sequence);
      this.#advance();
    }
    this.finish(request);
    this.#admission.useRoom();
  }

  /**
   * A copy that is being filled may have what failed here. Before it hears that the write is settled its stream ends: by its
   * window it comes back in doubt about that range, and is filled anew there. Where all have refused it, untouched, it goes on,
   * however often a client asks in vain, and gets the range once more; one that is about to join gets it before it does.
   */
  #endFillings(request: number, isRefused: boolean): void {
    const { table, broken } = this.#hub;
    const sequence = table.sequence[request] as number;
    // Nothing is settled twice while streams end.
    table.waitMask[request] = LOCAL;
    for (const seat of Array.from(this.#state.seats)) {
      const isFilled = !this.#state.counts(seat);
      if (seat.link === NONE || (isRefused && broken.refusedIsCopiedAgain)) continue;
      const isAbout = isRefused && this.#isBeforeGate(seat, sequence);
      // What it has refused itself nobody would send it again.
      const lacksAnother = isAbout && this.#hasRefused(seat);
      if (isAbout && !lacksAnother) this.#streams.ungate(seat);
      if (lacksAnother || (isFilled && !isRefused)) this.#streams.close(seat);
      else if (isFilled || isAbout)
        seat.resync?.again(table.offsetBytes[request] as number, table.lengthBytes[request] as number);
    }
    table.waitMask[request] = 0;
  }

  /** A write that is in flight, and that others may have taken. */
  #hasRefused({ bit }: Seat): boolean {
    const { refusedMask } = this.#hub.table;
    for (const request of this.#inFlight.requests())
      if (((refusedMask[request] as number) & bit) !== 0) return true;
    return false;
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
    // What was refused meanwhile another copy may take.
    if (this.#replies.isAnyFailed && !this.#state.isSole && !this.#state.hasFailed) this.#fail(LOCAL);
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
