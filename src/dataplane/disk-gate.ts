// The way to a pool's files for the main thread: a few operations at a time, so that a disk that hangs keeps a few
// of libuv's threads and the other pools and the store have the rest; and nobody waits for such a disk for long.
// Looks have a way of their own: what can still be told about the pool does not wait for changes that hang.
//
// An operation that has begun is never given up: only its caller stops waiting. While one is overdue the others are
// refused at once, and those that had not begun never begin.

import { HoldfastError } from '../core/errors.ts';
import { inTime } from './in-time.ts';

export const CHANGES_AT_A_TIME = 3;
export const LOOKS_AT_A_TIME = 1;

interface Lane {
  readonly limit: number;
  runningCount: number;
  waiting: Waiting[];
}

interface Waiting {
  begin(): void;
  /** undefined: it must be done, whenever that is. */
  readonly refuse: (() => void) | undefined;
}

export class DiskGate {
  readonly #pool: string;
  readonly #directory: string;
  readonly #changes: Lane = { limit: CHANGES_AT_A_TIME, runningCount: 0, waiting: [] };
  readonly #looks: Lane = { limit: LOOKS_AT_A_TIME, runningCount: 0, waiting: [] };
  #overdueCount = 0;

  constructor(pool: string, directory: string) {
    this.#pool = pool;
    this.#directory = directory;
  }

  /** Why operations are refused now; undefined: they are not. */
  get problem(): HoldfastError | undefined {
    return this.#overdueCount > 0 ? this.#error('an operation on its files is overdue') : undefined;
  }

  /** UNAVAILABLE after the deadline, and at once while the disk does not answer. `doing`: 'creating volume …'. */
  run<Result>(doing: string, deadlineMs: number, work: () => Promise<Result>): Promise<Result> {
    return this.#inTime(this.#changes, doing, deadlineMs, work);
  }

  /** The same for what changes nothing. */
  look<Result>(doing: string, deadlineMs: number, work: () => Promise<Result>): Promise<Result> {
    return this.#inTime(this.#looks, doing, deadlineMs, work);
  }

  /** Never refused or given up: for what must come to its end, and whose caller has a deadline of its own. */
  hold<Result>(overdueMs: number, work: () => Promise<Result>): Promise<Result> {
    return this.#inPlace(this.#changes, undefined, () => this.#timed(overdueMs, work));
  }

  /** UNAVAILABLE while the disk does not answer. */
  require(doing: string): void {
    if (this.#overdueCount > 0) throw this.#error(doing);
  }

  async #inTime<Result>(
    lane: Lane,
    doing: string,
    deadlineMs: number,
    work: () => Promise<Result>,
  ): Promise<Result> {
    this.require(doing);
    let isAbandoned = false;
    const refused = Promise.withResolvers<never>();
    refused.promise.catch(() => undefined); // nobody may be waiting for it any more
    const refuse = (): void => {
      isAbandoned = true;
      refused.reject(this.#error(doing));
    };
    const done = this.#inPlace(lane, refuse, async () => {
      if (isAbandoned) throw this.#error(doing);
      return await this.#timed(deadlineMs, work);
    });
    done.catch(() => undefined); // told to its caller below, unless that one has left
    return await inTime(Promise.race([done, refused.promise]), deadlineMs, () => {
      isAbandoned = true;
      return this.#error(doing);
    });
  }

  async #inPlace<Result>(
    lane: Lane,
    refuse: Waiting['refuse'],
    work: () => Promise<Result>,
  ): Promise<Result> {
    if (lane.runningCount >= lane.limit) {
      await new Promise<void>((begin) => lane.waiting.push({ begin, refuse }));
    } else {
      lane.runningCount += 1;
    }
    try {
      return await work();
    } finally {
      const next = lane.waiting.shift();
      if (next === undefined) lane.runningCount -= 1;
      else next.begin();
    }
  }

  async #timed<Result>(overdueMs: number, work: () => Promise<Result>): Promise<Result> {
    let isOverdue = false;
    const timer = setTimeout(() => {
      isOverdue = true;
      this.#overdueCount += 1;
      this.#refuseWaiting();
    }, overdueMs).unref();
    try {
      return await work();
    } finally {
      clearTimeout(timer);
      if (isOverdue) this.#overdueCount -= 1;
    }
  }

  #refuseWaiting(): void {
    for (const lane of [this.#changes, this.#looks]) {
      const waiting = lane.waiting;
      lane.waiting = waiting.filter(({ refuse }) => refuse === undefined);
      for (const { refuse } of waiting) refuse?.();
    }
  }

  #error(doing: string): HoldfastError {
    return new HoldfastError(
      'UNAVAILABLE',
      `${doing}: the disk of pool '${this.#pool}' (${this.#directory}) does not answer. It goes on by itself when the ` +
        'disk answers: look at the kernel log and the disk, then try again',
      { details: { pool: this.#pool } },
    );
  }
}
