// What is true of one opening of a primary now, and what follows from it: who counts, and whether a reply may leave.
// The parts of the primary share it. It does nothing by itself.

import { memberOf, minimumInSync, type VolumeConfig } from '../config.ts';
import type { Hub } from '../hub.ts';
import type { Seat } from './seat.ts';

/** adopting: it asks the members what is in doubt. draining: it gives its place away, and begins nothing. */
export type Phase = 'adopting' | 'serving' | 'draining' | 'ended';

/** The local copy's bit in a waitMask. */
export const LOCAL = 1;

export class PrimaryState {
  readonly hub: Hub;
  readonly opening: string;
  readonly seats: Seat[] = [];
  phase: Phase = 'adopting';
  #config: VolumeConfig;
  /** Of that configuration, worked out once: both are asked for at every reply. */
  #named: ReadonlySet<string>;
  #minimum: number;
  /** The promise of that configuration's epoch is durable here. */
  isPromised = false;
  /** It has offered its place: it answers nothing more in this opening. */
  isRenounced = false;
  /** Its own copy failed: it hands over and leaves, or answers with errors. */
  hasFailed: boolean;

  constructor(hub: Hub, opening: string) {
    this.hub = hub;
    this.opening = opening;
    this.#config = hub.known.config;
    this.#named = namesOf(this.#config);
    this.#minimum = minimumInSync(this.#config);
    this.hasFailed = hub.copy.hasFailed;
  }

  /** What it goes by: the newest one in which it is the primary. */
  get config(): VolumeConfig {
    return this.#config;
  }

  set config(config: VolumeConfig) {
    this.#config = config;
    this.#named = namesOf(config);
    this.#minimum = minimumInSync(config);
  }

  /** How many copies must be in sync for requests to be answered. */
  get minimum(): number {
    return this.#minimum;
  }

  seatOf(replicaId: string): Seat | undefined {
    return this.seats.find((seat) => seat.replicaId === replicaId);
  }

  seatOfLink(link: number): Seat | undefined {
    for (const seat of this.seats) if (seat.link === link) return seat;
    return undefined;
  }

  /** Its promise will never be durable, and no other copy can take over: whatever waits is answered with an error. */
  get isUnfit(): boolean {
    return !this.isPromised && this.isSole && !this.hub.canKeep;
  }

  get mayPropose(): boolean {
    return this.phase === 'adopting' || this.phase === 'serving';
  }

  /**
   * Its answers and its lease are needed: it is in a set that the store may hold now, or is about to be. One that
   * is lost and named is not waited for, so that others can be filled; but no reply leaves while it is named.
   */
  counts(seat: Seat): boolean {
    if (seat.isGating && !this.hub.broken.gateFromSubmission) return true;
    if (seat.isLost) return false;
    const isCommitted = this.#named.has(seat.replicaId);
    const { pending } = this.hub;
    if (pending === undefined) return isCommitted;
    const isPending = memberOf(pending, seat.replicaId) !== undefined;
    // A smaller set counts only once it is committed.
    if (isCommitted) return isPending || !this.hub.broken.dropIsCommittedBeforeAck;
    return isPending && !this.hub.broken.gateFromSubmission;
  }

  /** The bits of all whose answers are needed. */
  get wantedMask(): number {
    let mask = LOCAL;
    for (const seat of this.seats) if (this.counts(seat)) mask |= seat.bit;
    return mask;
  }

  /** No other copy's answer is needed. */
  get isAlone(): boolean {
    for (const seat of this.seats) if (this.counts(seat)) return false;
    return true;
  }

  /** The set names no other copy: only then an error of this one's disk reaches the application. Else requests wait. */
  get isSole(): boolean {
    const { pending } = this.hub;
    return this.config.inSync.length === 1 && (pending === undefined || pending.inSync.length === 1);
  }

  /** A member that nobody waits for is still named: it could be promoted, and the windows must say what it lacks. */
  get isAnyLost(): boolean {
    if (this.hub.broken.lostMembersKeepWindows) return false;
    for (const seat of this.seats) if (seat.isLost && seat.role === 'member') return true;
    return false;
  }

  /** Since when lost members lack what was written: longer than since the epoch that drops them. */
  lacking(): Map<string, number> {
    if (this.hub.broken.lackingSinceLoss) return new Map();
    const lost = this.seats.filter((seat) => seat.isLost && seat.role === 'member');
    return new Map(lost.map(({ replicaId, lacksSince }) => [replicaId, lacksSince]));
  }

  /** The promise of the epoch is durable here and on every member. `isInternal`: those that are lost do not count. */
  isEpochKept(isInternal = false): boolean {
    if (!this.isPromised && !this.isUnfit) return false;
    for (const seat of this.seats) {
      if (!this.#named.has(seat.replicaId)) continue;
      if (seat.isLost) {
        if (isInternal) continue;
        return false;
      }
      if (seat.keptEpoch < this.config.epoch) return false;
    }
    return true;
  }

  /**
   * A reply may leave now: this opening is still the newest known, its promises are durable, the set meets the
   * minimum, and every copy that counts has granted a lease that has not run out.
   */
  mayReply(): boolean {
    const { broken, ports, known } = this.hub;
    if (this.phase === 'adopting' || this.phase === 'ended' || this.isRenounced) return false;
    if (this.config.inSync.length < this.#minimum && !broken.minimumHoldsRequests) return false;
    if (known.config.primary.opening !== this.opening) return false;
    if (!this.isEpochKept() && !broken.epochKeptBeforeAck) return false;
    if (broken.leaseCheckedAtReply || this.seats.length === 0) return true;
    const nowMs = ports.nowMs();
    let hasOne = false;
    let isAnyMissing = false;
    for (const seat of this.seats) {
      if (!this.counts(seat)) continue;
      if (nowMs < seat.leaseUntilMs) hasOne = true;
      else isAnyMissing = true;
    }
    return !isAnyMissing || (broken.leaseFromEveryMember && hasOne);
  }
}

function namesOf(config: VolumeConfig): ReadonlySet<string> {
  return new Set(config.inSync.map(({ replicaId }) => replicaId));
}
