// What opening a replica finds of the way its last process ended, and makes of metadata that is damaged. What the copy is
// worth by that: test/replication/recovery.test.ts.

import { open, readFile, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GIB, MIB } from '../../src/core/units.ts';
import type { LastEnd } from '../../src/dataplane/inheritance.ts';
import { native } from '../../src/dataplane/native.ts';
import type { OpenReplica } from '../../src/dataplane/open-replica.ts';
import type { Pool } from '../../src/dataplane/pool.ts';
import { createReplica, growReplica } from '../../src/dataplane/replica-files.ts';
import { readSuperblock } from '../../src/dataplane/superblock-file.ts';
import {
  decodeGenerationSector,
  encodeGenerationSector,
  generationFileOffset,
  NEWEST_STAMP,
} from '../../src/replication/layout/generations.ts';
import { encodeIntent, intentSectorOffset } from '../../src/replication/layout/intent.ts';
import { SUPERBLOCK_SLOT_BYTES, type Superblock } from '../../src/replication/layout/superblock.ts';
import { WINDOW_FILE_BYTES, WindowFile } from '../../src/replication/layout/window.ts';
import { WindowFiles } from '../../src/dataplane/window-files.ts';
import { BOOT, specOf, VOLUME, withPool, openReplica, runDirectoryOf, windowPathOf } from './pool-support.ts';

const EXTENT_COUNT = GIB / (4 * MIB);

/** A replica that was served in `BOOT`, was in sync in its first incarnation, and ended with `change`. */
async function served(pool: Pool, change: Partial<Superblock> = {}): Promise<Superblock> {
  await createReplica(pool, specOf(VOLUME));
  const replica = await openReplica(pool, VOLUME, BOOT);
  const { incarnation } = replica.superblock.current;
  const last = await replica.superblock.update({
    bootId: BOOT,
    lastInSyncIncarnation: incarnation,
    ...change,
  });
  await replica.release();
  return last;
}

async function reopen(pool: Pool, bootId: string): Promise<OpenReplica> {
  const replica = await openReplica(pool, VOLUME, bootId);
  await replica.release();
  return replica;
}

/** Overwrites part of one of the replica's files. */
async function damage(pool: Pool, name: string, bytes: Uint8Array, offset: number): Promise<void> {
  const file = await open(join(pool.replicaDirectory(VOLUME), name), 'r+');
  await file.write(bytes, 0, bytes.length, offset);
  await file.close();
}

test.each<[string, Partial<Superblock>, LastEnd]>([
  ['no boot is that of no process', { bootId: null }, 'never opened'],
  ['this boot is that of one that was killed', { bootId: BOOT }, 'killed'],
  ['another boot is that of one that went with its machine', { bootId: 'boot-0' }, 'rebooted'],
  ['a clean mark is that of one that ended well, in this boot', { cleanMark: { epoch: 1 } }, 'clean'],
  [
    'a clean mark is that of one that ended well, in another',
    { bootId: 'boot-0', cleanMark: { epoch: 1 } },
    'clean',
  ],
])('a superblock with %s, and opening changes nothing about it', (_, change, lastEnd) =>
  withPool(async (pool) => {
    const last = await served(pool, change);
    for (let time = 0; time < 2; time++) expect(await reopen(pool, BOOT)).toMatchObject({ lastEnd });
    expect(await readSuperblock(pool.replicaDirectory(VOLUME))).toEqual(last);
  }),
);

test('with both slots of the superblock damaged nothing is served, and the text names file and next step', () =>
  withPool(async (pool) => {
    await served(pool);
    for (const slot of [0, 1])
      await damage(pool, 'superblock', Uint8Array.of(9), slot * SUPERBLOCK_SLOT_BYTES + 20);
    await expect(reopen(pool, BOOT)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/\/superblock: both slots .* delete this replica .* backup/),
    });
  }));

