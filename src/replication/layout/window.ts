// The in-flight window: the ranges of writes not yet known to be acknowledged everywhere. The file is mapped
// into memory and written by stores only, so it survives kill -9 at the cost of a few of them. It is on a
// tmpfs (ADR 0003) and need not survive more: the header names its owner, the boot and the serving it belongs to,
// and for any other owner it is not believed.
//
//   offset size   field
//   0      4096   header: one sector of 512 bytes, the rest zero
//   4096   65536  1024 entries of 64 bytes
// Header (prefix: see sector.ts):
//   0      16     prefix   checksum, magic 'HFWN', version, features
//   16     64     owner    one byte of length, then ASCII; empty: the entries are not all there is to suspect
// Entry, as 16 words of 32 bits (mapped memory is in the machine's order; all we run on is little endian):
//   0  check     0: free; else a mix of words 1 to 8, stored last: a half-written entry is never believed
//   1  epoch
//   2  openingLow, 3 openingHigh: 64 bits of the opening that admitted the write, enough to tell two apart
//   4  sequence  (two words, f64)
//   6  offset    in bytes (two words, f64)
//   8  length    in bytes
//   9  to 15 unused
//
// 'unknown' (another owner, unreadable, another version) is never an error: the suspects are then all hot
// extents, which the intent log knows. It stays unknown until adopt() or reset(), which the owner calls only
// after all that was suspect has been settled: a second crash in between must not turn doubt into 'nothing'.

import { invariant } from '../../core/invariant.ts';
import { isHoldfastError } from '../../core/errors.ts';
import { FORMATS } from './formats.ts';
import { isReadableSector, SECTOR_BYTES, sealSector } from './sector.ts';

export const WINDOW_ENTRY_COUNT = 1024;
const HEADER_BYTES = 4096;
const ENTRY_BYTES = 64;
export const WINDOW_FILE_BYTES = HEADER_BYTES + WINDOW_ENTRY_COUNT * ENTRY_BYTES;

const FORMAT = FORMATS.window;
const OWNER_AT = 16;
const OWNER_BYTES = 64;
const WORDS_PER_ENTRY = ENTRY_BYTES / 4;
const FIRST_WORD = HEADER_BYTES / 4;
const CHECKED_WORDS = 8;

export interface WindowEntry {
  readonly entryIndex: number;
  readonly epoch: number;
  /** As unsigned 32-bit numbers. */
  readonly openingLow: number;
  readonly openingHigh: number;
  readonly sequence: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A new file's contents: no entries. With the empty owner it is 'unknown' to everybody. */
export function encodeWindow(owner: string): Uint8Array {
  const bytes = new Uint8Array(WINDOW_FILE_BYTES);
  new WindowFile(bytes.buffer).reset(owner);
  return bytes;
}

/** What a file's bytes say to `owner`. */
export function decodeWindow(bytes: Uint8Array, owner: string): WindowEntry[] | 'unknown' {
  if (bytes.length < WINDOW_FILE_BYTES) return 'unknown';
  return new WindowFile(bytes.slice(0, WINDOW_FILE_BYTES).buffer).readEntries(owner);
}

/** A view of the mapped file. One thread writes it. put() and clear() allocate nothing. */
export class WindowFile {
  readonly #bytes: Uint8Array;
  // Signed words: an unsigned one above 2^31 would be a number on the heap.
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;

  /** `memory`: at least WINDOW_FILE_BYTES, byte 0 being byte 0 of the file. */
  constructor(memory: ArrayBuffer) {
    invariant(memory.byteLength >= WINDOW_FILE_BYTES, 'the whole window is mapped');
    this.#bytes = new Uint8Array(memory, 0, WINDOW_FILE_BYTES);
    this.#words = new Int32Array(memory, 0, WINDOW_FILE_BYTES / 4);
    this.#doubles = new Float64Array(memory, 0, WINDOW_FILE_BYTES / 8);
  }

