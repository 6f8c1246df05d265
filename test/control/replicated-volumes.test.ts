// Volumes with copies on several nodes: a real etcd, real disks and data planes, three daemons in one process, which
// all tests share. Each leaves all three running.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VolumeRecord } from '../../src/control/records.ts';
import { HoldfastError } from '../../src/core/errors.ts';
import { MIB } from '../../src/core/units.ts';
import { ClusterWorld, primaryOf, soon, type TestDaemon } from '../support/cluster-world.ts';
import { request } from '../support/volume-world.ts';
import { EtcdServer } from './etcd-server.ts';

let etcd: EtcdServer;
let world: ClusterWorld;
let a: TestDaemon;
let b: TestDaemon;
let c: TestDaemon;

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

const replicated = (name: string, replicaCount: number, changes = {}) =>
  request(name, { sizeBytes: 8 * MIB, replicaCount, fileSystemType: null, ...changes });
const nodesOf = (record: VolumeRecord): string[] => record.replicas.map(({ node }) => node).sort();
const all = (): TestDaemon[] => [a, b, c];
const refusal = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

/** The nodes that have a copy on their disks. */
async function holders(volumeId: string): Promise<string[]> {
  const found: string[] = [];
  for (const { node, storage } of all())
    if ((await storage.replica(volumeId)) !== undefined) found.push(node);
  return found;
}

async function isServing(record: VolumeRecord): Promise<boolean> {
  const primary = world.daemons.get(primaryOf(await a.records.ready(record.id)));
  const view = await primary?.storage.cluster.replicaView(record.id);
  return view?.state === 'primary' && view.isActive && view.mayReply;
}

/** Until the test has let go, `node` answers this call with an error. */
function failing(daemon: TestDaemon, method: 'createReplica' | 'deleteReplica' | 'growReplica'): () => void {
  const { handlers } = daemon;
  const standing = handlers[method];
  Object.assign(handlers, { [method]: () => Promise.reject(new HoldfastError('IO', 'the disk is gone')) });
  return () => void Object.assign(handlers, { [method]: standing });
}

