// The primary's streams to the other copies: one seat a replica, connected again when its link ends, and everything
// that is sent on them. What comes back is judged elsewhere.
//
// Invariant: stream numbers rise within the opening; on a new stream everything goes again that this copy has to answer.

import { memberOf } from '../config.ts';
import {
  FRAME_BEAT,
  FRAME_EPOCH,
  FRAME_FLUSH,
  FRAME_HELLO,
  FRAME_SETTLED,
  FRAME_WRITE,
  FRAME_ZERO,
  OFFSET,
  SEQUENCE,
  TIME,
  type UnsettledWrite,
  WATERMARK,
} from '../frames.ts';
import type { Reconcile } from './reconcile.ts';
import { NONE, REWRITE, ZERO } from '../requests.ts';
import { Seat } from './seat.ts';
import { BEAT_MS, DROP_AFTER_MS, FAILED_RETRY_MS, HELD_OUT_MS, RECONNECT_MS } from '../timing.ts';
import type { InFlight } from './in-flight.ts';
import { LOCAL, type PrimaryState } from './state.ts';

export interface StreamsHost {
  /** Nothing may wait for this copy any more. */
  waitsNoMore(seat: Seat): void;
  /** A stream ended: who counts may have changed, and there may be room. */
  countsNoMore(): void;
}

export class Streams {
  readonly #state: PrimaryState;
  readonly #inFlight: InFlight;
  readonly #reconcile: Reconcile;
  readonly #host: StreamsHost;
  #streamCount = 0;
  #beatAtMs = 0;

  constructor(state: PrimaryState, inFlight: InFlight, reconcile: Reconcile, host: StreamsHost) {
    this.#state = state;
    this.#inFlight = inFlight;
    this.#reconcile = reconcile;
    this.#host = host;
  }

  // ---- seats

  /** One for each replica of the configuration, in the part that it plays there. */
  seat(): void {
    const { hub, config, seats } = this.#state;
    const nowMs = hub.ports.nowMs();
    const wanted = config.replicas.filter(({ id }) => id !== hub.replicaId);
    for (const replica of wanted) {
      let seat = this.#state.seatOf(replica.id);
      if (seat === undefined) {
        seat = new Seat(replica, this.#freeBit(), nowMs);
        seats.push(seat);
      }
      const role = memberOf(config, replica.id) !== undefined ? 'member' : 'joining';
      if (role === 'joining' && seat.role === 'member') this.#dropped(seat, nowMs);
      seat.role = role;
    }
    for (const seat of Array.from(seats)) {
      if (wanted.some(({ id }) => id === seat.replicaId)) continue;
      this.close(seat);
      this.#host.waitsNoMore(seat);
      seats.splice(seats.indexOf(seat), 1);
    }
  }

  #freeBit(): number {
    const taken = this.#state.seats.reduce((mask, seat) => mask | seat.bit, LOCAL);
    let bit = LOCAL << 1;
    while ((taken & bit) !== 0) bit <<= 1;
    return bit;
  }

