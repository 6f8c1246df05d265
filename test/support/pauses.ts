// How long a client went without any answer while it waited for some.

export interface Pause {
  readonly startedAt: Date;
  readonly ms: number;
}

export class PauseMeter {
  readonly #thresholdMs: number;
  readonly #pauses: Pause[] = [];
  #lastMs = performance.now();
  #longest: Pause = { startedAt: new Date(), ms: 0 };

  /** Pauses from `thresholdMs` on are kept one by one. */
  constructor(thresholdMs = 250) {
    this.#thresholdMs = thresholdMs;
  }

  /** Something was asked for, and nothing was waited for before: a pause does not begin earlier than now. */
  started(): void {
    this.#lastMs = performance.now();
  }

  answered(): void {
    const pause = this.#running();
    if (pause.ms > this.#longest.ms) this.#longest = pause;
    if (pause.ms >= this.#thresholdMs) this.#pauses.push(pause);
    this.#lastMs += pause.ms;
  }

  /** Up to the last answer. */
  get longest(): Pause {
    return this.#longest;
  }

  get all(): readonly Pause[] {
    return this.#pauses;
  }

  #running(): Pause {
    const ms = performance.now() - this.#lastMs;
    return { startedAt: new Date(Date.now() - ms), ms };
  }
}
