// Sending out of mapped files: what leaves, what does not and why, and what a window holds on to.

import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type NativeMemory, native } from '../../src/dataplane/native.ts';

const EBADF = 9;
const EAGAIN = 11;
const PAGE = 4096;
const WINDOW_BYTES = 1024 * 1024;
const HEADER = 'header';

let directory = '';
let fd = -1;
let near = -1;
let far = -1;
let region: NativeMemory;
let memory: Uint8Array;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-windows-'));
  fd = openSync(join(directory, 'file'), 'w+');
  [near, far] = native.socketPair(0);
  region = native.createMemory(PAGE);
  memory = new Uint8Array(region.buffer);
  Buffer.from(HEADER).copy(memory);
});

afterEach(() => {
  native.unmapWindow(0);
  native.freeMemory(region);
  for (const each of [fd, near, far]) closeSync(each);
  rmSync(directory, { recursive: true });
});

/** Pages of the file that hold 1, 2, 3 …, mapped from `offset` on. */
function mapPages(count: number, offset = 0): void {
  for (let page = 0; page < count; page++) writeSync(fd, Buffer.alloc(PAGE, page + 1));
  expect(native.mapWindow(0, fd, offset, WINDOW_BYTES)).toBe(0);
}

/** Sends each [socket, offset in the window, length] behind the header, in one call. */
function send(...sends: [socket: number, offset: number, length: number][]): number[] {
  const entries = Float64Array.from(
    sends.flatMap(([socket, offset, length]) => [socket, 0, HEADER.length, 0, offset, length]),
  );
  native.sendMapped(memory, entries, sends.length);
  return sends.map((_, i) => entries[i * 6] as number);
}

function receive(byteCount: number): Buffer {
  const bytes = Buffer.alloc(byteCount);
  return bytes.subarray(0, readSync(far, bytes, 0, byteCount, null));
}

test('the header leaves first, then the bytes of the file at their place in the window', () => {
  mapPages(4, PAGE);
  expect(send([near, PAGE - 2, 5], [near, 0, 1])).toEqual([HEADER.length + 5, HEADER.length + 1]);
  const bytes = Buffer.concat([
    Buffer.from(HEADER),
    Buffer.from([2, 2, 3, 3, 3]),
    Buffer.from(HEADER),
    Buffer.from([2]),
  ]);
  expect(receive(100)).toEqual(bytes);
});

test('what was written after the mapping is what leaves', () => {
  mapPages(1);
  writeSync(fd, Buffer.alloc(2, 9), 0, 2, 1);
  send([near, 0, 4]);
  expect([...receive(100).subarray(HEADER.length)]).toEqual([1, 9, 9, 1]);
});

test('nothing leaves when a page of the range is not cached, as a hole is not', () => {
  mapPages(2);
  ftruncateSync(fd, 8 * PAGE);
  expect(send([near, PAGE, 2 * PAGE], [near, PAGE, PAGE])).toEqual([0, HEADER.length + PAGE]);
  expect(receive(3 * PAGE).length).toBe(HEADER.length + PAGE);
});

test('nothing leaves where the file has been cut off since it was mapped', () => {
  mapPages(4);
  expect(send([near, 3 * PAGE, 16])).toEqual([HEADER.length + 16]);
  ftruncateSync(fd, 2 * PAGE);
  expect(send([near, 3 * PAGE, 16], [near, 0, WINDOW_BYTES], [near, 0, 16])).toEqual([
    0,
    0,
    HEADER.length + 16,
  ]);
});

test('a range of more pages than one look takes is cached as a whole or not at all', () => {
  mapPages(256);
  const [other, otherFar] = native.socketPair(4 * WINDOW_BYTES);
  try {
    expect(send([other, 0, WINDOW_BYTES])).toEqual([HEADER.length + WINDOW_BYTES]);
    ftruncateSync(fd, WINDOW_BYTES - PAGE);
    ftruncateSync(fd, WINDOW_BYTES);
    expect(send([other, 0, WINDOW_BYTES], [other, 1, WINDOW_BYTES - 1])).toEqual([0, 0]);
  } finally {
    native.close(other);
    native.close(otherFar);
  }
});

test('behind a message that left in part nothing more leaves on that socket, and other sockets go on', () => {
  mapPages(256);
  const [other, otherFar] = native.socketPair(0);
  try {
    const [part, behind, elsewhere, last] = send(
      [near, 0, WINDOW_BYTES],
      [near, 0, 1],
      [other, 0, 1],
      [near, 0, 1],
    );
    expect(part).toBeGreaterThan(HEADER.length);
    expect(part).toBeLessThan(HEADER.length + WINDOW_BYTES);
    expect([behind, elsewhere, last]).toEqual([-EAGAIN, HEADER.length + 1, -EAGAIN]);
    // Full, in another call too; and a socket that is none.
    expect(send([near, 0, WINDOW_BYTES], [1 << 20, 0, 1])).toEqual([-EAGAIN, -EBADF]);
  } finally {
    native.close(other);
    native.close(otherFar);
  }
});

test('a send that reaches out of the window, or names one where nothing is mapped, is refused before anything leaves', () => {
  mapPages(2);
  const isRefused = (sends: Parameters<typeof send>): void =>
    expect(() => send(...sends)).toThrow(RangeError);
  isRefused([
    [near, 0, 1],
    [near, 1, WINDOW_BYTES],
  ]);
  isRefused([[near, WINDOW_BYTES + 1, 0]]);
  native.unmapWindow(0);
  isRefused([[near, 0, 1]]);
  native.unmapWindow(0);
  expect(send([near, 0, 0])).toEqual([0]);
  mapPages(1);
  send([near, 0, 1]);
  expect(receive(100).length).toBe(HEADER.length + 1);
});

test('a window lets its file go when it is unmapped or replaced', () => {
  mapPages(1);
  const isMapped = (name: string): boolean =>
    readFileSync('/proc/self/maps', 'utf8').includes(join(directory, name));
  expect(isMapped('file')).toBe(true);
  const other = openSync(join(directory, 'other'), 'w+');
  expect(native.mapWindow(0, other, 0, PAGE)).toBe(0);
  expect([isMapped('file'), isMapped('other')]).toEqual([false, true]);
  closeSync(other);
  // After a failure the window is empty.
  expect(native.mapWindow(0, 1 << 20, 0, PAGE)).toBe(-EBADF);
  expect(isMapped('other')).toBe(false);
});

test('windows begin and end at pages', () => {
  expect(() => native.mapWindow(0, fd, 1, PAGE)).toThrow(RangeError);
  expect(() => native.mapWindow(0, fd, 0, PAGE + 1)).toThrow(RangeError);
});