  #dropped(seat: Seat, nowMs: number): void {
    const { hub, config } = this.#state;
    const { holdOut, replicaId } = seat;
    const forMs = holdOut.left(nowMs, seat.isLeaving);
    seat.nextAttemptMs = nowMs + forMs;
    seat.isLost = false;
    this.close(seat);
    this.#host.waitsNoMore(seat);
    hub.ports.event({ type: 'memberDropped', replicaId, epoch: config.epoch });
    if (holdOut.isFlapping && !seat.isLeaving)
      hub.ports.event({ type: 'heldOut', replicaId, times: holdOut.departureCount, forMs });
  }

  /** A copy that is held out is taken up at once. False: it is not held out. */
  readmit(seat: Seat): boolean {
    const nowMs = this.#state.hub.ports.nowMs();
    if (seat.holdOut.leftMs(nowMs) === 0) return false;
    seat.holdOut.end();
    seat.nextAttemptMs = nowMs;
    return true;
  }

  /** Its disk refused something: it leaves the set, and comes back when it can. */
  fail(seat: Seat): void {
    const { ports } = this.#state.hub;
    ports.event({ type: 'memberSilent', replicaId: seat.replicaId });
    seat.hasFailed = true;
    this.close(seat);
    seat.nextAttemptMs = ports.nowMs() + HELD_OUT_MS;
  }

  /** Its disk does not answer: it is asked again later. */
  giveUp(seat: Seat, nowMs: number): void {
    this.close(seat);
    seat.nextAttemptMs = nowMs + FAILED_RETRY_MS;
  }

  /** It has something to get before it can join: nobody waits for it till then. */
  ungate(seat: Seat): void {
    seat.ungate();
    this.#host.countsNoMore();
  }

  close(seat: Seat): void {
    if (seat.link !== NONE) this.#state.hub.ports.closeLink(seat.link);
    this.closed(seat);
  }

  /** Its link is gone. */
  closed(seat: Seat): void {
    const { ports, broken } = this.#state.hub;
    seat.closed(ports.nowMs(), !broken.joinEndsWithItsStream);
    this.#host.countsNoMore();
  }

  // ---- time

  /** Connects who is without a link; one that says nothing is given up, and another one tried. */
  keep(seat: Seat, nowMs: number): void {
    if (seat.link === NONE) {
      if (nowMs >= seat.nextAttemptMs) this.#connect(seat, nowMs);
    } else if (nowMs - Math.max(seat.heardMs, seat.nextAttemptMs) >= DROP_AFTER_MS) {
      const isSilent = seat.isOpen;
      this.close(seat);
      // It was silent before its stream ended.
      if (isSilent) seat.closedSinceMs = seat.heardMs;
    }
  }

  #connect(seat: Seat, nowMs: number): void {
    const { hub, config } = this.#state;
    seat.nextAttemptMs = nowMs + RECONNECT_MS;
    this.#streamCount += 1;
    seat.link = hub.ports.connect(seat.node, seat.replicaId);
    seat.helloEpoch = config.epoch;
    hub.ports.sendControl(seat.link, FRAME_HELLO, {
      kind: 'stream',
      volumeId: config.volumeId,
      config,
      revision: hub.known.revision,
      replicaId: seat.replicaId,
      stream: this.#streamCount,
      watermark: this.#inFlight.settled,
      role: seat.isLost ? 'joining' : seat.role,
    });
  }

  beatAll(nowMs: number): void {
    if (nowMs < this.#beatAtMs) return;
    this.#beatAtMs = nowMs + BEAT_MS;
    for (const seat of this.#state.seats) if (seat.isOpen) this.beat(seat);
  }

  // ---- what is sent

  /** A write with its sequence, to everybody who is to have it. */
  forwardToAll(request: number): void {
    const { hub, seats } = this.#state;
    // A rewrite has its bytes only where a member needs them; a joining replica gets them by its delta.
    const isForJoiners = hub.table.kind[request] !== REWRITE && !hub.broken.joiningStreamSendsWrites;
    for (const seat of seats) {
      const isWanted = (seat.role === 'member' && !seat.isLost) || isForJoiners;
      if (seat.isOpen && isWanted) this.forward(seat, request);
    }
  }

  forward(seat: Seat, request: number): void {
    const { hub, config } = this.#state;
    const { table, out } = hub;
    const isZero = table.kind[request] === ZERO || table.isHole[request] === 1;
    out.type = isZero ? FRAME_ZERO : FRAME_WRITE;
    out.flags = table.flags[request] as number;
    out.epoch = config.epoch;
    out.errno = 0;
    out.lengthBytes = table.lengthBytes[request] as number;
    out.numbers[SEQUENCE] = table.sequence[request] as number;
    out.numbers[OFFSET] = table.offsetBytes[request] as number;
    out.numbers[WATERMARK] = this.#inFlight.settled;
    seat.unansweredCount += 1;
    hub.ports.sendFrame(seat.link, out, isZero ? NONE : request);
  }

  /** What it has not answered goes again, in order; what its older stream brought has come to rest by now. */
  forwardUnanswered(seat: Seat): void {
    const { waitMask } = this.#state.hub.table;
    for (let sequence = this.#inFlight.settled + 1; sequence <= this.#inFlight.newest; sequence++) {
      const request = this.#inFlight.at(sequence);
      if (request >= 0 && ((waitMask[request] as number) & seat.bit) !== 0) this.forward(seat, request);
    }
  }

  flush(seat: Seat, round: number): void {
    const { hub, config } = this.#state;
    const { out } = hub;
    out.type = FRAME_FLUSH;
    out.flags = 0;
    out.epoch = config.epoch;
    out.numbers[SEQUENCE] = round;
    hub.ports.sendFrame(seat.link, out, NONE);
  }

  tellEpoch(seat: Seat, unsettled: readonly UnsettledWrite[] = []): void {
    const { hub, config } = this.#state;
    const role = seat.isLost ? 'joining' : seat.role;
    hub.ports.sendControl(seat.link, FRAME_EPOCH, { config, revision: hub.known.revision, role, unsettled });
  }

  /** Before it is filled: what is not settled reaches it as copies, unless it comes by its stream. */
  tellUnsettled(seat: Seat): void {
    const { copy, broken } = this.#state.hub;
    const unsettled = [...copy.unsettledWrites()];
    if (unsettled.length > 0 && !broken.unsettledIsHandedOver) this.tellEpoch(seat, unsettled);
  }

  tellEpochToAll(): void {
    for (const seat of this.#state.seats) if (seat.isOpen) this.tellEpoch(seat);
  }

  /** Asks for a grant. */
  beat(seat: Seat): void {
    const { hub, config } = this.#state;
    const { out } = hub;
    out.type = FRAME_BEAT;
    out.flags = 0;
    out.epoch = config.epoch;
    out.numbers[TIME] = hub.ports.nowMs();
    out.numbers[WATERMARK] = this.#inFlight.settled;
    hub.ports.sendFrame(seat.link, out, NONE);
  }

  /** Everything that was in flight or suspect when its stream began is settled. */
  tellSettled(seat: Seat): void {
    const { hub, config } = this.#state;
    if (seat.settledAtSequence === 0 || !seat.isOpen || seat.role !== 'member' || seat.isLost) return;
    if (!this.#reconcile.isOver || this.#state.isAnyLost) return;
    if (this.#inFlight.settled < seat.settledAtSequence - 1) return;
    seat.settledAtSequence = 0;
    const { out } = hub;
    out.type = FRAME_SETTLED;
    out.epoch = config.epoch;
    out.numbers[SEQUENCE] = this.#inFlight.settled;
    hub.ports.sendFrame(seat.link, out, NONE);
  }
}
