// etcd killed, cut off and stalled under the store: no swap is lost or doubled, and a swap without an answer
// is never taken for one that failed.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { keepLease } from '../../src/control/kept-lease.ts';
import {
  type SettledSwap,
  type Store,
  type StoreEvent,
  type UnknownSwap,
  UnknownSwapError,
} from '../../src/control/store.ts';
import { invariant } from '../../src/core/invariant.ts';
import { EtcdProxy } from './etcd-proxy.ts';
import { EtcdServer } from './etcd-server.ts';
import { type Read, type Swap, violations } from './register-history.ts';

let server: EtcdServer;
let resources: AsyncDisposableStack | undefined;

beforeAll(async () => {
  server = await EtcdServer.start();
});

afterEach(async () => {
  await resources?.disposeAsync();
  resources = undefined;
});

afterAll(async () => {
  await server.dispose();
});

async function openStore(endpoints: string[], prefix: string, timeoutMs = 1000): Promise<EtcdStore> {
  const store = await EtcdStore.open({ endpoints, prefix, timeoutMs });
  resources ??= new AsyncDisposableStack();
  resources.defer(() => store.close());
  return store;
}

async function startProxy(): Promise<EtcdProxy> {
  const proxy = await EtcdProxy.start(server.clientPort);
  resources ??= new AsyncDisposableStack();
  resources.defer(() => proxy.dispose());
  return proxy;
}

async function unknownSwapOf(attempt: Promise<unknown>): Promise<UnknownSwap> {
  const error = await attempt.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UnknownSwapError);
  invariant(error instanceof UnknownSwapError, 'the outcome is unknown');
  return error.swap;
}

/** Settles against a store that may be away for a while. */
async function settled(store: Store, swap: UnknownSwap): Promise<SettledSwap> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await store.settle(swap);
    } catch (error) {
      if (attempt === 20) throw error;
      await sleep(50);
    }
  }
}

/**
 * Reads and swaps one key until `signal` aborts, and writes down what it was told and when. Every other read
 * goes past the faults: else few swaps would meet one that no read before them has met.
 */
async function worker(
  store: Store,
  judge: Store,
  name: string,
  signal: AbortSignal,
): Promise<(Swap | Read)[]> {
  const history: (Swap | Read)[] = [];
  for (let count = 0; !signal.aborted; count += 1) {
    const calledAt = performance.now();
    const entry = await (count % 2 === 0 ? judge : store).get('register').catch(() => null);
    if (entry === null) continue;
    const expectedRevision = entry?.revision ?? 0;
    history.push({
      type: 'read',
      calledAt,
      returnedAt: performance.now(),
      value: entry?.value,
      revision: expectedRevision,
    });
    const value = `${name}-${count}`;
    const swap = { type: 'swap', calledAt: performance.now(), expectedRevision, value } as const;
    try {
      const result = await store.compareAndSwap('register', expectedRevision, value);
      const returnedAt = performance.now();
      if (result.swapped)
        history.push({ ...swap, returnedAt, outcome: 'committed', revision: result.revision });
      else history.push({ ...swap, returnedAt, outcome: 'refused' });
    } catch (error) {
      // Any other error: nothing was changed. The check would find it if somebody read the value.
      if (!(error instanceof UnknownSwapError)) {
        history.push({ ...swap, expectedRevision: -1, returnedAt: performance.now(), outcome: 'unknown' });
        continue;
      }
      // Every third one is left open: it may have happened or not.
      if (count % 3 === 0) {
        history.push({ ...swap, returnedAt: Number.POSITIVE_INFINITY, outcome: 'unknown' });
        continue;
      }
      const outcome = await settled(store, error.swap);
      const returnedAt = performance.now();
      if (outcome.outcome === 'committed') {
        history.push({ ...swap, returnedAt, outcome: 'committed', revision: outcome.revision });
      } else history.push({ ...swap, returnedAt, outcome: 'refused' });
    }
  }
  return history;
}

function isCommitted(operation: Swap | Read): operation is Swap {
  return operation.type === 'swap' && operation.outcome === 'committed';
}

async function collect(
  store: Store,
  prefix: string,
  after: number,
  signal: AbortSignal,
): Promise<StoreEvent[]> {
  const events: StoreEvent[] = [];
  for await (const event of store.watch(prefix, after, signal)) events.push(event);
  return events;
}

