// The hot path's batch calls: what they write, what they report, and that they stay inside the memory given.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';

const EBADF = 9;
let directory = '';
let fd = -1;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-batch-'));
  fd = openSync(join(directory, 'file'), 'w+');
});

afterEach(() => {
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

test('a batch writes each piece at its place and reports the bytes of each', () => {
  const memory = new Uint8Array(64).map((_, index) => index);
  const entries = Float64Array.from([fd, 8, 4, 100, fd, 60, 4, 0]);
  expect(native.writeBatch(memory, entries, 2)).toBeGreaterThanOrEqual(0);
  expect([entries[0], entries[4]]).toEqual([4, 4]);
  const file = readFileSync(join(directory, 'file'));
  expect([...file.subarray(0, 4)]).toEqual([60, 61, 62, 63]);
  expect([...file.subarray(100)]).toEqual([8, 9, 10, 11]);
  expect(file.length).toBe(104);
});

test('a write that fails reports its errno and does not keep the others from being made', () => {
  const entries = Float64Array.from([1 << 20, 0, 4, 0, fd, 0, 4, 0]);
  native.writeBatch(new Uint8Array(4).fill(7), entries, 2);
  expect([entries[0], entries[4]]).toEqual([-EBADF, 4]);
});

test('a piece that is not inside the memory is refused before anything is written', () => {
  for (const wrong of [
    [fd, 61, 4, 0],
    [fd, 0, 65, 0],
    [fd, -1, 4, 0],
    [fd, 0.5, 4, 0],
    [fd, 0, 4, -1],
    [Number.NaN, 0, 4, 0],
  ]) {
    const entries = Float64Array.from([fd, 0, 4, 0, ...wrong]);
    expect(() => native.writeBatch(new Uint8Array(64), entries, 2)).toThrow(RangeError);
  }
  expect(() => native.writeBatch(new Uint8Array(64), new Float64Array(4), 2)).toThrow(RangeError);
  expect(readFileSync(join(directory, 'file')).length).toBe(0);
});

test('the clock stored is the boot-time clock', () => {
  const target = new Float64Array(2);
  const before = native.bootTimeMs();
  native.readClock(target);
  expect(target[0]).toBeGreaterThanOrEqual(before);
  expect(target[0]).toBeLessThanOrEqual(native.bootTimeMs());
  expect(target[1]).toBe(0);
});
