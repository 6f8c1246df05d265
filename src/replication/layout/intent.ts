// The intent log: one bit per extent. A set bit (hot) says that the extent may differ from stable storage
// or from other copies. Marked durably before the first write to a cold extent, cleared as it cools.
//
// The file is sectors of 512 bytes, each written whole or not at all and believed for itself:
//   sector 0      header
//   sector 1 + i  bits of extents [i × 3840, (i + 1) × 3840)
// One sector (prefix: see sector.ts; what is not named is zero):
//   offset size field    why
//   0      16   prefix   checksum, magic 'HFIL', version, features
//   16     4    number   of the sector in the file: a write that landed in the wrong place is not believed
//   32     480  bits     extent n is bit (n mod 8) of byte floor(n / 8); all zero in the header
//
// An unreadable sector makes all of its extents hot, an unreadable header all extents of the volume.

import { invariant } from '../../core/invariant.ts';
import { FORMATS } from './formats.ts';
import { getU32, isReadableSector, putU32, SECTOR_BYTES, sealSector } from './sector.ts';

export const INTENT_SECTOR_BYTES = SECTOR_BYTES;
const BITS_AT = 32;
const BITMAP_BYTES_PER_SECTOR = INTENT_SECTOR_BYTES - BITS_AT;
/** 15 GiB of a volume. */
export const EXTENTS_PER_SECTOR = BITMAP_BYTES_PER_SECTOR * 8;

const FORMAT = FORMATS.intent;

/** Bitmap sectors, without the header. */
export function intentSectorCount(extentCount: number): number {
  return Math.ceil(extentCount / EXTENTS_PER_SECTOR);
}

export function intentFileBytes(extentCount: number): number {
  return (1 + intentSectorCount(extentCount)) * INTENT_SECTOR_BYTES;
}

/** Of the bitmap sector that holds the bits of extents from `sectorIndex` × EXTENTS_PER_SECTOR on. */
export function intentSectorOffset(sectorIndex: number): number {
  return (1 + sectorIndex) * INTENT_SECTOR_BYTES;
}

export function intentSectorOf(extentIndex: number): number {
  return Math.floor(extentIndex / EXTENTS_PER_SECTOR);
}

/**
 * Writes one bitmap sector at `at`. `bits` is the whole volume's bitmap (bit n is byte n >> 3, bit n & 7);
 * what it lacks at its end counts as cold. Allocates nothing.
 */
export function encodeIntentSector(
  into: Uint8Array,
  at: number,
  sectorIndex: number,
  bits: Uint8Array,
): void {
  into.fill(0, at, at + BITS_AT);
  putU32(into, at + 16, 1 + sectorIndex);
  const from = sectorIndex * BITMAP_BYTES_PER_SECTOR;
  for (let index = 0; index < BITMAP_BYTES_PER_SECTOR; index++)
    into[at + BITS_AT + index] = bits[from + index] ?? 0;
  sealSector(into, at, INTENT_SECTOR_BYTES, FORMAT);
}

/** A whole file. */
export function encodeIntent(bits: Uint8Array, extentCount: number): Uint8Array {
  const file = new Uint8Array(intentFileBytes(extentCount));
  sealSector(file, 0, INTENT_SECTOR_BYTES, FORMAT);
  for (let index = 0; index < intentSectorCount(extentCount); index++) {
    encodeIntentSector(file, intentSectorOffset(index), index, bits);
  }
  return file;
}

export interface DecodedIntent {
  /** Exactly ceil(extentCount / 8) bytes; bits past extentCount are zero. */
  readonly bits: Uint8Array;
  /** How many sectors could not be read and count as hot throughout. */
  readonly suspectSectorCount: number;
}

/** Throws CORRUPT when a readable sector is of another version. Bytes past the last sector are ignored. */
export function decodeIntent(bytes: Uint8Array, extentCount: number): DecodedIntent {
  invariant(extentCount > 0, 'a volume has at least one extent');
  const bits = new Uint8Array(Math.ceil(extentCount / 8));
  const headerIsReadable = isSector(bytes, 0);
  const sectorCount = intentSectorCount(extentCount);
  let suspectSectorCount = 0;
  for (let index = 0; index < sectorCount; index++) {
    const into = index * BITMAP_BYTES_PER_SECTOR;
    const isReadable = isSector(bytes, 1 + index);
    if (headerIsReadable && isReadable) {
      const from = intentSectorOffset(index) + BITS_AT;
      const byteCount = Math.min(BITMAP_BYTES_PER_SECTOR, bits.length - into);
      bits.set(bytes.subarray(from, from + byteCount), into);
    } else {
      bits.fill(0xff, into, into + BITMAP_BYTES_PER_SECTOR);
      suspectSectorCount++;
    }
  }
  const lastBits = extentCount % 8;
  if (lastBits !== 0) bits[bits.length - 1] = (bits[bits.length - 1] ?? 0) & ((1 << lastBits) - 1);
  return { bits, suspectSectorCount };
}

function isSector(bytes: Uint8Array, number: number): boolean {
  const at = number * INTENT_SECTOR_BYTES;
  return isReadableSector(bytes, at, INTENT_SECTOR_BYTES, FORMAT) && getU32(bytes, at + 16) === number;
}
