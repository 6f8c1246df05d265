import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { Volumes } from '../../src/control/volumes.ts';
import { GIB, MAX_VOLUME_BYTES, MIB, MIN_VOLUME_BYTES, TIB } from '../../src/core/units.ts';
import { Faults } from '../support/faults.ts';
import { NODE, request, VolumeWorld } from '../support/volume-world.ts';

let directory: string;
let world: VolumeWorld;
let volumes: Volumes;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-volumes-'));
  world = await VolumeWorld.open(join(directory, 'store'), { maxVolumesPerNode: 3 });
  volumes = world.volumes;
});

afterEach(async () => {
  await world.store.close();
  await rm(directory, { recursive: true });
});

describe('creation', () => {
  test('a volume is durable on disk and in the store, in the shape that replication needs', async () => {
    const record = await volumes.create(request('data', { labels: { app: 'db' } }));
    const replicaId = record.primary.replicaId;
    expect(record).toEqual({
      version: 2,
      id: expect.stringMatching(/^[0-9a-f]{32}$/),
      name: 'data',
      state: 'ready',
      coordinator: null,
      sizeBytes: 64 * MIB,
      targetSizeBytes: 64 * MIB,
      lineage: expect.stringMatching(/^[0-9a-f]{32}$/),
      epoch: 1,
      primary: { replicaId, opening: null },
      inSync: [{ replicaId, incarnation: null }],
      replicas: [newReplica(replicaId, NODE, 'default')],
      attachment: { number: 0, node: null, readOnly: false, use: 'device' },
      durability: 'writeback',
      failureMode: 'soft',
      fileSystem: { type: 'ext4', made: false },
      labels: { app: 'db' },
    });
    expect(world.storage.superblockOf(record.id)).toMatchObject({
      replicaId,
      lineage: record.lineage,
      volumeName: 'data',
      sizeBytes: 64 * MIB,
      promisedEpoch: 1,
    });
    expect(await world.expectSound()).toEqual([record]);
  });

  test('the same request again gives the same volume, and what it leaves open does not differ', async () => {
    const first = await volumes.create(request('data', { labels: { a: '1', b: '2' } }));
    expect(await volumes.create(request('data', { labels: { b: '2', a: '1' }, pool: 'default' }))).toEqual(
      first,
    );
    expect(
      await volumes.create(request('data', { labels: { a: '1', b: '2' }, fileSystemType: null })),
    ).toEqual(first);
    expect(world.disks.replicas.size).toBe(1);
  });

  test('another request under the same name is refused and told every difference', async () => {
    await volumes.create(request('data'));
    await expect(
      volumes.create(request('data', { sizeBytes: 128 * MIB, failureMode: 'hard', fileSystemType: 'xfs' })),
    ).rejects.toMatchObject({
      code: 'ALREADY_EXISTS',
      message: expect.stringMatching(
        /size is 64 MiB.*asked was 128 MiB.*failure mode is soft.*hard.*ext4.*xfs/,
      ),
    });
  });

  test.each([
    ['', 'INVALID'],
    ['x'.repeat(129), 'INVALID'],
    ['ü'.repeat(65), 'INVALID'],
    ['\ud800', 'INVALID'],
  ])('the name %j is refused', async (name, code) => {
    await expect(volumes.create(request(name))).rejects.toMatchObject({ code });
  });

  test.each(['a', 'x'.repeat(128), 'pvc 1/2', '../../etc', '\n\u0000', '数据', '__proto__'])(
    'the name %j is a name like any other',
    async (name) => {
      const record = await volumes.create(request(name));
      expect(await volumes.find(name)).toEqual(record);
      await volumes.delete(record.id);
      expect(await world.expectSound()).toEqual([]);
    },
  );

  test.each([
    [MIN_VOLUME_BYTES + 1, 'INVALID'],
    [Number.NaN, 'INVALID'],
    [MIN_VOLUME_BYTES - 4096, 'OUT_OF_RANGE'],
    [MAX_VOLUME_BYTES + 4096, 'OUT_OF_RANGE'],
    [0, 'OUT_OF_RANGE'],
  ])('a size of %d bytes is refused', async (sizeBytes, code) => {
    await expect(volumes.create(request('data', { sizeBytes }))).rejects.toMatchObject({ code });
    expect(await world.expectSound()).toEqual([]);
  });

  test('the smallest and the largest size are allowed', async () => {
    world.disks.pools.set('large', { totalBytes: 65 * TIB, overcommitRatio: 1 });
    await volumes.create(request('small', { sizeBytes: MIN_VOLUME_BYTES }));
    await volumes.create(request('large', { sizeBytes: MAX_VOLUME_BYTES, pool: 'large' }));
    expect(await world.expectSound()).toHaveLength(2);
  });

  test('copies that this version cannot make are refused, never ignored', async () => {
    await expect(volumes.create(request('data', { replicaCount: 1 }))).rejects.toMatchObject({
      code: 'INVALID',
    });
    await expect(volumes.create(request('data', { failureMode: 6 }))).rejects.toMatchObject({
      code: 'INVALID',
    });
    expect(await world.expectSound()).toEqual([]);
  });

  test('copies elsewhere, asked for later, are refused with what they need', async () => {
    const { id } = await volumes.create(request('data'));
    for (const asked of [
      () => volumes.create(request('more', { replicaCount: 1 })),
      () => volumes.setReplicas(id, 1),
      () => volumes.movePrimary(id, NODE),
      () => volumes.forcePromotion(id, NODE, []),
    ]) {
      await expect(asked()).rejects.toMatchObject({
        code: 'INVALID',
        message: expect.stringMatching(/alone with its store.*--store etcd/),
      });
    }
    expect(await volumes.setFailureMode(id, 'alwayson')).toMatchObject({ failureMode: 'alwayson' });
    expect(await world.expectSound()).toHaveLength(1);
  });

  test('an unknown pool is refused with the name that was probably meant', async () => {
    await expect(volumes.create(request('data', { pool: 'defualt' }))).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('Did you mean "default"?'),
    });
    expect(await world.expectSound()).toEqual([]);
  });

  test('more than the pool may promise is refused with all figures, and leaves nothing', async () => {
    await volumes.create(request('first', { sizeBytes: 150 * GIB }));
    await expect(volumes.create(request('second', { sizeBytes: 51 * GIB }))).rejects.toMatchObject({
      code: 'NO_SPACE',
      message: expect.stringMatching(/51 GiB.*100 GiB.*× 2.*150 GiB.*50 GiB/),
      details: { creatableBytes: 50 * GIB, provisionedBytes: 150 * GIB },
    });
    await volumes.create(request('second', { sizeBytes: 50 * GIB }));
    expect(await world.expectSound()).toHaveLength(2);
  });

  test('creations at once do not together promise more than the pool may', async () => {
    const results = await Promise.allSettled(
      Array.from(
        { length: 5 },
        async (_, index) => await volumes.create(request(`v${index}`, { sizeBytes: 80 * GIB })),
      ),
    );
    expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(2);
    expect(await world.expectSound()).toHaveLength(2);
  });

  test('of two creations of one name at once the second is told to try again', async () => {
    const [first, second] = await Promise.allSettled([
      volumes.create(request('data')),
      volumes.create(request('data')),
    ]);
    expect(first.status).toBe('fulfilled');
    expect(second).toMatchObject({ status: 'rejected', reason: { code: 'BUSY' } });
  });

  test('a name that is used again gets another id', async () => {
    const first = await volumes.create(request('data'));
    await volumes.delete(first.id);
    const second = await volumes.create(request('data'));
    expect(second.id).not.toBe(first.id);
    await volumes.delete(first.id);
    expect(await volumes.find('data')).toEqual(second);
  });
});

