// Needs root for the small file system (mount -t tmpfs).

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BLOCK_BYTES, GIB, MAX_VOLUME_BYTES, MIB, TIB } from '../../src/core/units.ts';
import { createReplica, describeReplica, growReplica } from '../../src/dataplane/replica-files.ts';
import { readSuperblock } from '../../src/dataplane/superblock-file.ts';
import { WindowFiles } from '../../src/dataplane/window-files.ts';
import {
  BOOT,
  OTHER_VOLUME,
  openPool,
  specOf,
  VOLUME,
  withDirectory,
  withPool,
  deleteReplica,
  openReplica,
  windowPathOf,
} from './pool-support.ts';

test('a new replica is thin, shows what it was made with, and opens cold', () =>
  withPool(async (pool) => {
    await createReplica(pool, { ...specOf(VOLUME, TIB), durability: 'writethrough', epoch: 4 });
    const description = await describeReplica(pool, VOLUME);
    expect(description).toMatchObject({
      problem: undefined,
      superblock: {
        volumeId: VOLUME,
        volumeName: 'volume aa',
        replicaId: 'replica-aa',
        sizeBytes: TIB,
        lineage: 'lineage-1',
        promisedEpoch: 4,
        bootId: null,
        storedBootId: null,
        cleanMark: null,
        durability: 'writethrough',
        failureMode: 'soft',
        fileSystemMade: null,
        wrappedKey: null,
      },
    });
    expect(description.allocatedBytes).toBeLessThan(MIB);
    const replica = await openReplica(pool, VOLUME, BOOT);
    expect(replica.hotBits).toEqual(new Uint8Array(TIB / (4 * MIB) / 8));
    await replica.release();
  }));

test('creating the same replica again changes nothing; another one under its id is refused', () =>
  withPool(async (pool) => {
    const spec = specOf(VOLUME);
    await createReplica(pool, spec);
    const before = await readSuperblock(pool.replicaDirectory(VOLUME));
    await createReplica(pool, spec);
    expect(await readSuperblock(pool.replicaDirectory(VOLUME))).toEqual(before);
    for (const other of [{ replicaId: 'x' }, { lineage: 'x' }, { sizeBytes: 2 * GIB }]) {
      await expect(createReplica(pool, { ...spec, ...other })).rejects.toMatchObject({
        code: 'ALREADY_EXISTS',
        message: expect.stringContaining(Object.keys(other)[0] ?? ''),
      });
    }
  }));

test('sizes that no volume has are refused', () =>
  withPool(async (pool) => {
    for (const sizeBytes of [0, MIB - BLOCK_BYTES, MIB + 1, MAX_VOLUME_BYTES + BLOCK_BYTES, Number.NaN]) {
      await expect(createReplica(pool, specOf(VOLUME, sizeBytes))).rejects.toMatchObject({
        code: 'OUT_OF_RANGE',
      });
    }
    expect(await pool.volumeIds()).toEqual([]);
  }));

test('a deleted replica is gone, and its id can be used again', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const { incarnation } = await readSuperblock(pool.replicaDirectory(VOLUME));
    await deleteReplica(pool, VOLUME);
    expect(await readdir(pool.directory)).toEqual(['lock', 'pool.json']);
    await expect(openReplica(pool, VOLUME, BOOT)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await createReplica(pool, specOf(VOLUME));
    expect((await readSuperblock(pool.replicaDirectory(VOLUME))).incarnation).not.toBe(incarnation);
  }));

test('a full run directory refuses the opening with what to do, and the copy stays clean', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const full = `${pool.directory}-full`;
    await mkdir(full);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40k', 'holdfast-test', full]);
    try {
      await expect(openReplica(pool, VOLUME, BOOT, new WindowFiles(full))).rejects.toMatchObject({
        code: 'NO_SPACE',
        message: expect.stringContaining('--run-dir'),
      });
      expect((await readSuperblock(pool.replicaDirectory(VOLUME))).bootId).toBeNull();
    } finally {
      execFileSync('umount', ['--lazy', full]);
    }
    await (await openReplica(pool, VOLUME, BOOT)).release();
  }));

test('a deleted replica leaves no window behind', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    await (await openReplica(pool, VOLUME, BOOT)).release();
    expect((await stat(windowPathOf(pool, VOLUME))).size).toBeGreaterThan(0);
    await deleteReplica(pool, VOLUME);
    await expect(stat(windowPathOf(pool, VOLUME))).rejects.toMatchObject({ code: 'ENOENT' });
  }));

test('an open replica is busy for everybody else until it is released', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    await createReplica(pool, specOf(OTHER_VOLUME));
    const replica = await openReplica(pool, VOLUME, BOOT);
    await expect(openReplica(pool, VOLUME, BOOT)).rejects.toMatchObject({ code: 'BUSY' });
    await expect(growReplica(pool, VOLUME, 2 * GIB)).rejects.toMatchObject({ code: 'BUSY' });
    await (await openReplica(pool, OTHER_VOLUME, BOOT)).release();
    await replica.release();
    await replica.release();
    await (await openReplica(pool, VOLUME, BOOT)).release();
  }));

