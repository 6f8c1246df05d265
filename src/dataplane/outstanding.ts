// How long a disk has left something unanswered: operations that are in the ring, and when the last one began or
// ended while others were. Allocates nothing.

export class Outstanding {
  readonly #limitMs: number;
  #count = 0;
  /** [0]: the last sign of life; in an array so that it is never boxed. */
  readonly #sinceMs = new Float64Array(1);

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  began(clockMs: Float64Array): void {
    if (this.#count === 0) this.#sinceMs[0] = clockMs[0] as number;
    this.#count += 1;
  }

  ended(clockMs: Float64Array): void {
    this.#count -= 1;
    this.#sinceMs[0] = clockMs[0] as number;
  }

  /** None has ended for longer than the limit, though there are some. */
  isOverdue(clockMs: Float64Array): boolean {
    return this.#count > 0 && (clockMs[0] as number) - (this.#sinceMs[0] as number) > this.#limitMs;
  }
}
