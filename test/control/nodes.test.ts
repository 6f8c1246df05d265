// Nodes in a real etcd: what each daemon says of itself, and when it counts as alive.

import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { noteLostNodes } from '../../src/control/housekeeping.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { drawId } from '../../src/control/names.ts';
import { claimNodeName, NodeMembership, type NodeSelf } from '../../src/control/node-membership.ts';
import { Nodes } from '../../src/control/nodes.ts';
import type { Store } from '../../src/control/store.ts';
import { GIB } from '../../src/core/units.ts';
import type { ClosedPool, PoolStatus } from '../../src/dataplane/node-storage.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { EtcdProxy } from './etcd-proxy.ts';
import { EtcdServer } from './etcd-server.ts';

const LEASE_MS = 1000;
const LOOK_MS = 20;

let server: EtcdServer;
let prefix: string;
let store: EtcdStore;
let nodes: Nodes;
const cleanups: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  server = await EtcdServer.start();
});
afterAll(async () => {
  await server.dispose();
});
beforeEach(async () => {
  prefix = `/test/${randomUUID()}`;
  store = await connect();
  nodes = new Nodes(store);
});
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

async function connect(address = server.address): Promise<EtcdStore> {
  const opened = await EtcdStore.open({ endpoints: [address], prefix, timeoutMs: 1000 });
  cleanups.push(() => opened.close());
  return opened;
}

function self(name: string, changes: Partial<NodeSelf> = {}): NodeSelf {
  return {
    name,
    id: drawId(),
    zone: 'z1',
    labels: { disk: 'ssd' },
    softwareVersion: '1.2.3',
    wire: { control: { min: 1, max: 1 }, peer: { min: 1, max: 1 } },
    bootId: 'boot',
    process: drawId(),
    startedAt: new Date().toISOString(),
    ...changes,
  };
}

/** A disk whose room the test decides. */
class Disk {
  availableBytes = 100 * GIB;
  closed: ClosedPool[] = [];

  async pools(): Promise<PoolStatus[]> {
    return [
      {
        name: 'fast',
        directory: '/fast',
        ioMode: 'direct',
        totalBytes: 100 * GIB,
        availableBytes: this.availableBytes,
        reserveBytes: GIB,
        provisionedBytes: 0,
        overcommitRatio: 2,
      },
    ];
  }

  closedPools(): ClosedPool[] {
    return this.closed;
  }
}

async function member(
  me: NodeSelf,
  options: { via?: Store; disk?: Disk; roomIntervalMs?: number; isShared?: boolean } = {},
): Promise<NodeMembership> {
  const { via = store, disk = new Disk(), roomIntervalMs = 60_000, isShared = true } = options;
  const theirs = new Nodes(via);
  await claimNodeName(theirs, me, false);
  const membership = new NodeMembership(via, theirs, me, disk, {
    isShared,
    address: '10.0.0.1:7400',
    log: silentLogger,
    leaseMs: LEASE_MS,
    lookIntervalMs: LOOK_MS,
    roomIntervalMs,
  });
  cleanups.push(() => membership.close());
  membership.start();
  await expect.poll(async () => (await theirs.find(me.name)).address, soon).not.toBeNull();
  return membership;
}

const soon = { timeout: 10_000, interval: 30 };
const isAlive = async (name: string): Promise<boolean> => (await nodes.find(name)).isAlive;

test('a node is known and alive while its daemon runs, and not alive as soon as that stopped', async () => {
  const me = self('a');
  const membership = await member(me);
  await expect.poll(() => isAlive('a'), soon).toBe(true);
  expect(await nodes.list()).toEqual([
    {
      version: 1,
      ...me,
      address: '10.0.0.1:7400',
      pools: [
        {
          name: 'fast',
          totalBytes: 100 * GIB,
          availableBytes: 100 * GIB,
          reserveBytes: GIB,
          overcommitRatio: 2,
          problem: null,
        },
      ],
      lostAt: null,
      cordoned: false,
      draining: false,
      isAlive: true,
    },
  ]);
  await membership.close();
  expect(await isAlive('a')).toBe(false);
});

