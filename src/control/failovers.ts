// Counts the failovers in which a copy of this node became the primary, and how long their phases took, from what its
// replicas say (ReplicaEvent). A handover and the opening by a new process of the same primary are none.
//
// Phases: 'suspicion', from the last word of the old primary until this copy missed it; 'lease', until nothing is granted
// to that one any more; 'promotion', until this one serves; 'reconciliation', until the copies are equal. An attempt that
// another copy wins counts for nothing.

import type { ReplicaEvent } from '../replication/ports.ts';

const PHASES = ['suspicion', 'lease', 'promotion', 'reconciliation'] as const;
export type FailoverPhase = (typeof PHASES)[number];

/** As the data plane counts durations: bucket i holds what took less than 8 µs × 2^i and is in no earlier one. */
export interface PhaseDurations {
  readonly buckets: readonly number[];
  readonly sumMs: number;
}

/** Up to eight minutes; the last one takes what took longer. */
const BUCKETS = 27;
/** A promotion that takes longer than this is another one's. */
const FORGET_AFTER_MS = 600_000;

/** Of one volume: the phases that are over, and the one that runs. */
interface UnderWay {
  readonly over: readonly (readonly [FailoverPhase, number])[];
  readonly phase: FailoverPhase;
  readonly sinceMs: number;
}

export class Failovers {
  readonly #nowMs: () => number;
  readonly #underWay = new Map<string, UnderWay>();
  readonly #counts = new Map<string, number>();
  readonly #phases = new Map<FailoverPhase, { buckets: number[]; sumMs: number }>(
    PHASES.map((phase) => [phase, noDurations()]),
  );

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  note({ volumeId, ...event }: ReplicaEvent & { readonly volumeId: string }): void {
    const nowMs = this.#nowMs();
    const standing = this.#underWay.get(volumeId);
    if (event.type === 'suspected') {
      const over = [['suspicion', event.silentMs]] as const;
      this.#underWay.set(volumeId, { over, phase: 'lease', sinceMs: nowMs });
    } else if (event.type === 'leaseOver') this.#leaseOver(volumeId, standing, nowMs);
    else if (event.type === 'role') this.#serves(volumeId, event.role, standing, nowMs);
    else if (event.type === 'reconciled' && standing?.phase === 'reconciliation') {
      this.#count('reconciliation', nowMs - standing.sinceMs);
      this.#underWay.delete(volumeId);
    }
  }

  #leaseOver(volumeId: string, standing: UnderWay | undefined, nowMs: number): void {
    // A promotion whose outcome was not known is proposed again: it began with the first.
    if (standing?.phase === 'promotion' && nowMs - standing.sinceMs < FORGET_AFTER_MS) return;
    const isNext = standing?.phase === 'lease';
    const over = isNext ? [...standing.over, ['lease', nowMs - standing.sinceMs] as const] : [];
    this.#underWay.set(volumeId, { over, phase: 'promotion', sinceMs: nowMs });
  }

  #serves(volumeId: string, role: string, standing: UnderWay | undefined, nowMs: number): void {
    this.#underWay.delete(volumeId);
    if (role !== 'primary' || standing?.phase !== 'promotion') return;
    // Another copy won that one: this is another day's.
    if (nowMs - standing.sinceMs >= FORGET_AFTER_MS) return;
    for (const [phase, tookMs] of standing.over) this.#count(phase, tookMs);
    this.#count('promotion', nowMs - standing.sinceMs);
    this.#counts.set(volumeId, (this.#counts.get(volumeId) ?? 0) + 1);
    this.#underWay.set(volumeId, { over: [], phase: 'reconciliation', sinceMs: nowMs });
  }

  #count(phase: FailoverPhase, tookMs: number): void {
    const durations = this.#phases.get(phase);
    if (durations === undefined) return;
    const bucket = Math.max(0, Math.ceil(Math.log2((tookMs * 1000) / 8)));
    const place = Math.min(bucket, BUCKETS - 1);
    durations.buckets[place] = (durations.buckets[place] ?? 0) + 1;
    durations.sumMs += tookMs;
  }

  /** By volume. */
  get counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  get phases(): readonly { readonly phase: FailoverPhase; readonly durations: PhaseDurations }[] {
    return [...this.#phases].map(([phase, { buckets, sumMs }]) => ({
      phase,
      durations: { buckets: [...buckets], sumMs },
    }));
  }

  /** The volume is gone. */
  forget(volumeId: string): void {
    this.#underWay.delete(volumeId);
    this.#counts.delete(volumeId);
  }
}

function noDurations(): { buckets: number[]; sumMs: number } {
  return { buckets: new Array<number>(BUCKETS).fill(0), sumMs: 0 };
}