describe('creation', () => {
  test('makes a copy on each of as many nodes as asked, the primary here, all in sync as they were made', async () => {
    const record = await b.volumes.create(replicated('three', 2));
    expect(record).toMatchObject({ state: 'ready', coordinator: null });
    expect(nodesOf(record)).toEqual(['a', 'b', 'c']);
    expect(primaryOf(record)).toBe('b');
    expect(await holders(record.id)).toEqual(['a', 'b', 'c']);
    for (const { id, node } of record.replicas) {
      const copy = await world.daemons.get(node)?.storage.replica(record.id);
      expect(copy?.superblock?.replicaId).toBe(id);
      expect(record.inSync).toContainEqual({ replicaId: id, incarnation: copy?.superblock?.incarnation });
    }
    await expect.poll(() => isServing(record), soon).toBe(true);
    const settled = await a.records.ready(record.id);
    expect(settled.inSync).toEqual(record.inSync);
  });

  test('is answered the same by any daemon, and a difference is told', async () => {
    const record = await a.volumes.create(replicated('same', 1));
    expect(await c.volumes.create(replicated('same', 1))).toMatchObject({
      id: record.id,
      replicas: [{}, {}],
    });
    await expect(b.volumes.create(replicated('same', 2))).rejects.toEqual(
      refusal('ALREADY_EXISTS', /number of replicas is 1, asked was 2/),
    );
  });

  test('puts the primary where the volume is going to be used', async () => {
    const record = await a.volumes.create(replicated('preferred', 1, { preferredNode: 'c' }));
    expect(primaryOf(record)).toBe('c');
  });

  test('of more copies than there are nodes says of each node what is in the way, and leaves nothing', async () => {
    await a.nodes.setCordoned('c', true);
    await expect(a.volumes.create(replicated('many', 2))).rejects.toEqual(
      refusal('NO_SPACE', /3 nodes are needed for copies, and 2 can take one \(c: cordoned\)/),
    );
    await a.nodes.setCordoned('c', false);
    expect(await a.records.claim('many')).toBeUndefined();
    await expect(a.volumes.create(replicated('many', 5))).rejects.toEqual(
      refusal('NO_SPACE', /6 nodes are needed.*there are no others/),
    );
  });

  test('with a pool that no node has is told which is meant', async () => {
    await expect(a.volumes.create(replicated('pools', 1, { pool: 'pol' }))).rejects.toEqual(
      refusal('INVALID', /Did you mean "pool"/),
    );
  });

  test('that could never meet its failure mode is refused', async () => {
    await expect(a.volumes.create(replicated('mode', 1, { failureMode: 2 }))).rejects.toEqual(
      refusal('INVALID', /failure mode 2 wants that many replicas/),
    );
  });

  test('goes on with another node when one fails, and what that one was to have is deleted', async () => {
    const letGo = failing(b, 'createReplica');
    const record = await a.volumes.create(replicated('other', 1, { preferredNode: 'b' }));
    expect(nodesOf(record)).toEqual(['a', 'c']);
    await expect(a.volumes.create(replicated('none', 2))).rejects.toEqual(
      refusal('NO_SPACE', /b: could not make its copy: the disk is gone/),
    );
    letGo();
    expect(await a.records.claim('none')).toBeUndefined();
    expect((await a.records.list()).filter(({ name }) => name === 'none')).toEqual([]);
  });

  test('is of no copy that counts as holding everything: an empty one would be taken for it', async () => {
    const record = await a.volumes.create(replicated('anew', 1, { preferredNode: 'b' }));
    const { id: volumeId, name: volumeName, lineage, epoch, durability, sizeBytes } = record;
    const [copy] = record.replicas;
    await expect.poll(() => isServing(record), soon).toBe(true);
    // Its disk is replaced behind its back.
    await b.storage.cluster.closeReplica(volumeId);
    await b.storage.deleteReplica(volumeId, 'pool');
    const spec = {
      volumeId,
      volumeName,
      replicaId: copy?.id ?? '',
      pool: 'pool',
      sizeBytes,
      lineage,
      epoch,
      durability,
    };
    await expect(a.calls.call('b', 'createReplica', { ...spec, failureMode: 'soft' })).rejects.toEqual(
      refusal('CONFLICT', /its copy there is in sync: none was made/),
    );
    expect(await b.storage.replica(volumeId)).toBeUndefined();
  });

  test('that was cut short is undone by whoever asks for the name next, once its maker is away', async () => {
    const record = await a.volumes.create(replicated('cut', 2));
    // The epoch of its opening is in the store then, as well as on the disks.
    await expect.poll(() => isServing(record), soon).toBe(true);
    await a.records.update(record.id, (found) => ({ ...found, state: 'creating', coordinator: 'c' }));
    await expect(a.volumes.create(replicated('cut', 1))).rejects.toEqual(
      refusal('BUSY', /Node "c" is making volume "cut"/),
    );
    await a.records.update(record.id, (found) => ({ ...found, coordinator: 'gone' }));
    const second = await a.volumes.create(replicated('cut', 1));
    expect(second.id).not.toBe(record.id);
    expect(await holders(record.id)).toEqual([]);
  });

  test('by two daemons at once ends in one volume, or in none and a word to try again', async () => {
    for (let round = 0; round < 5; round += 1) {
      const name = `race-${round}`;
      const results = await Promise.allSettled(
        all().map(({ volumes }) => volumes.create(replicated(name, 1))),
      );
      const ids = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.id] : []));
      for (const result of results) {
        if (result.status === 'rejected') expect(result.reason).toEqual(refusal('BUSY', /try again/));
      }
      expect(new Set(ids).size).toBeLessThanOrEqual(1);
      const { id } = await a.volumes.create(replicated(name, 1));
      for (const found of ids) expect(found).toBe(id);
      const records = await a.records.list();
      expect(records.filter((record) => record.name === name && record.state === 'ready')).toHaveLength(1);
    }
  }, 60_000);
});

