import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32c } from '../../../src/core/crc32c.ts';
import {
  decodeIntent,
  EXTENTS_PER_SECTOR,
  encodeIntent,
  encodeIntentSector,
  INTENT_SECTOR_BYTES,
  intentFileBytes,
  intentSectorCount,
  intentSectorOf,
  intentSectorOffset,
} from '../../../src/replication/layout/intent.ts';
import { putU32 } from '../../../src/replication/layout/sector.ts';
import { dump, flipBit } from './bytes.ts';

function bitmap(extentCount: number, hot: readonly number[]): Uint8Array {
  const bits = new Uint8Array(Math.ceil(extentCount / 8));
  for (const extent of hot) bits[extent >> 3] = (bits[extent >> 3] ?? 0) | (1 << (extent & 7));
  return bits;
}

function isHot(bits: Uint8Array, extent: number): boolean {
  return ((bits[extent >> 3] ?? 0) & (1 << (extent & 7))) !== 0;
}

const volumes = fc.integer({ min: 1, max: 3 * EXTENTS_PER_SECTOR }).chain((extentCount) =>
  fc.record({
    extentCount: fc.constant(extentCount),
    hot: fc.array(fc.nat(extentCount - 1), { maxLength: 40 }),
  }),
);

test('a log has these bytes and no others', () => {
  const extentCount = EXTENTS_PER_SECTOR + 1;
  expect(dump(encodeIntent(bitmap(extentCount, [0, 9, EXTENTS_PER_SECTOR]), extentCount))).toEqual([
    '0: d0d3d7ac4846494c0100000000000000',
    '512: 8e48a72b4846494c0100000000000000',
    '528: 01000000000000000000000000000000',
    '544: 01020000000000000000000000000000',
    '1024: 8a6848b84846494c0100000000000000',
    '1040: 02000000000000000000000000000000',
    '1056: 01000000000000000000000000000000',
  ]);
});

test('what was encoded is decoded, for every size', () => {
  fc.assert(
    fc.property(volumes, ({ extentCount, hot }) => {
      const bits = bitmap(extentCount, hot);
      const file = encodeIntent(bits, extentCount);
      expect(file.length).toBe(intentFileBytes(extentCount));
      expect(decodeIntent(file, extentCount)).toEqual({ bits, suspectSectorCount: 0 });
    }),
  );
});

test('one sector rewritten in place changes the extents of that sector only', () => {
  const extentCount = 2 * EXTENTS_PER_SECTOR;
  const file = encodeIntent(new Uint8Array(0), extentCount);
  const bits = bitmap(extentCount, [3, EXTENTS_PER_SECTOR + 3]);
  const sectorIndex = intentSectorOf(EXTENTS_PER_SECTOR + 3);
  encodeIntentSector(file, intentSectorOffset(sectorIndex), sectorIndex, bits);
  expect(decodeIntent(file, extentCount).bits).toEqual(bitmap(extentCount, [EXTENTS_PER_SECTOR + 3]));
});

test('any flipped bit makes the extents of its sector hot and hides no mark', () => {
  const extentCount = EXTENTS_PER_SECTOR + 100;
  const bits = bitmap(extentCount, [5, EXTENTS_PER_SECTOR + 7]);
  const file = encodeIntent(bits, extentCount);
  for (let bit = 0; bit < file.length * 8; bit++) {
    const damagedSector = Math.floor(bit / 8 / INTENT_SECTOR_BYTES) - 1;
    const decoded = decodeIntent(flipBit(file, bit), extentCount);
    // A damaged header (-1) makes everything suspect.
    expect(decoded.suspectSectorCount).toBe(damagedSector === -1 ? 2 : 1);
    for (const extent of [0, 5, EXTENTS_PER_SECTOR, EXTENTS_PER_SECTOR + 7, extentCount - 1]) {
      const isSuspect = damagedSector === -1 || intentSectorOf(extent) === damagedSector;
      expect(isHot(decoded.bits, extent)).toBe(isSuspect || isHot(bits, extent));
    }
  }
});

test('what a file cut off anywhere lacks counts as hot', () => {
  fc.assert(
    fc.property(volumes, fc.nat(), ({ extentCount, hot }, cut) => {
      const bits = bitmap(extentCount, hot);
      const file = encodeIntent(bits, extentCount);
      const byteCount = cut % file.length;
      const decoded = decodeIntent(file.subarray(0, byteCount), extentCount);
      const wholeSectors = Math.floor(byteCount / INTENT_SECTOR_BYTES) - 1;
      for (let extent = 0; extent < extentCount; extent++) {
        if (isHot(decoded.bits, extent) !== (intentSectorOf(extent) >= wholeSectors || isHot(bits, extent))) {
          expect.fail(`extent ${extent} of a log cut off at ${byteCount}`);
        }
      }
    }),
  );
});

test('a sector of zeroes, as a hole reads, is suspect', () => {
  const file = encodeIntent(new Uint8Array(0), 10);
  file.fill(0, intentSectorOffset(0));
  expect(decodeIntent(file, 10)).toEqual({ bits: Uint8Array.of(0xff, 0x03), suspectSectorCount: 1 });
});

test('a sector in the place of another one is suspect', () => {
  const extentCount = 2 * EXTENTS_PER_SECTOR;
  const file = encodeIntent(new Uint8Array(0), extentCount);
  file.copyWithin(intentSectorOffset(1), intentSectorOffset(0), intentSectorOffset(1));
  const decoded = decodeIntent(file, extentCount);
  expect(decoded.suspectSectorCount).toBe(1);
  expect([isHot(decoded.bits, 0), isHot(decoded.bits, EXTENTS_PER_SECTOR)]).toEqual([false, true]);
});

test('a log that grew with its volume keeps its marks and its new extents are cold', () => {
  const small = encodeIntent(bitmap(10, [3]), 10);
  expect(decodeIntent(small, 20)).toEqual({ bits: bitmap(20, [3]), suspectSectorCount: 0 });
  const large = encodeIntent(bitmap(10, [3]), 2 * EXTENTS_PER_SECTOR);
  large.set(small);
  expect(decodeIntent(large, 2 * EXTENTS_PER_SECTOR).bits).toEqual(bitmap(2 * EXTENTS_PER_SECTOR, [3]));
});

test('a readable sector of another version is refused', () => {
  for (let sector = 0; sector <= intentSectorCount(10); sector++) {
    const file = encodeIntent(new Uint8Array(0), 10);
    const at = sector * INTENT_SECTOR_BYTES;
    putU32(file, at + 8, 2);
    putU32(file, at, crc32c(file, at + 4, at + INTENT_SECTOR_BYTES));
    expect(() => decodeIntent(file, 10)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
  }
});
