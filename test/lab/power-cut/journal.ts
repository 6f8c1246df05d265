// What a device may hold after a power cut, worked out from the writer's log. Pure.
//
// For every sector: the contents that the last acknowledged flush covered (the floor), or those of any write
// issued later. A flush covers what was acknowledged before it was issued; a synchronous write covers itself.
//
// Sector contents (512 bytes, little-endian), made by writer.c:
//   offset size field
//   0      4    magic   0x50574355
//   4      4    crc     CRC-32 of bytes 8 to 511
//   8      8    id      of the write: round × 2^32 + number within the round
//   16     8    sector  where it was meant to go
//   24     488  noise   from id and sector
// All zero: never written, or zeroed.

import { crc32 } from 'node:zlib';

export const SECTOR_BYTES = 512;
const MAGIC = 0x50574355;
/** Contents of a sector that holds no write. */
export const ZEROES = 0;
const EOPNOTSUPP = 95;

interface Candidate {
  readonly id: number;
  /** ZEROES for a write of zeroes. */
  readonly contents: number;
  isAcknowledged: boolean;
}

interface Write {
  readonly sector: number;
  readonly count: number;
  readonly isSynchronous: boolean;
  readonly candidates: Candidate[];
}

export interface Violation {
  readonly sector: number;
  /** id, ZEROES, or what is wrong with the contents. */
  readonly found: number | string;
  readonly admissible: readonly number[];
  readonly rule: string;
}

export interface JournalTotals {
  readonly writes: number;
  readonly acknowledgedWrites: number;
  readonly acknowledgedFlushes: number;
  readonly errors: readonly string[];
}

export class Journal {
  /** Contents of every sector that no cut can take away any more; absent: ZEROES. */
  readonly #floor = new Map<number, number>();
  /** Sectors with writes above the floor, in the order of issue. */
  readonly #later = new Map<number, Candidate[]>();
  totals: JournalTotals = { writes: 0, acknowledgedWrites: 0, acknowledgedFlushes: 0, errors: [] };

  /** Replays one round's log. A last line without its end was being written when the power went. */
  replay(log: string): void {
    const lines = log.split('\n').slice(0, -1);
    const writes = new Map<number, Write>();
    const flushes = new Map<number, Map<number, number>>();
    const errors: string[] = [];
    let acknowledgedWrites = 0;
    let acknowledgedFlushes = 0;
    for (const line of lines) {
      const [letter, id = Number.NaN, sector = 0, count = 0] = words(line);
      switch (letter) {
        case 'W':
        case 'D':
        case 'Z':
          writes.set(id, this.#issue(id, sector, count, letter));
          break;
        case 'A':
          acknowledgedWrites++;
          this.#acknowledge(writes.get(id), id);
          break;
        case 'F':
          flushes.set(id, this.#coverage());
          break;
        case 'G':
          acknowledgedFlushes++;
          for (const [at, covered] of flushes.get(id) ?? []) this.#raise(at, covered);
          break;
        case 'E':
          if (sector !== EOPNOTSUPP) errors.push(line);
          break;
        default:
          errors.push(`unreadable log line: ${line}`);
      }
    }
    this.totals = { writes: writes.size, acknowledgedWrites, acknowledgedFlushes, errors };
  }

  /** Sectors with acknowledged writes that no acknowledged flush covered: contents of the last of them. */
  acknowledgedUnflushed(): Map<number, number> {
    const sectors = new Map<number, number>();
    for (const [sector, candidates] of this.#later) {
      const last = candidates.findLast((candidate) => candidate.isAcknowledged);
      if (last !== undefined) sectors.set(sector, last.id);
    }
    return sectors;
  }

  /**
   * Compares one sector with what it may hold. `atLeastId` raises the floor for this look: the write of
   * this id was acknowledged and something else promises that it is stable.
   */
  check(sector: number, bytes: Buffer, atLeastId?: number): Violation | undefined {
    const found = contentsOf(sector, bytes);
    const later = this.#later.get(sector) ?? [];
    const from = atLeastId === undefined ? -1 : later.findIndex((candidate) => candidate.id === atLeastId);
    const admissible = later.slice(Math.max(from, 0)).map((candidate) => candidate.contents);
    if (from < 0) admissible.unshift(this.#floor.get(sector) ?? ZEROES);
    if (typeof found === 'number' && admissible.includes(found)) return undefined;
    const rule = from < 0 ? 'what an acknowledged flush covered' : 'a cold extent is on stable storage';
    return { sector, found, admissible, rule };
  }

  /** After the check: what was found on the disk is what it holds. */
  adopt(sector: number, bytes: Buffer): void {
    const found = contentsOf(sector, bytes);
    if (typeof found === 'number') this.#floor.set(sector, found);
    this.#later.delete(sector);
  }

  #issue(id: number, sector: number, count: number, letter: string): Write {
    const candidates = Array.from({ length: count }, () => ({
      id,
      contents: letter === 'Z' ? ZEROES : id,
      isAcknowledged: false,
    }));
    for (const [index, candidate] of candidates.entries()) {
      const later = this.#later.get(sector + index);
      if (later === undefined) this.#later.set(sector + index, [candidate]);
      else later.push(candidate);
    }
    return { sector, count, isSynchronous: letter === 'D', candidates };
  }

  #acknowledge(write: Write | undefined, id: number): void {
    if (write === undefined) return;
    for (const [index, candidate] of write.candidates.entries()) {
      candidate.isAcknowledged = true;
      if (write.isSynchronous) this.#raise(write.sector + index, id);
    }
  }

  /** What a flush issued now would cover: the last acknowledged write of every sector that has one. */
  #coverage(): Map<number, number> {
    return this.acknowledgedUnflushed();
  }

  /** The write `id` of this sector, and with it all before it, is stable. */
  #raise(sector: number, id: number): void {
    const later = this.#later.get(sector);
    const index = later?.findIndex((candidate) => candidate.id === id) ?? -1;
    if (later === undefined || index < 0) return; // an overlapping flush has covered it already
    this.#floor.set(sector, later[index]?.contents ?? ZEROES);
    if (index === later.length - 1) this.#later.delete(sector);
    else later.splice(0, index + 1);
  }
}

function words(line: string): [string, ...number[]] {
  const [letter = '', ...numbers] = line.split(' ');
  return [letter, ...numbers.map(Number)];
}

/** The id of the write a sector holds, ZEROES, or what is wrong with it. */
function contentsOf(sector: number, bytes: Buffer): number | string {
  if (bytes.every((byte) => byte === 0)) return ZEROES;
  if (bytes.readUInt32LE(0) !== MAGIC) return 'no sector of ours';
  if (crc32(bytes.subarray(8)) !== bytes.readUInt32LE(4)) return 'wrong checksum';
  if (Number(bytes.readBigUInt64LE(16)) !== sector) return `belongs to sector ${bytes.readBigUInt64LE(16)}`;
  return Number(bytes.readBigUInt64LE(8));
}
