// The way to a pool's files for the main thread: a few operations at a time, so that a disk that hangs keeps a few
// of libuv's threads and the other pools and the store have the rest; and nobody waits for such a disk for long.
//
// An operation that has begun is never given up: only its caller stops waiting. While one is overdue the others are
// refused at once, and those that had not begun never begin.

import { HoldfastError } from '../core/errors.ts';
import { inTime } from './in-time.ts';

export const OPERATIONS_AT_A_TIME = 4;

interface Waiting {
  begin(): void;
  /** undefined: it must be done, whenever that is. */
  readonly refuse: (() => void) | undefined;
}

export class DiskGate {
  readonly #pool: string;
  readonly #directory: string;
  #runningCount = 0;
  #waiting: Waiting[] = [];
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
  async run<Result>(doing: string, deadlineMs: number, work: () => Promise<Result>): Promise<Result> {
    this.require(doing);
    let isAbandoned = false;
    const refused = Promise.withResolvers<never>();
    refused.promise.catch(() => undefined); // nobody may be waiting for it any more
    const refuse = (): void => {
      isAbandoned = true;
      refused.reject(this.#error(doing));
    };
    const done = this.#inPlace(refuse, async () => {
      if (isAbandoned) throw this.#error(doing);
      return await this.#timed(deadlineMs, work);
    });
    done.catch(() => undefined); // told to its caller below, unless that one has left
    return await inTime(Promise.race([done, refused.promise]), deadlineMs, () => {
      isAbandoned = true;
      return this.#error(doing);
    });
  }

  /** Never refused or given up: for what must come to its end, and whose caller has a deadline of its own. */
  hold<Result>(overdueMs: number, work: () => Promise<Result>): Promise<Result> {
    return this.#inPlace(undefined, () => this.#timed(overdueMs, work));
  }

  /** UNAVAILABLE while the disk does not answer. */
  require(doing: string): void {
    if (this.#overdueCount > 0) throw this.#error(doing);
  }

  async #inPlace<Result>(refuse: Waiting['refuse'], work: () => Promise<Result>): Promise<Result> {
    if (this.#runningCount >= OPERATIONS_AT_A_TIME) {
      await new Promise<void>((begin) => this.#waiting.push({ begin, refuse }));
    } else {
      this.#runningCount += 1;
    }
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#runningCount -= 1;
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
    const waiting = this.#waiting;
    this.#waiting = waiting.filter(({ refuse }) => refuse === undefined);
    for (const { refuse } of waiting) refuse?.();
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
