// Volumes used on nodes with and without a copy: a real etcd, real disks and data planes, three daemons in one process.

import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { drawId } from '../../src/control/names.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { finishAll } from '../../src/control/repair-cluster.ts';
import { MIB } from '../../src/core/units.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { ClusterWorld, soon, type TestDaemon } from '../support/cluster-world.ts';
import { CMD_FLAG, NbdClient } from '../support/nbd-client.ts';
import { request } from '../support/volume-world.ts';
import { EtcdServer } from './etcd-server.ts';

let etcd: EtcdServer;
let world: ClusterWorld;
let a: TestDaemon;
let b: TestDaemon;
let c: TestDaemon;
let count = 0;

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
  a = await world.start('a');
  b = await world.start('b');
  c = await world.start('c');
}, 30_000);

afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});

/** Copies on a and b, the primary on a. */
async function made(changes = {}): Promise<VolumeRecord> {
  count += 1;
  await a.nodes.setCordoned('c', true);
  const record = await a.volumes.create(
    request(`volume ${count}`, {
      sizeBytes: 8 * MIB,
      replicaCount: 1,
      preferredNode: 'a',
      fileSystemType: null,
      ...changes,
    }),
  );
  await a.nodes.setCordoned('c', false);
  expect(record.replicas.map(({ node }) => node)).toEqual(['a', 'b']);
  return record;
}

async function attachment(volumeId: string): Promise<VolumeRecord['attachment']> {
  return (await a.records.ready(volumeId)).attachment;
}

async function written(daemon: TestDaemon, { id, name }: VolumeRecord, text: string): Promise<void> {
  await using client = await connected(daemon, id, name);
  await client.nbd.write(0, Buffer.from(text.padEnd(4096)), CMD_FLAG.fua);
}

async function read(daemon: TestDaemon, { id, name }: VolumeRecord): Promise<string> {
  await using client = await connected(daemon, id, name);
  return Buffer.from(await client.nbd.read(0, 4096))
    .toString()
    .trimEnd();
}

/** An export with a client. */
async function connected({ volumes, storage }: TestDaemon, id: string, name: string) {
  await volumes.acquireForExport(id);
  const handle = await storage.exportUnix(id, name, join(world.directory, `${id}.sock`));
  const nbd = await NbdClient.connect(handle.path, name);
  return {
    nbd,
    async [Symbol.asyncDispose]() {
      nbd.destroy();
      await handle.close();
      await volumes.releaseExport(id);
    },
  };
}

describe('an export', () => {
  test('serves a volume on any node, one after the other', async () => {
    const record = await made();
    await written(c, record, 'from a node without a copy');
    expect(await read(b, record)).toBe('from a node without a copy');
    await written(a, record, 'from the node of the primary');
    expect(await read(c, record)).toBe('from the node of the primary');
    expect(await attachment(record.id)).toMatchObject({ number: 8, node: null });
  });

  test('takes the attachment for as long as it lasts, whoever else asks', async () => {
    const { id } = await made();
    const conflict = (message: RegExp) => ({ code: 'CONFLICT', message: expect.stringMatching(message) });
    await b.volumes.acquireForExport(id);
    await b.volumes.acquireForExport(id);
    expect(await attachment(id)).toEqual({ number: 1, node: 'b', readOnly: false, use: 'export' });
    await expect(c.volumes.acquireForExport(id)).rejects.toMatchObject(conflict(/exported on node "b"/));
    await expect(c.volumes.publish(id, 'c', false)).rejects.toMatchObject(
      conflict(/exported .* on node "b"/),
    );
    await expect(b.volumes.publish(id, 'b', false)).rejects.toMatchObject(conflict(/exported/));
    await expect(a.volumes.delete(id)).rejects.toMatchObject(conflict(/node "b"/));
    await a.volumes.unpublish(id, null);
    await b.volumes.releaseExport(id);
    expect(await attachment(id)).toMatchObject({ number: 1, node: 'b' });
    await b.volumes.releaseExport(id);
    expect(await attachment(id)).toEqual({ number: 2, node: null, readOnly: false, use: 'device' });
    expect(b.storage.cluster.isFrontendOpen(id)).toBe(false);
    expect(b.volumes.isUsedHere(id)).toBe(false);
    await c.volumes.publish(id, 'c', false);
    await expect(b.volumes.acquireForExport(id)).rejects.toMatchObject(conflict(/attached to node "c"/));
  });

  test('that a dead daemon left is given back by the next one of its node', async () => {
    const { id } = await made();
    await c.volumes.acquireForExport(id);
    await world.stop('c');
    expect(await attachment(id)).toMatchObject({ node: 'c', use: 'export' });
    c = await world.start('c');
    await expect.poll(async () => await attachment(id), soon).toMatchObject({ number: 2, node: null });
    await b.volumes.acquireForExport(id);
    await b.volumes.releaseExport(id);
  });
});