test('the lock belongs to the description: as long as anybody holds it the replica stays busy', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    for (const file of ['dataFd', 'intentFd', 'generationsFd'] as const) {
      const replica = await openReplica(pool, VOLUME, BOOT);
      // Stands for a ring with requests in flight: it shares the description and outlives our descriptor.
      const holder = spawn('sleep', ['20'], { stdio: [replica[file], 'ignore', 'ignore'] });
      await once(holder, 'spawn');
      await replica.release();
      await expect(openReplica(pool, VOLUME, BOOT)).rejects.toMatchObject({ code: 'BUSY' });
      holder.kill('SIGKILL');
      await once(holder, 'exit');
      await (await openReplica(pool, VOLUME, BOOT)).release();
    }
  }));

test('a replica grows, open or not, keeps its marks, and never shrinks', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    await growReplica(pool, VOLUME, 2 * GIB);
    const replica = await openReplica(pool, VOLUME, BOOT);
    expect(replica.sizeBytes).toBe(2 * GIB);
    await growReplica(pool, VOLUME, 40 * GIB, replica);
    await growReplica(pool, VOLUME, 40 * GIB, replica);
    await growReplica(pool, VOLUME, GIB, replica);
    expect(replica.sizeBytes).toBe(40 * GIB);
    await replica.release();
    expect((await pool.status()).provisionedBytes).toBe(40 * GIB);
    expect((await stat(join(pool.replicaDirectory(VOLUME), 'data'))).size).toBe(40 * GIB);
    const grown = await openReplica(pool, VOLUME, BOOT);
    expect(grown.suspectIntentSectorCount).toBe(0);
    expect(grown.hotBits).toEqual(new Uint8Array((40 * GIB) / (4 * MIB) / 8));
    await grown.release();
  }));

test('growing past the overcommit limit is refused and changes nothing', () =>
  withPool(
    async (pool) => {
      await createReplica(pool, specOf(VOLUME));
      await expect(growReplica(pool, VOLUME, 64 * TIB)).rejects.toMatchObject({ code: 'NO_SPACE' });
      expect((await pool.status()).provisionedBytes).toBe(GIB);
      expect((await readSuperblock(pool.replicaDirectory(VOLUME))).sizeBytes).toBe(GIB);
    },
    { overcommitRatio: 1 },
  ));

test('a damaged replica is described with the reason, and others are not affected', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    await createReplica(pool, specOf(OTHER_VOLUME));
    await writeFile(join(pool.replicaDirectory(VOLUME), 'superblock'), 'nonsense');
    const damaged = await describeReplica(pool, VOLUME);
    expect(damaged.superblock).toBeUndefined();
    expect(damaged.problem).toMatch(/superblock: both slots .* unreadable/);
    expect((await describeReplica(pool, OTHER_VOLUME)).problem).toBeUndefined();
    await expect(openReplica(pool, VOLUME, BOOT)).rejects.toMatchObject({ code: 'CORRUPT' });
  }));

test('a full disk refuses new replicas and growth, leaves nothing behind and damages nothing', () =>
  withDirectory(async (scratch) => {
    const directory = join(scratch, 'small');
    await mkdir(directory);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=160k', 'holdfast-test', directory]);
    try {
      const pool = await openPool(directory, { overcommitRatio: 1e9, reserveBytes: 0 });
      const made: string[] = [];
      for (const digit of '0123456789') {
        const volumeId = digit.repeat(32);
        try {
          await createReplica(pool, specOf(volumeId));
          made.push(volumeId);
        } catch (error) {
          expect(error).toMatchObject({
            code: 'NO_SPACE',
            message: expect.stringContaining('no space left'),
          });
        }
      }
      expect(made.length).toBeGreaterThan(0);
      expect(made.length).toBeLessThan(10);
      expect(await readdir(directory)).toEqual([...made, 'lock', 'pool.json']);
      expect((await pool.status()).provisionedBytes).toBe(made.length * GIB);

      const [first = ''] = made;
      await expect(growReplica(pool, first, 64 * TIB)).rejects.toMatchObject({ code: 'NO_SPACE' });
      expect((await pool.status()).provisionedBytes).toBe(made.length * GIB);
      await pool.close();

      // A full pool still opens and serves, and deleting makes room again.
      const again = await openPool(directory, { overcommitRatio: 1e9, reserveBytes: 0 });
      expect((await again.status()).availableBytes).toBe(0);
      const replica = await openReplica(again, first, BOOT);
      expect(replica.sizeBytes).toBe(GIB);
      await replica.release();
      await deleteReplica(again, first);
      await createReplica(again, specOf('f'.repeat(32)));
      await again.close();
    } finally {
      execFileSync('umount', ['--lazy', directory]);
    }
  }));
