// The contract of src/control/store.ts as a suite: every implementation runs it, so that nothing above a
// store needs to know which one it has.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { invariant } from '../src/core/invariant.ts';
import type { Store, StoreEntry, StoreEvent } from '../src/control/store.ts';

export interface StoreUnderTest {
  /** The same contents again, as after a restart. The handle before it has been closed. */
  connect(): Promise<Store>;
  /** The shortest lease that this implementation keeps exactly enough for a test. */
  readonly leaseMs: number;
  dispose(): Promise<void>;
}

const WAIT_MS = 10_000;

export function storeContract(name: string, start: () => Promise<StoreUnderTest>): void {
  describe(`store contract: ${name}`, () => {
    let place: StoreUnderTest;
    let store: Store;

    beforeEach(async () => {
      place = await start();
      store = await place.connect();
    });

    afterEach(async () => {
      await store.close();
      await place.dispose();
    });

    const restart = async (): Promise<void> => {
      await store.close();
      store = await place.connect();
    };

    const put = async (key: string, value: string): Promise<number> => {
      const before = await store.get(key);
      const result = await store.compareAndSwap(key, before?.revision ?? 0, value);
      invariant(result.swapped, 'nobody else writes this key');
      return result.revision;
    };

    describe('compare and swap', () => {
      test('a key that was never written does not exist', async () => {
        expect(await store.get('a')).toBeUndefined();
      });

      test('a created key reads back with its revision', async () => {
        const result = await store.compareAndSwap('a', 0, '{"n":1}');
        expect(result.swapped).toBe(true);
        const entry = await store.get('a');
        expect(entry).toEqual({ key: 'a', value: '{"n":1}', revision: entry?.revision });
        expect(result).toEqual({ swapped: true, revision: entry?.revision });
        expect(entry?.revision).toBeGreaterThan(0);
      });

      test('a key that exists is not created again, and the answer shows what stands there', async () => {
        const revision = await put('a', '1');
        expect(await store.compareAndSwap('a', 0, '2')).toEqual({
          swapped: false,
          current: { key: 'a', value: '1', revision },
        });
        expect((await store.get('a'))?.value).toBe('1');
      });

      test('an old revision changes nothing', async () => {
        const old = await put('a', '1');
        const current = await put('a', '2');
        expect(await store.compareAndSwap('a', old, '3')).toEqual({
          swapped: false,
          current: { key: 'a', value: '2', revision: current },
        });
        expect(await store.compareAndSwap('a', old, undefined)).toMatchObject({ swapped: false });
        expect((await store.get('a'))?.value).toBe('2');
      });

      test('a revision is expected in vain of a key that does not exist', async () => {
        expect(await store.compareAndSwap('a', 7, '1')).toEqual({ swapped: false, current: undefined });
        expect(await store.compareAndSwap('a', 7, undefined)).toEqual({ swapped: false, current: undefined });
        expect(await store.get('a')).toBeUndefined();
      });

      test('a deleted key is gone and can be created again, with a higher revision', async () => {
        const first = await put('a', '1');
        expect(await store.compareAndSwap('a', first, undefined)).toMatchObject({ swapped: true });
        expect(await store.get('a')).toBeUndefined();
        expect(await put('a', '1')).toBeGreaterThan(first + 1);
      });

      test('of many who create one key at once exactly one wins, and the others are shown the winner', async () => {
        const results = await Promise.all(
          Array.from({ length: 50 }, async (_, index) => await store.compareAndSwap('a', 0, `${index}`)),
        );
        const entry = await store.get('a');
        expect(results.filter((result) => result.swapped)).toEqual([
          { swapped: true, revision: entry?.revision },
        ]);
        for (const result of results) if (!result.swapped) expect(result.current).toEqual(entry);
      });

      test('changes of different keys at once all happen, each with a revision of its own', async () => {
        const keys = Array.from({ length: 300 }, (_, index) => `key/${index}`);
        const results = await Promise.all(
          keys.map(async (key) => await store.compareAndSwap(key, 0, `"${key}"`)),
        );
        expect(results.every((result) => result.swapped)).toBe(true);
        const entries = await store.list('key/');
        expect(entries).toHaveLength(keys.length);
        expect(new Set(entries.map((entry) => entry.revision)).size).toBe(keys.length);
      });

      test('counting by compare and swap from many sides loses no count', async () => {
        await put('count', '0');
        const countOnce = async (): Promise<void> => {
          for (;;) {
            const entry = await store.get('count');
            invariant(entry, 'the counter exists');
            const result = await store.compareAndSwap('count', entry.revision, `${Number(entry.value) + 1}`);
            if (result.swapped) return;
          }
        };
        await Promise.all(Array.from({ length: 20 }, countOnce));
        expect((await store.get('count'))?.value).toBe('20');
      });
    });

    describe('settling a swap whose outcome is unknown', () => {
      const lostSwap = async (key: string, expectedRevision: number, value: string | undefined) => ({
        key,
        expectedRevision,
        value,
        leaseId: undefined,
        proposal: randomBytes(12).toString('hex'),
        sentAtRevision: await store.revision(),
      });

      test('one that never arrived happens now, and not a second time', async () => {
        const lost = await lostSwap('a', 0, '1');
        const settled = await store.settle(lost);
        const entry = await store.get('a');
        expect(entry?.value).toBe('1');
        expect(settled).toEqual({ outcome: 'committed', revision: entry?.revision });
        await store.settle(lost);
        expect(await store.get('a')).toEqual(entry);
      });

      test('one that another change overtook does not happen, even with the same value', async () => {
        const first = await put('a', '1');
        const lost = await lostSwap('a', first, '2');
        await put('a', '2');
        const current = await store.get('a');
        const settled = await store.settle(lost);
        expect(settled).toEqual({ outcome: expect.stringMatching(/^(refused|superseded)$/), current });
        expect(await store.get('a')).toEqual(current);
      });

      test('a deletion that never arrived happens now', async () => {
        const lost = await lostSwap('a', await put('a', '1'), undefined);
        expect(await store.settle(lost)).toMatchObject({ outcome: 'committed' });
        expect(await store.get('a')).toBeUndefined();
      });
    });

    describe('reading', () => {
      test('a list holds the keys below the prefix and no others, sorted', async () => {
        for (const key of ['b/2', 'a/1', 'b/10', 'b/1', 'b', 'c/1', 'b0']) await put(key, `"${key}"`);
        expect((await store.list('b/')).map((entry) => entry.key)).toEqual(['b/1', 'b/10', 'b/2']);
        expect((await store.list('')).map((entry) => entry.key)).toEqual([
          'a/1',
          'b',
          'b/1',
          'b/10',
          'b/2',
          'b0',
          'c/1',
        ]);
        expect(await store.list('d')).toEqual([]);
      });

      test('a list is one snapshot: of two keys counted in turn it never shows the second ahead', async () => {
        await put('pair/1', '0');
        await put('pair/2', '0');
        let isWriting = true;
        const write = async (): Promise<void> => {
          for (let count = 1; count <= 50; count += 1) {
            await put('pair/1', `${count}`);
            await put('pair/2', `${count}`);
          }
          isWriting = false;
        };
        const read = async (): Promise<void> => {
          while (isWriting) {
            const [first, second] = (await store.list('pair/')).map((entry) => Number(entry.value));
            invariant(first !== undefined && second !== undefined, 'both keys exist');
            expect(first - second === 0 || first - second === 1).toBe(true);
            await sleep(0);
          }
        };
        await Promise.all([write(), read(), read()]);
      });

      test('a value keeps every character and may have 256 KiB, but not one byte more', async () => {
        const odd = JSON.stringify('ä€𝄞\u0000"\\\n');
        await put('odd', odd);
        const large = 'x'.repeat(256 * 1024);
        await put('large', large);
        await expect(store.compareAndSwap('larger', 0, `${large}y`)).rejects.toMatchObject({
          code: 'INVALID',
        });
        await restart();
        expect((await store.get('odd'))?.value).toBe(odd);
        expect((await store.get('large'))?.value).toBe(large);
        expect(await store.get('larger')).toBeUndefined();
      });

      test('an empty key is refused', async () => {
        await expect(store.compareAndSwap('', 0, '1')).rejects.toMatchObject({ code: 'INVALID' });
      });
    });

    describe('restart', () => {
      test('identity and contents stay, and two stores have different identities', async () => {
        const identity = store.identity;
        const revision = await put('a', '1');
        await restart();
        expect(store.identity).toBe(identity);
        expect(await store.get('a')).toEqual({ key: 'a', value: '1', revision });
        const other = await start();
        const otherStore = await other.connect();
        expect(otherStore.identity).not.toBe(identity);
        await otherStore.close();
        await other.dispose();
      });

      test('revisions go on rising, even when all that had them is deleted', async () => {
        const first = await put('a', '1');
        await store.compareAndSwap('a', first, undefined);
        const before = await store.revision();
        expect(before).toBeGreaterThan(first);
        await restart();
        expect(await store.revision()).toBeGreaterThanOrEqual(before);
        expect(await put('a', '2')).toBeGreaterThan(before);
      });

      test('after close every call answers UNAVAILABLE, and closing again does no harm', async () => {
        await put('a', '1');
        await store.close();
        await store.close();
        await expect(store.get('a')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        await expect(store.list('')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        await expect(store.compareAndSwap('a', 1, '2')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
        await expect(store.lease(place.leaseMs)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      });

      test('a change that was asked for before close is there afterwards or was refused', async () => {
        const asked = store.compareAndSwap('a', 0, '1').then(
          (result) => result.swapped,
          () => false,
        );
        await store.close();
        const wasAcknowledged = await asked;
        store = await place.connect();
        expect((await store.get('a')) !== undefined).toBe(wasAcknowledged);
      });
    });

    describe('watch', () => {
      test('every change below the prefix comes, in order, with deletions, and no other', async () => {
        const start = await store.revision();
        const first = await put('w/a', '1');
        await put('x/a', '1');
        const second = await put('w/a', '2');
        await store.compareAndSwap('w/a', second, undefined);
        const third = await put('w/b', '3');
        const events = await take(store, 'w/', start, 4);
        expect(events).toEqual([
          { type: 'put', entry: { key: 'w/a', value: '1', revision: first } },
          { type: 'put', entry: { key: 'w/a', value: '2', revision: second } },
          { type: 'delete', key: 'w/a', revision: expect.any(Number) },
          { type: 'put', entry: { key: 'w/b', value: '3', revision: third } },
        ]);
      });

      test('a watch that begins after a revision does not repeat it', async () => {
        const first = await put('w/a', '1');
        const second = await put('w/a', '2');
        expect(await take(store, 'w/', first, 1)).toEqual([
          { type: 'put', entry: { key: 'w/a', value: '2', revision: second } },
        ]);
      });

      test('several watchers each see all changes that are made while they wait', async () => {
        const start = await store.revision();
        const watchers = [1, 2, 3].map(async () => await take(store, 'w/', start, 40));
        await Promise.all(
          Array.from({ length: 40 }, async (_, index) => await put(`w/${index}`, `${index}`)),
        );
        const expected = (await store.list('w/')).sort((a, b) => a.revision - b.revision);
        for (const events of await Promise.all(watchers)) {
          expect(events).toEqual(expected.map((entry: StoreEntry) => ({ type: 'put', entry })));
        }
      });

      test('list, then watch from the revision asked before: nothing falls between', async () => {
        await put('w/a', '1');
        const from = await store.revision();
        const listed = await store.list('w/');
        await put('w/b', '2');
        const events = await take(store, 'w/', from, 1);
        expect(listed.map((entry) => entry.key)).toEqual(['w/a']);
        expect(events).toMatchObject([{ type: 'put', entry: { key: 'w/b' } }]);
      });

      test('a watch ends when it is aborted, while it waits and before it began', async () => {
        const abort = new AbortController();
        const from = await store.revision();
        const waiting = collect(store, 'w/', from, abort.signal);
        await sleep(20);
        abort.abort();
        expect(await within(waiting)).toEqual([]);
        expect(await within(collect(store, 'w/', from, abort.signal))).toEqual([]);
      });
    });

    describe('lease', () => {
      test('a key under a lease disappears when the lease runs out, and watches are told', async () => {
        const lease = await store.lease(place.leaseMs);
        const result = await store.compareAndSwap('l', 0, '1', lease);
        invariant(result.swapped, 'the key is new');
        expect(await take(store, 'l', result.revision, 1)).toEqual([
          { type: 'delete', key: 'l', revision: expect.any(Number) },
        ]);
        expect(await store.get('l')).toBeUndefined();
        await expect(lease.renew()).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(store.compareAndSwap('l', 0, '1', lease)).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });

      test('a lease that is renewed lives on', async () => {
        const lease = await store.lease(place.leaseMs);
        await store.compareAndSwap('l', 0, '1', lease);
        for (let round = 0; round < 8; round += 1) {
          await sleep(place.leaseMs / 4);
          await lease.renew();
        }
        expect((await store.get('l'))?.value).toBe('1');
      });

      test('a revoked lease takes its keys with it at once, and only its own', async () => {
        const lease = await store.lease(60_000);
        const other = await store.lease(60_000);
        await store.compareAndSwap('l/1', 0, '1', lease);
        await store.compareAndSwap('l/2', 0, '2', other);
        await put('l/3', '3');
        await lease.revoke();
        expect((await store.list('l/')).map((entry) => entry.key)).toEqual(['l/2', 'l/3']);
        await lease.revoke();
        await other.revoke();
      });

      test('a key that is written again without the lease outlives it', async () => {
        const lease = await store.lease(60_000);
        await store.compareAndSwap('l', 0, '1', lease);
        await put('l', '2');
        await lease.revoke();
        expect((await store.get('l'))?.value).toBe('2');
      });
    });
  });
}

/** The first `count` events of a watch. */
async function take(store: Store, prefix: string, after: number, count: number): Promise<StoreEvent[]> {
  const abort = new AbortController();
  return await within(collect(store, prefix, after, abort.signal, count)).finally(() => abort.abort());
}

async function collect(
  store: Store,
  prefix: string,
  after: number,
  signal: AbortSignal,
  count = Number.POSITIVE_INFINITY,
): Promise<StoreEvent[]> {
  const events: StoreEvent[] = [];
  for await (const event of store.watch(prefix, after, signal)) {
    events.push(event);
    if (events.length >= count) break;
  }
  return events;
}

async function within<T>(promise: Promise<T>): Promise<T> {
  const abort = new AbortController();
  const timeout = sleep(WAIT_MS, undefined, { signal: abort.signal }).then(() => {
    throw new Error(`nothing happened within ${WAIT_MS} ms`);
  });
  return await Promise.race([promise, timeout]).finally(() => {
    timeout.catch(() => undefined);
    abort.abort();
  });
}
