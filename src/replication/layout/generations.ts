// The generation table on disk: for every generation block (64 KiB) the epoch of its last write. One table
// answers for every absent copy: what a replica that left in epoch e lacks is what is stamped e or later.
//
// The file is one sector of 512 bytes per extent, at extentIndex × 512. It is sparse: a sector that was never
// written reads as zeroes and says that nothing of the extent ever was (epoch 0, below every real one).
// One sector (prefix: see sector.ts; what is not named is zero):
//   offset size field       why
//   0      16   prefix      checksum, magic 'HFGT', version, features
//   16     4    extent      index: a write that landed in the wrong place is not believed
//   256    256  stamps      64 × u32: epoch of the last write to each generation block
//
// Unreadable: the caller takes every block of the extent as newer than every epoch.

import { GENERATION_BLOCKS_PER_EXTENT } from '../../core/units.ts';
import { FORMATS } from './formats.ts';
import { getU32, isReadableSector, putU32, SECTOR_BYTES, sealSector } from './sector.ts';

export const GENERATION_SECTOR_BYTES = SECTOR_BYTES;
/** Newer than every epoch: the stamp of a block about which nothing is known. */
export const NEWEST_STAMP = 0xffff_ffff;

const STAMPS_AT = 256;
const FORMAT = FORMATS.generations;

export function generationFileOffset(extentIndex: number): number {
  return extentIndex * GENERATION_SECTOR_BYTES;
}

export function generationFileBytes(extentCount: number): number {
  return generationFileOffset(extentCount);
}

/** Writes one sector at `at` from 64 stamps at `stampsAt`. Allocates nothing. */
export function encodeGenerationSector(
  into: Uint8Array,
  at: number,
  extentIndex: number,
  stamps: Uint32Array,
  stampsAt: number,
): void {
  into.fill(0, at, at + STAMPS_AT);
  putU32(into, at + 16, extentIndex);
  for (let index = 0; index < GENERATION_BLOCKS_PER_EXTENT; index++) {
    putU32(into, at + STAMPS_AT + 4 * index, stamps[stampsAt + index] ?? NEWEST_STAMP);
  }
  sealSector(into, at, GENERATION_SECTOR_BYTES, FORMAT);
}

/**
 * Reads 64 stamps. False: unreadable, and all 64 are now NEWEST_STAMP. Throws CORRUPT when the sector is of
 * another version. Allocates nothing otherwise.
 */
export function decodeGenerationSector(
  bytes: Uint8Array,
  at: number,
  extentIndex: number,
  stamps: Uint32Array,
  stampsAt: number,
): boolean {
  if (isHole(bytes, at)) {
    stamps.fill(0, stampsAt, stampsAt + GENERATION_BLOCKS_PER_EXTENT);
    return true;
  }
  const isReadable =
    isReadableSector(bytes, at, GENERATION_SECTOR_BYTES, FORMAT) && getU32(bytes, at + 16) === extentIndex;
  for (let index = 0; index < GENERATION_BLOCKS_PER_EXTENT; index++) {
    stamps[stampsAt + index] = isReadable ? getU32(bytes, at + STAMPS_AT + 4 * index) : NEWEST_STAMP;
  }
  return isReadable;
}

function isHole(bytes: Uint8Array, at: number): boolean {
  if (at + GENERATION_SECTOR_BYTES > bytes.length) return false;
  for (let index = 0; index < GENERATION_SECTOR_BYTES; index++) {
    if (bytes[at + index] !== 0) return false;
  }
  return true;
}
