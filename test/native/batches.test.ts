// The hot path's batch calls: what they write, what they report, and that they stay inside the memory given.

import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';

const EBADF = 9;
const EAGAIN = 11;
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

test('a batch reads what the page cache holds, and what the file does not have is short', () => {
  writeSync(fd, Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]));
  const memory = new Uint8Array(64);
  const entries = Float64Array.from([fd, 8, 4, 2, fd, 32, 4, 6, fd, 48, 4, 100, 1 << 20, 0, 4, 0]);
  native.readBatch(memory, entries, 4);
  expect([entries[0], entries[4], entries[8], entries[12]]).toEqual([4, 2, 0, -EBADF]);
  expect([...memory.subarray(8, 12)]).toEqual([3, 4, 5, 6]);
  expect([...memory.subarray(32, 36)]).toEqual([7, 8, 0, 0]);
});

test('a batch of sends gives each socket its message, and a full socket takes a part or answers EAGAIN', () => {
  const region = native.createMemory(1 << 20);
  const [near, far] = native.socketPair(0);
  try {
    const memory = new Uint8Array(region.buffer);
    const payload = region.address + 4096;
    memory.fill(7, 4096);
    const message = new BigUint64Array(region.buffer, 0, 9);
    // struct msghdr: iov and iovlen stand third and fourth; the one iovec follows the header at 56.
    message.set([0n, 0n, BigInt(region.address + 56), 1n, 0n, 0n, 0n, BigInt(payload), 5n]);
    const entries = Float64Array.from([near, 0, 1 << 20, 0]);
    native.sendBatch(memory, entries, 2);
    expect([entries[0], entries[2]]).toEqual([5, -EBADF]);
    message[8] = BigInt((1 << 20) - 4096);
    const taken: number[] = [];
    for (let i = 0; i < 3; i++) {
      const one = Float64Array.from([near, 0]);
      native.sendBatch(memory, one, 1);
      taken.push(one[0] ?? 0);
    }
    expect(taken[0]).toBeGreaterThan(0);
    expect(taken[0]).toBeLessThan((1 << 20) - 4096);
    expect(taken.at(-1)).toBe(-EAGAIN);
    const received = Buffer.alloc(8);
    expect(readSync(far, received, 0, 5, null)).toBe(5);
    expect([...received.subarray(0, 5)]).toEqual([7, 7, 7, 7, 7]);
  } finally {
    native.close(near);
    native.close(far);
    native.freeMemory(region);
  }
});

test('a message that is not inside the memory is refused', () => {
  for (const offset of [-8, 4, 16, 1000]) {
    expect(() => native.sendBatch(new Uint8Array(64), Float64Array.from([fd, offset]), 1)).toThrow(
      RangeError,
    );
  }
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
    expect(() => native.readBatch(new Uint8Array(64), entries, 2)).toThrow(RangeError);
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
