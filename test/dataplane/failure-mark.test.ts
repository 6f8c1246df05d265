// A replica whose disk failed once is not believed again by itself: not after a close, not by the next process.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { failureOf } from '../../src/dataplane/failure-mark.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes, MemoryConfigs } from '../support/lone-volumes.ts';
import { CMD, ERR, NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const VOLUME = 'cd'.repeat(16);
let directory = '';
let storage: Storage;
let configs: MemoryConfigs;
let volumes: LoneVolumes;

async function start(): Promise<void> {
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    pools: [{ name: 'pool', directory: join(directory, 'pool'), overcommitRatio: 10 }],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  volumes = await LoneVolumes.join(storage, configs);
}

beforeEach(async () => {
  directory = mkdtempSync('/var/tmp/holdfast-failed-');
  configs = new MemoryConfigs();
  await start();
  await storage.createReplica({
    volumeId: VOLUME,
    volumeName: 'volume',
    replicaId: VOLUME,
    pool: 'pool',
    sizeBytes: 8 * 1024 * 1024,
    lineage: VOLUME,
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
  await volumes.open(VOLUME);
});

afterEach(async () => {
  await storage.close();
  rmSync(directory, { recursive: true, force: true });
});

test('a failed replica is refused after a close and after a restart, says why, and is served again once the mark is removed', async () => {
  const replica = join(directory, 'pool', VOLUME);
  storage.replicaFailed(VOLUME, 'its flush failed (errno 5)');
  for (let waitedMs = 0; (await failureOf(replica)) === undefined && waitedMs < 5000; waitedMs += 20)
    await sleep(20);
  await volumes.close(VOLUME);
  await expect(volumes.open(VOLUME)).rejects.toMatchObject({ code: 'IO' });

  await storage.close();
  await start();
  await expect(volumes.open(VOLUME)).rejects.toThrow('its flush failed (errno 5)');
  expect((await storage.replica(VOLUME))?.problem).toBe('its flush failed (errno 5)');

  await rm(join(replica, 'failed'));
  await volumes.open(VOLUME);
  expect((await storage.replica(VOLUME))?.problem).toBeUndefined();
});

type Syncs = Record<'datasync' | 'sync', (this: unknown) => Promise<void>>;

async function handlePrototype(): Promise<Syncs> {
  const probe = await open('/dev/null');
  await probe.close();
  return Object.getPrototypeOf(probe) as Syncs;
}

/** The n-th fdatasync (or fsync) that this process asks for fails, as that of a dying disk does. Returns what undoes it. */
async function failSync(method: 'datasync' | 'sync' = 'datasync', nth = 1): Promise<() => void> {
  const handles = await handlePrototype();
  const original = handles[method];
  const undo = (): void => {
    handles[method] = original;
  };
  let count = 0;
  handles[method] = function (): Promise<void> {
    count += 1;
    if (count < nth) return original.call(this);
    undo();
    return Promise.reject(Object.assign(new Error(`EIO: i/o error, ${method}`), { code: 'EIO', errno: -5 }));
  };
  return undo;
}

/** Every fsync of a file or directory takes its time: those of a mark, not those of a superblock. */
async function slowSyncs(): Promise<{ underWay: number; ended: number; undo: () => void }> {
  const handles = await handlePrototype();
  const { sync } = handles;
  const seen = { underWay: 0, ended: 0, undo: () => void (handles.sync = sync) };
  handles.sync = async function (): Promise<void> {
    seen.underWay += 1;
    await sleep(1000);
    await sync.call(this);
    seen.underWay -= 1;
    seen.ended += 1;
  };
  return seen;
}

/** Once an opened copy has made its promises durable, or has failed at that. */
async function served(): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < 5000; waitedMs += 20) {
    const view = await storage.cluster.replicaView(VOLUME);
    if (view?.hasFailed === true) return false;
    if (view?.isActive === true) return true;
    await sleep(20);
  }
  throw new Error('the copy does not serve, and does not say why');
}

async function expectRefused(): Promise<void> {
  await expect(volumes.open(VOLUME)).rejects.toThrow(/is not served: .*EIO/);
  await expect(storage.updateSuperblock(VOLUME, { promisedEpoch: 3 })).rejects.toThrow(
    /is not served: .*EIO/,
  );
  await expect(storage.resizeReplica(VOLUME, 16 * MIB)).rejects.toThrow(/is not served: .*EIO/);
}

test('when the superblock of an open volume cannot be written, nothing more is acknowledged, reads go on, and the copy stays closed', async () => {
  const { path } = await storage.exportUnix(VOLUME, 'volume', join(directory, 'socket'));
  const client = await NbdClient.connect(path, 'volume');
  await client.write(0, Buffer.alloc(4096, 1));
  await failSync();
  await expect(storage.updateSuperblock(VOLUME, { attachmentNumber: 1 })).rejects.toMatchObject({
    code: 'IO',
  });
  // Asked for after the failure was told, so the thread has heard of it.
  await storage.counters(VOLUME);
  expect((await client.request({ type: CMD.write, payload: Buffer.alloc(4096, 2) })).error).toBe(ERR.io);
  expect((await client.request({ type: CMD.flush })).error).toBe(ERR.io);
  expect((await client.read(0, 4096)).equals(Buffer.alloc(4096, 1))).toBe(true);
  expect(volumes.events).toContainEqual({ type: 'failed', volumeId: VOLUME, what: 'superblock', errno: 5 });
  client.destroy();

  await volumes.close(VOLUME);
  await expect(volumes.open(VOLUME)).rejects.toThrow('its superblock could not be written');
  await storage.close();
  await start();
  await expect(volumes.open(VOLUME)).rejects.toThrow('its superblock could not be written');
});

test('an opening at which any of its syncs fails is not tried again and believed, by this process or the next', async () => {
  await volumes.close(VOLUME);
  const mark = join(directory, 'pool', VOLUME, 'failed');
  let failures = 0;
  for (const method of ['datasync', 'sync'] as const) {
    for (let nth = 1; ; nth += 1) {
      const undo = await failSync(method, nth);
      const outcome = await volumes.open(VOLUME).then(served, (error: unknown) => error);
      undo();
      await volumes.close(VOLUME);
      if (outcome === true) break; // it makes fewer syncs than that
      failures += 1;
      if (outcome !== false) expect(outcome).toMatchObject({ code: 'IO' });
      await expectRefused();
      await rm(mark);
    }
  }
  expect(failures).toBeGreaterThanOrEqual(5);
  await failSync();
  await volumes.open(VOLUME);
  expect(await served()).toBe(false);
  await storage.close();
  await start();
  await expectRefused();
});

test('a copy whose disk fails while it is closed is marked when the closing ends', async () => {
  expect(await served()).toBe(true);
  await failSync();
  const marking = await slowSyncs();
  await volumes.close(VOLUME);
  expect(marking).toMatchObject({ underWay: 0, ended: expect.toSatisfy((count: number) => count > 0) });
  marking.undo();
  expect(existsSync(join(directory, 'pool', VOLUME, 'failed'))).toBe(true);
  await storage.close();
  await start();
  await expectRefused();
});

test.each([
  [
    'change of its superblock',
    'datasync',
    () => storage.updateSuperblock(VOLUME, { fileSystemMade: 'ext4' }),
  ],
  ['growth', 'sync', () => storage.resizeReplica(VOLUME, 16 * MIB)],
] as const)(
  'a %s of a closed copy whose sync fails is not tried again and believed',
  async (_, method, change) => {
    await volumes.close(VOLUME);
    await failSync(method);
    await expect(change()).rejects.toMatchObject({ code: 'IO' });
    await expectRefused();
    await storage.close();
    await start();
    await expectRefused();
    await rm(join(directory, 'pool', VOLUME, 'failed'));
    await change();
  },
);

test('when the growth of an open volume cannot be made durable, nothing more is acknowledged', async () => {
  const { path } = await storage.exportUnix(VOLUME, 'volume', join(directory, 'socket'));
  const client = await NbdClient.connect(path, 'volume');
  await failSync('sync');
  await expect(storage.resizeReplica(VOLUME, 16 * MIB)).rejects.toMatchObject({ code: 'IO' });
  await storage.counters(VOLUME);
  expect((await client.request({ type: CMD.write, payload: Buffer.alloc(4096, 2) })).error).toBe(ERR.io);
  client.destroy();
  await expect(storage.resizeReplica(VOLUME, 16 * MIB)).rejects.toThrow('is not served');
  await volumes.close(VOLUME);
  await expectRefused();
});
