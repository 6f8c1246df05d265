// On nodes with real data planes in one process, and a real etcd.

import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { givePlaces } from '../../src/control/give-places.ts';
import { MIB } from '../../src/core/units.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { ClusterWorld, soon } from '../support/cluster-world.ts';
import { EtcdServer } from './etcd-server.ts';

let etcd: EtcdServer;
let world: ClusterWorld;

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
});

afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});

test('a primary whose daemon stops gives its place to a copy in sync; one without such a copy keeps it', async () => {
  const a = await world.start('a');
  await world.start('b');
  const request = {
    sizeBytes: 64 * MIB,
    durability: 'writeback',
    failureMode: 'soft',
    fileSystemType: null,
    labels: {},
  } as const;
  const two = await a.volumes.create({ ...request, name: 'two', replicaCount: 1, preferredNode: 'a' });
  const one = await a.volumes.create({ ...request, name: 'one', replicaCount: 0, preferredNode: 'a' });
  const serves = async (volumeId: string): Promise<boolean> => {
    const view = await a.storage.cluster.replicaView(volumeId);
    return view?.state === 'primary' && view.isActive;
  };
  await vi.waitUntil(async () => (await serves(two.id)) && (await serves(one.id)), soon);
  await vi.waitUntil(async () => (await a.storage.cluster.replicaView(two.id))?.others[0]?.isConnected, soon);

  const began = performance.now();
  await givePlaces(a.storage.cluster, [one.id, two.id], silentLogger);
  expect(performance.now() - began).toBeLessThan(2500);
  expect(await a.inSync(two.id)).toEqual(['b', 'a']);
  // It stops as a copy that the new primary knows, and says so to it.
  expect(await a.storage.cluster.replicaView(two.id)).toMatchObject({ state: 'following', isActive: true });
  expect(await a.inSync(one.id)).toEqual(['a']);
  expect(await serves(one.id)).toBe(true);
});
