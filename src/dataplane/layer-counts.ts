// What went through one layer of a volume: operations and bytes by kind, errors, and how long they took. Counted in
// the data-plane thread without allocation.

import { invariant } from '../core/invariant.ts';
import { FLUSH, READ, WRITE, ZERO } from '../replication/requests.ts';
import { Latency, type LatencyCounts } from './latency.ts';
import type { Thread } from './thread.ts';

/** Since the volume was opened here. */
export interface LayerSample {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly flushes: number;
  /** Trims and write-zeroes. */
  readonly trims: number;
  readonly errors: number;
  readonly latency: LatencyCounts;
}

// Places in the counters.
const READS = 0;
const WRITES = 2;
const FLUSHES = 4;
const TRIMS = 5;
const ERRORS = 6;

export class LayerCounts {
  readonly #numbers = new Float64Array(7);
  readonly #latency: Latency;
  readonly #thread: Thread;

  constructor(thread: Thread) {
    this.#thread = thread;
    this.#latency = new Latency(thread);
  }

  /** READ, WRITE, ZERO or FLUSH. */
  began(request: number): void {
    const { kind, lengthBytes } = this.#thread.slots;
    const length = lengthBytes[request] as number;
    switch (kind[request] as number) {
      case READ:
        return this.beganRead(length);
      case WRITE:
        return this.beganWrite(length);
      case ZERO:
        return this.beganTrim();
      case FLUSH:
        return this.beganFlush();
      default:
        invariant(false, 'a client reads, writes, zeroes or flushes');
    }
  }

  beganRead(lengthBytes: number): void {
    this.#add(READS, 1);
    this.#add(READS + 1, lengthBytes);
  }

  beganWrite(lengthBytes: number): void {
    this.#add(WRITES, 1);
    this.#add(WRITES + 1, lengthBytes);
  }

  beganTrim(): void {
    this.#add(TRIMS, 1);
  }

  beganFlush(): void {
    this.#add(FLUSHES, 1);
  }

  /** `beganMs`: by slot. */
  ended(beganMs: Float64Array, request: number, errno: number): void {
    if (errno !== 0) this.failed();
    this.#latency.count(beganMs, request);
  }

  failed(): void {
    this.#add(ERRORS, 1);
  }

  #add(place: number, count: number): void {
    this.#numbers[place] = (this.#numbers[place] as number) + count;
  }

  sample(): LayerSample {
    const at = (place: number): number => this.#numbers[place] as number;
    return {
      reads: at(READS),
      readBytes: at(READS + 1),
      writes: at(WRITES),
      writeBytes: at(WRITES + 1),
      flushes: at(FLUSHES),
      trims: at(TRIMS),
      errors: at(ERRORS),
      latency: this.#latency.read(),
    };
  }
}
