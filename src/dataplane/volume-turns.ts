// One opening, closing or growing of a volume at a time, and nobody waits for a hung disk without end.
//
// A turn that has begun is never given up: its answer comes when the disk answers, and is accounted for then. Only
// its caller stops waiting (UNAVAILABLE). Until it has ended, further callers are refused at once; turns that had
// not begun when their callers left never begin.

import { HoldfastError } from '../core/errors.ts';
import { inTime } from './in-time.ts';

export interface Turn {
  /** Its caller has left with an error: what it opens is of no use to anybody. */
  readonly isAbandoned: boolean;
}

interface Queue {
  tail: Promise<void>;
  abandonedCount: number;
}

export class VolumeTurns {
  readonly #deadlineMs: number;
  readonly #diskOf: (volumeId: string) => string;
  readonly #queues = new Map<string, Queue>();

  /** `diskOf` completes 'look at …'. */
  constructor(deadlineMs: number, diskOf: (volumeId: string) => string) {
    this.#deadlineMs = deadlineMs;
    this.#diskOf = diskOf;
  }

  /** `doing`: 'closing volume …'. */
  async run<Result>(
    volumeId: string,
    doing: string,
    operation: (turn: Turn) => Promise<Result>,
  ): Promise<Result> {
    const queue = this.#queues.get(volumeId) ?? { tail: Promise.resolve(), abandonedCount: 0 };
    this.#queues.set(volumeId, queue);
    if (queue.abandonedCount > 0) throw this.#late(volumeId, doing);
    const turn = { isAbandoned: false };
    const running = queue.tail.then(() => {
      if (turn.isAbandoned) throw this.#late(volumeId, doing);
      return operation(turn);
    });
    const settle = (): void => {
      if (turn.isAbandoned) queue.abandonedCount -= 1;
      if (queue.tail === settled) this.#queues.delete(volumeId);
    };
    const settled = running.then(settle, settle);
    queue.tail = settled;
    return await inTime(running, this.#deadlineMs, () => {
      turn.isAbandoned = true;
      queue.abandonedCount += 1;
      return this.#late(volumeId, doing);
    });
  }

  /** Waits for an answer that needs no turn. */
  answer<Result>(volumeId: string, doing: string, answer: Promise<Result>): Promise<Result> {
    return inTime(answer, this.#deadlineMs, () => this.#late(volumeId, doing));
  }

  #late(volumeId: string, doing: string): HoldfastError {
    const disk = this.#diskOf(volumeId);
    return new HoldfastError(
      'UNAVAILABLE',
      `${doing} takes longer than ${this.#deadlineMs / 1000} s: ${disk} seems to hang. It goes on by itself when the ` +
        'disk answers: look at the kernel log and the disk, then try again',
      { details: { volumeId } },
    );
  }
}
