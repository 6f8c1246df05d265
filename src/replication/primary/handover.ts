// The primary gives its place away: to a member that a person chose, once what is in flight has ended, or to any when its
// own copy failed. From the offer on this opening answers nothing more: the swap is its renouncement, and if its
// outcome is not known, it serves again only by winning another opening.

import { handOver, minimumInSync } from '../config.ts';
import { FRAME_PROMOTE } from '../frames.ts';
import { DRAIN_LIMIT_MS } from '../timing.ts';
import type { Admission } from './admission.ts';
import type { Adoption } from './adoption.ts';
import type { Replies } from './replies.ts';
import type { Silence } from './silence.ts';
import type { PrimaryState } from './state.ts';

export class Handover {
  readonly #state: PrimaryState;
  readonly #silence: Silence;
  readonly #admission: Admission;
  readonly #adoption: Adoption;
  readonly #replies: Replies;
  /** It drains for this member. */
  #to: string | undefined;
  #sinceMs = 0;

  constructor(
    state: PrimaryState,
    silence: Silence,
    admission: Admission,
    adoption: Adoption,
    replies: Replies,
  ) {
    this.#state = state;
    this.#silence = silence;
    this.#admission = admission;
    this.#adoption = adoption;
    this.#replies = replies;
  }

  /** Drains, and gives the place to this member. False: it cannot now. */
  begin(replicaId: string): boolean {
    const state = this.#state;
    const seat = state.seatOf(replicaId);
    if (seat === undefined || !seat.isOpen || seat.role !== 'member' || this.#silence.isSilent(seat))
      return false;
    state.phase = 'draining';
    this.#to = replicaId;
    this.#sinceMs = state.hub.ports.nowMs();
    this.proceed();
    return true;
  }

  /** A request ended, or time went by. */
  proceed(): void {
    const state = this.#state;
    const { hub, config } = state;
    if (state.phase !== 'draining' || this.#to === undefined || hub.pending !== undefined) return;
    const seat = state.seatOf(this.#to);
    const isLate = hub.ports.nowMs() - this.#sinceMs >= DRAIN_LIMIT_MS;
    if (isLate || seat?.isOpen !== true || seat.isLost || seat.welcome === undefined) {
      this.#resume();
      return;
    }
    if (this.#replies.openCount > this.#admission.heldCount && !hub.broken.drainBeforeHandover) return;
    this.#to = undefined;
    if (!hub.broken.renounceBeforeHandover) state.isRenounced = true;
    hub.submit(handOver(config, seat.replicaId, seat.welcome.opening, false));
  }

  #resume(): void {
    this.#to = undefined;
    this.#state.phase = 'serving';
    this.#adoption.fillWaiting();
    this.#admission.beginHeld();
  }

  /** Its own copy failed: a member that has everything takes over, and this one leaves. Not now: it is asked again. */
  leave(): void {
    const state = this.#state;
    const { hub, config } = state;
    const nowMs = hub.ports.nowMs();
    if (hub.pending !== undefined || state.phase === 'ended' || !hub.leaving.isOver(nowMs)) return;
    for (const seat of state.seats) {
      if (seat.role !== 'member' || !seat.isOpen || seat.welcome === undefined) continue;
      if (this.#silence.isSilent(seat)) continue;
      // Where the set cannot do without this copy it stays, as a secondary that the new primary brings up to date.
      const leaves = config.inSync.length - 1 >= minimumInSync(config);
      state.phase = 'draining';
      state.isRenounced = true;
      hub.leaving.done(nowMs);
      hub.submit(handOver(config, seat.replicaId, seat.welcome.opening, leaves));
      return;
    }
  }

  /** The target learns from its old primary what the store says now. */
  tellPromoted(): void {
    const { known, ports } = this.#state.hub;
    const seat = this.#state.seatOf(known.config.primary.replicaId);
    if (seat?.isOpen === true)
      ports.sendControl(seat.link, FRAME_PROMOTE, { config: known.config, revision: known.revision });
  }
}
