// The writes of one opening that are not settled, in a ring by sequence. It keeps account and decides nothing.
//
// Invariant: everything up to `settled` is on every copy that counts; a sequence above it holds its request, or KEPT.

import { WINDOW_SPAN } from '../copy.ts';
import { NONE, type RequestTable } from '../requests.ts';

/** In the ring: done as far as anybody can be asked, but a lost member is still named. Its window entries stay. */
const KEPT = -2;

export class InFlight {
  readonly #table: RequestTable;
  /** [0]: the newest sequence. [1]: everything up to here is settled. */
  readonly #sequences = new Float64Array(2);
  /** By sequence mod WINDOW_SPAN. */
  readonly #ring = new Int32Array(WINDOW_SPAN).fill(NONE);

  constructor(table: RequestTable) {
    this.#table = table;
  }

  get newest(): number {
    return this.#sequences[0] as number;
  }

  get settled(): number {
    return this.#sequences[1] as number;
  }

  /** The window takes no other write. */
  get isFull(): boolean {
    return this.newest - this.settled >= WINDOW_SPAN - 1;
  }

  /** Gives a write its sequence. */
  add(request: number): void {
    this.#sequences[0] = this.newest + 1;
    this.#table.sequence[request] = this.newest;
    this.#ring[this.newest % WINDOW_SPAN] = request;
  }

  /** The write that holds this sequence; negative: none any more. */
  at(sequence: number): number {
    return this.#ring[sequence % WINDOW_SPAN] as number;
  }

  /** The write that holds this very sequence, and not one that took its place; negative: none. */
  holder(sequence: number): number {
    const request = this.at(sequence);
    return request >= 0 && this.#table.sequence[request] === sequence ? request : NONE;
  }

  isKept(sequence: number): boolean {
    return this.at(sequence) === KEPT;
  }

  keep(sequence: number): void {
    this.#ring[sequence % WINDOW_SPAN] = KEPT;
  }

  clear(sequence: number): void {
    this.#ring[sequence % WINDOW_SPAN] = NONE;
  }

  /** Moves `settled` over what is cleared. */
  advance(): void {
    let settled = this.settled;
    while (settled < this.newest && this.at(settled + 1) === NONE) settled += 1;
    this.#sequences[1] = settled;
  }

  /** The oldest write that somebody still has to answer, or NONE. */
  oldest(): number {
    for (let sequence = this.settled + 1; sequence <= this.newest; sequence++) {
      const request = this.at(sequence);
      if (request >= 0) return request;
    }
    return NONE;
  }

  /** No write waits for the copy of this bit any more. */
  clearBit(bit: number): void {
    const { waitMask } = this.#table;
    for (const request of this.#ring)
      if (request >= 0) waitMask[request] = (waitMask[request] as number) & ~bit;
  }

  *requests(): Generator<number> {
    for (const request of this.#ring) if (request >= 0) yield request;
  }

  /** For people. */
  describe(): string {
    const { sequence, waitMask, error, kind } = this.#table;
    const writes = [...this.requests()].map(
      (r) => `${r}:${sequence[r]} mask ${waitMask[r]} errno ${error[r]} kind ${kind[r]}`,
    );
    return `sequences ${this.newest}/${this.settled} in flight ${writes.length} [${writes.slice(0, 4).join('; ')}]`;
  }
}
