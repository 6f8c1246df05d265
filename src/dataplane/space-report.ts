// When a volume says that its pool is full, and when that it has room again: a pool that hovers at its reserve would
// otherwise say both with every write. What is said never decides whether a write is taken.

import { MIB } from '../core/units.ts';

const INTERVAL_MS = 10_000;
const LEAST_MARGIN_BYTES = 4 * MIB;
const LARGEST_MARGIN_BYTES = 64 * MIB;

export class SpaceReport {
  readonly #marginBytes: number;
  #isFull = false;
  #changedMs = Number.NEGATIVE_INFINITY;

  constructor(reserveBytes: number) {
    this.#marginBytes = Math.min(LARGEST_MARGIN_BYTES, Math.max(LEAST_MARGIN_BYTES, reserveBytes / 4));
  }

  /** `freeBytes`: beyond the reserve. True: `isFull` is a change to be told, one in ten seconds at most. */
  look(freeBytes: number, isFull: boolean, nowMs: number): boolean {
    if (isFull === this.#isFull || nowMs - this.#changedMs < INTERVAL_MS) return false;
    if (!isFull && freeBytes < this.#marginBytes) return false;
    this.#isFull = isFull;
    this.#changedMs = nowMs;
    return true;
  }
}
