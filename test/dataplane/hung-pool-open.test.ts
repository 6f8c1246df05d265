// The start of a node one of whose pools is on a disk that hangs: a frozen ext4 on a loop device.
// Needs root for losetup, mount and fsfreeze.

import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { KnownPools } from '../../src/dataplane/known-pools.ts';
import { NodePools, type PoolEvent } from '../../src/dataplane/node-pools.ts';
import { Pool } from '../../src/dataplane/pool.ts';
import { FrozenFileSystem } from '../support/frozen-file-system.ts';

const HANG_LIMIT_MS = 300;

let directory = '';
let disk: FrozenFileSystem;
let events: PoolEvent[];
let pools: NodePools | undefined;

beforeEach(async () => {
  directory = await mkdtemp('/var/tmp/holdfast-hung-open-');
  disk = await FrozenFileSystem.create(directory);
  events = [];
  const pool = await Pool.open('hung', join(disk.directory, 'pool'), { overcommitRatio: 1 });
  await pool.close();
});

afterEach(async () => {
  await disk.thaw();
  await pools?.close();
  pools = undefined;
  await disk.dispose();
  await rm(directory, { recursive: true, force: true });
});

async function start(): Promise<NodePools> {
  const paths = { hung: join(disk.directory, 'pool'), sound: join(directory, 'sound') };
  pools = await NodePools.open({
    pools: Object.entries(paths).map(([name, path]) => ({ name, directory: path, overcommitRatio: 1 })),
    knownPools: await KnownPools.load(join(directory, 'pools.json')),
    onPoolEvent: (event) => events.push(event),
    poolRetryIntervalMs: 3_600_000,
    poolHangLimitMs: HANG_LIMIT_MS,
  });
  return pools;
}

test('a pool that hangs does not hold up the start; it is reported once and is open when its disk answers', async () => {
  await disk.freeze();
  const began = performance.now();
  const started = await start();
  expect(performance.now() - began).toBeLessThan(HANG_LIMIT_MS * 4);
  expect(started.opened().map(({ name }) => name)).toEqual(['sound']);
  expect(started.closed()).toEqual([
    expect.objectContaining({ name: 'hung', problem: expect.stringMatching(/does not answer.*kernel log/) }),
  ]);
  await started.retry();
  expect(events.map(({ type, pool }) => `${pool} ${type}`)).toEqual(['sound opened', 'hung failed']);
  await disk.thaw();
  await expect.poll(() => started.closed(), { timeout: 5000 }).toEqual([]);
  expect(started.required('hung').name).toBe('hung');
});

test('a pool that hangs is not forgotten: its caller is told, and it opens as what it was', async () => {
  await disk.freeze();
  const started = await start();
  await expect(started.forget('hung')).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringMatching(/cannot be forgotten now.*does not answer/),
  });
  await disk.thaw();
  await expect.poll(() => started.closed(), { timeout: 5000 }).toEqual([]);
});

test('two pools whose directories do not exist yet below one mount point are not taken for one', async () => {
  await mkdir(join(directory, 'a'));
  const open = NodePools.open({
    pools: ['x', 'y'].map((name) => ({ name, directory: join(directory, 'a', name), overcommitRatio: 1 })),
  });
  pools = await open;
  expect(pools.opened()).toHaveLength(2);
});
