// The ring on real files, sockets and eventfds. Needs a kernel that permits io_uring.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';
import { FIXED_FILE, OP, TestRing } from './test-ring.ts';

const EINTR = 4;
const ETIME = 62;
const SETUP_CQSIZE = 1 << 3;
let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-native-'));
});

afterAll(() => {
  rmSync(dir, { recursive: true });
});

describe('the probe', () => {
  test('reports flags, features and opcodes of a ring that works, and keeps none open', () => {
    const probe = native.probeRing();
    expect(probe.errno).toBe(0);
    expect(probe.setupFlags & SETUP_CQSIZE).toBe(SETUP_CQSIZE);
    expect(probe.opcodes[OP.read]).toBe(1);
    expect(probe.opcodes[OP.nop]).toBe(1);
    for (let i = 0; i < 100; i++) native.probeRing();
    const before = native.eventFd();
    native.probeRing();
    const after = native.eventFd();
    native.close(before);
    native.close(after);
    expect(after).toBe(before + 1);
  });
});

describe('a ring', () => {
  test('has at least the sizes asked for, with entry i at index i', () => {
    const ring = native.createRing(5, 40);
    expect([ring.submissionCount, ring.completionCount]).toEqual([8, 64]);
    expect(ring.submissionEntries.byteLength).toBe(8 * 64);
    expect(ring.memory.byteLength).toBeGreaterThanOrEqual(ring.offsets.cqes + 64 * 16);
    native.closeRing(ring);
  });

  test('completes NOPs in the order of submission, around the end of the queue many times', () => {
    using ring = new TestRing(4, 8);
    const seen: number[] = [];
    for (let i = 0; i < 50; i++) {
      ring.push({ opcode: OP.nop, userData: 2 * i });
      ring.push({ opcode: OP.nop, userData: 2 * i + 1 });
      expect(ring.enter(2)).toBe(2);
      seen.push(...ring.take().map((completion) => completion.userData));
    }
    expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test('writes and reads a file through memory at a fixed address', () => {
    using ring = new TestRing();
    const path = join(dir, 'file');
    const fd = openSync(path, 'w+');
    ring.bytes.write('written by the ring', 4096);
    const address = ring.arena.address + 4096;
    expect(ring.run({ opcode: OP.write, fd, address, length: 19, offset: 3n })).toBe(19);
    expect(readFileSync(path).toString()).toBe('\0\0\0written by the ring');
    expect(ring.run({ opcode: OP.read, fd, address: ring.arena.address, length: 100, offset: 11n })).toBe(11);
    expect(ring.bytes.toString('latin1', 0, 11)).toBe('by the ring');
    closeSync(fd);
  });

  test('reports the error of a request as a negative errno in its completion', () => {
    using ring = new TestRing();
    expect(ring.run({ opcode: OP.read, fd: 1 << 20, address: ring.arena.address, length: 1 })).toBe(-9);
  });

  test('carries a conversation over a socket pair', () => {
    using ring = new TestRing();
    const [left, right] = native.socketPair(1 << 20);
    ring.bytes.write('ping');
    ring.push({ opcode: OP.recv, fd: right, address: ring.arena.address + 64, length: 64, userData: 1 });
    ring.push({ opcode: OP.send, fd: left, address: ring.arena.address, length: 4, userData: 2 });
    expect(ring.enter(2)).toBe(2);
    expect(ring.take().map(({ result }) => result)).toEqual([4, 4]);
    expect(ring.bytes.toString('latin1', 64, 68)).toBe('ping');
    native.shutdownSocket(left);
    expect(ring.run({ opcode: OP.recv, fd: right, address: ring.arena.address, length: 64 })).toBe(0);
    native.close(left);
    native.close(right);
  });

  test('uses registered files by slot, until the slot is cleared', () => {
    using ring = new TestRing();
    const path = join(dir, 'registered');
    const fd = openSync(path, 'w+');
    native.registerFiles(ring.ring, 4);
    native.updateFile(ring.ring, 2, fd);
    closeSync(fd);
    const write = { opcode: OP.write, flags: FIXED_FILE, address: ring.arena.address, length: 8, offset: 0n };
    expect(ring.run({ ...write, fd: 2 })).toBe(8);
    expect(ring.run({ ...write, fd: 1 })).toBe(-9);
    native.updateFile(ring.ring, 2, -1);
    expect(ring.run({ ...write, fd: 2 })).toBe(-9);
    expect(() => native.updateFile(ring.ring, 4, 0)).toThrow('EINVAL');
  });

  test.each([0, 200])('gives up a wait after its timeout, polling for %i microseconds', (spinMicros) => {
    using ring = new TestRing();
    const start = native.bootTimeMs();
    expect(ring.enter(1, { spinMicros, timeoutMicros: 50_000 })).toBe(-ETIME);
    const lasted = native.bootTimeMs() - start;
    expect(lasted).toBeGreaterThanOrEqual(49);
    expect(lasted).toBeLessThan(5000);
  });

  test('reports what it submitted when the wait then runs out of time', () => {
    using ring = new TestRing();
    const fd = native.eventFd();
    ring.push({ opcode: OP.read, fd, address: ring.arena.address, length: 8 });
    expect(ring.enter(1, { timeoutMicros: 20_000 })).toBe(1);
    expect(ring.enter(1, { timeoutMicros: 0 })).toBe(-ETIME);
    native.close(fd);
  });

  test('waits on without returning when nothing happens for longer than it looks for an end of the thread', () => {
    using ring = new TestRing();
    const start = native.bootTimeMs();
    ring.push({ opcode: OP.timeout, address: ring.arena.address, length: 1, userData: 7 });
    ring.bytes.writeBigInt64LE(0n, 0);
    ring.bytes.writeBigInt64LE(900_000_000n, 8);
    expect(ring.enter(1)).toBe(1);
    expect(native.bootTimeMs() - start).toBeGreaterThanOrEqual(899);
    expect(ring.take()).toEqual([{ userData: 7, result: -ETIME }]);
  });

  test('finds a completion while it polls', () => {
    using ring = new TestRing();
    const [left, right] = native.socketPair(0);
    ring.push({ opcode: OP.recv, fd: right, address: ring.arena.address, length: 1, userData: 1 });
    expect(ring.enter(0)).toBe(1);
    ring.push({ opcode: OP.send, fd: left, address: ring.arena.address + 1, length: 1, userData: 2 });
    expect(ring.enter(2, { spinMicros: 100_000, timeoutMicros: 5_000_000 })).toBe(1);
    expect(ring.take().map(({ result }) => result)).toEqual([1, 1]);
    native.close(left);
    native.close(right);
  });

  test('returns at once, submitting nothing, when enough completions are there', () => {
    using ring = new TestRing();
    ring.push({ opcode: OP.nop });
    ring.enter(0);
    const start = native.bootTimeMs();
    for (let i = 0; i < 1000; i++) expect(ring.enter(1)).toBe(0);
    expect(native.bootTimeMs() - start).toBeLessThan(2000);
  });

  test('loses no completion when more arrive than the queue holds', () => {
    using ring = new TestRing(16, 16);
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < 16; i++) ring.push({ opcode: OP.nop, userData: round * 16 + i });
      expect(ring.enter(0)).toBe(16);
    }
    const seen: number[] = [];
    while (seen.length < 64) {
      expect(ring.enter(1, { spinMicros: 50, timeoutMicros: 1_000_000 })).toBeGreaterThanOrEqual(0);
      seen.push(...ring.take().map(({ userData }) => userData));
    }
    expect(seen).toEqual(Array.from({ length: 64 }, (_, i) => i));
  });

  test.each([0, 1000])(
    'is woken by an eventfd from another thread, polling for %i microseconds',
    async (spinMicros) => {
      using ring = new TestRing();
      const fd = native.eventFd();
      const worker = new Worker(new URL('children/signaller.ts', import.meta.url), {
        workerData: { fd, delayMs: 150 },
      });
      await new Promise((resolve) => worker.once('message', resolve));
      worker.postMessage('go');
      ring.push({ opcode: OP.read, fd, address: ring.arena.address, length: 8, userData: 1 });
      let submitted = 0;
      for (let tries = 0; tries < 10 && ring.take().length === 0; tries++) {
        submitted = ring.enter(1, { spinMicros, timeoutMicros: 10_000_000 });
        if (submitted !== -EINTR) break;
      }
      expect(submitted).toBe(1);
      expect(ring.take()).toEqual([{ userData: 1, result: 8 }]);
      expect(ring.bytes.readBigUInt64LE(0)).toBe(1n);
      await worker.terminate();
      native.close(fd);
    },
  );

  test('cannot be closed twice with harm, nor used once closed, and its buffers are empty then', () => {
    const { ring, arena } = new TestRing();
    const entries = new Uint8Array(ring.submissionEntries);
    native.closeRing(ring);
    native.closeRing(ring);
    expect([ring.memory.byteLength, entries.length]).toEqual([0, 0]);
    expect(() => native.enter(ring, 0, 0, 0, 0)).toThrow('this ring is closed');
    expect(() => native.registerFiles(ring, 1)).toThrow('this ring is closed');
    expect(() => native.updateFile(ring, 1, 1)).toThrow('this ring is closed');
    native.freeMemory(arena);
    native.freeMemory(arena);
    expect(arena.buffer.byteLength).toBe(0);
  });

  test('closes while requests are in flight, and gives its descriptor back', () => {
    const fd = native.eventFd();
    const ring = new TestRing();
    for (let i = 0; i < 4; i++) ring.push({ opcode: OP.read, fd, address: ring.arena.address, length: 8 });
    ring.enter(0);
    ring[Symbol.dispose]();
    expect(() => native.close(ring.ring.fd)).toThrow('EBADF');
    native.close(fd);
  });

  test('keeps its descriptor from being closed behind its back', () => {
    using ring = new TestRing();
    expect(() => native.close(ring.ring.fd)).toThrow(TypeError);
    expect(ring.run({ opcode: OP.nop })).toBe(0);
  });

  test('refuses sizes that no kernel takes', () => {
    expect(() => native.createRing(0, 8)).toThrow(RangeError);
    expect(() => native.createRing(8, 4)).toThrow(RangeError);
    expect(() => native.createRing(32769, 65536)).toThrow(RangeError);
  });
});