describe('deletion', () => {
  test('removes every copy, the record and the name', async () => {
    const { id } = await a.volumes.create(replicated('gone', 2));
    expect(await b.volumes.delete(id)).toEqual([]);
    expect(await holders(id)).toEqual([]);
    expect(await a.records.read(id)).toBeUndefined();
    expect(await a.records.claim('gone')).toBeUndefined();
    expect(await c.volumes.delete(id)).toEqual([]);
  });

  test('is refused while the volume is attached, by whichever daemon it is asked', async () => {
    const { id } = await a.volumes.create(replicated('attached', 1));
    await a.records.updateReady(id, (record) => ({
      ...record,
      epoch: record.epoch + 1,
      attachment: { number: 1, node: 'b', readOnly: false, use: 'device' },
    }));
    await expect(c.volumes.delete(id)).rejects.toEqual(refusal('CONFLICT', /published to node "b"/));
    expect(await holders(id)).toHaveLength(2);
  });

  test('does not wait for a node that is away: the name is free, and the copy goes when the node is back', async () => {
    const { id } = await a.volumes.create(replicated('away', 2));
    await world.stop('c');
    expect(await a.volumes.delete(id)).toEqual([{ node: 'c', reason: expect.stringMatching(/not alive/) }]);
    expect(await a.records.read(id)).toMatchObject({ state: 'deleting', replicas: [{ node: 'c' }] });
    await expect(a.volumes.find('away')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    const second = await a.volumes.create(replicated('away', 1));
    expect(second.id).not.toBe(id);

    c = await world.start('c');
    await expect.poll(async () => await c.storage.replica(id), soon).toBeUndefined();
    expect(await b.volumes.delete(id)).toEqual([]);
    expect(await a.records.read(id)).toBeUndefined();
    expect(await a.volumes.find('away')).toMatchObject({ id: second.id });
  }, 60_000);
});

describe('resize', () => {
  test('grows every copy, then the volume', async () => {
    const { id } = await a.volumes.create(replicated('grow', 2));
    expect(await c.volumes.resize(id, 16 * MIB)).toMatchObject({
      sizeBytes: 16 * MIB,
      targetSizeBytes: 16 * MIB,
    });
    for (const { storage } of all())
      expect((await storage.replica(id))?.superblock?.sizeBytes).toBe(16 * MIB);
  });

  test('is refused, with its name, while a copy is away, and nothing grew', async () => {
    const { id } = await a.volumes.create(replicated('short', 2));
    await world.stop('c');
    await expect(a.volumes.resize(id, 16 * MIB)).rejects.toEqual(
      refusal('UNAVAILABLE', /copy on node "c" does not .*repeat the resize/),
    );
    expect(await a.records.read(id)).toMatchObject({ sizeBytes: 8 * MIB, targetSizeBytes: 8 * MIB });
    c = await world.start('c');
    expect(await a.volumes.resize(id, 16 * MIB)).toMatchObject({ sizeBytes: 16 * MIB });
  }, 60_000);

  test('that a copy failed in the middle of is finished by repeating it', async () => {
    const { id } = await a.volumes.create(replicated('middle', 2));
    const letGo = failing(b, 'growReplica');
    await expect(a.volumes.resize(id, 16 * MIB)).rejects.toEqual(refusal('IO', /node "b".*the disk is gone/));
    letGo();
    expect(await a.records.read(id)).toMatchObject({ sizeBytes: 8 * MIB, targetSizeBytes: 16 * MIB });
    expect(await c.volumes.resize(id, 16 * MIB)).toMatchObject({ sizeBytes: 16 * MIB });
  });
});
