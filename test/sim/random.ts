// Seeded randomness. Every part of a world draws from its own stream, so that taking one fault away does not
// change what the others do.

/** sfc32, seeded by a seed and a name. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, name: string) {
    let hash = 0x811c9dc5;
    for (let at = 0; at < name.length; at++) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193);
    this.#a = seed | 0;
    this.#b = hash;
    this.#c = Math.floor(seed / 2 ** 32) | 0;
    for (let i = 0; i < 12; i++) this.#next();
  }

  #next(): number {
    const t = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + t) | 0;
    return t >>> 0;
  }

  /** 0 ≤ x < 1. */
  unit(): number {
    return this.#next() / 2 ** 32;
  }

  /** An integer, 0 ≤ x < count. */
  below(count: number): number {
    return Math.floor(this.unit() * count);
  }

  between(from: number, to: number): number {
    return from + this.unit() * (to - from);
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }

  /** Waits between events of a rate: exponential. */
  wait(meanMs: number): number {
    return -Math.log(1 - this.unit()) * meanMs;
  }
}
