// One operation at a time for each key. Waiting callers go in the order they came; edges that must not wait
// ask with tryRun and are told BUSY.

import { HoldfastError } from '../core/errors.ts';

export class KeyedLock {
  /** By key, the end of the last operation in its queue. */
  readonly #ends = new Map<string, Promise<void>>();

  /** Runs `operation` after those that hold or wait for `key`. */
  async run<T>(key: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#ends.get(key);
    const end = Promise.withResolvers<void>();
    this.#ends.set(key, end.promise);
    try {
      await before;
      return await operation();
    } finally {
      if (this.#ends.get(key) === end.promise) this.#ends.delete(key);
      end.resolve();
    }
  }

  /** Runs `operation` at once, or throws BUSY when `key` is held. `what` names it for people. */
  async tryRun<T>(key: string, what: string, operation: () => Promise<T>): Promise<T> {
    if (this.#ends.has(key)) {
      throw new HoldfastError('BUSY', `Another operation on ${what} is under way: try again in a moment.`);
    }
    return await this.run(key, operation);
  }
}
