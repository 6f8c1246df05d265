// The controller service of a daemon in a cluster: real daemons in one process with a real etcd.

import { afterAll, beforeAll, expect, test } from 'vitest';
import { createController } from '../../src/csi/controller.ts';
import type { VolumeCapability } from '../../src/csi/messages.ts';
import { TOPOLOGY_KEY } from '../../src/csi/topology.ts';
import { MIB } from '../../src/core/units.ts';
import { EtcdServer } from '../control/etcd-server.ts';
import { ClusterWorld, primaryOf, type TestDaemon } from '../support/cluster-world.ts';

let etcd: EtcdServer;
let world: ClusterWorld;
let a: TestDaemon;
let controller: ReturnType<typeof createController>;

const capability: VolumeCapability = { block: {}, access_mode: { mode: 'SINGLE_NODE_WRITER' } };
const capabilities = [capability];
const near = (node: string) => ({ segments: { [TOPOLOGY_KEY]: node } });

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
  a = await world.start('a');
  await world.start('b');
  controller = createController({ node: 'a', volumes: a.volumes, inCluster: true });
}, 30_000);

afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});

test('a volume has the copies that its class asks for, near its pod, and is used on any node', async () => {
  const { volume } = await controller.CreateVolume({
    name: 'pvc-1',
    capacity_range: { required_bytes: 8 * MIB, limit_bytes: 0 },
    volume_capabilities: capabilities,
    parameters: { 'storageos.com/replicas': '1' },
    secrets: {},
    accessibility_requirements: { requisite: [near('a'), near('b')], preferred: [near('b'), near('a')] },
    mutable_parameters: {},
  });
  expect(volume?.accessible_topology).toEqual([]);
  const record = await a.records.ready(volume?.volume_id ?? '');
  expect(primaryOf(record)).toBe('b');
  expect(record.replicas).toHaveLength(2);
  await controller.ControllerPublishVolume({
    volume_id: record.id,
    node_id: 'b',
    volume_capability: capability,
    readonly: false,
    secrets: {},
    volume_context: {},
  });
  expect((await a.records.ready(record.id)).attachment).toMatchObject({ node: 'b', use: 'device' });
});

test.each([
  ['storageos.com/failure-mode', '1', 1],
  ['storageos.com/failure-mode', 'alwayson', 'alwayson'],
  ['storageos.com/failure.mode', 'hard', 'hard'],
  ['failure.mode', 'soft', 'soft'],
])('%s=%s in a class is the failure mode of its volumes', async (name, value, failureMode) => {
  const { volume } = await controller.CreateVolume({
    name: `mode-${name}-${value}`,
    capacity_range: { required_bytes: 8 * MIB, limit_bytes: 0 },
    volume_capabilities: capabilities,
    parameters: { 'storageos.com/replicas': '1', [name]: value },
    secrets: {},
    accessibility_requirements: { requisite: [], preferred: [] },
    mutable_parameters: {},
  });
  expect(await a.records.ready(volume?.volume_id ?? '')).toMatchObject({ failureMode });
});

test('the capacity is that of the largest volume on any node, wherever it is asked for', async () => {
  const ask = async (parameters: Record<string, string>): Promise<number | undefined> =>
    (
      await controller.GetCapacity({
        volume_capabilities: capabilities,
        parameters,
        accessible_topology: near('b'),
      })
    ).available_capacity;
  expect(await ask({})).toBeGreaterThan(8 * MIB);
  expect(await ask({ pool: 'other' })).toBe(0);
  await a.nodes.setCordoned('a', true);
  expect(await ask({})).toBeGreaterThan(8 * MIB);
  await a.nodes.setCordoned('b', true);
  expect(await ask({})).toBe(0);
});
