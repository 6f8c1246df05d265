// Counts the failovers in which a copy of this node became the primary, and how long their phases took, from what its
// replicas say (ReplicaEvent). A handover and the opening by a new process of the same primary are none.
//
// Phases: 'promotion', from the moment in which nothing is granted to the old primary any more until this one serves;
// 'reconciliation', from there until the copies are equal. An attempt that another copy wins counts for nothing.

import type { ReplicaEvent } from '../replication/ports.ts';

export type FailoverPhase = 'promotion' | 'reconciliation';

/** As the data plane counts durations: bucket i holds what took less than 8 µs × 2^i and is in no earlier one. */
export interface PhaseDurations {
  readonly buckets: readonly number[];
  readonly sumMs: number;
}

/** Up to eight minutes; the last one takes what took longer. */
const BUCKETS = 27;
/** A promotion that takes longer than this is another one's. */
const FORGET_AFTER_MS = 600_000;

interface UnderWay {
  phase: FailoverPhase;
  sinceMs: number;
}

export class Failovers {
  readonly #nowMs: () => number;
  readonly #underWay = new Map<string, UnderWay>();
  readonly #counts = new Map<string, number>();
  readonly #phases: Record<FailoverPhase, { buckets: number[]; sumMs: number }> = {
    promotion: noDurations(),
    reconciliation: noDurations(),
  };

  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  note({ volumeId, ...event }: ReplicaEvent & { readonly volumeId: string }): void {
    const nowMs = this.#nowMs();
    const standing = this.#underWay.get(volumeId);
    // A promotion whose outcome was not known is proposed again: it began with the first.
    if (event.type === 'suspected') {
      const isAgain = standing?.phase === 'promotion' && nowMs - standing.sinceMs < FORGET_AFTER_MS;
      if (!isAgain) this.#underWay.set(volumeId, { phase: 'promotion', sinceMs: nowMs });
    } else if (event.type === 'role') this.#serves(volumeId, event.role, standing, nowMs);
    else if (event.type === 'reconciled' && standing?.phase === 'reconciliation') {
      this.#end(standing, nowMs);
      this.#underWay.delete(volumeId);
    }
  }

  #serves(volumeId: string, role: string, standing: UnderWay | undefined, nowMs: number): void {
    this.#underWay.delete(volumeId);
    if (role !== 'primary' || standing?.phase !== 'promotion') return;
    this.#end(standing, nowMs);
    this.#counts.set(volumeId, (this.#counts.get(volumeId) ?? 0) + 1);
    this.#underWay.set(volumeId, { phase: 'reconciliation', sinceMs: nowMs });
  }

  #end({ phase, sinceMs }: UnderWay, nowMs: number): void {
    const durations = this.#phases[phase];
    const tookMs = nowMs - sinceMs;
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
    const phases = ['promotion', 'reconciliation'] as const;
    return phases.map((phase) => {
      const { buckets, sumMs } = this.#phases[phase];
      return { phase, durations: { buckets: [...buckets], sumMs } };
    });
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
