// What the primary here has sent to one other copy, and how long that copy took to have it: from the handing over to
// the link until its answer. The core knows nothing of it; nothing here allocates once the first write has been sent.

import { type FrameFields, SEQUENCE } from '../../replication/frames.ts';
import { WINDOW_SPAN } from '../../replication/copy.ts';
import { NONE } from '../../replication/requests.ts';
import { Latency, type LatencyCounts } from '../latency.ts';
import type { Thread } from '../thread.ts';

/** Since this process first was the primary. */
export interface StreamSample {
  readonly replicaId: string;
  readonly writes: number;
  readonly writeBytes: number;
  readonly errors: number;
  readonly latency: LatencyCounts;
}

const WRITES = 0;
const BYTES = 1;
const ERRORS = 2;

export class StreamCounts {
  readonly replicaId: string;
  /** The stream's link now, or NONE. */
  link = NONE;
  readonly #thread: Thread;
  readonly #latency: Latency;
  readonly #numbers = new Float64Array(3);
  /** By sequence mod WINDOW_SPAN: which write is meant, and when it was sent. A joining copy may be further behind. */
  #sequences = new Float64Array(0);
  #sentMs = new Float64Array(0);

  constructor(thread: Thread, replicaId: string) {
    this.#thread = thread;
    this.replicaId = replicaId;
    this.#latency = new Latency(thread);
  }

  /** A write or zeroing leaves. Sent again on another stream it counts again, from then on. */
  sent(fields: FrameFields, isData: boolean): void {
    if (this.#sentMs.length === 0) {
      this.#sequences = new Float64Array(WINDOW_SPAN);
      this.#sentMs = new Float64Array(WINDOW_SPAN);
    }
    this.#numbers[WRITES] = (this.#numbers[WRITES] as number) + 1;
    if (isData) this.#numbers[BYTES] = (this.#numbers[BYTES] as number) + fields.lengthBytes;
    const place = (fields.numbers[SEQUENCE] as number) % WINDOW_SPAN;
    this.#sequences[place] = fields.numbers[SEQUENCE] as number;
    this.#sentMs[place] = this.#thread.clockMs[0] as number;
  }

  answered(fields: FrameFields): void {
    if (fields.errno !== 0) this.#numbers[ERRORS] = (this.#numbers[ERRORS] as number) + 1;
    const place = (fields.numbers[SEQUENCE] as number) % WINDOW_SPAN;
    if (this.#sequences[place] !== fields.numbers[SEQUENCE]) return;
    this.#sequences[place] = 0;
    this.#latency.count(this.#sentMs, place);
  }

  sample(): StreamSample {
    return {
      replicaId: this.replicaId,
      writes: this.#numbers[WRITES] as number,
      writeBytes: this.#numbers[BYTES] as number,
      errors: this.#numbers[ERRORS] as number,
      latency: this.#latency.read(),
    };
  }
}
