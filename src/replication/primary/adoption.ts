// The beginning of an opening: every member says what is in doubt there and makes the promise durable, then it serves,
// and brings the members' suspects to its own bytes as ordinary writes of its epoch. Requests that touch a suspect
// extent wait for it. Joining copies are filled after that.

import { EXTENT_BYTES } from '../../core/units.ts';
import type { SuspectRange } from '../frames.ts';
import type { RangeLocks } from '../range-locks.ts';
import type { Reconcile } from './reconcile.ts';
import type { Seat } from './seat.ts';
import type { Admission } from './admission.ts';
import type { Joining } from './joining.ts';
import type { PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

export class Adoption {
  readonly #state: PrimaryState;
  readonly #locks: RangeLocks;
  readonly #reconcile: Reconcile;
  readonly #streams: Streams;
  readonly #admission: Admission;
  readonly #joining: Joining;
  /** Members (by replica) whose suspects are in. */
  readonly #gathered = new Set<string>();
  readonly #ownSuspects: readonly SuspectRange[] | 'hot';
  readonly #serves: () => void;
  #isInheritedSettled = false;

  /** `ownSuspects`: from before this opening took the window over. */
  constructor(
    state: PrimaryState,
    locks: RangeLocks,
    reconcile: Reconcile,
    streams: Streams,
    admission: Admission,
    joining: Joining,
    ownSuspects: readonly SuspectRange[] | 'hot',
    serves: () => void,
  ) {
    this.#state = state;
    this.#locks = locks;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#admission = admission;
    this.#joining = joining;
    this.#ownSuspects = ownSuspects;
    this.#serves = serves;
  }

  gatherOwn(): void {
    const { replicaId, copy } = this.#state.hub;
    this.gather(replicaId, this.#ownSuspects, copy.extents.hotExtents());
  }

  gather(replicaId: string, suspects: readonly SuspectRange[] | 'hot', hotExtents: readonly number[]): void {
    const { phase, hub } = this.#state;
    if (this.#gathered.has(replicaId) || phase !== 'adopting') return;
    this.#gathered.add(replicaId);
    if (hub.broken.reconcileBeforeServing) return;
    if (hub.broken.suspectsOfEveryMember && replicaId !== hub.replicaId) return;
    if (suspects === 'hot')
      for (const extent of hotExtents) this.#reconcile.suspect(extent * EXTENT_BYTES, EXTENT_BYTES);
    else
      for (const { offsetBytes, lengthBytes } of suspects) this.#reconcile.suspect(offsetBytes, lengthBytes);
    this.serveIfComplete();
  }

  /** Every member has answered, or nobody waits for it any more. */
  serveIfComplete(): void {
    const state = this.#state;
    const { hub, config } = state;
    if (state.phase !== 'adopting' || !state.isPromised) return;
    const isMissing = ({ replicaId }: { replicaId: string }): boolean =>
      !this.#gathered.has(replicaId) && state.seatOf(replicaId)?.isLost !== true;
    if (config.inSync.some(isMissing) || !state.isEpochKept(true)) return;
    state.phase = 'serving';
    hub.ports.event({ type: 'role', role: 'primary', epoch: config.epoch });
    this.#reconcile.start(
      () => state.isAlone,
      (request) => this.#locks.acquire(request),
    );
    this.reconciled();
    this.#admission.beginHeld();
    this.#serves();
  }

  /** Some extent is settled, or all. */
  reconciled(): void {
    const { hub, config } = this.#state;
    this.#admission.beginReconciled();
    if (!this.#reconcile.isOver || this.#state.phase === 'ended') return;
    if (!this.#reconcile.isTold) {
      this.#reconcile.isTold = true;
      hub.ports.event({ type: 'reconciled', epoch: config.epoch, bytes: this.#reconcile.bytes });
      for (const seat of this.#state.seats) {
        this.#streams.tellSettled(seat);
        this.#fill(seat);
      }
    }
    this.settleInherited();
  }

  /** Who was welcomed when nobody could be filled has not begun. */
  fillWaiting(): void {
    for (const seat of this.#state.seats) this.#fill(seat);
  }

  #fill(seat: Seat): void {
    const isIdle = seat.isOpen && seat.resync === undefined && (seat.isLost || seat.role === 'joining');
    if (isIdle && seat.welcome !== undefined) this.#joining.start(seat, seat.welcome);
  }

  /** What earlier openings left in doubt is the same on every member that is named. */
  settleInherited(): void {
    const state = this.#state;
    if (!this.#reconcile.isTold || this.#isInheritedSettled || state.isAnyLost) return;
    this.#isInheritedSettled = true;
    state.hub.copy.settleInherited(state.config.epoch);
    for (const seat of state.seats) this.#streams.tellSettled(seat);
  }
}