describe('finding', () => {
  test('a volume is found by name and by id, and lists are sorted by id', async () => {
    const made = [];
    for (const name of ['a', 'b', 'c']) made.push(await volumes.create(request(name)));
    for (const record of made) {
      expect(await volumes.find(record.name)).toEqual(record);
      expect(await volumes.find(record.id)).toEqual(record);
      expect(await volumes.get(record.id)).toEqual(record);
    }
    expect(await volumes.list()).toEqual(made.sort((a, b) => (a.id < b.id ? -1 : 1)));
  });

  test('an id wins over a name that looks like one', async () => {
    const victim = await volumes.create(request('data'));
    await volumes.create(request(victim.id));
    expect((await volumes.find(victim.id)).name).toBe('data');
  });

  test('a name that is not known is answered with the nearest one', async () => {
    await volumes.create(request('postgres-data'));
    await expect(volumes.find('postgers-data')).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('Did you mean "postgres-data"?'),
    });
    await expect(volumes.get('0'.repeat(32))).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  test('what is half made is not shown', async () => {
    const faults = new Faults('crashBefore', 1, 'createReplica');
    await expect(world.inject(faults).create(request('data'))).rejects.toThrow();
    const next = world.inject(new Faults());
    expect(await next.list()).toEqual([]);
    await expect(next.find('data')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });
});

describe('epoch and attachment', () => {
  async function changeOf(
    id: string,
    operation: () => Promise<unknown>,
  ): Promise<{ epoch: number; attachment: number }> {
    const before = await volumes.get(id);
    await operation();
    const after = await volumes.get(id);
    return {
      epoch: after.epoch - before.epoch,
      attachment: after.attachment.number - before.attachment.number,
    };
  }

  test('the epoch rises at attachments and at nothing else that is asked of the control plane', async () => {
    const { id } = await volumes.create(request('data'));
    const change = async (operation: () => Promise<unknown>) => await changeOf(id, operation);
    expect(await change(async () => await volumes.publish(id, NODE, false))).toEqual({
      epoch: 1,
      attachment: 1,
    });
    expect(await change(async () => await volumes.publish(id, NODE, false))).toEqual({
      epoch: 0,
      attachment: 0,
    });
    expect(await change(async () => await volumes.acquire(id))).toEqual({ epoch: 0, attachment: 0 });
    expect(await change(async () => await volumes.acquire(id))).toEqual({ epoch: 0, attachment: 0 });
    expect(await change(async () => await volumes.renewAttachment(id, NODE))).toEqual({
      epoch: 1,
      attachment: 1,
    });
    expect(await change(async () => await volumes.resize(id, 128 * MIB))).toEqual({
      epoch: 0,
      attachment: 0,
    });
    expect(await change(async () => await volumes.chooseFileSystem(id, 'xfs'))).toEqual({
      epoch: 0,
      attachment: 0,
    });
    expect(await change(async () => await volumes.fileSystemMade(id))).toEqual({ epoch: 0, attachment: 0 });
    expect(await change(async () => await volumes.unpublish(id, NODE))).toEqual({ epoch: 1, attachment: 1 });
    expect(await change(async () => await volumes.unpublish(id, NODE))).toEqual({ epoch: 0, attachment: 0 });
    expect(await change(async () => await volumes.release(id))).toEqual({ epoch: 0, attachment: 0 });
    expect(await change(async () => await volumes.release(id))).toEqual({ epoch: 0, attachment: 0 });
  });

  test('a published volume is refused another way of access, and its deletion', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, true);
    await expect(volumes.publish(id, NODE, false)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    await expect(volumes.delete(id)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining(NODE),
    });
    await volumes.unpublish(id, NODE);
    await volumes.delete(id);
    expect(await world.expectSound()).toEqual([]);
  });

  test('an exported volume is neither published nor deleted until its last export has ended', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    await volumes.acquireForExport(id);
    await volumes.acquireForExport(id);
    const refusal = {
      code: 'CONFLICT',
      message: expect.stringMatching(/exported by .* end the export first/),
    };
    await expect(volumes.publish(id, NODE, false)).rejects.toMatchObject(refusal);
    await expect(volumes.delete(id)).rejects.toMatchObject({ code: 'CONFLICT' });
    await volumes.releaseExport(id);
    await expect(volumes.publish(id, NODE, true)).rejects.toMatchObject(refusal);
    expect((await volumes.get(id)).attachment).toEqual({
      number: 1,
      node: NODE,
      readOnly: false,
      use: 'export',
    });
    await volumes.releaseExport(id);
    expect((await volumes.get(id)).attachment).toMatchObject({ number: 2, node: null });
    expect(world.storage.isReplicaOpen(id)).toBe(false);
    expect((await volumes.publish(id, NODE, false)).attachment.node).toBe(NODE);
  });

  test('a published volume is not exported, and is free for it once it is unpublished', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    await volumes.publish(id, NODE, false);
    await expect(volumes.acquireForExport(id)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('detach it first'),
    });
    expect(world.storage.isReplicaOpen(id)).toBe(false);
    await volumes.unpublish(id, NODE);
    await volumes.acquireForExport(id);
    await volumes.releaseExport(id);
  });

  test('of an export and a publication at once one is refused', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    const outcomes = await Promise.allSettled([
      volumes.publish(id, NODE, false),
      volumes.acquireForExport(id),
    ]);
    expect(outcomes.map((outcome) => outcome.status).toSorted()).toEqual(['fulfilled', 'rejected']);
  });

  test('unpublishing from another node, or what is unknown, changes nothing and succeeds', async () => {
    const { id } = await volumes.create(request('data'));
    const published = await volumes.publish(id, NODE, false);
    await volumes.unpublish(id, 'node-2');
    expect(await volumes.get(id)).toEqual(published);
    await volumes.unpublish('0'.repeat(32), null);
    await volumes.delete('0'.repeat(32));
    await volumes.unpublish(id, null);
    expect((await volumes.get(id)).attachment.node).toBeNull();
  });

  test('unknown volumes and unknown nodes are not found', async () => {
    const { id } = await volumes.create(request('data'));
    await expect(volumes.publish('0'.repeat(32), NODE, false)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(volumes.publish(id, 'node-2', false)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(volumes.resize('0'.repeat(32), GIB)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(volumes.acquire('0'.repeat(32))).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  test('a node gets no more volumes than it may have, also when they come at once', async () => {
    const made = await Promise.all(
      ['a', 'b', 'c', 'd', 'e'].map(async (name) => await volumes.create(request(name))),
    );
    const results = await Promise.allSettled(
      made.map(async ({ id }) => await volumes.publish(id, NODE, false)),
    );
    expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(3);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'LIMIT' });
    }
    const [first] = made;
    expect((await volumes.publish(first?.id ?? '', NODE, false)).attachment.number).toBe(1);
    await volumes.unpublish(first?.id ?? '', NODE);
    await volumes.publish(made[4]?.id ?? '', NODE, false);
  });

  test('only a published attachment is renewed', async () => {
    const { id } = await volumes.create(request('data'));
    await expect(volumes.renewAttachment(id, NODE)).rejects.toMatchObject({ code: 'CONFLICT' });
    await volumes.publish(id, NODE, true);
    expect((await volumes.renewAttachment(id, NODE)).attachment).toEqual({
      number: 2,
      node: NODE,
      readOnly: true,
      use: 'device',
    });
  });

  test('a device found after a restart may go on only under the current attachment', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    await world.restart();
    expect(await world.volumes.attachmentVerdict(id, 1)).toBe('current');
    expect(await world.volumes.attachmentVerdict(id, 0)).toBe('over');
    await world.volumes.unpublish(id, null);
    expect(await world.volumes.attachmentVerdict(id, 1)).toBe('over');
    expect(await world.volumes.attachmentVerdict(id, 2)).toBe('over');
    await world.volumes.delete(id);
    expect(await world.volumes.attachmentVerdict(id, 1)).toBe('over');
  });

  test('an attachment newer than its record, or without one while its copy is there, is not judged', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    expect(await volumes.attachmentVerdict(id, 2)).toBe('unknown');
    const key = `volumes/${id}`;
    const { value, revision } = (await world.store.get(key)) ?? { value: '', revision: 0 };
    await world.store.compareAndSwap(key, revision, value.replace('"version":2', '"version":99'));
    expect(await volumes.attachmentVerdict(id, 1)).toBe('unknown');
    await world.store.compareAndSwap(key, (await world.store.get(key))?.revision ?? 0, undefined);
    expect(await volumes.attachmentVerdict(id, 1)).toBe('unknown');
  });

  test('no attachment is judged by a record that its copy is ahead of', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    await world.storage.updateSuperblock(id, { promisedEpoch: 99 });
    expect(await volumes.attachmentVerdict(id, 1)).toBe('unknown');
    expect(await volumes.attachmentVerdict(id, 0)).toBe('unknown');
  });

  test('an attachment of this very number to a node of another name is not judged: it may be the former name', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    const key = `volumes/${id}`;
    const { value, revision } = (await world.store.get(key)) ?? { value: '', revision: 0 };
    const record = JSON.parse(value) as { attachment: object };
    const renamed = { ...record, attachment: { ...record.attachment, node: 'former' } };
    await world.store.compareAndSwap(key, revision, JSON.stringify(renamed));
    expect(await volumes.attachmentVerdict(id, 1)).toBe('unknown');
  });
});

