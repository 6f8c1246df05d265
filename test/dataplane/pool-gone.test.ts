// A pool whose disk is taken from under a running daemon: what it holds is not there, and not gone either.

import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { OTHER_VOLUME, specOf, VOLUME } from './pool-support.ts';

const THIRD_VOLUME = 'c'.repeat(32);
const MIB = 1024 * 1024;
let directory: string;
let storage: Storage;
let volumes: LoneVolumes;
const path = (name: string): string => join(directory, name);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-gone-'));
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    pools: ['a', 'b'].map((name) => ({ name, directory: path(name), reserveBytes: 0, overcommitRatio: 10 })),
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  volumes = await LoneVolumes.join(storage);
  await storage.createReplica({ ...specOf(VOLUME, 8 * MIB), pool: 'a' });
  await storage.createReplica({ ...specOf(OTHER_VOLUME, 8 * MIB), pool: 'b' });
});
afterEach(async () => {
  await storage.close();
  await rm(directory, { recursive: true });
});

test.each([
  ['its mount point is left', true],
  ['nothing is left', false],
])(
  'where %s its volumes are neither missing nor deleted, and those of other pools are served',
  async (_, isLeft) => {
    await rename(path('a'), path('disk'));
    if (isLeft) await mkdir(path('a'));
    const gone = { code: 'UNAVAILABLE', message: expect.stringContaining('mount its disk there again') };
    await expect(storage.replica(VOLUME)).rejects.toMatchObject(gone);
    await expect(storage.deleteReplica(VOLUME, 'a')).rejects.toMatchObject(gone);
    await expect(
      storage.createReplica({ ...specOf(THIRD_VOLUME, 8 * MIB), pool: 'a' }),
    ).rejects.toMatchObject(gone);
    if (isLeft) expect(await readdir(path('a'))).toEqual([]);
    await expect(storage.resizeReplica(VOLUME, 16 * MIB)).rejects.toMatchObject(gone);
    expect((await storage.pools()).map(({ name }) => name)).toEqual(['b']);
    expect(storage.closedPools()).toMatchObject([{ name: 'a', problem: gone.message }]);
    expect((await storage.replicas()).map(({ volumeId }) => volumeId)).toEqual([OTHER_VOLUME]);
    expect(await storage.replica(OTHER_VOLUME)).toMatchObject({ pool: 'b' });
    await volumes.open(OTHER_VOLUME);
    await volumes.close(OTHER_VOLUME);
    await storage.deleteReplica(OTHER_VOLUME, 'b');
    expect(await readdir(path('b'))).not.toContain(OTHER_VOLUME);
    expect(await readdir(path('disk'))).toContain(VOLUME);

    if (isLeft) await rm(path('a'), { recursive: true });
    await rename(path('disk'), path('a'));
    expect(await storage.replica(VOLUME)).toMatchObject({ pool: 'a' });
    expect((await storage.pools()).map(({ name }) => name)).toEqual(['a', 'b']);
    expect(storage.closedPools()).toEqual([]);
    await storage.deleteReplica(VOLUME, 'a');
    expect(await storage.replica(VOLUME)).toBeUndefined();
  },
);

test('a copy is not answered for when the disk goes while it is made', async () => {
  const probe = await open('/dev/null');
  await probe.close();
  const handles = Object.getPrototypeOf(probe) as { sync: (this: unknown) => Promise<void> };
  const { sync } = handles;
  handles.sync = async function (): Promise<void> {
    await sync.call(this);
    if (!existsSync(join(path('a'), THIRD_VOLUME))) return;
    handles.sync = sync;
    await rename(join(path('a'), 'lock'), path('lock')); // as if another file system were there
  };
  try {
    await expect(
      storage.createReplica({ ...specOf(THIRD_VOLUME, 8 * MIB), pool: 'a' }),
    ).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  } finally {
    handles.sync = sync;
  }
  await rename(path('lock'), join(path('a'), 'lock'));
  await storage.createReplica({ ...specOf(THIRD_VOLUME, 8 * MIB), pool: 'a' });
});
