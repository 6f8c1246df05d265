// How long to wait before the same thing is done again: not at all, then twice as long each time, up to a minute. After a
// minute without it begins anew.

const FIRST_MS = 1000;
const LIMIT_MS = 60_000;

export class Backoff {
  #waitMs = FIRST_MS;
  #untilMs = Number.NEGATIVE_INFINITY;

  isOver(nowMs: number): boolean {
    return nowMs >= this.#untilMs;
  }

  /** It is done now. */
  done(nowMs: number): void {
    const isAgain = nowMs - this.#untilMs < LIMIT_MS;
    this.#waitMs = isAgain ? Math.min(this.#waitMs * 2, LIMIT_MS) : FIRST_MS;
    this.#untilMs = nowMs + this.#waitMs;
  }
}
