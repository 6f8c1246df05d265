import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32c } from '../../../src/core/crc32c.ts';
import { GENERATION_BLOCKS_PER_EXTENT } from '../../../src/core/units.ts';
import {
  decodeGenerationSector,
  encodeGenerationSector,
  GENERATION_SECTOR_BYTES,
  generationFileOffset,
  NEWEST_STAMP,
} from '../../../src/replication/layout/generations.ts';
import { putU32 } from '../../../src/replication/layout/sector.ts';
import { dump, flipBit } from './bytes.ts';

const EXTENT = 3;
const newest = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT).fill(NEWEST_STAMP);
const sampleStamps = Uint32Array.from({ length: GENERATION_BLOCKS_PER_EXTENT }, (_, index) =>
  index < 5 ? index : 0,
);

function sector(stamps: Uint32Array, extentIndex = EXTENT): Uint8Array {
  const bytes = new Uint8Array(GENERATION_SECTOR_BYTES);
  encodeGenerationSector(bytes, 0, extentIndex, stamps, 0);
  return bytes;
}

function read(bytes: Uint8Array, at = 0): { isReadable: boolean; stamps: Uint32Array } {
  const stamps = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT).fill(77);
  const isReadable = decodeGenerationSector(bytes, at, EXTENT, stamps, 0);
  return { isReadable, stamps };
}

test('a sector has these bytes and no others', () => {
  expect(dump(sector(sampleStamps, 0x01020304))).toEqual([
    '0: fdac69ca484647540100000000000000',
    '16: 04030201000000000000000000000000',
    '256: 00000000010000000200000003000000',
    '272: 04000000000000000000000000000000',
  ]);
});

test('what was encoded is decoded, from and to any place, and nothing beside it is touched', () => {
  fc.assert(
    fc.property(
      fc.uint32Array({ minLength: 64, maxLength: 64 }),
      fc.nat(2 ** 24),
      fc.nat(1024),
      fc.nat(200),
      (stamps, extentIndex, at, stampsAt) => {
        const table = new Uint32Array(stampsAt + 64 + 1).fill(5);
        table.set(stamps, stampsAt);
        const bytes = new Uint8Array(at + GENERATION_SECTOR_BYTES + 1).fill(9);
        encodeGenerationSector(bytes, at, extentIndex, table, stampsAt);
        expect([bytes.subarray(0, at).every((byte) => byte === 9), bytes.at(-1)]).toEqual([true, 9]);
        const decoded = new Uint32Array(table.length).fill(5);
        expect(decodeGenerationSector(bytes, at, extentIndex, decoded, stampsAt)).toBe(true);
        expect(decoded).toEqual(table);
      },
    ),
  );
});

test('a sector that was never written says that nothing of the extent was', () => {
  expect(read(new Uint8Array(GENERATION_SECTOR_BYTES))).toEqual({
    isReadable: true,
    stamps: new Uint32Array(GENERATION_BLOCKS_PER_EXTENT),
  });
});

test('any flipped bit makes all 64 blocks newer than every epoch', () => {
  const good = sector(sampleStamps);
  for (let bit = 0; bit < good.length * 8; bit++) {
    expect(read(flipBit(good, bit))).toEqual({ isReadable: false, stamps: newest });
  }
});

test('a flipped bit in a hole is not a stamp', () => {
  for (let bit = 0; bit < GENERATION_SECTOR_BYTES * 8; bit++) {
    expect(read(flipBit(new Uint8Array(GENERATION_SECTOR_BYTES), bit)).stamps).toEqual(newest);
  }
});

test('a sector cut off, a missing one and one of another extent are unreadable', () => {
  const good = sector(sampleStamps);
  expect(read(good.subarray(0, GENERATION_SECTOR_BYTES - 1)).stamps).toEqual(newest);
  expect(read(new Uint8Array(GENERATION_SECTOR_BYTES - 1)).stamps).toEqual(newest);
  expect(read(good, generationFileOffset(1)).stamps).toEqual(newest);
  expect(read(sector(sampleStamps, EXTENT + 1)).stamps).toEqual(newest);
});

test('a readable sector of another version is refused', () => {
  const bytes = sector(sampleStamps);
  putU32(bytes, 8, 2);
  putU32(bytes, 0, crc32c(bytes, 4, bytes.length));
  expect(() => read(bytes)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
});