describe('a pool that is not open', () => {
  let record: VolumeRecord;
  const REASON = 'its disk is not mounted: mount it';

  beforeEach(async () => {
    record = await volumes.create(request('data'));
    await volumes.publish(record.id, NODE, false);
    world.disks.closed.set('default', REASON);
  });

  test('is named with its reason by everything that needs it', async () => {
    const { id } = record;
    expect(await volumes.explain(id)).toEqual([
      { problem: `Its pool "default" is not open: ${REASON}.`, nextStep: expect.stringContaining('mended') },
    ]);
    const unavailable = { code: 'UNAVAILABLE', message: expect.stringContaining('not open') };
    await expect(volumes.acquire(id)).rejects.toMatchObject(unavailable);
    await expect(volumes.create(request('other'))).rejects.toMatchObject(unavailable);
    await expect(volumes.resize(id, 128 * MIB)).rejects.toMatchObject(unavailable);
    expect(await volumes.capacity()).toEqual([
      expect.objectContaining({ pool: 'default', creatableBytes: 0, problem: REASON }),
    ]);
    expect(await volumes.capacity('default')).toHaveLength(1);
  });

  test('keeps its volumes: a deletion waits, also over a restart, and is finished when the pool is back', async () => {
    const { id } = record;
    await volumes.unpublish(id, NODE);
    await expect(volumes.delete(id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const report = await world.restart();
    expect(report.done).toEqual([]);
    expect(report.problems).toEqual([expect.objectContaining({ volumeId: id })]);
    world.disks.closed.clear();
    await world.volumes.delete(id);
    expect(world.disks.replicas.size).toBe(0);
    expect(await world.store.list('')).toEqual([]);
  });

  test('may hide the copy of a volume without a record: its attachment is not judged', async () => {
    expect(await volumes.attachmentVerdict('0'.repeat(32), 1)).toBe('unknown');
    world.disks.closed.clear();
    expect(await volumes.attachmentVerdict('0'.repeat(32), 1)).toBe('over');
  });

  test('is forgotten only by force while volumes have their copy there', async () => {
    await expect(volumes.forgetPool('default', false)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('"data"'),
    });
    // Memory has no pools to forget: that it is asked is what counts.
    await expect(volumes.forgetPool('default', true)).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  });
});

describe('opening', () => {
  let record: VolumeRecord;

  beforeEach(async () => {
    record = await volumes.create(request('data'));
    record = await volumes.publish(record.id, NODE, false);
  });

  test('the first user opens the volume and the last one closes it', async () => {
    const [first, second] = await Promise.all([volumes.acquire(record.id), volumes.acquire(record.id)]);
    expect(second).toEqual(first);
    expect(world.storage.frontends.get(record.id)).toEqual({
      volumeId: record.id,
      attachmentNumber: 1,
      sizeBytes: record.sizeBytes,
    });
    await volumes.release(record.id);
    expect(world.storage.isReplicaOpen(record.id)).toBe(true);
    await expect(volumes.delete(record.id)).rejects.toMatchObject({ code: 'CONFLICT' });
    await volumes.release(record.id);
    expect(world.storage.isReplicaOpen(record.id)).toBe(false);
    expect(world.storage.isFrontendOpen(record.id)).toBe(false);
    await volumes.unpublish(record.id, NODE);
    await volumes.delete(record.id);
  });

  test('a volume that is not attached here has no users', async () => {
    await volumes.unpublish(record.id, NODE);
    await expect(volumes.acquire(record.id)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining('attach it here first'),
    });
    expect(world.storage.isReplicaOpen(record.id)).toBe(false);
  });

  test('an open volume is told of every attachment, so that sessions of older ones are refused', async () => {
    await volumes.acquire(record.id);
    await volumes.renewAttachment(record.id, NODE);
    expect(world.storage.frontends.get(record.id)).toMatchObject({ attachmentNumber: 2 });
    expect(world.storage.configChanges).toContain(record.id);
    await volumes.unpublish(record.id, NODE);
    expect(world.storage.isFrontendOpen(record.id)).toBe(false);
    expect(world.storage.isReplicaOpen(record.id)).toBe(true);
    await volumes.publish(record.id, NODE, false);
    expect(world.storage.frontends.get(record.id)).toMatchObject({ attachmentNumber: 4 });
  });

  test('a volume in use grows with its users', async () => {
    await volumes.acquire(record.id);
    await volumes.resize(record.id, 2 * record.sizeBytes);
    expect(world.storage.frontends.get(record.id)).toMatchObject({ sizeBytes: 2 * record.sizeBytes });
  });

  test('a volume that the storage lost is opened again for the next user', async () => {
    await volumes.acquire(record.id);
    world.storage.openReplicas.clear();
    world.storage.frontends.clear();
    await volumes.acquire(record.id);
    expect(world.storage.isReplicaOpen(record.id)).toBe(true);
    await volumes.release(record.id);
    expect(world.storage.isReplicaOpen(record.id)).toBe(true);
    await volumes.release(record.id);
    expect(world.storage.isReplicaOpen(record.id)).toBe(false);
  });

  test('a volume that could not be closed is left by its user, and closed or opened anew later', async () => {
    for (const next of ['close', 'open'] as const) {
      volumes = world.inject(new Faults('failBefore', 1, 'closeReplica'));
      await volumes.acquire(record.id);
      await expect(volumes.release(record.id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      expect(world.storage.isReplicaOpen(record.id)).toBe(true);
      if (next === 'open') {
        const { openings } = world.storage;
        await volumes.acquire(record.id);
        // Though it counts as open: its close may have been given up by its caller, and end later.
        expect(world.storage.openings).toBe(openings + 1);
        await volumes.closeUnused(record.id);
        expect(world.storage.isReplicaOpen(record.id)).toBe(true);
      }
      await volumes.release(record.id);
      expect(world.storage.isReplicaOpen(record.id)).toBe(false);
      await volumes.release(record.id);
    }
  });

  test('a copy that promised more than the store knows is not served, and the text says who must decide', async () => {
    for (const change of [{ promisedEpoch: 9 }, { attachmentNumber: 9 }]) {
      await volumes.acquire(record.id);
      await volumes.release(record.id);
      const before = world.storage.superblockOf(record.id);
      await world.storage.updateSuperblock(record.id, change);
      await expect(volumes.acquire(record.id)).rejects.toMatchObject({
        code: 'CORRUPT',
        message: expect.stringMatching(/restored from a backup.*person decides/),
      });
      expect(world.storage.isReplicaOpen(record.id)).toBe(false);
      expect(await volumes.explain(record.id)).toHaveLength(1);
      await world.storage.updateSuperblock(record.id, before);
    }
  });

  test('a copy on another node is not opened here', async () => {
    const { storage } = world;
    const options = { node: 'node-2', maxVolumesPerNode: 9, replication: storage };
    const elsewhere = new Volumes(world.store, storage, options);
    await expect(elsewhere.acquire(record.id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(elsewhere.delete(record.id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect((await elsewhere.explain(record.id))[0]?.problem).toContain(NODE);
    expect((await elsewhere.repair()).problems).toEqual([]);
  });
});

describe('resize', () => {
  test('a volume grows, never shrinks, and the same size again changes nothing', async () => {
    const record = await volumes.create(request('data'));
    const grown = await volumes.resize(record.id, 128 * MIB);
    expect(grown).toEqual({ ...record, sizeBytes: 128 * MIB, targetSizeBytes: 128 * MIB });
    expect(await volumes.resize(record.id, 128 * MIB)).toEqual(grown);
    await expect(volumes.resize(record.id, 64 * MIB)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    await expect(volumes.resize(record.id, 128 * MIB + 1)).rejects.toMatchObject({ code: 'INVALID' });
    await expect(volumes.resize(record.id, 65 * TIB)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    expect(await world.expectSound()).toEqual([grown]);
  });

  test('a volume does not grow beyond what its pool may promise', async () => {
    const { id } = await volumes.create(request('data', { sizeBytes: 100 * GIB }));
    await volumes.create(request('other', { sizeBytes: 50 * GIB }));
    await expect(volumes.resize(id, 151 * GIB)).rejects.toMatchObject({ code: 'NO_SPACE' });
    expect((await volumes.get(id)).targetSizeBytes).toBe(100 * GIB);
    expect((await volumes.resize(id, 150 * GIB)).sizeBytes).toBe(150 * GIB);
  });

  test('after a growth that failed a smaller one may be asked', async () => {
    const { id } = await volumes.create(request('data'));
    await expect(
      world.inject(new Faults('failBefore', 1, 'resizeReplica')).resize(id, GIB),
    ).rejects.toThrow();
    const next = world.inject(new Faults());
    expect((await next.explain(id))[0]?.problem).toContain('resize');
    expect((await next.resize(id, 64 * MIB)).targetSizeBytes).toBe(64 * MIB);
    expect(await next.explain(id)).toEqual([]);
  });

  test('after a growth whose answer was lost the volume has what its copy has', async () => {
    const { id } = await volumes.create(request('data'));
    await expect(world.inject(new Faults('failAfter', 1, 'resizeReplica')).resize(id, GIB)).rejects.toThrow();
    expect((await world.inject(new Faults()).resize(id, 128 * MIB)).sizeBytes).toBe(GIB);
    await world.expectSound();
  });
});

describe('file system', () => {
  test('the type may be chosen anew until mkfs has succeeded, and then stays', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    await expect(volumes.fileSystemMade(id)).rejects.toMatchObject({ code: 'CONFLICT' });
    await volumes.chooseFileSystem(id, 'ext4');
    expect((await volumes.chooseFileSystem(id, 'xfs')).fileSystem).toEqual({ type: 'xfs', made: false });
    expect((await volumes.fileSystemMade(id)).fileSystem).toEqual({ type: 'xfs', made: true });
    expect(world.storage.superblockOf(id).fileSystemMade).toBe('xfs');
    expect((await volumes.chooseFileSystem(id, 'xfs')).fileSystem).toEqual({ type: 'xfs', made: true });
    await expect(volumes.chooseFileSystem(id, 'ext4')).rejects.toMatchObject({ code: 'CONFLICT' });
  });

  test('none is chosen for a volume that holds data of nobody knows what; one that was begun is made again', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    const copy = world.disks.replicas.get(id);
    if (copy === undefined) throw new Error('the volume has a copy');
    copy.hasData = true;
    await expect(volumes.chooseFileSystem(id, 'ext4')).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringMatching(/holds data .*blkdiscard, or delete it/),
    });
    expect((await volumes.get(id)).fileSystem).toBeNull();
    copy.hasData = false;
    await volumes.chooseFileSystem(id, 'ext4');
    copy.hasData = true;
    expect((await volumes.chooseFileSystem(id, 'ext4')).fileSystem).toEqual({ type: 'ext4', made: false });
  });

  test('one that only the copy knows to be made is not made again', async () => {
    for (const type of [null, 'ext4'] as const) {
      const { id } = await volumes.create(request(`data ${type}`, { fileSystemType: type }));
      await world.storage.updateSuperblock(id, { fileSystemMade: 'ext4' });
      await expect(volumes.chooseFileSystem(id, 'xfs')).rejects.toMatchObject({ code: 'CONFLICT' });
      expect((await volumes.chooseFileSystem(id, 'ext4')).fileSystem).toEqual({ type: 'ext4', made: true });
    }
  });

  test('a published volume is not used by hand while one is being made on it', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    await volumes.publish(id, NODE, false);
    await volumes.publishByHand(id, NODE, false);
    await volumes.chooseFileSystem(id, 'ext4');
    await expect(volumes.publishByHand(id, NODE, false)).rejects.toMatchObject({ code: 'CONFLICT' });
    await volumes.fileSystemMade(id);
    await volumes.publishByHand(id, NODE, false);
  });

  test('a volume whose mkfs was interrupted is exported only once its file system is finished', async () => {
    const { id } = await volumes.create(request('data', { fileSystemType: null }));
    await volumes.chooseFileSystem(id, 'ext4');
    await expect(volumes.acquireForExport(id)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringMatching(/let the node stage the volume \(again\), or delete it/),
    });
    expect(world.storage.isReplicaOpen(id)).toBe(false);
    await volumes.fileSystemMade(id);
    await volumes.acquireForExport(id);
    await volumes.releaseExport(id);
  });
});

describe('capacity', () => {
  test('what may still be made counts what is promised, not what is used', async () => {
    world.disks.pools.set('fast', { totalBytes: 10 * GIB, overcommitRatio: 1.5 });
    await volumes.create(request('a', { sizeBytes: 20 * GIB }));
    await volumes.create(request('b', { sizeBytes: 5 * GIB, pool: 'fast' }));
    expect(await volumes.capacity()).toEqual([
      expect.objectContaining({ pool: 'default', provisionedBytes: 20 * GIB, creatableBytes: 180 * GIB }),
      expect.objectContaining({ pool: 'fast', provisionedBytes: 5 * GIB, creatableBytes: 10 * GIB }),
    ]);
    expect(await volumes.capacity('fast')).toMatchObject([{ pool: 'fast', node: NODE }]);
    await expect(volumes.capacity('fats')).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('Did you mean "fast"?'),
    });
  });

  test('the largest volume that capacity shows can be made, and nothing more', async () => {
    await volumes.create(request('a', { sizeBytes: 20 * GIB }));
    const [pool] = await volumes.capacity('default');
    await expect(
      volumes.create(request('b', { sizeBytes: (pool?.creatableBytes ?? 0) + 4096 })),
    ).rejects.toMatchObject({ code: 'NO_SPACE' });
    await volumes.create(request('b', { sizeBytes: pool?.creatableBytes ?? 0 }));
    expect(await volumes.capacity('default')).toMatchObject([{ creatableBytes: 0 }]);
  });
});

