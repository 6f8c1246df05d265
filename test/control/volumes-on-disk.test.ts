// The volume service on the real store and the real storage: a volume's whole life over restarts of its daemon.

import { cp, mkdir, mkdtemp, open, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RecordConfigs } from '../../src/control/config-store.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import type { RepairReport } from '../../src/control/repair.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { Volumes } from '../../src/control/volumes.ts';
import { invariant } from '../../src/core/invariant.ts';
import { MIB } from '../../src/core/units.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { NODE, request } from '../support/volume-world.ts';

const NOTHING: RepairReport = { done: [], problems: [], orphans: [] };

let directory: string;
let store: LevelStore;
let storage: Storage;
let volumes: Volumes;
let starts = 0;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-volumes-'));
  await mkdir(join(directory, 'pool'));
  await start();
});

afterEach(async () => {
  await stop();
  await rm(directory, { recursive: true });
});

async function start(): Promise<void> {
  store = await LevelStore.open(join(directory, 'store'));
  storage = await createNodeStorage({
    nodeName: NODE,
    pools: [{ name: 'default', directory: join(directory, 'pool'), reserveBytes: 0, overcommitRatio: 10 }],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  const configs = new RecordConfigs(new VolumeRecords(store));
  starts += 1;
  await storage.cluster.connectCluster({
    configs,
    peerKey: Buffer.alloc(32, 7),
    clusterId: store.identity,
    startNumber: starts,
    onReplicaEvent: () => undefined,
  });
  volumes = new Volumes(store, storage, { node: NODE, maxVolumesPerNode: 100, replication: storage.cluster });
}

async function stop(): Promise<void> {
  await storage.close();
  await store.close();
}

async function restart(): Promise<RepairReport> {
  await stop();
  await start();
  return await volumes.repair();
}

/** Sessions of this attachment are answered. */
async function untilServed(id: string, attachmentNumber: number): Promise<VolumeRecord> {
  await expect
    .poll(async () => await storage.cluster.frontendView(id), { timeout: 10_000 })
    .toMatchObject({ attachmentNumber, isConnected: true });
  return await volumes.get(id);
}

test('a volume is made, published, opened, grown, found after restarts, and leaves nothing behind', async () => {
  const { id } = await volumes.create(request('data'));
  await volumes.publish(id, NODE, false);
  await volumes.acquire(id);
  const opened = await untilServed(id, 1);
  expect(storage.cluster.isReplicaOpen(id)).toBe(true);
  const superblock = (await storage.replica(id))?.superblock;
  expect(superblock).toMatchObject({ promisedEpoch: opened.epoch, attachmentNumber: 1, sizeBytes: 64 * MIB });
  expect(opened.inSync).toEqual([
    { replicaId: opened.primary.replicaId, incarnation: superblock?.incarnation },
  ]);

  await volumes.renewAttachment(id, NODE);
  await untilServed(id, 2);
  await volumes.resize(id, 128 * MIB);
  await volumes.fileSystemMade(id);
  await expect(volumes.delete(id)).rejects.toMatchObject({ code: 'CONFLICT' });
  const before = await volumes.get(id);

  expect(await restart()).toEqual(NOTHING);
  expect(await volumes.find('data')).toEqual(before);
  expect((await storage.replica(id))?.superblock).toMatchObject({
    sizeBytes: 128 * MIB,
    fileSystemMade: 'ext4',
  });
  expect(await volumes.attachmentVerdict(id, 2)).toBe('current');
  await volumes.acquire(id);
  expect((await untilServed(id, 2)).epoch).toBe(before.epoch + 1);
  await volumes.release(id);

  await volumes.unpublish(id, NODE);
  await volumes.delete(id);
  expect(await storage.replicas()).toEqual([]);
  expect(await store.list('')).toEqual([]);
  expect(await restart()).toEqual(NOTHING);
});

test('a volume holds data from its first write until all of it is given back', async () => {
  const { id } = await volumes.create(request('data'));
  expect(await storage.hasData(id)).toBe(false);
  const path = join(directory, 'pool', id, 'data');
  const file = await open(path, 'r+');
  await file.write(Buffer.alloc(4096), 0, 4096, 32 * MIB);
  expect(await storage.hasData(id)).toBe(true);
  await file.close();
  await execa('fallocate', ['--punch-hole', '--offset', String(32 * MIB), '--length', '4096', path]);
  expect(await storage.hasData(id)).toBe(false);
});

test('a store put back from a backup is not believed: what it does not know stays, what it knows too little of is not served', async () => {
  const { id } = await volumes.create(request('old'));
  await volumes.publish(id, NODE, false);
  await volumes.acquire(id);
  await untilServed(id, 1);
  await volumes.release(id);
  await stop();
  await cp(join(directory, 'store'), join(directory, 'backup'), { recursive: true });
  await start();
  await volumes.acquire(id);
  await untilServed(id, 1);
  const { id: younger } = await volumes.create(request('younger'));
  await stop();
  await rm(join(directory, 'store'), { recursive: true });
  await rename(join(directory, 'backup'), join(directory, 'store'));
  await start();

  const report = await volumes.repair();
  expect(report.done).toEqual([]);
  expect(report.orphans).toMatchObject([{ volumeId: younger, pool: 'default' }]);
  expect(report.problems).toMatchObject([
    { volumeId: id, problem: expect.stringContaining('restored from a backup') },
  ]);
  await expect(volumes.acquire(id)).rejects.toMatchObject({ code: 'CORRUPT' });
  expect((await storage.replicas()).map((replica) => replica.volumeId).sort()).toEqual([id, younger].sort());
});

test('a record that promises more than its copy has is repaired by finishing the growth', async () => {
  const record = await volumes.create(request('data'));
  const [entry] = await store.list('volumes/');
  invariant(entry !== undefined, 'the volume has a record');
  await store.compareAndSwap(
    entry.key,
    entry.revision,
    JSON.stringify({ ...record, targetSizeBytes: 96 * MIB }),
  );
  expect(await restart()).toEqual({
    ...NOTHING,
    done: [{ volumeId: record.id, name: 'data', action: 'resizeFinished' }],
  });
  expect((await volumes.get(record.id)).sizeBytes).toBe(96 * MIB);
  expect((await storage.replica(record.id))?.superblock?.sizeBytes).toBe(96 * MIB);
});

test('a volume of one copy is served at once, however often it was attached before', async () => {
  const { id } = await volumes.create(request('data'));
  for (let time = 0; time < 2; time++) {
    const { attachment } = await volumes.publish(id, NODE, false);
    await volumes.acquire(id);
    const startMs = performance.now();
    await untilServed(id, attachment.number);
    // A copy among several waits for its lease (3 s): another primary might count on it.
    expect(performance.now() - startMs).toBeLessThan(2000);
    await volumes.release(id);
    await volumes.unpublish(id, NODE);
  }
});
