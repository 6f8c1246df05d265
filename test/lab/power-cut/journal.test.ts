// The rule book of the power-cut tests, tried on logs made by hand.

import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { Journal, SECTOR_BYTES, ZEROES } from './journal.ts';

/** A sector as writer.c makes it; the noise does not matter here. */
function sectorOf(id: number, sector: number): Buffer {
  const bytes = Buffer.alloc(SECTOR_BYTES, 0xa5);
  bytes.writeUInt32LE(0x50574355, 0);
  bytes.writeBigUInt64LE(BigInt(id), 8);
  bytes.writeBigUInt64LE(BigInt(sector), 16);
  bytes.writeUInt32LE(crc32(bytes.subarray(8)), 4);
  return bytes;
}

/** Which of the given write ids (0: zeroes) sector 8 may hold after this log. */
function admissible(log: readonly string[], ids: readonly number[], atLeastId?: number): number[] {
  const journal = new Journal();
  journal.replay(`${log.join('\n')}\n`);
  return ids.filter((id) => {
    const bytes = id === ZEROES ? Buffer.alloc(SECTOR_BYTES) : sectorOf(id, 8);
    return journal.check(8, bytes, atLeastId) === undefined;
  });
}

test('an unflushed sector may hold any write or none', () => {
  expect(admissible(['W 1 8 8', 'A 1', 'W 2 8 8'], [0, 1, 2, 3])).toEqual([0, 1, 2]);
});

test('a flush covers what was acknowledged before it was issued, and nothing issued later', () => {
  expect(admissible(['W 1 8 8', 'A 1', 'F 2', 'G 2'], [0, 1])).toEqual([1]);
  expect(admissible(['W 1 8 8', 'F 2', 'A 1', 'G 2'], [0, 1])).toEqual([0, 1]);
  expect(admissible(['W 1 8 8', 'A 1', 'F 2', 'W 3 8 8', 'A 3', 'G 2'], [0, 1, 3])).toEqual([1, 3]);
});

test('a flush that was not acknowledged covers nothing', () => {
  expect(admissible(['W 1 8 8', 'A 1', 'F 2'], [0, 1])).toEqual([0, 1]);
  expect(admissible(['W 1 8 8', 'A 1', 'F 2', 'E 2 5'], [0, 1])).toEqual([0, 1]);
});

test('a synchronous write covers itself and all before it', () => {
  expect(admissible(['W 1 8 8', 'A 1', 'D 2 8 8', 'A 2'], [0, 1, 2])).toEqual([2]);
  expect(admissible(['D 2 0 8', 'A 2', 'W 3 8 8', 'A 3'], [0, 3])).toEqual([0, 3]);
});

test('zeroes are contents like others', () => {
  expect(admissible(['D 1 8 8', 'A 1', 'Z 2 8 8', 'A 2'], [0, 1])).toEqual([0, 1]);
  expect(admissible(['D 1 8 8', 'A 1', 'Z 2 8 8', 'A 2', 'F 3', 'G 3'], [0, 1])).toEqual([0]);
});

test('what something else promises to be stable raises the floor', () => {
  expect(admissible(['W 1 8 8', 'A 1', 'W 2 8 8'], [0, 1, 2], 1)).toEqual([1, 2]);
});

test('a line that the cut tore is not believed', () => {
  const journal = new Journal();
  journal.replay('W 1 8 8\nA 1\nF 2\nG 2\nW 3 8');
  expect(journal.totals).toMatchObject({ writes: 1, acknowledgedFlushes: 1, errors: [] });
});

test('damaged and misplaced sectors are no contents at all', () => {
  const journal = new Journal();
  journal.replay('W 1 8 8\nA 1\n');
  const torn = sectorOf(1, 8);
  torn.writeUInt8(1, 300);
  expect(journal.check(8, torn)?.found).toBe('wrong checksum');
  expect(journal.check(8, sectorOf(1, 9))?.found).toBe('belongs to sector 9');
  expect(journal.check(8, Buffer.alloc(SECTOR_BYTES, 7))?.found).toBe('no sector of ours');
});

test('after a cut, what was found is what the disk holds', () => {
  const journal = new Journal();
  journal.replay('W 1 8 8\nA 1\nW 2 8 8\nA 2\n');
  journal.adopt(8, sectorOf(1, 8));
  expect(journal.check(8, sectorOf(1, 8))).toBeUndefined();
  expect(journal.check(8, sectorOf(2, 8))?.admissible).toEqual([1]);
});