describe('repair', () => {
  test('a sound machine needs none', async () => {
    await volumes.create(request('data'));
    expect(await world.restart()).toEqual({ done: [], problems: [], orphans: [] });
  });

  test('what was done is said', async () => {
    await expect(
      world.inject(new Faults('crashAfter', 1, 'createReplica')).create(request('data')),
    ).rejects.toThrow();
    expect(await world.restart()).toMatchObject({ done: [{ name: 'data', action: 'creationUndone' }] });
    expect(await world.expectSound()).toEqual([]);
  });

  test('a volume that is half made only by an old backup of the store keeps its copy', async () => {
    const record = await volumes.create(request('data'));
    await world.storage.updateSuperblock(record.id, { promisedEpoch: record.epoch + 1 });
    const entry = await world.store.get(`volumes/${record.id}`);
    const halfMade = JSON.stringify({ ...record, state: 'creating' });
    await world.store.compareAndSwap(`volumes/${record.id}`, entry?.revision ?? 0, halfMade);
    const report = await world.restart();
    expect(report.done).toEqual([]);
    expect(report.problems).toEqual([
      expect.objectContaining({
        volumeId: record.id,
        problem: expect.stringContaining('older than the copy'),
      }),
    ]);
    expect(world.disks.replicas.has(record.id)).toBe(true);
  });

  test('a copy that no record knows stays, and is reported', async () => {
    const { id } = await volumes.create(request('data'));
    const entry = await world.store.get(`volumes/${id}`);
    await world.store.compareAndSwap(`volumes/${id}`, entry?.revision ?? 0, undefined);
    const report = await world.restart();
    expect(report.orphans).toEqual([
      {
        volumeId: id,
        pool: 'default',
        problem: expect.stringContaining('"data"'),
        nextStep: expect.stringContaining('may be the only one'),
      },
    ]);
    expect(report.done).toEqual([{ volumeId: id, name: 'data', action: 'nameFreed' }]);
    expect(world.disks.replicas.has(id)).toBe(true);
  });

  test('a volume whose copy is missing stays, and is reported and explained', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    const copy = world.disks.replicas.get(id);
    world.disks.replicas.delete(id);
    const report = await world.restart();
    expect(report.problems).toMatchObject([{ volumeId: id, problem: expect.stringContaining('missing') }]);
    expect(await world.volumes.explain(id)).toEqual([
      { problem: report.problems[0]?.problem, nextStep: report.problems[0]?.nextStep },
    ]);
    expect(await world.volumes.list()).toHaveLength(1);
    await expect(world.volumes.acquire(id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    if (copy !== undefined) world.disks.replicas.set(id, copy);
    expect((await world.restart()).problems).toEqual([]);
    await world.volumes.acquire(id);
  });

  test('a copy that cannot be read stays, and is reported', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    const copy = world.disks.replicas.get(id);
    if (copy !== undefined) copy.superblock = undefined;
    expect((await world.restart()).problems).toMatchObject([
      { volumeId: id, problem: expect.stringContaining('its checksum is wrong') },
    ]);
    await expect(world.volumes.acquire(id)).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('another copy in the place of the one that was is not served', async () => {
    const { id } = await volumes.create(request('data'));
    await volumes.publish(id, NODE, false);
    const copy = world.disks.replicas.get(id);
    if (copy?.superblock) copy.superblock = { ...copy.superblock, lineage: 'f'.repeat(32) };
    expect((await world.restart()).problems).toHaveLength(1);
    await expect(world.volumes.acquire(id)).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('a record that cannot be understood is reported, and keeps no other volume from being served', async () => {
    const good = await volumes.create(request('good'));
    await volumes.publish(good.id, NODE, false);
    const bad = await volumes.create(request('bad'));
    const entry = await world.store.get(`volumes/${bad.id}`);
    await world.store.compareAndSwap(`volumes/${bad.id}`, entry?.revision ?? 0, '{"version":3}');
    const report = await world.restart();
    expect(report.problems).toMatchObject([
      { volumeId: bad.id, problem: expect.stringContaining('another version') },
    ]);
    expect(report.orphans).toEqual([]);
    expect(report.done).toEqual([]);
    await world.volumes.acquire(good.id);
    await expect(world.volumes.get(bad.id)).rejects.toMatchObject({ code: 'CORRUPT' });
    await expect(world.volumes.list()).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('a name whose claim was lost is claimed again, so that nobody else takes it', async () => {
    const record = await volumes.create(request('data'));
    const [claim] = await world.store.list('volume-names/');
    await world.store.compareAndSwap(claim?.key ?? '', claim?.revision ?? 0, undefined);
    expect((await world.restart()).done).toMatchObject([{ name: 'data', action: 'nameClaimed' }]);
    expect(await world.volumes.create(request('data'))).toEqual(record);
    await world.expectSound();
  });

  test('one volume that cannot be repaired does not keep the others from it', async () => {
    for (const name of ['a', 'b']) {
      await expect(
        world.inject(new Faults('crashAfter', 1, 'createReplica')).create(request(name)),
      ).rejects.toThrow();
    }
    const report = await world.inject(new Faults('failBefore', 1, 'deleteReplica')).repair();
    expect(report.done).toHaveLength(1);
    expect(report.problems).toHaveLength(1);
    expect((await world.restart()).done).toHaveLength(1);
    expect(await world.expectSound()).toEqual([]);
  });
});

test('a second operation on a volume at once is told to try again, while opening and closing wait', async () => {
  const { id } = await volumes.create(request('data'));
  await volumes.publish(id, NODE, false);
  const results = await Promise.allSettled([
    volumes.resize(id, 128 * MIB),
    volumes.renewAttachment(id, NODE),
    volumes.acquire(id),
    volumes.acquire(id),
    volumes.release(id),
  ]);
  expect(results.map((result) => result.status)).toEqual([
    'fulfilled',
    'rejected',
    'fulfilled',
    'fulfilled',
    'fulfilled',
  ]);
  expect(results[1]).toMatchObject({ reason: { code: 'BUSY' } });
  expect(world.storage.isReplicaOpen(id)).toBe(true);
});

test('five hundred volumes are checked at start within a second', async () => {
  world.disks.pools.set('default', { totalBytes: TIB, overcommitRatio: 1 });
  for (let index = 0; index < 500; index += 1) await volumes.create(request(`volume-${index}`));
  const startMs = performance.now();
  expect((await world.restart()).problems).toEqual([]);
  expect(performance.now() - startMs).toBeLessThan(1000);
});