  /** Stores a range before its write is submitted. The entry must be free. */
  put(
    entryIndex: number,
    epoch: number,
    openingLow: number,
    openingHigh: number,
    sequence: number,
    offsetBytes: number,
    lengthBytes: number,
  ): void {
    const at = FIRST_WORD + entryIndex * WORDS_PER_ENTRY;
    const words = this.#words;
    invariant(words[at] === 0, 'a window entry is free before it is taken');
    words[at + 1] = epoch;
    words[at + 2] = openingLow;
    words[at + 3] = openingHigh;
    this.#doubles[(at + 4) >> 1] = sequence;
    this.#doubles[(at + 6) >> 1] = offsetBytes;
    words[at + 8] = lengthBytes;
    // Last, and never moved before the others: from here on the entry counts.
    Atomics.store(words, at, checkOf(words, at));
  }

  clear(entryIndex: number): void {
    Atomics.store(this.#words, FIRST_WORD + entryIndex * WORDS_PER_ENTRY, 0);
  }

  /** The entries in use, by entry index; 'unknown' when they are not all there is to suspect. */
  readEntries(owner: string): WindowEntry[] | 'unknown' {
    if (!this.#isOf(owner)) return 'unknown';
    const entries: WindowEntry[] = [];
    for (let entryIndex = 0; entryIndex < WINDOW_ENTRY_COUNT; entryIndex++) {
      const at = FIRST_WORD + entryIndex * WORDS_PER_ENTRY;
      if (this.#words[at] === 0) continue;
      if (this.#words[at] !== checkOf(this.#words, at)) return 'unknown';
      entries.push({
        entryIndex,
        epoch: (this.#words[at + 1] ?? 0) >>> 0,
        openingLow: (this.#words[at + 2] ?? 0) >>> 0,
        openingHigh: (this.#words[at + 3] ?? 0) >>> 0,
        sequence: this.#doubles[(at + 4) >> 1] ?? 0,
        offsetBytes: this.#doubles[(at + 6) >> 1] ?? 0,
        lengthBytes: (this.#words[at + 8] ?? 0) >>> 0,
      });
    }
    return entries;
  }

  /** Forgets every entry and belongs to `owner` from now on. Only when nothing is in flight or suspect. */
  reset(owner: string): void {
    this.#disown();
    for (let entryIndex = 0; entryIndex < WINDOW_ENTRY_COUNT; entryIndex++) this.clear(entryIndex);
    this.adopt(owner);
  }

  /** From now on the entries alone are the suspects; they stay. Only after all older suspects are settled. */
  adopt(owner: string): void {
    this.#disown();
    invariant(owner.length < OWNER_BYTES, 'an owner fits its field');
    this.#bytes.fill(0, 4, HEADER_BYTES);
    this.#bytes[OWNER_AT] = owner.length;
    for (let index = 0; index < owner.length; index++)
      this.#bytes[OWNER_AT + 1 + index] = owner.charCodeAt(index);
    sealSector(this.#bytes, 0, SECTOR_BYTES, FORMAT);
  }

  /** From now on, until adopt() or reset(), the entries are not all there is to suspect. */
  doubt(): void {
    this.#disown();
  }

  /** An all-zero checksum word fits no header we write: unknown until sealed again. */
  #disown(): void {
    Atomics.store(this.#words, 0, 0);
  }

  #isOf(owner: string): boolean {
    try {
      if (!isReadableSector(this.#bytes, 0, SECTOR_BYTES, FORMAT)) return false;
    } catch (error) {
      // Another version's window: what it suspected is hot in the intent log as well.
      if (isHoldfastError(error, 'CORRUPT')) return false;
      throw error;
    }
    const length = this.#bytes[OWNER_AT] ?? 0;
    const stored = String.fromCharCode(...this.#bytes.subarray(OWNER_AT + 1, OWNER_AT + 1 + length));
    return stored !== '' && stored === owner;
  }
}

/** Any change of one word changes it; never 0, which says 'free'. */
function checkOf(words: Int32Array, at: number): number {
  let mix = 0x9e3779b9 | 0;
  for (let index = 1; index <= CHECKED_WORDS; index++) {
    mix = Math.imul(mix ^ (words[at + index] ?? 0), 0x85ebca6b);
    mix ^= mix >>> 15;
  }
  return mix === 0 ? 1 : mix;
}
