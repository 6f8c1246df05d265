// Locks, holes, space and mapped memory on real files.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';

const MIB = 1 << 20;
let dir: string;
let path: string;
const fds: number[] = [];

function open(): number {
  const fd = openSync(path, 'a+');
  fds.push(fd);
  return fd;
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-native-'));
  path = join(dir, 'file');
});

afterEach(() => {
  for (const fd of fds.splice(0)) closeSync(fd);
  rmSync(dir, { recursive: true });
});

describe('tryLock', () => {
  test('gives the lock to one open file description at a time', () => {
    const first = open();
    const second = open();
    expect(native.tryLock(first)).toBe(true);
    expect(native.tryLock(second)).toBe(false);
    expect(native.tryLock(first)).toBe(true);
    closeSync(fds.shift() as number);
    expect(native.tryLock(second)).toBe(true);
  });

  test('is held by a ring that has the description registered, after the descriptor is closed', () => {
    const first = open();
    const second = open();
    const ring = native.createRing(1, 2);
    native.registerFiles(ring, 1);
    native.updateFile(ring, 0, first);
    expect(native.tryLock(first)).toBe(true);
    closeSync(fds.shift() as number);
    expect(native.tryLock(second)).toBe(false);
    native.closeRing(ring);
  });
});

test('hasData finds a single byte anywhere, none in holes, and waits on another thread', async () => {
  const fd = openSync(path, 'w+');
  fds.push(fd);
  expect(await native.hasData(fd)).toBe(false);
  ftruncateSync(fd, 64 * MIB);
  const isHole = native.hasData(fd);
  expect(isHole).toBeInstanceOf(Promise);
  expect(await isHole).toBe(false);
  writeSync(fd, Buffer.alloc(1, 1), 0, 1, 50 * MIB);
  expect(await native.hasData(fd)).toBe(true);
  await expect(native.hasData(1 << 20)).rejects.toMatchObject({ code: 'EBADF', syscall: 'lseek' });
});

describe('nextRun', () => {
  /** Data in MiB 1 and 2, and 4096 bytes at 5 MiB; holes elsewhere; 8 MiB long. */
  function sparseFile(): number {
    const fd = openSync(path, 'w+');
    fds.push(fd);
    ftruncateSync(fd, 8 * MIB);
    writeSync(fd, Buffer.alloc(2 * MIB, 1), 0, 2 * MIB, MIB);
    writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, 5 * MIB);
    return fd;
  }

  test('steps through data and holes to the end', () => {
    const fd = sparseFile();
    const runs: [number, boolean][] = [];
    for (let offset = 0; offset < 8 * MIB; ) {
      const run = native.nextRun(fd, offset, 8 * MIB);
      expect(run.endOffset).toBeGreaterThan(offset);
      runs.push([run.endOffset, run.isData]);
      offset = run.endOffset;
    }
    expect(runs).toEqual([
      [MIB, false],
      [3 * MIB, true],
      [5 * MIB, false],
      [5 * MIB + 4096, true],
      [8 * MIB, false],
    ]);
  });

  test('ends a run at the limit, inside a run too', () => {
    const fd = sparseFile();
    expect(native.nextRun(fd, 100, 200)).toEqual({ endOffset: 200, isData: false });
    expect(native.nextRun(fd, MIB + 5, MIB + 6)).toEqual({ endOffset: MIB + 6, isData: true });
  });

  test('calls everything beyond the end of the file a hole', () => {
    const fd = sparseFile();
    expect(native.nextRun(fd, 7 * MIB, 2 ** 52)).toEqual({ endOffset: 2 ** 52, isData: false });
    expect(native.nextRun(fd, 100 * MIB, 101 * MIB)).toEqual({ endOffset: 101 * MIB, isData: false });
  });

  test('refuses an empty range', () => {
    expect(() => native.nextRun(sparseFile(), 5, 5)).toThrow(RangeError);
  });
});

describe('fileSystemSpace', () => {
  test('tells what statfs tells', () => {
    const { availableBytes, totalBytes } = native.fileSystemSpace(open());
    const space = statfsSync(dir);
    expect(totalBytes).toBe(space.blocks * space.bsize);
    expect(availableBytes).toBeGreaterThan(0);
    expect(Math.abs(availableBytes - space.bavail * space.bsize)).toBeLessThan(1024 * MIB);
  });
});

