// The copies of a volume come and go, and its primary moves: a real etcd, real disks and data planes, four daemons in
// one process, which all tests share. Each leaves all four running.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VolumeRecord } from '../../src/control/records.ts';
import { MIB } from '../../src/core/units.ts';
import { ClusterWorld, primaryOf, soon, type TestDaemon } from '../support/cluster-world.ts';
import { request } from '../support/volume-world.ts';
import { EtcdServer } from './etcd-server.ts';

let etcd: EtcdServer;
let world: ClusterWorld;
let a: TestDaemon;
let b: TestDaemon;

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
  a = await world.start('a');
  b = await world.start('b');
  for (const node of ['c', 'd']) await world.start(node);
}, 30_000);
afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});

const refusal = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });
const nodesOf = ({ replicas }: Pick<VolumeRecord, 'replicas'>): string[] =>
  replicas.map(({ node }) => node).sort();

/** With its primary on node a; the copies serve when it resolves. */
async function volume(name: string, replicaCount: number, changes = {}): Promise<VolumeRecord> {
  const wanted = request(name, { sizeBytes: 8 * MIB, replicaCount, fileSystemType: null, ...changes });
  const record = await a.volumes.create(wanted);
  await untilServing(record.id);
  return await a.records.ready(record.id);
}

async function untilServing(volumeId: string): Promise<void> {
  await expect
    .poll(async () => {
      const primary = world.daemons.get(primaryOf(await a.records.ready(volumeId)));
      const view = await primary?.storage.cluster.replicaView(volumeId);
      return view?.state === 'primary' && view.isActive && view.mayReply;
    }, soon)
    .toBe(true);
}

async function holders(volumeId: string): Promise<string[]> {
  const found: string[] = [];
  for (const { node, storage } of world.daemons.values())
    if ((await storage.replica(volumeId)) !== undefined) found.push(node);
  return found.sort();
}

const untilInSync = async (volumeId: string, count: number): Promise<string[]> => {
  await expect.poll(async () => (await a.inSync(volumeId)).length, soon).toBe(count);
  return await a.inSync(volumeId);
};

