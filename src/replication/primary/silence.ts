// Members that say nothing, that are being stopped, or whose disk hangs: they leave the set, as far as the failure mode
// allows; where it does not, one is given up so that another copy can be filled to take its place.

import { canDrop, dropMembers } from '../config.ts';
import type { Seat } from './seat.ts';
import { DROP_AFTER_MS, SLOW_AFTER_MS } from '../timing.ts';
import type { Flushes } from './flushes.ts';
import type { InFlight } from './in-flight.ts';
import { LOCAL, type PrimaryState } from './state.ts';

export class Silence {
  readonly #state: PrimaryState;
  readonly #inFlight: InFlight;
  readonly #flushes: Flushes;
  /** A member that counted does not any more. */
  readonly #lost: () => void;

  constructor(state: PrimaryState, inFlight: InFlight, flushes: Flushes, lost: () => void) {
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

  /** Its own disk hangs: the others are not held up by it. */
  isLocalSlow(): boolean {
    return this.#isSlow(LOCAL, this.#state.hub.ports.nowMs());
  }

  #isSlow(bit: number, nowMs: number): boolean {
    if (this.#flushes.isHeldUpBy(bit, nowMs)) return true;
    const { waitMask, sentMs } = this.#state.hub.table;
    const oldest = this.#inFlight.oldest();
    if (oldest < 0 || ((waitMask[oldest] as number) & bit) === 0) return false;
    return nowMs - (sentMs[oldest] as number) >= SLOW_AFTER_MS;
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
