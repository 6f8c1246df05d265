// What the clients of a node do there, over all its data-plane threads: a resync gives way to all of them. Memory that the
// threads share; each counts in a cache line of its own and reads those of all.

import type { ClientLoad } from '../../replication/pace.ts';

/** Of a cache line. */
const WORDS_PER_THREAD = 16;
const BEGUN = 0;
const ENDED = 1;

export class SharedClientLoad implements ClientLoad {
  readonly #words: Int32Array;
  readonly #own: number;

  /** In the main thread, once. */
  static allocate(threadCount: number): SharedArrayBuffer {
    return new SharedArrayBuffer(threadCount * WORDS_PER_THREAD * Int32Array.BYTES_PER_ELEMENT);
  }

  constructor(memory: SharedArrayBuffer, threadIndex: number) {
    this.#words = new Int32Array(memory);
    this.#own = threadIndex * WORDS_PER_THREAD;
  }

  /** A disk operation for a client, or for one of another node. */
  began(): void {
    Atomics.add(this.#words, this.#own + BEGUN, 1);
  }

  ended(): void {
    Atomics.add(this.#words, this.#own + ENDED, 1);
  }

  /** A client of this node was answered by another one. */
  answeredElsewhere(): void {
    this.began();
    this.ended();
  }

  get openCount(): number {
    // Both wrap around.
    return (this.begunCount - this.#sum(ENDED)) | 0;
  }

  get begunCount(): number {
    return this.#sum(BEGUN);
  }

  #sum(word: number): number {
    let sum = 0;
    for (let at = word; at < this.#words.length; at += WORDS_PER_THREAD)
      sum = (sum + Atomics.load(this.#words, at)) | 0;
    return sum;
  }
}