describe('publication', () => {
  test('goes to any node that the cluster knows, asked of any daemon', async () => {
    const { id } = await made();
    expect(await b.volumes.publish(id, 'c', false)).toMatchObject({ attachment: { number: 1, node: 'c' } });
    await expect(a.volumes.publish(id, 'a', false)).rejects.toMatchObject({ code: 'CONFLICT' });
    await a.volumes.unpublish(id, 'c');
    await expect(a.volumes.publish(id, 'cc', false)).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/Did you mean "c"/),
    });
  });

  test('is what a device needs; a revocation anywhere ends its use', async () => {
    const { id } = await made();
    await expect(c.volumes.acquire(id)).rejects.toMatchObject({ code: 'CONFLICT' });
    await a.volumes.publish(id, 'c', false);
    await c.volumes.acquire(id);
    expect(c.storage.cluster.isFrontendOpen(id)).toBe(true);
    expect(c.volumes.isUsedHere(id)).toBe(true);
    expect(await c.volumes.attachmentVerdict(id, 1)).toBe('current');
    await a.volumes.unpublish(id, 'c');
    await expect.poll(() => c.storage.cluster.isFrontendOpen(id), soon).toBe(false);
    expect(await c.volumes.attachmentVerdict(id, 1)).toBe('over');
    await a.volumes.publish(id, 'c', false);
    await expect.poll(() => c.storage.cluster.isFrontendOpen(id), soon).toBe(true);
    await c.volumes.release(id);
    expect(c.storage.cluster.isFrontendOpen(id)).toBe(false);
    await a.volumes.unpublish(id, 'c');
  });

  test('is taken back by a person from a node that is gone, and from no other', async () => {
    const { id } = await made();
    await a.volumes.publish(id, 'c', false);
    const conflict = (message: RegExp) => ({ code: 'CONFLICT', message: expect.stringMatching(message) });
    await expect(a.volumes.unpublishByHand(id, true)).rejects.toMatchObject(
      conflict(/attached on node "c": end/),
    );
    await world.stop('c');
    await expect(a.volumes.unpublishByHand(id, false)).rejects.toMatchObject(conflict(/--force/));
    await a.volumes.unpublishByHand(id, true);
    expect(await attachment(id)).toMatchObject({ number: 2, node: null });
    await a.volumes.acquireForExport(id);
    c = await world.start('c');
    await expect(c.volumes.unpublishByHand(id, true)).rejects.toMatchObject(
      conflict(/exported on node "a": end/),
    );
    await a.volumes.releaseExport(id);
  });

  test('of a volume that no record tells of proves nothing about a device', async () => {
    const { id } = await made();
    await a.volumes.delete(id);
    expect(await a.volumes.attachmentVerdict(id, 1)).toBe('unknown');
    expect(await c.volumes.attachmentVerdict(id, 1)).toBe('unknown');
  });
});

