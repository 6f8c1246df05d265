// What was written since an epoch began, by blocks of 4 KiB: generations know it by 64 KiB only. A primary keeps it for the
// copies that are absent while it serves, in memory, and a resync asks it which blocks of a needed generation block to send.
// It is an optimisation and no truth: stamps say what is needed, and where it knows of no block all of them go.
//
// Memory: 128 bytes for each extent that was written, 4 MiB at most, and about as much again for the map of them; while the
// words double, the old ones beside the new ones, 6 MiB. Past EXTENT_LIMIT extents it gives all of that back.
//
// Invariant: unless it has overflown, it has every write that got a stamp of its epoch or a later one on this copy.

import { BLOCK_BYTES, EXTENT_BYTES, GENERATION_BLOCKS_PER_EXTENT } from '../core/units.ts';

export const BLOCKS_PER_EXTENT = EXTENT_BYTES / BLOCK_BYTES;
const WORDS_PER_EXTENT = BLOCKS_PER_EXTENT / 32;
const ALL = 0xffff_ffff;
export const BLOCKS_PER_GENERATION_BLOCK = BLOCKS_PER_EXTENT / GENERATION_BLOCKS_PER_EXTENT;
/** As many hold 128 GiB. */
const EXTENT_LIMIT = 32_768;

export class WrittenBlocks {
  readonly sinceEpoch: number;
  readonly #extentLimit: number;
  /** By extent: where its words begin. */
  readonly #start = new Map<number, number>();
  #words = new Uint32Array(16 * WORDS_PER_EXTENT);
  #hasOverflown = false;

  constructor(sinceEpoch: number, extentLimit = EXTENT_LIMIT) {
    this.sinceEpoch = sinceEpoch;
    this.#extentLimit = extentLimit;
  }

  /** It knows all that was written in this epoch and since. */
  covers(epoch: number): boolean {
    return !this.#hasOverflown && epoch >= this.sinceEpoch;
  }

  note(offsetBytes: number, lengthBytes: number): void {
    const endBlock = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
    let block = Math.floor(offsetBytes / BLOCK_BYTES);
    while (block < endBlock && !this.#hasOverflown) {
      const extent = Math.floor(block / BLOCKS_PER_EXTENT);
      const first = block - extent * BLOCKS_PER_EXTENT;
      const end = Math.min(endBlock - extent * BLOCKS_PER_EXTENT, BLOCKS_PER_EXTENT);
      if (end - first === BLOCKS_PER_EXTENT) this.#noteExtent(extent);
      else this.#noteBlocks(extent, first, end);
      block += end - first;
    }
  }

  /** All of each. */
  noteExtents(extents: readonly number[]): void {
    let newCount = 0;
    for (const extent of extents) if (!this.#start.has(extent)) newCount += 1;
    if (this.#start.size + newCount > this.#extentLimit) this.#overflow();
    for (const extent of extents) this.#noteExtent(extent);
  }

  #noteExtent(extent: number): void {
    const start = this.#wordsOf(extent);
    if (start >= 0) this.#words.fill(ALL, start, start + WORDS_PER_EXTENT);
  }

  #noteBlocks(extent: number, first: number, end: number): void {
    const start = this.#wordsOf(extent);
    if (start < 0) return;
    for (let block = first; block < end; block++) {
      const at = start + (block >> 5);
      this.#words[at] = (this.#words[at] as number) | (1 << (block & 31));
    }
  }

  /** Sets those of `needed` (one entry for each block of the extent) that it knows of a generation block; all, if none. */
  choose(extent: number, generationBlock: number, needed: Uint8Array): void {
    const first = generationBlock * BLOCKS_PER_GENERATION_BLOCK;
    const start = this.#start.get(extent);
    const word = start === undefined ? 0 : (this.#words[start + (first >> 5)] as number);
    const bits = (word >>> (first & 31)) & 0xffff;
    for (let block = 0; block < BLOCKS_PER_GENERATION_BLOCK; block++)
      needed[first + block] = bits === 0 ? 1 : (bits >>> block) & 1;
  }

  /** Negative: there is no room for another extent, and from now on it knows nothing. */
  #wordsOf(extent: number): number {
    const known = this.#start.get(extent);
    if (known !== undefined) return known;
    if (this.#hasOverflown) return -1;
    const count = this.#start.size;
    if (count >= this.#extentLimit) {
      this.#overflow();
      return -1;
    }
    const start = count * WORDS_PER_EXTENT;
    if (start + WORDS_PER_EXTENT > this.#words.length) {
      const grown = new Uint32Array(this.#words.length * 2);
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#start.set(extent, start);
    return start;
  }

  #overflow(): void {
    this.#hasOverflown = true;
    this.#start.clear();
    this.#words = new Uint32Array(0);
  }
}
