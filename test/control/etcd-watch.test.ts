// Watches of etcd cut off, compacted and defragmented: the consumer ends with every key's newest state, and
// is never shown an older one after a newer.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import type { Store, StoreEvent } from '../../src/control/store.ts';
import { keyOf, revisionOf } from '../../src/control/store-history.ts';
import { invariant } from '../../src/core/invariant.ts';
import { EtcdProxy } from './etcd-proxy.ts';
import { EtcdServer } from './etcd-server.ts';

let server: EtcdServer;
let proxy: EtcdProxy;
let writer: EtcdStore;
let watcher: EtcdStore;
let prefix: string;

beforeAll(async () => {
  server = await EtcdServer.start();
});

afterAll(async () => {
  await server.dispose();
});

beforeEach(async () => {
  prefix = `/watch/${randomUUID()}`;
  proxy = await EtcdProxy.start(server.clientPort);
  writer = await EtcdStore.open({ endpoints: [server.address], prefix });
  watcher = await EtcdStore.open({ endpoints: [proxy.address], prefix, timeoutMs: 1000 });
});

afterEach(async () => {
  await watcher.close();
  await writer.close();
  await proxy.dispose();
});

async function put(key: string, value: string | undefined): Promise<number> {
  const result = await writer.compareAndSwap(key, (await writer.get(key))?.revision ?? 0, value);
  invariant(result.swapped, 'nobody else writes');
  return result.revision;
}

async function compactAndDefragment(): Promise<void> {
  await server.etcdctl('compaction', '--physical', String(await writer.revision()));
  await server.etcdctl('defrag');
}

/** A watch that runs until the end of the test, and what it has shown so far. */
function follow(store: Store, below: string, after: number) {
  const abort = new AbortController();
  const events: StoreEvent[] = [];
  const ended = (async () => {
    for await (const event of store.watch(below, after, abort.signal)) events.push(event);
  })();
  return {
    events,
    seen: async (count: number) =>
      await expect.poll(() => events.length, { timeout: 10_000, interval: 10 }).toBeGreaterThanOrEqual(count),
    stop: async () => {
      abort.abort();
      await ended;
    },
  };
}

describe('a watch', () => {
  test('of a history that is gone is OUT_OF_RANGE', async () => {
    const before = await writer.revision();
    await put('a', '1');
    await put('a', '2');
    await compactAndDefragment();
    const events = watcher.watch('a', before, new AbortController().signal);
    await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  });

  test('that was cut off goes on where it stopped', async () => {
    const followed = follow(watcher, '', await writer.revision());
    const first = await put('a', '1');
    await followed.seen(1);
    proxy.cut();
    const second = await put('a', '2');
    const third = await put('b', '3');
    proxy.heal();
    await followed.seen(3);
    expect(followed.events.map(revisionOf)).toEqual([first, second, third]);
    await followed.stop();
  });

  test('that was cut off while its history was compacted shows the newest state of what changed, and goes on', async () => {
    await put('kept', '0');
    await put('untouched-and-gone', '0');
    const followed = follow(watcher, '', await writer.revision());
    await put('gone', '0');
    await followed.seen(1);
    proxy.cut();
    await put('kept', '1');
    const kept = await put('kept', '2');
    await put('gone', undefined);
    await put('untouched-and-gone', undefined);
    await put('short-lived', '1');
    await put('short-lived', undefined);
    const made = await put('made', '1');
    await compactAndDefragment();
    proxy.heal();
    await followed.seen(5);
    const after = await put('made', '2');
    await followed.seen(6);
    const [, ...rest] = followed.events;
    expect(rest).toEqual([
      { type: 'put', entry: { key: 'kept', value: '2', revision: kept } },
      { type: 'put', entry: { key: 'made', value: '1', revision: made } },
      { type: 'delete', key: 'untouched-and-gone', revision: made },
      { type: 'delete', key: 'gone', revision: made },
      { type: 'put', entry: { key: 'made', value: '2', revision: after } },
    ]);
    await followed.stop();
  });

  test('on a connection that stalled without a word asks for a sign of life, leaves it, and goes on', async () => {
    const cautious = await EtcdStore.open({ endpoints: [proxy.address, server.address], prefix });
    const followed = follow(cautious, '', await writer.revision());
    const first = await put('a', '1');
    await followed.seen(1);
    proxy.stall({ toServer: true, toClient: true });
    const second = await put('a', '2');
    await followed.seen(2);
    expect(followed.events.map(revisionOf)).toEqual([first, second]);
    await followed.stop();
    await cautious.close();
  });

  test('under cuts, restarts, compactions and defragmentation ends with the newest state of every key', async () => {
    const followed = follow(watcher, '', await writer.revision());
    let isWriting = true;
    const write = async (): Promise<void> => {
      for (let count = 0; isWriting; count += 1) {
        // Errors are the business of other tests; here only what was written counts.
        await put(`key/${count % 7}`, count % 5 === 0 ? undefined : `${count}`).catch(() => undefined);
      }
    };
    const writing = write();
    for (let round = 0; round < 5; round += 1) {
      await sleep(150);
      proxy.cut();
      await sleep(150);
      await compactAndDefragment();
      if (round % 2 === 1) await server.restart();
      proxy.heal();
    }
    isWriting = false;
    await writing;
    const marker = await put('marker', '1');
    await expect
      .poll(() => followed.events.map(revisionOf).at(-1), { timeout: 10_000, interval: 20 })
      .toBe(marker);
    await followed.stop();

    const state = new Map<string, string>();
    const shown = new Map<string, number>();
    for (const event of followed.events) {
      expect(revisionOf(event)).toBeGreaterThan(shown.get(keyOf(event)) ?? 0);
      shown.set(keyOf(event), revisionOf(event));
      if (event.type === 'put') state.set(event.entry.key, event.entry.value);
      else state.delete(event.key);
    }
    const listed = await writer.list('');
    expect(state).toEqual(new Map(listed.map(({ key, value }) => [key, value])));
    // More than one of each key, however slow the disk is.
    expect(followed.events.length).toBeGreaterThan(7);
  });

  test('a list of many pages is one snapshot, also when it is compacted while it is read', async () => {
    const keys = Array.from({ length: 200 }, (_, index) => `many/${String(index).padStart(3, '0')}`);
    await Promise.all(keys.map(async (key) => await writer.compareAndSwap(key, 0, '0')));
    const [lists] = await Promise.all([
      Promise.all(Array.from({ length: 10 }, async () => await watcher.list('many/'))),
      (async () => {
        for (let count = 0; count < 10; count += 1) {
          await put('many/000', `${count}`);
          await put('many/199', `${count}`);
          await server.etcdctl('compaction', String(await writer.revision()));
        }
      })(),
    ]);
    for (const list of lists) {
      expect(list.map(({ key }) => key)).toEqual(keys);
      const [first, last] = [Number(list[0]?.value), Number(list.at(-1)?.value)];
      expect([0, 1]).toContain(first - last);
    }
  });
});