/** Runs workers and a watcher while `disturb` does its worst, then checks everything they were told. */
async function underFaults(
  endpoints: () => string[],
  disturb: () => Promise<void>,
  judgeEndpoints = [server.address],
): Promise<(Swap | Read)[]> {
  const prefix = `/faults/${randomUUID()}`;
  const judge = await openStore(judgeEndpoints, prefix, 5000);
  const stores = await Promise.all([1, 2, 3].map(async () => await openStore(endpoints(), prefix, 400)));
  const stop = new AbortController();
  const stopWatch = new AbortController();
  const start = await judge.revision();
  const [watching] = stores;
  invariant(watching, 'there is a store');
  const watched = collect(watching, 'register', start, stopWatch.signal);
  const working = stores.map((store, index) => worker(store, judge, `w${index}`, stop.signal));
  await disturb();
  stop.abort();
  const history = (await Promise.all(working)).flat();
  const calledAt = performance.now();
  const last = await judge.get('register');
  invariant(last, 'something was written');
  history.push({
    type: 'read',
    calledAt,
    returnedAt: performance.now(),
    value: last.value,
    revision: last.revision,
  });
  expect(violations(history)).toEqual([]);

  // The watcher has seen the same chain: every swap once, in order.
  const writes = history.filter(isCommitted);
  await expect.poll(async () => watchedRevision(watching, last.revision), { timeout: 10_000 }).toBe(true);
  await sleep(300);
  stopWatch.abort();
  const seen = (await watched).map((event) =>
    event.type === 'put' ? event.entry : { revision: 0, value: '' },
  );
  const revisions = seen.map(({ revision }) => revision);
  expect(revisions).toEqual([...new Set(revisions)].sort((a, b) => a - b));
  for (const write of writes) {
    expect(seen).toContainEqual(expect.objectContaining({ revision: write.revision, value: write.value }));
  }
  expect(seen.at(-1)?.revision).toBe(last.revision);
  return history;
}

/** A watch from just before shows it: the store that watches is connected again. */
async function watchedRevision(store: Store, revision: number): Promise<boolean> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), 1000);
  try {
    for await (const event of store.watch('register', revision - 1, abort.signal)) {
      return event.type === 'put' && event.entry.revision === revision;
    }
    return false;
  } finally {
    clearTimeout(timer);
  }
}

describe('etcd killed under its clients', () => {
  test('with SIGKILL and restarts all the time no swap is lost or doubled, and the watch shows each once', async () => {
    const history = await underFaults(
      () => [server.address],
      async () => {
        for (let round = 0; round < 6; round += 1) {
          await sleep(400);
          await server.restart();
        }
        await sleep(400);
      },
    );
    expect(history.filter(isCommitted).length).toBeGreaterThan(20);
  });
});

describe('a cluster of three', () => {
  test('whose members are killed one after the other, leaders too, loses and doubles nothing, and is never taken for another', async () => {
    const members = await EtcdServer.startCluster(3);
    resources ??= new AsyncDisposableStack();
    for (const member of members) resources.defer(() => member.dispose());
    let first = 0;
    // Each store asks another member first: what one has seen must never seem to be undone by the next.
    const endpoints = (): string[] => {
      first += 1;
      return members.map((_, index) => members[(first + index) % 3]?.address ?? '');
    };
    const history = await underFaults(
      endpoints,
      async () => {
        for (let round = 0; round < 6; round += 1) {
          await sleep(300);
          await members[round % 3]?.restart();
        }
        await sleep(300);
      },
      endpoints(),
    );
    expect(history.filter(isCommitted).length).toBeGreaterThan(20);
  });
});

