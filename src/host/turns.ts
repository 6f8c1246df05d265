// Operations that take turns by key: one at a time for each, in the order they came; keys do not wait for
// each other.

export class Turns {
  /** By key, the end of the last operation in its queue. */
  readonly #ends = new Map<string, Promise<unknown>>();

  async run<T>(key: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#ends.get(key) ?? Promise.resolve();
    const result = before.then(operation);
    const end = result.catch(() => undefined); // the caller of run has the error
    this.#ends.set(key, end);
    try {
      return await result;
    } finally {
      if (this.#ends.get(key) === end) this.#ends.delete(key);
    }
  }

  isBusy(key: string): boolean {
    return this.#ends.has(key);
  }

  /** Resolves when everything begun so far has ended. */
  async idle(): Promise<void> {
    await Promise.all(this.#ends.values());
  }
}