test('a data file that is shorter than the volume or missing is refused', () =>
  withPool(async (pool) => {
    await served(pool);
    const path = join(pool.replicaDirectory(VOLUME), 'data');
    await truncate(path, GIB - 4096);
    await expect(reopen(pool, BOOT)).rejects.toMatchObject({
      code: 'CORRUPT',
      details: { haveBytes: GIB - 4096 },
    });
    await rm(path);
    await expect(reopen(pool, BOOT)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  }));

test('hot extents are inherited, in any boot', () =>
  withPool(async (pool) => {
    await served(pool);
    const bits = new Uint8Array(EXTENT_COUNT / 8);
    bits[3] = 0x81;
    await damage(pool, 'intent', encodeIntent(bits, EXTENT_COUNT), 0);
    for (const bootId of [BOOT, 'boot-2']) {
      expect(await reopen(pool, bootId)).toMatchObject({ hotBits: bits, suspectIntentSectorCount: 0 });
    }
  }));

test('an unreadable, short or missing intent log makes everything hot, durably', () =>
  withPool(async (pool) => {
    await served(pool);
    const path = join(pool.replicaDirectory(VOLUME), 'intent');
    const allHot = new Uint8Array(EXTENT_COUNT / 8).fill(0xff);
    const cold = encodeIntent(new Uint8Array(0), EXTENT_COUNT);
    for (const spoil of [
      () => damage(pool, 'intent', Uint8Array.of(1), intentSectorOffset(0) + 40),
      () => truncate(path, 100),
      () => rm(path),
    ]) {
      await damage(pool, 'intent', cold, 0);
      await spoil();
      expect(await reopen(pool, BOOT)).toMatchObject({ hotBits: allHot, suspectIntentSectorCount: 1 });
      expect(await reopen(pool, BOOT)).toMatchObject({ hotBits: allHot, suspectIntentSectorCount: 0 });
    }
  }));

test('a generation table cut short reads as newer than everything, also after growing', () =>
  withPool(async (pool) => {
    await served(pool);
    const path = join(pool.replicaDirectory(VOLUME), 'generations');
    const stamps = new Uint32Array(64).fill(5);
    const sector = new Uint8Array(512);
    encodeGenerationSector(sector, 0, 0, stamps, 0);
    await damage(pool, 'generations', sector, 0);
    await truncate(path, generationFileOffset(2) + 100);
    await growReplica(pool, VOLUME, 2 * GIB);
    await reopen(pool, BOOT);
    const table = await readFile(path);
    expect((await stat(path)).size).toBe(generationFileOffset(2 * EXTENT_COUNT));
    const read = (extent: number): number[] => {
      decodeGenerationSector(table, generationFileOffset(extent), extent, stamps, 0);
      return [...new Set(stamps)];
    };
    expect(read(0)).toEqual([5]);
    expect(read(1)).toEqual([0]);
    expect(read(2)).toEqual([NEWEST_STAMP]);
    expect(read(EXTENT_COUNT - 1)).toEqual([NEWEST_STAMP]);
    expect(read(EXTENT_COUNT)).toEqual([0]);
  }));

test('ranges in flight are inherited in the same boot, and unknown after a reboot', () =>
  withPool(async (pool) => {
    await served(pool);
    const replica = await openReplica(pool, VOLUME, BOOT);
    const mapping = native.mapFile(replica.windowFd, WINDOW_FILE_BYTES);
    const window = new WindowFile(mapping.buffer);
    window.reset(replica.window.owner);
    window.put(7, 1, 2, 3, 4, 4096, 8192);
    native.freeMemory(mapping);
    await replica.release();
    const entry = {
      entryIndex: 7,
      epoch: 1,
      openingLow: 2,
      openingHigh: 3,
      sequence: 4,
      offsetBytes: 4096,
      lengthBytes: 8192,
    };
    // Opening alone settles nothing: a second crash finds the same.
    for (let time = 0; time < 2; time++) expect((await reopen(pool, BOOT)).window.entries).toEqual([entry]);
    for (let time = 0; time < 2; time++)
      expect((await reopen(pool, 'boot-2')).window.entries).toBe('unknown');
  }));

/** Serves the replica once with these windows and dies with nothing in flight. */
async function serve(pool: Pool, windows?: WindowFiles): Promise<OpenReplica['window']['entries']> {
  const replica = await openReplica(pool, VOLUME, BOOT, windows);
  const mapping = native.mapFile(replica.windowFd, WINDOW_FILE_BYTES);
  new WindowFile(mapping.buffer).reset(replica.window.owner);
  native.freeMemory(mapping);
  await replica.release();
  return replica.window.entries;
}

test('a short, sparse, damaged or missing window is unknown and allocated again before it can be mapped', () =>
  withPool(async (pool) => {
    await served(pool);
    const path = windowPathOf(pool, VOLUME);
    for (const spoil of [
      () => truncate(path, 5000),
      async () => {
        await truncate(path, 0);
        await truncate(path, WINDOW_FILE_BYTES);
      },
      async () => {
        const file = await open(path, 'r+');
        await file.write(Uint8Array.of(255), 0, 1, 20);
        await file.close();
      },
      () => rm(path),
      () => rm(runDirectoryOf(pool), { recursive: true }),
      () => rm(join(pool.replicaDirectory(VOLUME), 'window')),
    ]) {
      await serve(pool);
      expect(await serve(pool)).toEqual([]);
      await spoil();
      expect((await reopen(pool, BOOT)).window.entries).toBe('unknown');
      const { size, blocks, mode } = await stat(path);
      expect({ size, mode: mode & 0o777 }).toEqual({ size: WINDOW_FILE_BYTES, mode: 0o600 });
      expect(blocks * 512).toBeGreaterThanOrEqual(WINDOW_FILE_BYTES);
    }
  }));

test("a window that is older than the copy's last serving is not believed, however whole it is", () =>
  withPool(async (pool) => {
    await served(pool);
    const elsewhere = new WindowFiles(`${pool.directory}-elsewhere`);
    await serve(pool);
    expect(await serve(pool)).toEqual([]);
    // A daemon with another run directory serves the copy in between.
    expect(await serve(pool, elsewhere)).toBe('unknown');
    expect(await serve(pool)).toBe('unknown');
    expect(await serve(pool, elsewhere)).toBe('unknown');
    expect(await serve(pool, elsewhere)).toEqual([]);
  }));
