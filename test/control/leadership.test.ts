// Who leads, on a real etcd behind networks that fail: two or more daemons' worth of objects.

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { keepHouse, noteLostNodes } from '../../src/control/housekeeping.ts';
import { Leadership, leaderOf } from '../../src/control/leadership.ts';
import { claimNodeName } from '../../src/control/node-membership.ts';
import { Nodes } from '../../src/control/nodes.ts';
import type { Store } from '../../src/control/store.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { EtcdProxy } from './etcd-proxy.ts';
import { EtcdServer } from './etcd-server.ts';

const LEASE_MS = 1000;
const soon = { timeout: 15_000, interval: 20 };

let server: EtcdServer;
let prefix: string;
let store: EtcdStore;
/** What happened, in order: '+a' began to lead, '-a' was told to stop. */
let trace: string[];
const cleanups: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  server = await EtcdServer.start();
});
afterAll(async () => {
  await server.dispose();
});
beforeEach(async () => {
  prefix = `/test/${randomUUID()}`;
  trace = [];
  store = await connect();
});
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

async function connect(address = server.address): Promise<EtcdStore> {
  const opened = await EtcdStore.open({ endpoints: [address], prefix, timeoutMs: 1000 });
  cleanups.push(() => opened.close());
  return opened;
}

async function proxied(): Promise<{ proxy: EtcdProxy; via: EtcdStore }> {
  const proxy = await EtcdProxy.start(server.clientPort);
  cleanups.push(() => proxy.dispose());
  return { proxy, via: await connect(proxy.address) };
}

async function lead(signal: AbortSignal, node: string): Promise<void> {
  trace.push(`+${node}`);
  if (!signal.aborted) await once(signal, 'abort');
  trace.push(`-${node}`);
}

function candidate(
  node: string,
  via: Store,
  work: (signal: AbortSignal) => Promise<void> = (signal) => lead(signal, node),
): Leadership {
  const options = { node, process: 'p', log: silentLogger, leaseMs: LEASE_MS, retryMs: 50, work };
  const leadership = new Leadership(via, options);
  cleanups.push(() => leadership.close());
  leadership.start();
  return leadership;
}

test('of many candidates one leads, and when it stops another does at once', async () => {
  const names = ['a', 'b', 'c', 'd'];
  const candidates = new Map(names.map((name) => [name, candidate(name, store)]));
  for (let count = 1; count <= names.length; count += 1) {
    await expect.poll(() => trace.length, soon).toBe(2 * count - 1);
    const leader = trace.at(-1)?.slice(1) ?? '';
    expect(await leaderOf(store)).toBe(leader);
    await candidates.get(leader)?.close();
    expect(trace.at(2 * count - 1)).toBe(`-${leader}`);
  }
  expect(trace.filter((event) => event.startsWith('+')).sort()).toEqual(names.map((name) => `+${name}`));
  expect(await leaderOf(store)).toBeUndefined();
});

test.each(['cut off', 'not answered'])(
  'a leader that is %s stops before another leads, and follows once it is back',
  async (how) => {
    const { proxy, via } = await proxied();
    const a = candidate('a', via);
    await expect.poll(() => trace, soon).toEqual(['+a']);
    candidate('b', store);
    await sleep(3 * LEASE_MS);
    expect(trace, 'a lease that is kept lasts').toEqual(['+a']);
    if (how === 'cut off') proxy.cut();
    else proxy.stall({ toClient: true });
    await expect.poll(() => trace, soon).toEqual(['+a', '-a', '+b']);
    proxy.heal();
    await sleep(3 * LEASE_MS);
    expect(trace).toEqual(['+a', '-a', '+b']);
    expect(await leaderOf(store)).toBe('b');
    await a.close();
  },
);

test('when etcd is killed the leader stops, and one leads again once it is back', async () => {
  const [first, second] = [await connect(), await connect()];
  candidate('a', first);
  candidate('b', second);
  await expect.poll(() => trace.length, soon).toBe(1);
  await server.kill();
  await expect.poll(() => trace.length, soon).toBe(2);
  await server.start();
  await expect.poll(() => trace.length, soon).toBe(3);
  expect(trace[1]).toBe(trace[0]?.replace('+', '-'));
});

test('a leader of which nothing is heard any more is followed by another when its lease has run out', async () => {
  // What a killed daemon leaves behind.
  const lease = await store.lease(LEASE_MS);
  await store.compareAndSwap('housekeeping/leader', 0, '{"node":"dead","process":"p"}', lease);
  candidate('b', store);
  await sleep(LEASE_MS / 2);
  expect(await leaderOf(store)).toBe('dead');
  await expect.poll(() => trace, soon).toEqual(['+b']);
});

test('work that fails gives the lead up, and the loop stands again', async () => {
  let attempts = 0;
  candidate('a', store, async (signal) => {
    attempts += 1;
    if (attempts < 3) throw new Error('broken');
    await lead(signal, 'a');
  });
  await expect.poll(() => trace, soon).toEqual(['+a']);
  expect(attempts).toBe(3);
});

test('a duty that fails costs the others nothing', async () => {
  const stop = new AbortController();
  const rounds: string[] = [];
  const duty = (name: string, fails: boolean) => ({
    name,
    run: async () => {
      rounds.push(name);
      if (rounds.length >= 4) stop.abort();
      if (fails) throw new Error(name);
    },
  });
  await keepHouse([duty('a', true), duty('b', false)], {
    signal: stop.signal,
    log: silentLogger,
    intervalMs: 1,
  });
  expect(rounds).toEqual(['a', 'b', 'a', 'b']);
});

test('the leader records once since when a node is not alive', async () => {
  const nodes = new Nodes(store);
  const self = {
    name: 'a',
    id: '0'.repeat(32),
    zone: null,
    labels: {},
    softwareVersion: '1',
    wire: { control: { min: 1, max: 1 }, peer: { min: 1, max: 1 } },
    bootId: 'b',
    process: '1'.repeat(32),
    startedAt: new Date().toISOString(),
  };
  await claimNodeName(nodes, self, false);
  const lease = await store.lease(60_000);
  await nodes.setAlive('a', self, lease);
  const duty = noteLostNodes(nodes, silentLogger);
  const { signal } = new AbortController();
  await duty.run(signal);
  expect((await nodes.find('a')).lostAt).toBeNull();
  await lease.revoke();
  const before = Date.now();
  await duty.run(signal);
  const { lostAt } = await nodes.find('a');
  expect(Date.parse(lostAt ?? '')).toBeGreaterThanOrEqual(before);
  await duty.run(signal);
  expect((await nodes.find('a')).lostAt).toBe(lostAt);
});
