// Watches the data-plane threads for one that never comes back from a turn of its loop. Such a thread answers
// nobody, and its volumes hang without an error: the process must end, and the next daemon take over.
//
// A thread's beat is one word that it stores twice a turn: odd inside the turn, even while it waits for the ring,
// which may be for ever. What counts is how often the main thread has looked and seen the same odd word, not what a
// clock says: a machine that was suspended or a process that was stopped comes back to one look, not to a verdict.

/** The limit is this many looks. */
const LOOKS = 4;

interface Watched {
  readonly beat: Int32Array;
  last: number;
  looks: number;
}

export class Watchdog {
  readonly #limitMs: number;
  readonly #onStuck: (error: Error) => void;
  readonly #watched = new Set<Watched>();
  readonly #timer: NodeJS.Timeout | undefined;

  /** `limitMs`: of one turn; found out within a quarter more. 0: nothing is watched. */
  constructor(limitMs: number, onStuck: (error: Error) => void) {
    this.#limitMs = limitMs;
    this.#onStuck = onStuck;
    if (limitMs > 0) this.#timer = setInterval(() => this.#look(), Math.ceil(limitMs / LOOKS)).unref();
  }

  watch(beat: Int32Array): void {
    this.#watched.add({ beat, last: 0, looks: 0 });
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    for (const watched of this.#watched) {
      const word = Atomics.load(watched.beat, 0);
      watched.looks = isInTurn(word) && word === watched.last ? watched.looks + 1 : 0;
      watched.last = word;
      if (watched.looks < LOOKS) continue;
      this.#watched.delete(watched);
      this.#onStuck(
        new Error(`a data-plane thread has been in one turn of its loop for more than ${this.#limitMs} ms`),
      );
    }
  }
}

/** The word of a thread that has not begun. */
export function createBeat(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(4));
}

function isInTurn(word: number): boolean {
  return (word & 1) === 1;
}

/** Both are called by the thread, and neither allocates. */
export function turnBegins(beat: Int32Array): void {
  Atomics.store(beat, 0, ((beat[0] as number) + 1) | 1);
}

export function turnEnds(beat: Int32Array): void {
  Atomics.store(beat, 0, ((beat[0] as number) + 1) & ~1);
}
