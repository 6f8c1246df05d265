// How many copies of other nodes this node brings up to date at a time, over all its volumes and data-plane threads: each
// takes of the disk and the network that its clients use. Copies that need everything have places of their own, half as
// many: they take long, and those that have missed little do not wait behind them. A copy that requests wait for is
// never refused. Memory that the threads share; nobody waits for a place, it is asked for again.

const CATCH_UPS = 0;
const FULL_COPIES = 1;
const LIMIT = 2;

export class ResyncPlaces {
  readonly #words: Int32Array;

  /** In the main thread, once. */
  static allocate(limit: number): SharedArrayBuffer {
    const memory = new SharedArrayBuffer(3 * Int32Array.BYTES_PER_ELEMENT);
    new Int32Array(memory)[LIMIT] = limit;
    return memory;
  }

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** False: all are taken. */
  take(isFull: boolean, isUrgent: boolean): boolean {
    const kind = isFull ? FULL_COPIES : CATCH_UPS;
    const limit = Atomics.load(this.#words, LIMIT);
    const most = isFull ? Math.ceil(limit / 2) : limit;
    if (Atomics.add(this.#words, kind, 1) < most || isUrgent) return true;
    Atomics.sub(this.#words, kind, 1);
    return false;
  }

  giveBack(isFull: boolean): void {
    Atomics.sub(this.#words, isFull ? FULL_COPIES : CATCH_UPS, 1);
  }
}
