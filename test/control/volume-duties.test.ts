// What the leader does about volumes: a real etcd, real disks and data planes, four daemons in one process, which all
// tests share, and rounds of the housekeeping that the tests run by hand.

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { readSettings, setMaintenance } from '../../src/control/cluster-settings.ts';
import { type Duty, noteLostNodes } from '../../src/control/housekeeping.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { volumeDuties } from '../../src/control/volume-duties.ts';
import { MIB } from '../../src/core/units.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { ClusterWorld, primaryOf, soon, type TestDaemon } from '../support/cluster-world.ts';
import { request } from '../support/volume-world.ts';
import { EtcdServer } from './etcd-server.ts';

const MINUTE_MS = 60_000;
const patient = { timeout: 30_000, interval: 100 };

let etcd: EtcdServer;
let world: ClusterWorld;
let leader: TestDaemon;
let duties: Duty[];
/** By the leader's clock, ahead of the real one. */
let aheadMs: number;

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
  leader = await world.start('a');
  for (const node of ['b', 'c', 'd']) await world.start(node);
}, 30_000);
afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});
beforeEach(() => {
  aheadMs = 0;
  const { nodes, records, volumes, store } = leader;
  const nowMs = (): number => Date.now() + aheadMs;
  const options = {
    store,
    nodes,
    records,
    volumes,
    replaceAfterMs: 10 * MINUTE_MS,
    log: silentLogger,
    nowMs,
  };
  duties = [noteLostNodes(nodes, silentLogger), ...volumeDuties(options)];
});

async function round(): Promise<void> {
  for (const duty of duties) await duty.run(AbortSignal.timeout(20_000));
}

/** Rounds, until it is so. */
async function roundsUntil<T>(look: () => Promise<T>, wanted: T): Promise<void> {
  await expect
    .poll(async () => {
      await round();
      return await look();
    }, patient)
    .toEqual(wanted);
}

async function volume(name: string, replicaCount: number, changes = {}): Promise<VolumeRecord> {
  const wanted = request(name, { sizeBytes: 8 * MIB, replicaCount, fileSystemType: null, ...changes });
  const { id } = await leader.volumes.create(wanted);
  await expect
    .poll(async () => (await leader.records.ready(id)).replicas.every(({ bootId }) => bootId !== null), soon)
    .toBe(true);
  return await leader.records.ready(id);
}

const nodesOf = ({ replicas }: Pick<VolumeRecord, 'replicas'>): string[] =>
  replicas.map(({ node }) => node).sort();
const nodesNow = async (volumeId: string): Promise<string[]> => nodesOf(await leader.records.ready(volumeId));
const inSyncNow = async (volumeId: string): Promise<string[]> => (await leader.inSync(volumeId)).sort();

async function holders(volumeId: string): Promise<string[]> {
  const found: string[] = [];
  for (const { node, storage } of world.daemons.values())
    if ((await storage.replica(volumeId)) !== undefined) found.push(node);
  return found.sort();
}

describe('a copy on a node that is away', () => {
  test('is left alone within the delay and in maintenance, and replaced afterwards', async () => {
    const { id, replicas } = await volume('lost', 1);
    const away = nodesOf({ replicas }).find((node) => node !== 'a') ?? '';
    await world.stop(away);
    await expect.poll(() => inSyncNow(id), soon).toEqual(['a']);
    await round();
    await round();
    expect(await nodesNow(id)).toEqual(nodesOf({ replicas }));
    // Noted by a leader whose clock is an hour slow.
    const lostAt = new Date(Date.now() - 60 * MINUTE_MS).toISOString();
    await leader.nodes.update(away, (node) => ({ ...node, lostAt }));
    await round();
    expect(await nodesNow(id)).toEqual(nodesOf({ replicas }));
    aheadMs = 11 * MINUTE_MS;
    await setMaintenance(leader.store, true);
    await round();
    expect(await nodesNow(id)).toEqual(nodesOf({ replicas }));
    expect((await readSettings(leader.store)).maintenanceSince).not.toBeNull();
    await setMaintenance(leader.store, false);
    await roundsUntil(async () => (await nodesNow(id)).includes(away), false);
    const after = await nodesNow(id);
    expect(after).toHaveLength(2);
    expect(await inSyncNow(id)).toEqual(after);
    await world.start(away);
    await expect.poll(() => holders(id), soon).toEqual(after);
  }, 90_000);

  test('that comes back in sync while another is being filled stays, and the other goes', async () => {
    const { id, replicas } = await volume('back', 1);
    const away = nodesOf({ replicas }).find((node) => node !== 'a') ?? '';
    await world.stop(away);
    await expect.poll(() => inSyncNow(id), soon).toEqual(['a']);
    // As if another copy had been named, and its node were slow to make it.
    const third = ['b', 'c', 'd'].find((node) => node !== away) ?? '';
    await leader.records.updateReady(id, (record) => ({
      ...record,
      replicas: [
        ...record.replicas.map((replica) =>
          replica.node === away ? { ...replica, leaving: true as const } : replica,
        ),
        {
          id: 'f'.repeat(32),
          node: third,
          pool: 'pool',
          outSince: null,
          needsFullCopy: true,
          bootId: null,
          report: null,
        },
      ],
    }));
    await world.start(away);
    await expect.poll(() => inSyncNow(id), soon).toEqual(['a', away].sort());
    await roundsUntil(() => nodesNow(id), ['a', away].sort());
    expect((await leader.records.ready(id)).replicas.every(({ leaving }) => leaving === undefined)).toBe(
      true,
    );
  }, 90_000);
});

