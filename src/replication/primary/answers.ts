// What comes back from the other copies: who they are when a stream begins, and their answers on it. Each goes to the
// part of the primary that waits for it; what an older link still brings is heard by nobody.

import { memberOf } from '../config.ts';
import {
  FRAME_COPIED,
  FRAME_DONE,
  FRAME_EPOCH_KEPT,
  FRAME_FLUSHED,
  FRAME_GRANT,
  FRAME_REFUSED,
  FRAME_STAMPED,
  FRAME_WELCOME,
  type FrameFields,
  type Refused,
  SEQUENCE,
  type StreamWelcome,
  TIME,
} from '../frames.ts';
import type { Reconcile } from './reconcile.ts';
import type { Seat } from './seat.ts';
import { FAILED_RETRY_MS, LEASE_HELD_MS, LEASE_MS, RECONNECT_MS, TICK_MS } from '../timing.ts';
import type { Admission } from './admission.ts';
import type { Adoption } from './adoption.ts';
import type { Flushes } from './flushes.ts';
import type { InFlight } from './in-flight.ts';
import type { Joining } from './joining.ts';
import type { Replies } from './replies.ts';
import type { Settling } from './settling.ts';
import type { Silence } from './silence.ts';
import type { PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

/** A copy that is busy is asked again at every tick for so long: the store that it waits for may be slow. */
const SOON_AGAIN_COUNT = LEASE_MS / TICK_MS;

export interface AnswerTakers {
  readonly state: PrimaryState;
  readonly inFlight: InFlight;
  readonly reconcile: Reconcile;
  readonly streams: Streams;
  readonly replies: Replies;
  readonly flushes: Flushes;
  readonly silence: Silence;
  readonly admission: Admission;
  readonly settling: Settling;
  readonly joining: Joining;
  readonly adoption: Adoption;
  /** A promise of the epoch became durable on some member. */
  readonly promisesChanged: () => void;
}

export class Answers {
  readonly #to: AnswerTakers;

  constructor(to: AnswerTakers) {
    this.#to = to;
  }

  linkClosed(link: number): void {
    const seat = this.#to.state.seatOfLink(link);
    if (seat !== undefined) this.#to.streams.closed(seat);
  }

  // ---- the beginning of a stream

  control(link: number, type: number, message: unknown): void {
    const { state } = this.#to;
    const seat = state.seatOfLink(link);
    if (seat === undefined || state.phase === 'ended') return;
    seat.heardMs = state.hub.ports.nowMs();
    if (type === FRAME_WELCOME) this.#welcomed(seat, message as StreamWelcome);
    else if (type === FRAME_REFUSED) this.#refused(seat, message as Refused);
  }

  #refused(seat: Seat, { reason, epoch }: Refused): void {
    const { hub, config } = this.#to.state;
    this.#to.streams.close(seat);
    if (reason === 'failed' || reason === 'lineage' || reason === 'size') seat.hasFailed = true;
    const isUrgent = !seat.hasFailed || seat.role === 'member';
    const refusedMs = isUrgent ? RECONNECT_MS : FAILED_RETRY_MS;
    const pauseMs = reason === 'busy' ? this.#busyMs(seat) : refusedMs;
    seat.nextAttemptMs = hub.ports.nowMs() + pauseMs;
    if (reason === 'epoch' || epoch > config.epoch) hub.look();
    if (reason !== 'stopping') return;
    seat.isLeaving = true;
    this.#to.silence.considerDrops();
  }

  /** One that is about to open is asked again at every tick; one that stays as it is, less and less often. */
  #busyMs(seat: Seat): number {
    seat.busyCount += 1;
    const times = seat.busyCount - SOON_AGAIN_COUNT;
    return times <= 0 ? 0 : Math.min(RECONNECT_MS * 2 ** (times - 1), FAILED_RETRY_MS);
  }

  #welcomed(seat: Seat, welcome: StreamWelcome): void {
    const { state, streams } = this.#to;
    seat.isOpen = true;
    seat.busyCount = 0;
    seat.welcome = welcome;
    seat.hasFailed = false;
    seat.isLeaving = false;
    // It answers after its promise of the configuration that its stream began with is durable.
    seat.keptEpoch = seat.helloEpoch;
    if (this.#isDoubtful(seat, welcome)) return;
    if (seat.helloEpoch < state.config.epoch) streams.tellEpoch(seat);
    if (seat.isLost || seat.role === 'joining') {
      this.#sendAgain(seat);
      if (state.phase === 'serving' && this.#to.reconcile.isOver) this.#to.joining.start(seat, welcome);
      return;
    }
    this.#to.adoption.gather(seat.replicaId, welcome.suspects, welcome.hotExtents);
    this.#sendAgain(seat);
    seat.settledAtSequence = this.#to.inFlight.newest + 1;
    streams.beat(seat);
    streams.tellSettled(seat);
    this.#to.promisesChanged();
  }

  /**
   * A member in another incarnation may have lost what it acknowledged; a window that nobody can read, in the middle
   * of an opening, says the same. It is out, however well it looks; where the set cannot do without it, it is filled
   * again.
   */
  #isDoubtful(seat: Seat, welcome: StreamWelcome): boolean {
    const { state } = this.#to;
    const member = memberOf(state.config, seat.replicaId);
    const isSame =
      member !== undefined && (member.incarnation === null || member.incarnation === welcome.incarnation);
    const hasNoWindow =
      state.phase !== 'adopting' && welcome.suspects === 'hot' && welcome.hotExtents.length > 0;
    if (seat.role !== 'member' || seat.isLost || (isSame && !hasNoWindow)) return false;
    if (state.hub.broken.incarnationCheckedAtJoin) return false;
    seat.isLost = true;
    seat.lacksSince = isSame ? state.config.epoch : welcome.lastInSyncEpoch;
    this.#to.streams.close(seat);
    this.#to.silence.considerDrops();
    this.#to.adoption.serveIfComplete();
    return true;
  }

  #sendAgain(seat: Seat): void {
    this.#to.streams.forwardUnanswered(seat);
    this.#to.flushes.ask(seat);
  }

  // ---- its answers

  frame(link: number, fields: FrameFields): void {
    const { state, inFlight, settling, flushes, joining } = this.#to;
    const seat = state.seatOfLink(link);
    if (seat === undefined || state.phase === 'ended' || !seat.isOpen) return;
    if (fields.type !== FRAME_GRANT) seat.workedMs = state.hub.ports.nowMs();
    const { ports, broken } = state.hub;
    seat.heardMs = ports.nowMs();
    const sequence = fields.numbers[SEQUENCE] as number;
    switch (fields.type) {
      case FRAME_DONE: {
        seat.unansweredCount -= 1;
        if (seat.isGating && sequence < seat.gateSequence) seat.olderUnansweredCount -= 1;
        const request = inFlight.holder(sequence);
        if (fields.errno !== 0 && !settling.isRefusal(request, seat, fields.errno)) {
          this.#failed(seat);
          return;
        }
        if (request >= 0) settling.answered(request, seat.bit);
        this.#to.admission.useRoom();
        joining.proceed(seat);
        return;
      }
      case FRAME_FLUSHED:
        if (fields.errno !== 0) this.#failed(seat);
        else if (joining.isJoinRound(sequence)) joining.flushed(seat, sequence);
        else flushes.answered(seat.bit, sequence);
        return;
      case FRAME_GRANT: {
        const from = broken.leaseCountsFromSending ? ports.nowMs() : (fields.numbers[TIME] as number);
        seat.leaseUntilMs = Math.max(seat.leaseUntilMs, from + LEASE_HELD_MS);
        this.#to.replies.replyWaiting();
        return;
      }
      case FRAME_EPOCH_KEPT:
        seat.keptEpoch = fields.epoch;
        this.#to.promisesChanged();
        return;
      case FRAME_COPIED:
        if (fields.errno !== 0) this.#failed(seat);
        else {
          seat.resync?.copied(sequence);
          joining.proceed(seat);
        }
        return;
      case FRAME_STAMPED:
        seat.resync?.stamped();
        joining.proceed(seat);
    }
  }

  stampsRead(link: number, extent: number, errno: number, stamps: Uint32Array): void {
    const seat = this.#to.state.seatOfLink(link);
    if (seat === undefined) return;
    seat.resync?.stampsRead(extent, errno, stamps);
    this.#to.joining.proceed(seat);
  }

  #failed(seat: Seat): void {
    this.#to.streams.fail(seat);
    this.#to.silence.considerDrops();
  }
}
