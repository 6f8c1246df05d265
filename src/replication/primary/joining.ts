// The way of a copy into the set: its delta is copied, then everything sent to it is answered, then it has flushed,
// then the store is asked. From the end of the copying on, writes wait for it as for a member.

import { addMember, replicaOf } from '../config.ts';
import type { StreamWelcome } from '../frames.ts';
import type { RangeLocks } from '../range-locks.ts';
import { Resync } from './resync.ts';
import type { Seat } from './seat.ts';
import type { InFlight } from './in-flight.ts';
import type { Silence } from './silence.ts';
import type { PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

/** Flush rounds of one joining replica are told from the volume's by their range. */
const JOIN_ROUND = 2 ** 40;

export class Joining {
  readonly #state: PrimaryState;
  readonly #inFlight: InFlight;
  readonly #locks: RangeLocks;
  readonly #streams: Streams;
  readonly #silence: Silence;
  /** Requests of clients that are not answered. */
  readonly #openCount: () => number;
  #roundCount = 0;

  constructor(
    state: PrimaryState,
    inFlight: InFlight,
    locks: RangeLocks,
    streams: Streams,
    silence: Silence,
    openCount: () => number,
  ) {
    this.#state = state;
    this.#inFlight = inFlight;
    this.#locks = locks;
    this.#streams = streams;
    this.#silence = silence;
    this.#openCount = openCount;
  }

  /** When it is its turn: else this is tried again at every tick. */
  start(seat: Seat, welcome: StreamWelcome): void {
    const { hub, config } = this.#state;
    const { outSince, needsFullCopy } = replicaOf(config, seat.replicaId);
    const lacksFrom = seat.isLost ? welcome.lastInSyncEpoch : outSince;
    const isFull = needsFullCopy || lacksFrom === null || !welcome.isDeltaBase;
    seat.isWaitingForTurn = !hub.ports.beginResync(isFull, this.#silence.isShort);
    if (seat.isWaitingForTurn) return;
    const hotExtents = welcome.suspects === 'hot' || !hub.broken.suspectsInDelta ? welcome.hotExtents : [];
    this.#streams.tellUnsettled(seat);
    seat.resync = new Resync(hub, this.#locks, {
      link: seat.link,
      suspects: welcome.suspects === 'hot' ? [] : welcome.suspects,
      hotExtents,
      since: isFull ? 0 : hub.broken.outSinceIsRecorded ? lacksFrom + 1 : lacksFrom,
      isFull,
      openCount: this.#openCount,
      isUrgent: () => this.#silence.isShort,
    });
    seat.resync.step();
    this.proceed(seat);
  }

  /** Copies may go on that gave way to it. */
  clientAnswered(): void {
    for (const seat of this.#state.seats) {
      seat.resync?.clientAnswered();
      // Nothing that all refuse may be in flight then.
      if (!seat.isGating) this.proceed(seat);
    }
  }

  /** Goes as far as it can now. */
  proceed(seat: Seat): void {
    const { broken } = this.#state.hub;
    const { resync } = seat;
    if (resync === undefined || !seat.isOpen) return;
    if (!resync.isDone && !broken.deltaIsCompleteBeforeJoin) return;
    if (!seat.isGating) {
      seat.isGating = true;
      seat.gateSequence = this.#inFlight.newest + 1;
      // Newer writes wait for it; the older ones it has only to answer.
      seat.olderUnansweredCount = seat.unansweredCount;
    }
    const isBehind = seat.olderUnansweredCount > 0 && !broken.answeredBeforeJoin;
    if (isBehind || seat.joinRound !== 0) return;
    this.#roundCount += 1;
    seat.joinRound = JOIN_ROUND + this.#roundCount;
    if (broken.flushBeforeJoin) this.flushed(seat, seat.joinRound);
    else this.#streams.flush(seat, seat.joinRound);
  }

  /** Of a flush that only a joining copy made. */
  isJoinRound(round: number): boolean {
    return round >= JOIN_ROUND;
  }

  flushed(seat: Seat, round: number): void {
    if (!seat.isGating || seat.joinRound !== round) return;
    seat.isReadyToJoin = true;
    this.propose(seat);
  }

  propose(seat: Seat): void {
    const { hub, config, seats, mayPropose } = this.#state;
    if (hub.pending !== undefined || !seat.isReadyToJoin || seat.welcome === undefined || !mayPropose) return;
    const member = { replicaId: seat.replicaId, incarnation: seat.welcome.incarnation };
    // It takes the place of one that the set could not do without so far.
    const silent = seats.find(
      (other) => other !== seat && other.role === 'member' && this.#silence.isSilent(other),
    );
    const insteadOf = seat.isLost || silent === undefined ? [] : [silent.replicaId];
    hub.submit(addMember(config, member, insteadOf, this.#state.lacking()));
  }

  /** The store names it. */
  joined(seat: Seat): void {
    const { hub, config } = this.#state;
    seat.holdOut.joined(hub.ports.nowMs());
    seat.isGating = false;
    seat.isLost = false;
    seat.isReadyToJoin = false;
    seat.joinRound = 0;
    seat.endResync();
    seat.settledAtSequence = this.#inFlight.newest + 1;
    hub.ports.event({ type: 'memberAdded', replicaId: seat.replicaId, epoch: config.epoch });
    this.#streams.beat(seat);
  }
}