describe('memory', () => {
  test('is zeroed, begins at a multiple of 2 MiB below 2^47, and has exactly the length asked for', () => {
    for (const byteCount of [1, 4096, 5000, 3 * MIB]) {
      const memory = native.createMemory(byteCount);
      expect(memory.address % (2 * MIB)).toBe(0);
      expect(memory.address).toBeGreaterThan(0);
      expect(memory.address).toBeLessThan(2 ** 47);
      expect(memory.buffer.byteLength).toBe(byteCount);
      expect(new Uint8Array(memory.buffer).every((byte) => byte === 0)).toBe(true);
      native.freeMemory(memory);
      native.freeMemory(memory);
      expect(memory.buffer.byteLength).toBe(0);
    }
  });

  test('costs nothing before it is touched', () => {
    const before = process.memoryUsage.rss();
    const memory = native.createMemory(8192 * MIB);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 * MIB);
    native.freeMemory(memory);
  });

  test('is gone from the address space once freed', () => {
    const memory = native.createMemory(16 * MIB);
    const start = memory.address.toString(16);
    expect(readFileSync('/proc/self/maps', 'latin1')).toContain(`${start}-`);
    native.freeMemory(memory);
    expect(readFileSync('/proc/self/maps', 'latin1')).not.toContain(`${start}-`);
  });

  test('of a mapped file is the file', () => {
    const fd = openSync(path, 'w+');
    fds.push(fd);
    writeSync(fd, Buffer.alloc(8192));
    const window = native.mapFile(fd, 8192);
    Buffer.from(window.buffer).write('stored', 4096);
    expect(readFileSync(path).toString('latin1', 4096, 4102)).toBe('stored');
    writeSync(fd, 'both ways', 0);
    expect(Buffer.from(window.buffer).toString('latin1', 0, 9)).toBe('both ways');
    native.freeMemory(window);
    expect(window.buffer.byteLength).toBe(0);
    expect(readFileSync(path).toString('latin1', 4096, 4102)).toBe('stored');
  });

  test('is not mapped past the end of the file, where a touch would kill the process', () => {
    expect(() => native.mapFile(open(), 4096)).toThrow('the file has 0 bytes');
  });

  test('is not freed while a transferred buffer still shows it', () => {
    const memory = native.createMemory(4096);
    const moved = memory.buffer.transfer();
    new Uint8Array(moved)[0] = 5;
    expect(() => native.freeMemory(memory)).toThrow('transferred');
    expect(new Uint8Array(moved)[0]).toBe(5);
  });

  test('cannot be sent to another thread', () => {
    const memory = native.createMemory(4096);
    expect(() => structuredClone(memory.buffer, { transfer: [memory.buffer] })).toThrow('unsupported type');
    expect(memory.buffer.byteLength).toBe(4096);
    expect(() => native.freeMemory({ ...memory })).toThrow(TypeError);
    native.freeMemory(memory);
  });
});

describe('isAllocated', () => {
  test.each(['/var/tmp', '/dev/shm'])('tells holes from written blocks below %s', (base) => {
    const directory = mkdtempSync(join(base, 'holdfast-allocated-'));
    const fd = openSync(join(directory, 'file'), 'w+');
    try {
      ftruncateSync(fd, 16 * MIB);
      writeSync(fd, Buffer.alloc(MIB, 1), 0, MIB, 4 * MIB);
      writeSync(fd, Buffer.alloc(MIB, 1), 0, MIB, 5 * MIB);
      expect(native.isAllocated(fd, 4 * MIB, 2 * MIB)).toBe(true);
      expect(native.isAllocated(fd, 5 * MIB - 4096, 8192)).toBe(true);
      expect(native.isAllocated(fd, 4 * MIB - 1, 2)).toBe(false);
      expect(native.isAllocated(fd, 6 * MIB - 4096, 8192)).toBe(false);
      expect(native.isAllocated(fd, 0, 1)).toBe(false);
      expect(native.isAllocated(fd, 15 * MIB, 2 * MIB)).toBe(false);
    } finally {
      closeSync(fd);
      rmSync(directory, { recursive: true });
    }
  });

  const hasBtrfs =
    process.geteuid?.() === 0 &&
    readFileSync('/proc/filesystems', 'utf8').includes('\tbtrfs\n') &&
    spawnSync('mkfs.btrfs', ['--version']).status === 0;
  test.skipIf(!hasBtrfs)(
    'no blocks count where an overwrite goes to new ones, unless the file forbids that (needs root, btrfs and mkfs.btrfs)',
    () => {
      const mountPoint = join(dir, 'btrfs');
      const image = join(dir, 'image');
      writeFileSync(image, '');
      truncateSync(image, 256 * MIB);
      mkdirSync(mountPoint);
      execFileSync('mkfs.btrfs', ['-q', image]);
      execFileSync('mount', ['-o', 'loop', image, mountPoint]);
      try {
        for (const [name, isAllocated] of [
          ['copied', false],
          ['in-place', true],
        ] as const) {
          const file = join(mountPoint, name);
          writeFileSync(file, '');
          if (isAllocated) execFileSync('chattr', ['+C', file]);
          const fd = openSync(file, 'r+');
          writeSync(fd, Buffer.alloc(MIB, 1), 0, MIB, 0);
          fsyncSync(fd);
          expect([name, native.isAllocated(fd, 0, MIB)]).toEqual([name, isAllocated]);
          closeSync(fd);
        }
      } finally {
        execFileSync('umount', ['--lazy', mountPoint]);
      }
    },
  );

  test('blocks that were preallocated and never written count, in as many extents as there are', () => {
    const directory = mkdtempSync('/var/tmp/holdfast-allocated-');
    const fd = openSync(join(directory, 'file'), 'w+');
    try {
      ftruncateSync(fd, 16 * MIB);
      execFileSync('fallocate', ['--keep-size', '--length', String(8 * MIB), join(directory, 'file')]);
      expect(native.nextRun(fd, 0, 8 * MIB).isData).toBe(false);
      // Every other block written: more extents than one call tells of.
      for (let block = 0; block < 200; block += 2)
        writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, block * 4096);
      fsyncSync(fd);
      expect(native.isAllocated(fd, 0, 8 * MIB)).toBe(true);
      expect(native.isAllocated(fd, 0, 8 * MIB + 1)).toBe(false);
    } finally {
      closeSync(fd);
      rmSync(directory, { recursive: true });
    }
  });
});