test('a node that the store does not hear of is not alive, and is again once it is heard', async () => {
  const proxy = await EtcdProxy.start(server.clientPort);
  cleanups.push(() => proxy.dispose());
  await member(self('a'), { via: await connect(proxy.address) });
  await expect.poll(() => isAlive('a'), soon).toBe(true);
  proxy.cut();
  await expect.poll(() => isAlive('a'), soon).toBe(false);
  await nodes.update('a', (node) => ({ ...node, lostAt: new Date().toISOString() }));
  proxy.heal();
  await expect.poll(() => nodes.find('a'), soon).toMatchObject({ isAlive: true, lostAt: null });
});

test('a daemon that takes over after a kill is alive, also once the lease of the killed one has run out', async () => {
  const me = self('a');
  const killed = await connect();
  await claimNodeName(new Nodes(killed), me, false);
  // Its lease is renewed by nobody.
  await nodes.setAlive('a', { id: me.id, process: me.process }, await killed.lease(LEASE_MS));
  await member({ ...me, process: drawId() });
  await expect.poll(async () => (await nodes.alive('a'))?.process !== me.process, soon).toBe(true);
  await sleep(LEASE_MS * 3);
  expect(await isAlive('a')).toBe(true);
});

test('a name belongs to one data directory: another one is refused, and may take it over only from one that is not alive', async () => {
  const first = await member(self('a'));
  await expect.poll(() => isAlive('a'), soon).toBe(true);
  const other = self('a');
  for (const takeOver of [false, true]) {
    await expect(claimNodeName(nodes, other, takeOver)).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringMatching(/runs already, with another data directory \(10\.0\.0\.1:7400\)/),
    });
  }
  await first.close();
  await expect(claimNodeName(nodes, other, false)).rejects.toThrow(
    /belongs to another data directory .*--node-name.*--accept-store any/,
  );
  await claimNodeName(nodes, other, true);
  expect((await nodes.find('a')).id).toBe(other.id);
});