describe('the number of replicas', () => {
  test('rises: copies are made elsewhere, filled, and join the in-sync set', async () => {
    const { id } = await volume('rise', 0);
    const { record } = await b.volumes.setReplicas(id, 2);
    expect(record.replicas).toHaveLength(3);
    await untilInSync(id, 3);
    expect(await holders(id)).toEqual(nodesOf(record));
    const settled = await a.records.ready(id);
    expect(settled.replicas.every(({ needsFullCopy }) => !needsFullCopy)).toBe(true);
    expect((await b.volumes.setReplicas(id, 2)).record).toEqual(settled);
  });

  test('falls: copies in sync go when the primary serves, and their disks are free', async () => {
    const { id } = await volume('fall', 3);
    const { record, left } = await b.volumes.setReplicas(id, 0);
    expect(nodesOf(record)).toEqual(['a']);
    expect(record.inSync).toEqual([expect.objectContaining({ replicaId: record.primary.replicaId })]);
    expect(left).toEqual([]);
    expect(await holders(id)).toEqual(['a']);
    await untilServing(id);
  });

  test('falls by the copy that is away first, which is deleted when its node is back', async () => {
    const { id, replicas } = await volume('away', 2);
    const away = replicas.find(({ node }) => node !== 'a' && node !== 'b')?.node ?? '';
    await world.stop(away);
    await untilInSync(id, 2);
    const { record, left } = await a.volumes.setReplicas(id, 1);
    expect(nodesOf(record)).not.toContain(away);
    expect(left).toEqual([{ node: away, reason: expect.stringMatching(/not alive/) }]);
    await world.start(away);
    await expect.poll(() => holders(id), soon).toEqual(nodesOf(record));
  }, 60_000);

  test('falls by a member that is away, where the failure mode keeps it named, and requests are answered again', async () => {
    const { id, replicas } = await volume('named', 2, { failureMode: 'hard' });
    const away = nodesOf({ replicas }).find((node) => node !== 'a' && node !== 'b') ?? '';
    await world.stop(away);
    const view = async () => await a.storage.cluster.replicaView(id);
    await expect.poll(async () => (await view())?.mayReply, soon).toBe(false);
    expect(await a.inSync(id)).toContain(away);
    const { record } = await a.volumes.setReplicas(id, 1);
    expect(nodesOf(record)).not.toContain(away);
    await untilServing(id);
    await world.start(away);
    await expect.poll(() => holders(id), soon).toEqual(nodesOf(record));
  }, 60_000);

  test('does not rise beyond the nodes there are', async () => {
    const { id } = await volume('beyond', 3);
    await expect(a.volumes.setReplicas(id, 4)).rejects.toEqual(
      refusal('NO_SPACE', /1 node is needed for copies, and 0 can take one \(a: holds a copy already/),
    );
    expect((await a.records.ready(id)).replicas).toHaveLength(4);
  });

  test('does not rise by a part of what was asked', async () => {
    const { id } = await volume('part', 1);
    await expect(a.volumes.setReplicas(id, 4)).rejects.toEqual(
      refusal('NO_SPACE', /3 nodes are needed for copies, and 2 can take one/),
    );
    expect((await a.records.ready(id)).replicas).toHaveLength(2);
  });

  test('is refused while a resize is not finished', async () => {
    const { id } = await volume('growing', 1);
    await a.records.updateReady(id, (record) => ({ ...record, targetSizeBytes: 16 * MIB }));
    await expect(a.volumes.setReplicas(id, 2)).rejects.toEqual(refusal('CONFLICT', /resize.*not finished/));
  });
});

describe('the failure mode', () => {
  test('changes, and not where requests would have to wait from then on', async () => {
    const { id, epoch } = await volume('mode', 2);
    const away = nodesOf(await a.records.ready(id)).find((node) => node !== 'a' && node !== 'b') ?? '';
    expect(await b.volumes.setFailureMode(id, 'hard')).toMatchObject({ failureMode: 'hard', epoch });
    await a.volumes.setFailureMode(id, 'soft');
    await world.stop(away);
    await untilInSync(id, 2);
    await expect(b.volumes.setFailureMode(id, 'hard')).rejects.toEqual(
      refusal('CONFLICT', /2 copies in sync.*asks for 3.*would wait/),
    );
    await expect(b.volumes.setFailureMode(id, 4)).rejects.toEqual(refusal('INVALID', /there would be 2/));
    await world.start(away);
    await untilInSync(id, 3);
  }, 60_000);
});

describe('the primary', () => {
  test('moves to a copy in sync and back, asked at any node, and an epoch each', async () => {
    const { id, epoch } = await volume('move', 1);
    const [, other = ''] = await a.inSync(id);
    const third = [...world.daemons.values()].find(({ node }) => node !== 'a' && node !== other);
    const moved = await third?.volumes.movePrimary(id, other);
    expect(moved && primaryOf(moved)).toBe(other);
    expect(moved?.epoch).toBeGreaterThan(epoch);
    await untilServing(id);
    expect(primaryOf(await a.volumes.movePrimary(id, 'a'))).toBe('a');
    await untilServing(id);
    expect(await untilInSync(id, 2)).toEqual(['a', other]);
    const { lines } = await b.volumes.timeline(await a.records.ready(id));
    const parts = lines.filter(({ what }) => what === 'role').map(({ node }) => node);
    expect(parts).toEqual(['a', other, 'a']);
  });

  test('does not move to a node without a copy, nor to one that there is not', async () => {
    const record = await volume('nowhere', 1);
    const without = ['a', 'b', 'c', 'd'].find((node) => !nodesOf(record).includes(node)) ?? '';
    await expect(a.volumes.movePrimary(record.id, without)).rejects.toEqual(
      refusal('CONFLICT', /has no copy of it: its copies in sync are on "a"/),
    );
    await expect(a.volumes.movePrimary(record.id, 'aa')).rejects.toEqual(
      refusal('NOT_FOUND', /no node "aa"/),
    );
  });

  test('whose node is gone is not asked: a copy in sync takes over by itself', async () => {
    const { id } = await volume('taken', 1);
    const [, other = ''] = await a.inSync(id);
    await b.volumes.movePrimary(id, other);
    await untilServing(id);
    await world.stop(other);
    const move = a.volumes.movePrimary(id, 'a').then(primaryOf, (error: unknown) => error);
    expect(['a', refusal('UNAVAILABLE', /takes over by itself/)]).toContainEqual(await move);
    await expect.poll(async () => primaryOf(await a.records.ready(id)), soon).toBe('a');
    await world.start(other);
    await untilInSync(id, 2);
  }, 60_000);
});

describe('a forced promotion', () => {
  test('makes the volume of a copy that lacks writes, once every member that is given up is off; the others are kept', async () => {
    await a.nodes.setCordoned('a', true);
    const record = await a.volumes.create(
      request('forced', { sizeBytes: 8 * MIB, replicaCount: 1, fileSystemType: null, preferredNode: 'c' }),
    );
    await a.nodes.setCordoned('a', false);
    const { id } = record;
    await untilServing(id);
    const other = nodesOf(record).find((node) => node !== 'c') ?? '';
    await world.stop(other);
    await untilInSync(id, 1);
    await expect(a.volumes.forcePromotion(id, 'c', [])).rejects.toEqual(
      refusal('CONFLICT', /its primary serves/),
    );
    await world.stop('c');
    await world.start(other);
    b = world.daemons.get('b') ?? b;
    await expect(a.volumes.forcePromotion(id, 'a', [])).rejects.toEqual(
      refusal('CONFLICT', /has no copy of it/),
    );
    await expect(a.volumes.forcePromotion(id, other, [])).rejects.toEqual(
      refusal('CONFLICT', /whether these nodes still serve or use it: c\..*--off c/),
    );
    const before = await a.records.ready(id);
    const after = await a.volumes.forcePromotion(id, other, ['c']);
    expect(nodesOf(after)).toEqual([other]);
    expect(after.lineage).not.toBe(before.lineage);
    expect(after.attachment.number).toBe(before.attachment.number + 1);
    await untilServing(id);
    await world.start('c');
    await expect.poll(() => holders(id), soon).toEqual(['c', other].sort());
    expect(nodesOf(await a.records.ready(id))).toEqual([other]);
  }, 90_000);
});