describe('a node that is drained', () => {
  test('gives its primaries and copies away, an only copy too, and holds nothing then', async () => {
    const two = await volume('drained', 1, { preferredNode: 'b' });
    const one = await volume('only', 0, { preferredNode: 'b' });
    expect(primaryOf(two)).toBe('b');
    await leader.nodes.setDraining('b');
    await roundsUntil(async () => [await holders(two.id), await holders(one.id)].flat().includes('b'), false);
    for (const { id, replicas } of [two, one]) {
      const record = await leader.records.ready(id);
      expect(record.replicas).toHaveLength(replicas.length);
      expect(record.inSync).toHaveLength(replicas.length);
      expect(nodesOf(record)).not.toContain('b');
    }
    await leader.nodes.setCordoned('b', false);
    expect(await leader.nodes.find('b')).toMatchObject({ cordoned: false, draining: false });
  }, 90_000);
});

test('a copy that a drained node cannot lose is explained, with what each other node lacks', async () => {
  const { id } = await volume('stuck', 3);
  await leader.nodes.setDraining('d');
  // What a primary that has just begun does not reach yet is named, too.
  await expect.poll(async () => (await leader.volumes.explain(id)).length, { timeout: 10_000 }).toBe(1);
  const [found] = await leader.volumes.explain(id);
  expect(found?.problem).toMatch(
    /Node "d" is to be drained, and no other can take its copy: 1 node is needed.*a: holds a copy/,
  );
  expect(found?.nextStep).toMatch(/holdfast node uncordon d/);
  await leader.nodes.setCordoned('d', false);
  expect(await leader.volumes.explain(id)).toEqual([]);
});

describe('what nobody finishes', () => {
  test('a deletion goes on when its node is back, whoever began it', async () => {
    const { id, replicas } = await volume('unfinished', 1);
    const away = nodesOf({ replicas }).find((node) => node !== 'a') ?? '';
    await world.stop(away);
    await leader.volumes.delete(id);
    await round();
    aheadMs = MINUTE_MS;
    await round();
    expect(await leader.records.read(id)).toMatchObject({ state: 'deleting', replicas: [{ node: away }] });
    await world.start(away);
    await roundsUntil(async () => await leader.records.read(id), undefined);
    expect(await holders(id)).toEqual([]);
  }, 60_000);

  test('a creation is undone when its maker is gone, and not while it is at it', async () => {
    const { id } = await volume('half', 1);
    const made = (coordinator: string) =>
      leader.records.update(id, (record) => ({ ...record, state: 'creating' as const, coordinator }));
    await made('c');
    await round();
    aheadMs = MINUTE_MS;
    await round();
    expect(await leader.records.read(id)).toMatchObject({ state: 'creating' });
    await made('gone');
    await roundsUntil(async () => await leader.records.read(id), undefined);
    expect(await leader.records.claim('half')).toBeUndefined();
    expect(await holders(id)).toEqual([]);
  }, 60_000);

  test('a copy that was named and never made is made, and filled', async () => {
    const { id } = await volume('named', 0);
    await leader.records.updateReady(id, (record) => ({
      ...record,
      replicas: [
        ...record.replicas,
        {
          id: 'e'.repeat(32),
          node: 'd',
          pool: 'pool',
          outSince: null,
          needsFullCopy: true,
          bootId: null,
          report: null,
        },
      ],
    }));
    await round();
    aheadMs = MINUTE_MS;
    await roundsUntil(() => inSyncNow(id), ['a', 'd']);
  }, 60_000);
});
