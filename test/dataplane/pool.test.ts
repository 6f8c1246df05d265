import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BLOCK_BYTES, GIB } from '../../src/core/units.ts';
import { Pool } from '../../src/dataplane/pool.ts';
import { createReplica } from '../../src/dataplane/replica-files.ts';
import {
  killAtRandom,
  OTHER_VOLUME,
  openPool,
  specOf,
  VOLUME,
  withDirectory,
  withPool,
  deleteReplica,
} from './pool-support.ts';

test('a pool is made in a missing directory, for its owner only, and keeps its identity', () =>
  withDirectory(async (scratch) => {
    const directory = join(scratch, 'deep', 'pool');
    const pool = await openPool(directory);
    const { id } = pool;
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    await pool.close();
    await pool.close();
    const again = await openPool(directory);
    expect(again.id).toBe(id);
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    await again.close();
  }));

test('a pool is made on a new file system, and never among files that are not its own', () =>
  withDirectory(async (scratch) => {
    await mkdir(join(scratch, 'lost+found'));
    await (await openPool(scratch)).close();
    await mkdir(join(scratch, 'photos'));
    await writeFile(join(scratch, 'photos', 'cat.jpg'), '');
    await expect(openPool(join(scratch, 'photos'))).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('cat.jpg'),
    });
  }));

test('a directory that is another pool is refused', () =>
  withDirectory(async (scratch) => {
    await (await openPool(scratch)).close();
    await expect(Pool.open('slow', scratch, { overcommitRatio: 1 })).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining("is pool 'fast', not 'slow'"),
    });
  }));

test('a pool file that is damaged or of another version is refused', () =>
  withDirectory(async (scratch) => {
    await (await openPool(scratch)).close();
    const path = join(scratch, 'pool.json');
    const good = await readFile(path, 'utf8');
    for (const text of ['', good.slice(0, -5), good.replace('"version":1', '"version":2'), 'null']) {
      await writeFile(path, text);
      await expect(openPool(scratch)).rejects.toMatchObject({ code: 'CORRUPT' });
    }
    await writeFile(path, good);
    await (await openPool(scratch)).close();
  }));

test('a pool in use is busy and names the process, until it is closed', () =>
  withDirectory(async (scratch) => {
    const pool = await openPool(scratch);
    await expect(openPool(scratch)).rejects.toMatchObject({
      code: 'BUSY',
      message: expect.stringContaining(`process ${process.pid}`),
    });
    await pool.close();
    await (await openPool(scratch)).close();
  }));

test('a pool whose daemon was killed can be opened', () =>
  withDirectory(async (scratch) => {
    await killAtRandom('churn', scratch);
    await (await openPool(scratch)).close();
  }));

test('what a crash left half-created or half-deleted is gone after opening, and nothing else is', () =>
  withDirectory(async (scratch) => {
    const pool = await openPool(scratch);
    await createReplica(pool, specOf(VOLUME));
    await pool.close();
    await mkdir(join(scratch, `creating-${OTHER_VOLUME}`));
    await mkdir(join(scratch, `deleting-${OTHER_VOLUME}`));
    await writeFile(join(scratch, `deleting-${OTHER_VOLUME}`, 'data'), 'x');
    await mkdir(join(scratch, 'lost+found'));
    const again = await openPool(scratch);
    expect(await readdir(scratch)).toEqual([VOLUME, 'lock', 'lost+found', 'pool.json']);
    expect(await again.volumeIds()).toEqual([VOLUME]);
    await again.close();
  }));

test('the sum of sizes may reach the file system times the overcommit ratio and no more', () =>
  withPool(
    async (pool) => {
      const { totalBytes, overcommitRatio } = await pool.status();
      const limitBytes = Math.floor((totalBytes * overcommitRatio) / BLOCK_BYTES) * BLOCK_BYTES;
      await createReplica(pool, specOf(VOLUME, limitBytes - GIB));
      await expect(createReplica(pool, specOf(OTHER_VOLUME, GIB + BLOCK_BYTES))).rejects.toMatchObject({
        code: 'NO_SPACE',
        message: expect.stringContaining('overcommit'),
      });
      // Two at a time do not both get the last room.
      const third = 'c'.repeat(32);
      const results = await Promise.allSettled([
        createReplica(pool, specOf(OTHER_VOLUME, GIB)),
        createReplica(pool, specOf(third, GIB)),
      ]);
      expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
      expect((await pool.status()).provisionedBytes).toBe(limitBytes);
      await deleteReplica(pool, VOLUME);
      await deleteReplica(pool, VOLUME);
      expect((await pool.status()).provisionedBytes).toBe(GIB);
    },
    { overcommitRatio: 1.5 },
  ));

test('a reopened pool counts the replicas it holds, unreadable ones included', () =>
  withDirectory(async (scratch) => {
    const pool = await openPool(scratch);
    await createReplica(pool, specOf(VOLUME));
    await createReplica(pool, specOf(OTHER_VOLUME, 2 * GIB));
    await pool.close();
    await writeFile(join(scratch, OTHER_VOLUME, 'superblock'), 'nonsense');
    const again = await openPool(scratch);
    expect((await again.status()).provisionedBytes).toBe(3 * GIB);
    await again.close();
  }));

test('the reserve is 1 GiB or 5 % of the file system, whichever is less, unless it is given', () =>
  withDirectory(async (scratch) => {
    const pool = await openPool(scratch);
    const { reserveBytes, totalBytes } = await pool.status();
    expect(reserveBytes).toBe(Math.min(GIB, Math.ceil((totalBytes * 0.05) / BLOCK_BYTES) * BLOCK_BYTES));
    await pool.close();
    const given = await openPool(scratch, { reserveBytes: 5 * BLOCK_BYTES });
    expect((await given.status()).reserveBytes).toBe(5 * BLOCK_BYTES);
    await given.close();
  }));

test('buffered mode is taken when asked for', () =>
  withPool(
    async (pool) => {
      expect((await pool.status()).ioMode).toBe('buffered');
    },
    { ioMode: 'buffered' },
  ));

test('a name that is no volume id never becomes a path', () =>
  withPool(async (pool) => {
    for (const volumeId of ['', '..', 'pool.json', `../${VOLUME}`, VOLUME.toUpperCase()]) {
      await expect(createReplica(pool, specOf(volumeId))).rejects.toMatchObject({ code: 'INVALID' });
      await expect(deleteReplica(pool, volumeId)).rejects.toMatchObject({ code: 'INVALID' });
    }
  }));

test('two operations on one replica do not mix: the second is told to try again', () =>
  withPool(async (pool) => {
    const first = createReplica(pool, specOf(VOLUME));
    await expect(deleteReplica(pool, VOLUME)).rejects.toMatchObject({ code: 'BUSY' });
    await first;
    await deleteReplica(pool, VOLUME);
  }));
