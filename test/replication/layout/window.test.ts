import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32c } from '../../../src/core/crc32c.ts';
import { putU32, SECTOR_BYTES } from '../../../src/replication/layout/sector.ts';
import {
  decodeWindow,
  encodeWindow,
  WINDOW_ENTRY_COUNT,
  WINDOW_FILE_BYTES,
  type WindowEntry,
  WindowFile,
} from '../../../src/replication/layout/window.ts';
import { dump, flipBit } from './bytes.ts';

const BOOT = 'ef09c1c6-133f-4b31-9ffe-6a8e395ae888';
const ENTRY: WindowEntry = {
  entryIndex: 1,
  epoch: 0x01020304,
  openingLow: 0xdeadbeef,
  openingHigh: 0x80000001,
  sequence: 3,
  offsetBytes: 40 * 2 ** 40,
  lengthBytes: 0x10000,
};

function windowWith(...entries: readonly WindowEntry[]): Uint8Array {
  const bytes = encodeWindow(BOOT);
  const window = new WindowFile(bytes.buffer as ArrayBuffer);
  for (const entry of entries) put(window, entry);
  return bytes;
}

function put(window: WindowFile, entry: WindowEntry): void {
  const { entryIndex, epoch, openingLow, openingHigh, sequence, offsetBytes, lengthBytes } = entry;
  window.put(entryIndex, epoch, openingLow, openingHigh, sequence, offsetBytes, lengthBytes);
}

const word = fc.nat(2 ** 32 - 1);
const entries = fc.uniqueArray(
  fc.record({
    entryIndex: fc.nat(WINDOW_ENTRY_COUNT - 1),
    epoch: word,
    openingLow: word,
    openingHigh: word,
    sequence: fc.maxSafeNat(),
    offsetBytes: fc.maxSafeNat(),
    lengthBytes: word,
  }),
  { selector: ({ entryIndex }) => entryIndex },
);

test('a window has these bytes and no others', () => {
  expect(dump(windowWith(ENTRY))).toEqual([
    '0: 8fd21f484846574e0100000000000000',
    '16: 2465663039633163362d313333662d34',
    '32: 6233312d396666652d36613865333935',
    '48: 61653838380000000000000000000000',
    '4160: fdb36e1604030201efbeadde01000080',
    '4176: 0000000000000840000000000000c442',
    '4192: 00000100000000000000000000000000',
  ]);
});

test('what was put and not cleared is read, to the last bit', () => {
  fc.assert(
    fc.property(entries, fc.func(fc.boolean()), (all, isCleared) => {
      const bytes = windowWith(...all);
      const window = new WindowFile(bytes.buffer as ArrayBuffer);
      for (const { entryIndex } of all.filter(({ entryIndex }) => isCleared(entryIndex)))
        window.clear(entryIndex);
      const left = all.filter(({ entryIndex }) => !isCleared(entryIndex));
      expect(decodeWindow(bytes, BOOT)).toEqual(left.sort((a, b) => a.entryIndex - b.entryIndex));
    }),
  );
});

test('a cleared entry can be taken again', () => {
  const bytes = windowWith(ENTRY);
  const window = new WindowFile(bytes.buffer as ArrayBuffer);
  window.clear(ENTRY.entryIndex);
  put(window, { ...ENTRY, sequence: 4 });
  expect(decodeWindow(bytes, BOOT)).toEqual([{ ...ENTRY, sequence: 4 }]);
});

test('an entry that is in use cannot be taken', () => {
  const window = new WindowFile(windowWith(ENTRY).buffer as ArrayBuffer);
  expect(() => put(window, ENTRY)).toThrow(/is free before it is taken/);
});

test('an entry whose stores were cut short before the last one does not count', () => {
  const bytes = windowWith(ENTRY);
  new DataView(bytes.buffer).setUint32(4096 + 64 * ENTRY.entryIndex, 0);
  expect(decodeWindow(bytes, BOOT)).toEqual([]);
});

test('after a reboot, and before its first use, a window is unknown', () => {
  expect(decodeWindow(windowWith(ENTRY), 'another boot')).toBe('unknown');
  expect(decodeWindow(encodeWindow(''), BOOT)).toBe('unknown');
  expect(decodeWindow(encodeWindow(''), '')).toBe('unknown');
});

test('an unknown window stays unknown, whatever is put, until it is adopted or reset', () => {
  const bytes = encodeWindow('older boot');
  const window = new WindowFile(bytes.buffer as ArrayBuffer);
  put(window, ENTRY);
  expect(window.readEntries(BOOT)).toBe('unknown');
  window.adopt(BOOT);
  expect(window.readEntries(BOOT)).toEqual([ENTRY]);
  window.reset(BOOT);
  expect(window.readEntries(BOOT)).toEqual([]);
});

test('any flipped bit is harmless or makes the window unknown: no entry changes or disappears', () => {
  const good = windowWith(ENTRY);
  const usedBits = [
    ...range(0, SECTOR_BYTES * 8),
    ...range(4096 * 8, (4096 + 64 * 3) * 8),
    ...range((WINDOW_FILE_BYTES - 64) * 8, WINDOW_FILE_BYTES * 8),
  ];
  for (const bit of usedBits) {
    const decoded = decodeWindow(flipBit(good, bit), BOOT);
    if (decoded !== 'unknown') expect(decoded).toEqual([ENTRY]);
  }
  for (const bit of [...range(0, SECTOR_BYTES * 8), ...range((4096 + 64) * 8, (4096 + 64 + 36) * 8)]) {
    expect(decodeWindow(flipBit(good, bit), BOOT)).toBe('unknown');
  }
});

test('a window that is cut off or of another version is unknown', () => {
  const bytes = windowWith(ENTRY);
  for (const byteCount of [0, 100, 4096, WINDOW_FILE_BYTES - 1]) {
    expect(decodeWindow(bytes.subarray(0, byteCount), BOOT)).toBe('unknown');
  }
  putU32(bytes, 8, 2);
  putU32(bytes, 0, crc32c(bytes, 4, SECTOR_BYTES));
  expect(decodeWindow(bytes, BOOT)).toBe('unknown');
});

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}
