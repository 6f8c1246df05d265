// How long requests take, from the header's arrival to the reply's departure, to within a turn of the loop.

import type { Thread } from './thread.ts';

const BUCKETS = 24;

export class Latency {
  /** Completed requests by duration: bucket i counts those below 2^i × 8 µs, and not in an earlier one. */
  readonly buckets = new Float64Array(BUCKETS);
  readonly #thread: Thread;

  constructor(thread: Thread) {
    this.#thread = thread;
  }

  count(request: number): void {
    const thread = this.#thread;
    const units = (((thread.clockMs[0] as number) - (thread.slots.startedMs[request] as number)) * 1000) / 8;
    const bucket = Math.min(units < 1 ? 0 : 32 - Math.clz32(units), BUCKETS - 1);
    this.buckets[bucket] = (this.buckets[bucket] as number) + 1;
  }
}
