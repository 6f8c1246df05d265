// Every operation on the copies of a volume, failed and crashed at each of its calls of the store and of other daemons:
// a real etcd, real disks and data planes, three daemons in one process.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { finishAll } from '../../src/control/repair-cluster.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { Volumes } from '../../src/control/volumes.ts';
import { MIB } from '../../src/core/units.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { ClusterWorld, soon, type TestDaemon } from '../support/cluster-world.ts';
import { FAULT_KINDS, type FaultKind, Faults } from '../support/faults.ts';
import { request } from '../support/volume-world.ts';
import { EtcdServer } from './etcd-server.ts';

let etcd: EtcdServer;
let world: ClusterWorld;
let a: TestDaemon;

beforeAll(async () => {
  etcd = await EtcdServer.start();
  world = await ClusterWorld.create(etcd.address);
  a = await world.start('a');
  for (const node of ['b', 'c']) await world.start(node);
}, 30_000);
afterAll(async () => {
  await world.dispose();
  await etcd.dispose();
});

/** The daemon of node a, as it asks store and other daemons through `faults`. */
function volumesWith(faults: Faults): Volumes {
  const store = faults.around(a.store, ['get', 'list', 'compareAndSwap']);
  const calls = faults.around(a.calls, ['call']);
  const cluster = { nodes: a.nodes, calls };
  return new Volumes(store, a.storage, {
    node: 'a',
    maxVolumesPerNode: 100,
    replication: a.storage.cluster,
    cluster,
  });
}

const wish = (name: string, replicaCount: number) =>
  request(name, { sizeBytes: 8 * MIB, replicaCount, fileSystemType: null });

interface Operation {
  readonly name: string;
  readonly kinds: readonly FaultKind[];
  /** What the operation needs; its id. */
  prepare(name: string): Promise<string>;
  run(volumes: Volumes, name: string, id: string): Promise<unknown>;
  /** How many copies the volume has then, and how large they are; undefined: it is gone. */
  readonly after: { readonly copies: number; readonly sizeBytes: number } | undefined;
}

const made = async (name: string, replicaCount: number): Promise<string> => {
  const { id } = await a.volumes.create(wish(name, replicaCount));
  await expect
    .poll(async () => {
      const view = await a.storage.cluster.replicaView(id);
      return view?.state === 'primary' && view.isActive && view.mayReply;
    }, soon)
    .toBe(true);
  return id;
};
/** Those that differ where a failure is not undone by the operation itself. */
const TWO_KINDS: readonly FaultKind[] = ['failAfter', 'crashBefore'];
const OPERATIONS: readonly Operation[] = [
  {
    name: 'create',
    kinds: FAULT_KINDS,
    prepare: async () => '',
    run: async (volumes, name) => await volumes.create(wish(name, 2)),
    after: { copies: 3, sizeBytes: 8 * MIB },
  },
  {
    name: 'delete',
    kinds: TWO_KINDS,
    prepare: async (name) => await made(name, 1),
    run: async (volumes, _, id) => await volumes.delete(id),
    after: undefined,
  },
  {
    name: 'resize',
    kinds: TWO_KINDS,
    prepare: async (name) => await made(name, 1),
    run: async (volumes, _, id) => await volumes.resize(id, 16 * MIB),
    after: { copies: 2, sizeBytes: 16 * MIB },
  },
  {
    name: 'more replicas',
    kinds: TWO_KINDS,
    prepare: async (name) => await made(name, 0),
    run: async (volumes, _, id) => await volumes.setReplicas(id, 1),
    after: { copies: 2, sizeBytes: 8 * MIB },
  },
  {
    name: 'fewer replicas',
    kinds: TWO_KINDS,
    prepare: async (name) => await made(name, 2),
    run: async (volumes, _, id) => await volumes.setReplicas(id, 1),
    after: { copies: 2, sizeBytes: 8 * MIB },
  },
];

/** The nodes that have a copy of it, with the size of each. */
async function copiesOnDisks(volumeId: string): Promise<Record<string, number | undefined>> {
  const found: Record<string, number | undefined> = {};
  for (const { node, storage } of world.daemons.values()) {
    const copy = await storage.replica(volumeId);
    if (copy !== undefined) found[node] = copy.superblock?.sizeBytes;
  }
  return found;
}

/** What the record says is on the disks, and nothing else; the keepers of the nodes have a moment for it. */
async function expectWhole(record: VolumeRecord | undefined, volumeId: string): Promise<void> {
  const wanted = (record?.replicas ?? []).map(({ node }) => [node, record?.sizeBytes]);
  await expect.poll(() => copiesOnDisks(volumeId), soon).toEqual(Object.fromEntries(wanted));
}

async function expectAfter({ after }: Operation, name: string, place: string): Promise<void> {
  const records = (await a.records.list()).filter((record) => record.name === name);
  if (after === undefined) {
    expect([records, await a.records.claim(name)], place).toEqual([[], undefined]);
    return;
  }
  const { sizeBytes, copies } = after;
  expect(records, place).toMatchObject([{ state: 'ready', sizeBytes, targetSizeBytes: sizeBytes }]);
  expect(records[0]?.replicas, place).toHaveLength(copies);
  await expectWhole(records[0], records[0]?.id ?? '');
}

/** The fault at the operation's call `atCall`; false when it has fewer calls. */
async function strike(operation: Operation, kind: FaultKind, atCall: number): Promise<boolean> {
  const name = `${operation.name} ${kind} ${atCall}`;
  const id = await operation.prepare(name);
  const faults = new Faults(kind, atCall);
  const [outcome] = await Promise.allSettled([operation.run(volumesWith(faults), name, id)]);
  const place = `${name} (${faults.struckAt ?? 'none'})`;
  if (faults.struckAt === undefined) {
    expect(outcome?.status, place).toBe('fulfilled');
    await expectAfter(operation, name, place);
    return false;
  }
  const next = volumesWith(new Faults());
  if (faults.isCrashed) await finishAll(await next.findUnfinished(), silentLogger);
  // What was done is done, what was not is done now.
  await operation.run(next, name, id);
  await expectAfter(operation, name, place);
  await operation.run(next, name, id);
  await expectAfter(operation, name, place);
  return true;
}

describe.each(OPERATIONS)('$name', (operation) => {
  test.each(operation.kinds)(
    'is whole after %s at each of its calls, once it has been repeated',
    async (kind) => {
      let atCall = 1;
      while (await strike(operation, kind, atCall)) atCall += 1;
      expect(atCall).toBeGreaterThan(2);
      const records = await a.records.list();
      for (const record of records) expect(record.state, record.name).toBe('ready');
      for (const { id } of records) await a.volumes.delete(id);
      await expect.poll(async () => (await a.records.list()).length, soon).toBe(0);
    },
    120_000,
  );
});