describe('a network that stalls and cuts', () => {
  test('with cuts and stalls of either direction no swap is lost or doubled, and the watch shows each once', async () => {
    const proxies = await Promise.all([startProxy(), startProxy()]);
    await underFaults(
      () => proxies.map(({ address }) => address),
      async () => {
        const faults: ((proxy: EtcdProxy) => void)[] = [
          (proxy) => proxy.stall({ toClient: true }),
          (proxy) => proxy.cut(),
          (proxy) => proxy.stall({ toServer: true }),
        ];
        // One is bad, then both, then the other: every fault meets connections that are in use.
        for (let round = 0; round < 9; round += 1) {
          for (const proxy of proxies) {
            faults[round % faults.length]?.(proxy);
            await sleep(200);
          }
          for (const proxy of proxies) {
            proxy.heal();
            await sleep(100);
          }
        }
        await sleep(300);
      },
    );
  });

  test('a swap whose answer is lost is unknown, and settling shows the revision that it had got', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address, server.address], prefix, 1200);
    const other = await openStore([server.address], prefix);
    await store.get('a');
    proxy.stall({ toClient: true });
    const swap = await unknownSwapOf(store.compareAndSwap('a', 0, '1'));
    const entry = await other.get('a');
    expect(entry?.value).toBe('1');
    expect(await store.settle(swap)).toEqual({ outcome: 'committed', revision: entry?.revision });
    expect(await other.get('a')).toEqual(entry);
  });

  test('a swap whose answer is lost and that was overwritten since had been committed', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address, server.address], prefix, 1200);
    const other = await openStore([server.address], prefix);
    const first = await other.compareAndSwap('a', 0, '0');
    invariant(first.swapped, 'nobody else writes');
    await store.get('a');
    proxy.stall({ toClient: true });
    const replace = await unknownSwapOf(store.compareAndSwap('a', first.revision, '1'));
    const ours = await other.get('a');
    invariant(ours?.value === '1', 'it had arrived');
    await other.compareAndSwap('a', ours.revision, '2');
    await other.compareAndSwap('a', (await other.get('a'))?.revision ?? 0, undefined);
    expect(await store.settle(replace)).toEqual({ outcome: 'committed', revision: ours.revision });
    await server.etcdctl('compaction', String(await other.revision()));
    expect(await store.settle(replace)).toEqual({ outcome: 'superseded', current: undefined });
  });

  test('a swap that is stuck on the way never happens after it was settled, though it arrives', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address, server.address], prefix, 1200);
    await store.get('a');
    proxy.stall({ toServer: true });
    const swap = await unknownSwapOf(store.compareAndSwap('a', 0, '1'));
    const settled = await store.settle(swap);
    expect(settled).toMatchObject({ outcome: 'committed' });
    const entry = await store.get('a');
    proxy.heal();
    await sleep(300);
    expect(await store.get('a')).toEqual(entry);
  });

  test('a swap that is stuck while another overtakes it is refused when it is settled', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address, server.address], prefix, 1200);
    const other = await openStore([server.address], prefix);
    await store.get('a');
    proxy.stall({ toServer: true });
    const swap = await unknownSwapOf(store.compareAndSwap('a', 0, '1'));
    await other.compareAndSwap('a', 0, '1');
    const current = await other.get('a');
    expect(await store.settle(swap)).toEqual({ outcome: 'refused', current });
    proxy.heal();
    await sleep(300);
    expect(await other.get('a')).toEqual(current);
  });

  test('a deletion by somebody cannot be told from ours, and is not done twice', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address, server.address], prefix, 1200);
    const other = await openStore([server.address], prefix);
    const made = await other.compareAndSwap('a', 0, '1');
    invariant(made.swapped, 'nobody else writes');
    await store.get('a');
    proxy.stall({ toServer: true });
    const swap = await unknownSwapOf(store.compareAndSwap('a', made.revision, undefined));
    await other.compareAndSwap('a', made.revision, undefined);
    await other.compareAndSwap('a', 0, '2');
    const current = await other.get('a');
    expect(await store.settle(swap)).toEqual({ outcome: 'superseded', current });
  });

  test('while nothing can be reached a swap has not happened, and the error says what to look at', async () => {
    const proxy = await startProxy();
    const prefix = `/faults/${randomUUID()}`;
    const store = await openStore([proxy.address], prefix, 400);
    proxy.cut();
    // The first one may meet the dying connection; the next ones find none.
    await store.get('a').catch(() => undefined);
    const error = await store.compareAndSwap('a', 0, '1').catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'UNAVAILABLE', message: expect.stringContaining('--store') });
    expect(error).not.toBeInstanceOf(UnknownSwapError);
    proxy.heal();
    // Connections are tried again within a second, which is longer than this store's deadline.
    await expect.poll(async () => await store.list('').catch(() => 'not yet'), { timeout: 5000 }).toEqual([]);
    expect(await store.compareAndSwap('a', 0, '1')).toMatchObject({ swapped: true });
  });

  test('a server that is dead or silent from the start costs a moment, not the operation', async () => {
    const [dead, silent] = await Promise.all([startProxy(), startProxy()]);
    dead.cut();
    silent.stall({ toServer: true, toClient: true });
    const store = await openStore(
      [dead.address, silent.address, server.address],
      `/faults/${randomUUID()}`,
      3000,
    );
    expect(await store.compareAndSwap('a', 0, '1')).toMatchObject({ swapped: true });
  });
});

describe('a kept lease', () => {
  test('lives on while it is kept, and its keys disappear when it is given back', async () => {
    const store = await openStore([server.address], `/faults/${randomUUID()}`);
    const kept = await keepLease(store, 2000);
    await store.compareAndSwap('l', 0, '1', kept.lease);
    await sleep(4000);
    expect((await store.get('l'))?.value).toBe('1');
    expect(kept.lost.aborted).toBe(false);
    await kept.giveBack();
    expect(await store.get('l')).toBeUndefined();
    expect(kept.lost.aborted).toBe(false);
  });

  test('is reported lost when the store says so, and when it cannot be asked for as long as it lasts', async () => {
    const proxy = await startProxy();
    const store = await openStore([proxy.address], `/faults/${randomUUID()}`, 300);
    const revoked = await keepLease(store, 1000);
    await revoked.lease.revoke();
    await expect.poll(() => revoked.lost.aborted, { timeout: 2000 }).toBe(true);

    const cutOff = await keepLease(store, 1000);
    const began = performance.now();
    proxy.cut();
    await expect.poll(() => cutOff.lost.aborted, { timeout: 3000, interval: 10 }).toBe(true);
    expect(performance.now() - began).toBeLessThan(2500);
  });
});
