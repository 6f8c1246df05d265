// How long something takes, counted without allocation: to within a turn of the loop, whose time is taken once or twice.

import type { Thread } from './thread.ts';

const BUCKETS = 24;

export interface LatencyCounts {
  /** Bucket i: what took less than 2^i × 8 µs, and is in no earlier one; the last takes all that took longer. */
  readonly buckets: Float64Array;
  readonly sumMs: number;
}

export class Latency {
  readonly #buckets = new Float64Array(BUCKETS);
  readonly #sumMs = new Float64Array(1);
  readonly #thread: Thread;

  constructor(thread: Thread) {
    this.#thread = thread;
  }

  /** What began at the time of this slot ends now. */
  count(beganMs: Float64Array, slot: number): void {
    const tookMs = (this.#thread.clockMs[0] as number) - (beganMs[slot] as number);
    const units = (tookMs * 1000) / 8;
    const bucket = Math.min(units < 1 ? 0 : 32 - Math.clz32(units), BUCKETS - 1);
    this.#buckets[bucket] = (this.#buckets[bucket] as number) + 1;
    this.#sumMs[0] = (this.#sumMs[0] as number) + tookMs;
  }

  /** A copy. */
  read(): LatencyCounts {
    return { buckets: this.#buckets.slice(), sumMs: this.#sumMs[0] as number };
  }
}