test('of two new daemons with one name one is refused', async () => {
  const results = await Promise.allSettled(
    [self('a'), self('a')].map((me) => claimNodeName(nodes, me, false)),
  );
  expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test('a daemon whose name was taken over neither counts as that node nor changes its record', async () => {
  const proxy = await EtcdProxy.start(server.clientPort);
  cleanups.push(() => proxy.dispose());
  const disk = new Disk();
  await member(self('a'), { via: await connect(proxy.address), disk, roomIntervalMs: 1 });
  await expect.poll(() => isAlive('a'), soon).toBe(true);
  proxy.cut();
  await expect.poll(() => isAlive('a'), soon).toBe(false);
  const other = self('a', { zone: 'elsewhere' });
  await claimNodeName(nodes, other, true);
  const before = await nodes.find('a');
  disk.availableBytes = GIB;
  proxy.heal();
  await sleep(2500);
  expect(await nodes.find('a')).toEqual(before);
});

test('cordons survive a restart of the daemon, and what newer versions keep in a record stays there', async () => {
  const me = self('a');
  await (await member(me)).close();
  await nodes.setCordoned('a', true);
  await nodes.update('a', (node) => ({ ...node, futureField: 7 }));
  await (await member({ ...me, process: drawId(), zone: 'z2' })).close();
  expect(await nodes.find('a')).toMatchObject({ cordoned: true, zone: 'z2', futureField: 7 });
  await nodes.setCordoned('a', false);
  expect((await nodes.find('a')).cordoned).toBe(false);
  await expect(nodes.find('aa')).rejects.toMatchObject({
    code: 'NOT_FOUND',
    message: expect.stringMatching(/Did you mean .*a/i),
  });
  await expect(nodes.setCordoned('x', true)).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('changes by many at once are all there', async () => {
  await member(self('a'));
  const keys = Array.from({ length: 6 }, (_, index) => `k${index}`);
  await Promise.all(
    keys.map((key) => nodes.update('a', (node) => ({ ...node, labels: { ...node.labels, [key]: '' } }))),
  );
  expect(Object.keys((await nodes.find('a')).labels).sort()).toEqual(['disk', ...keys]);
});

test('a quiet node writes nothing; small changes of room are not written, considerable ones once an interval', async () => {
  const disk = new Disk();
  await member(self('a'), { disk, roomIntervalMs: 400 });
  await expect.poll(() => isAlive('a'), soon).toBe(true);
  const started = await store.revision();
  disk.availableBytes -= 4 * GIB;
  await sleep(1000);
  // Leases are renewed meanwhile: that is no write.
  expect(await store.revision()).toBe(started);
  const began = performance.now();
  while (performance.now() < began + 1000) {
    disk.availableBytes -= 6 * GIB * (disk.availableBytes > 20 * GIB ? 1 : -10);
    await sleep(30);
  }
  const writes = (await store.revision()) - started;
  expect(writes).toBeGreaterThanOrEqual(1);
  expect(writes).toBeLessThanOrEqual(2 + (performance.now() - began) / 400);
});

test('a pool that closes is written at once', async () => {
  const disk = new Disk();
  await member(self('a'), { disk });
  disk.closed = [{ name: 'slow', directory: '/slow', problem: 'not mounted' }];
  await expect
    .poll(async () => (await nodes.find('a')).pools.map(({ name, problem }) => [name, problem]), soon)
    .toEqual([
      ['fast', null],
      ['slow', 'not mounted'],
    ]);
});

test('on one machine the node is alive without a lease', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-nodes-'));
  cleanups.push(() => rm(directory, { recursive: true }));
  const level = await LevelStore.open(directory, { sync: false });
  cleanups.push(() => level.close());
  const alone = new Nodes(level, 'a');
  await member(self('a', { zone: null }), { via: level, isShared: false });
  expect(await alone.list()).toMatchObject([{ name: 'a', zone: null, isAlive: true }]);
  expect(await alone.alive('a')).toBeUndefined();
});

test('the addresses of the nodes are shown as they are, and whenever one changes', async () => {
  const own = self('a');
  await claimNodeName(nodes, own, false);
  await nodes.update('a', (node) => ({ ...node, address: 'a:1' }));
  const stop = new AbortController();
  const shown: Record<string, string>[] = [];
  const following = (async () => {
    for await (const addresses of nodes.addresses(stop.signal)) shown.push(Object.fromEntries(addresses));
  })();
  await expect.poll(() => shown).toEqual([{ a: 'a:1' }]);
  await claimNodeName(nodes, self('b'), false);
  await nodes.update('b', (node) => ({ ...node, address: 'b:1' }));
  await nodes.setCordoned('b', true);
  await nodes.update('a', (node) => ({ ...node, address: 'a:2' }));
  await nodes.update('b', (node) => ({ ...node, address: null }));
  await expect
    .poll(() => shown.slice(1))
    .toEqual([{ a: 'a:1', b: 'b:1' }, { a: 'a:2', b: 'b:1' }, { a: 'a:2' }]);
  stop.abort();
  await following;
});

test('what was written of a lost node is taken back when it is alive after all', async () => {
  const own = self('a');
  await claimNodeName(nodes, own, false);
  const lease = await store.lease(60_000);
  await nodes.setAlive('a', own, lease);
  const lostAt = new Date().toISOString();
  await nodes.update('a', (node) => ({ ...node, lostAt }));
  const duty = noteLostNodes(nodes, silentLogger);
  await duty.run(new AbortController().signal);
  expect((await nodes.find('a')).lostAt).toBeNull();
  await lease.revoke();
  await duty.run(new AbortController().signal);
  expect((await nodes.find('a')).lostAt).not.toBeNull();
});