describe('a file system', () => {
  test('is chosen and made on a node without a copy, and all know of it', async () => {
    const { id } = await made();
    expect(await c.volumes.chooseFileSystem(id, 'ext4')).toMatchObject({ fileSystem: { made: false } });
    await c.volumes.fileSystemMade(id);
    expect(await a.volumes.chooseFileSystem(id, 'ext4')).toMatchObject({ fileSystem: { made: true } });
    await expect(b.volumes.chooseFileSystem(id, 'xfs')).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  test('is not made over what was written, on whichever node', async () => {
    const record = await made();
    await written(c, record, 'data');
    await expect(c.volumes.chooseFileSystem(record.id, 'ext4')).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringMatching(/holds data/),
    });
  });
});

describe('what is wrong with a volume', () => {
  test('is nothing while all copies are open and in sync, and names the node that is away', async () => {
    const { id } = await made();
    await expect.poll(async () => await c.volumes.explain(id), soon).toEqual([]);
    await world.stop('b');
    const problems = (await c.volumes.explain(id)).map(({ problem }) => problem);
    expect(problems).toEqual([expect.stringMatching(/copy on node "b" .*and node "b" is not alive/)]);
    b = await world.start('b');
    await expect.poll(async () => await c.volumes.explain(id), soon).toEqual([]);
  });

  test('is told in the words of the node whose copy it is', async () => {
    const { id } = await made();
    const copy = join(world.directory, 'b', 'pool', id);
    await world.stop('b');
    await writeFile(join(copy, 'failed'), 'a flush failed (errno 5)');
    b = await world.start('b');
    const told = async () => (await c.volumes.explain(id)).map(({ problem }) => problem).join(' ');
    await expect.poll(told, soon).toMatch(/pool "pool" of node "b".*a flush failed/);
    await rm(join(copy, 'failed'));
  });
});

describe('what a daemon left half made', () => {
  const own = async (daemon: TestDaemon, id: string) =>
    (await daemon.volumes.findUnfinished()).filter(({ volumeId }) => volumeId === id);

  test('is undone by the next one of its node, and touched by no other', async () => {
    const { id: _, ...like } = await made();
    const id = drawId();
    const name = 'half made';
    await b.records.takeName({ version: 1, id, name, node: 'b' }, undefined);
    await b.records.insert({ ...like, id, name, state: 'creating', coordinator: 'b' });
    expect(await own(a, id)).toEqual([]);
    const unfinished = await own(b, id);
    expect(unfinished).toMatchObject([{ what: 'creation', name }]);
    await finishAll(unfinished, silentLogger);
    expect(await a.records.read(id)).toBeUndefined();
    expect(await a.records.claim(name)).toBeUndefined();
  });

  test('of a growth is finished where the primary is', async () => {
    const { id } = await made();
    await a.records.updateReady(id, (record) => ({ ...record, targetSizeBytes: 16 * MIB }));
    expect(await own(b, id)).toEqual([]);
    await finishAll(await own(a, id), silentLogger);
    expect(await b.volumes.get(id)).toMatchObject({ sizeBytes: 16 * MIB, targetSizeBytes: 16 * MIB });
  });

  test('is not undone once it is finished after all', async () => {
    const { id } = await made();
    await a.records.update(id, (record) => ({ ...record, state: 'creating', coordinator: 'a' }));
    const unfinished = await own(a, id);
    await a.records.update(id, (record) => ({ ...record, state: 'ready', coordinator: null }));
    await finishAll(unfinished, silentLogger);
    expect((await a.volumes.get(id)).state).toBe('ready');
  });

  test('of a name is freed by the node that took it', async () => {
    const id = drawId();
    await a.records.takeName({ version: 1, id, name: 'only a name', node: 'a' }, undefined);
    expect(await own(b, id)).toEqual([]);
    await finishAll(await own(a, id), silentLogger);
    expect(await a.records.claim('only a name')).toBeUndefined();
  });
});
