// What every sector of every format begins with, and the only code that writes or checks it.
//
//   offset size field     why
//   0      4    checksum  CRC-32C of everything behind this field, up to the end of the sector
//   4      4    magic     four ASCII letters: which format; a sector of another file is not believed
//   8      4    version   of the format
//   12     4    features  bits; a reader refuses what it does not know
//
// These four keep their place in every version to come. Little endian throughout.
// A sector that fails its checksum is unreadable: the caller takes the safe side. One that passes but is of a
// version that is not read (formats.ts) or has unknown features is refused with CORRUPT: it is never guessed at.

import { crc32c } from '../../core/crc32c.ts';
import { HoldfastError } from '../../core/errors.ts';
import type { Format } from './formats.ts';

/** What a disk writes whole or not at all. */
export const SECTOR_BYTES = 512;

/** Reserved: sums per block of data, which come with the scrub. No reader supports it yet. */
export const FEATURE_BLOCK_CHECKSUMS = 1;

/** Writes the prefix of the sector at `at`; its other bytes must be in place. Allocates nothing. */
export function sealSector(
  into: Uint8Array,
  at: number,
  byteCount: number,
  format: Pick<Format, 'magic' | 'version'>,
): void {
  putU32(into, at + 4, format.magic);
  putU32(into, at + 8, format.version);
  putU32(into, at + 12, 0);
  putU32(into, at, crc32c(into, at + 4, at + byteCount));
}

/** False: unreadable (damaged, cut off, or of another file). Throws CORRUPT when of a version that is not read. */
export function isReadableSector(bytes: Uint8Array, at: number, byteCount: number, format: Format): boolean {
  if (at + byteCount > bytes.length) return false;
  if (getU32(bytes, at) !== crc32c(bytes, at + 4, at + byteCount)) return false;
  if (getU32(bytes, at + 4) !== format.magic) return false;
  const version = getU32(bytes, at + 8);
  const features = getU32(bytes, at + 12);
  const { min, max } = format.reads;
  if (version >= min && version <= max && features === 0) return true;
  throw new HoldfastError(
    'CORRUPT',
    `${difference(format, version, features)}: start the Holdfast version that wrote it`,
    {
      details: { format: format.name, version, features, knownVersion: max },
    },
  );
}

function difference(format: Format, version: number, features: number): string {
  const { min, max } = format.reads;
  if (version < min || version > max) {
    const known = min === max ? `version ${min} only` : `versions ${min} to ${max}`;
    return `the ${format.name} is of version ${version} and this Holdfast reads ${known}`;
  }
  const words = (features & FEATURE_BLOCK_CHECKSUMS) !== 0 ? ' (block checksums)' : '';
  return `the ${format.name} has features 0x${features.toString(16)}${words} that this Holdfast does not know`;
}

export function putU32(into: Uint8Array, at: number, value: number): void {
  into[at] = value;
  into[at + 1] = value >>> 8;
  into[at + 2] = value >>> 16;
  into[at + 3] = value >>> 24;
}

/** Reads past the end as zeroes: callers have checked the length before they believe anything. */
export function getU32(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)) >>>
    0
  );
}
