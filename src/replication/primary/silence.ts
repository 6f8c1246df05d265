// Members that say nothing, that are being stopped, or whose disk hangs: they leave the set, as far as the failure mode
// allows; where it does not, one is given up so that another copy can be filled to take its place.

import { canDrop, dropMembers } from '../config.ts';
import type { Seat } from './seat.ts';
import { BEAT_MS, DROP_AFTER_MS, LONELY_DROP_AFTER_MS, SLOW_AFTER_MS, TICK_MS } from '../timing.ts';
import type { Flushes } from './flushes.ts';
import type { InFlight } from './in-flight.ts';
import { LOCAL, type PrimaryState } from './state.ts';

export class Silence {
  readonly #state: PrimaryState;
  readonly #inFlight: InFlight;
  readonly #flushes: Flushes;
  /** When any client last said something; undefined: nobody uses the volume. */
  readonly #clientHeardMs: () => number | undefined;
  /** A member that counted does not any more. */
  readonly #lost: () => void;
  #wasLocalSlow = false;

  constructor(
    state: PrimaryState,
    inFlight: InFlight,
    flushes: Flushes,
    clientHeardMs: () => number | undefined,
    lost: () => void,
  ) {
    this.#clientHeardMs = clientHeardMs;
    this.#state = state;
    this.#inFlight = inFlight;
    this.#flushes = flushes;
    this.#lost = lost;
  }

  isSilent(seat: Seat): boolean {
    const nowMs = this.#state.hub.ports.nowMs();
    if (seat.hasFailed || seat.isLost) return true;
    if (!seat.isOpen) return nowMs - seat.closedSinceMs >= DROP_AFTER_MS;
    return nowMs - seat.heardMs >= DROP_AFTER_MS || this.#isSlow(seat.bit, nowMs);
  }

  /** This process stood still for so long, and heard nobody: that says nothing of them. */
  stoodStill(forMs: number): void {
    const nowMs = this.#state.hub.ports.nowMs();
    for (const seat of this.#state.seats) {
      seat.heardMs = Math.min(nowMs, seat.heardMs + forMs);
      seat.closedSinceMs = Math.min(nowMs, seat.closedSinceMs + forMs);
    }
  }

  /** A member has said nothing for longer than it should: in time to ask who else is to be heard. */
  get isAnyMissed(): boolean {
    const { hub, seats } = this.#state;
    const sinceMs = hub.ports.nowMs() - BEAT_MS - TICK_MS;
    return seats.some((seat) => seat.role === 'member' && seat.heardMs < sinceMs);
  }

  /** Fewer members than the minimum are to be heard of: requests wait, or are about to, until another copy has joined. */
  get isShort(): boolean {
    const { seats, minimum } = this.#state;
    let heardCount = 1;
    for (const seat of seats) if (seat.role === 'member' && !this.isSilent(seat)) heardCount += 1;
    return heardCount < minimum;
  }

  /**
   * Once a tick: its own disk hangs, and the others are not held up by it. Seen twice: after this process stood still its disk's
   * answers may still be on their way to it.
   */
  isLocalSlow(): boolean {
    const wasSlow = this.#wasLocalSlow;
    this.#wasLocalSlow = this.#isSlow(LOCAL, this.#state.hub.ports.nowMs());
    return wasSlow && this.#wasLocalSlow;
  }

  #isSlow(bit: number, nowMs: number): boolean {
    if (this.#flushes.isHeldUpBy(bit, nowMs)) return true;
    const { waitMask, sentMs } = this.#state.hub.table;
    const oldest = this.#inFlight.oldest();
    if (oldest < 0 || ((waitMask[oldest] as number) & bit) === 0) return false;
    return nowMs - (sentMs[oldest] as number) >= SLOW_AFTER_MS;
  }

  /**
   * The disk of a copy that is being filled hangs, though its daemon speaks: what it was sent to copy holds ranges, and
   * where it is about to join every write waits for it.
   */
  isStuckFilling(seat: Seat, nowMs: number): boolean {
    const isFilled = seat.role !== 'member' || seat.isLost;
    if (!isFilled || !seat.isAtWork) seat.workedMs = nowMs;
    return nowMs - seat.workedMs >= SLOW_AFTER_MS;
  }

  /**
   * Who hears neither this member nor the client may be the one that is cut off, though it reaches the store: it leaves the
   * member its right to take over, for as long as that takes. Clients are asked whether they are there meanwhile.
   */
  #mayBeNeeded(seat: Seat): boolean {
    const { hub, phase } = this.#state;
    if (phase !== 'serving' || seat.isLeaving || seat.hasFailed || seat.isLost) return false;
    if (hub.broken.unheardDropsNobody) return false;
    const silentMs = hub.ports.nowMs() - seat.heardMs;
    if (silentMs < DROP_AFTER_MS) return false;
    const heardMs = this.#clientHeardMs();
    if (heardMs === undefined || heardMs - seat.heardMs > BEAT_MS) return false;
    return silentMs < LONELY_DROP_AFTER_MS;
  }

  /** Members that are silent leave, as far as the minimum allows. */
  considerDrops(): void {
    const { hub, config, seats, mayPropose, hasFailed } = this.#state;
    if (hub.pending !== undefined || !mayPropose) return;
    // Theirs are the good copies: one of them takes over when it can be reached again.
    if (hasFailed && !hub.broken.failedDropsNobody) return;
    const silent: string[] = [];
    for (const seat of seats) {
      if (seat.role !== 'member' || !(seat.isLeaving || this.isSilent(seat))) continue;
      if (this.#mayBeNeeded(seat)) continue;
      if (canDrop(config, [...silent, seat.replicaId])) silent.push(seat.replicaId);
    }
    if (silent.length === 0) return;
    for (const replicaId of silent) hub.ports.event({ type: 'memberSilent', replicaId });
    hub.submit(dropMembers(config, silent, this.#state.lacking()));
  }

  /**
   * A member that is away and cannot be dropped holds writes up, and they hold their ranges: where another replica
   * could be filled to take its place, it is given up. What was settled without it reaches it by its delta. Before it
   * serves the primary cannot fill anybody: there it is enough that somebody waits to be filled.
   */
  considerLoss(): void {
    const { hub, config, seats } = this.#state;
    if (hub.pending !== undefined) return;
    const isAdopting = this.#state.phase === 'adopting';
    const mayBeFilled = (seat: Seat): boolean =>
      seat.role === 'joining' && (seat.resync !== undefined || (isAdopting && seat.isOpen));
    if (!seats.some(mayBeFilled)) return;
    for (const seat of seats) {
      if (seat.role !== 'member' || seat.isLost || seat.isOpen || !this.isSilent(seat)) continue;
      seat.isLost = true;
      seat.lacksSince = config.epoch;
      this.#lost();
    }
  }
}
