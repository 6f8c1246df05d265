// A store that is not the one that was seen is refused: restored from a snapshot, another cluster, another
// identity. With real snapshots, saved and restored by etcdctl.

import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EtcdStore, type EtcdStoreOptions } from '../../src/control/etcd/etcd-store.ts';
import { EtcdServer } from './etcd-server.ts';

const PREFIX = '/restored';

let server: EtcdServer;
let store: EtcdStore;

async function open(options: Partial<EtcdStoreOptions> = {}): Promise<EtcdStore> {
  return await EtcdStore.open({ endpoints: [server.address], prefix: PREFIX, ...options });
}

/** Makes changes, each of a key of its own. */
async function change(target: EtcdStore, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    const key = `key/${await target.revision()}`;
    expect(await target.compareAndSwap(key, 0, '1')).toMatchObject({ swapped: true });
  }
}

beforeEach(async () => {
  server = await EtcdServer.start();
  store = await open();
});

afterEach(async () => {
  await store.close();
  await server.dispose();
});

describe('a store restored from a snapshot', () => {
  test('is noticed by a running daemon at its next call, and stays refused', async () => {
    const snapshot = join(server.directory, 'snapshot');
    await change(store, 5);
    await server.saveSnapshot(snapshot);
    await change(store, 5);
    await server.restoreSnapshot(snapshot);
    const refused = { code: 'CORRUPT', message: expect.stringContaining('restored from a backup') };
    await expect(store.list('')).rejects.toMatchObject(refused);
    await expect(store.compareAndSwap('new', 0, '1')).rejects.toMatchObject(refused);
    // What another writes does not make it the right one again.
    const unaware = await open();
    await change(unaware, 20);
    expect(await unaware.get('new')).toBeUndefined();
    await unaware.close();
    await expect(store.get('new')).rejects.toMatchObject(refused);
  });

  test('is noticed by a daemon that was away, also when its revision has gone past what was seen', async () => {
    const snapshot = join(server.directory, 'snapshot');
    await change(store, 30);
    await server.saveSnapshot(snapshot);
    await change(store, 5);
    const seen = await store.position();
    await store.close();
    await server.restoreSnapshot(snapshot);
    await expect(open({ seen })).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'revision' } });

    store = await open();
    await change(store, 10);
    const now = await store.position();
    // The same cluster id, and more changes than were seen: the raft log gives it away.
    expect(now.clusterId).toBe(seen.clusterId);
    expect(now.revision).toBeGreaterThan(seen.revision);
    await expect(open({ seen })).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'raft index' } });
  });

  test('as another cluster is noticed by its id', async () => {
    const snapshot = join(server.directory, 'snapshot');
    await server.saveSnapshot(snapshot);
    const seen = await store.position();
    await server.restoreSnapshot(snapshot, { token: 'another' });
    await expect(store.get('a')).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'cluster id' } });
    await expect(open({ seen })).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'cluster id' } });
  });

  test('a watch ends with the error instead of waiting for revisions to come', async () => {
    const snapshot = join(server.directory, 'snapshot');
    await server.saveSnapshot(snapshot);
    await change(store, 5);
    const events = store.watch('', (await store.revision()) - 1, new AbortController().signal);
    expect(await events[Symbol.asyncIterator]().next()).toMatchObject({ value: { type: 'put' } });
    const next = expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'CORRUPT' });
    await server.restoreSnapshot(snapshot);
    await next;
  });

  test('a watch that begins after the restore does not take it for a compaction', async () => {
    const snapshot = join(server.directory, 'snapshot');
    await server.saveSnapshot(snapshot);
    await change(store, 5);
    const revision = await store.revision();
    await server.restoreSnapshot(snapshot);
    const events = store.watch('', revision, new AbortController().signal);
    await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'CORRUPT' });
  });
});

describe('a store with another identity', () => {
  test('is not written to, though its keys would allow it', async () => {
    await server.etcdctl(
      'put',
      `${PREFIX}/identity`,
      JSON.stringify({ format: 1, identity: 'f'.repeat(32) }),
    );
    await expect(store.compareAndSwap('a', 0, '1')).rejects.toMatchObject({
      code: 'CORRUPT',
      details: { what: 'identity' },
    });
    const other = await open();
    expect(await other.get('a')).toBeUndefined();
    await other.close();
  });

  test('is refused at the start, and an empty one is not taken for a new one', async () => {
    const seen = await store.position();
    await server.etcdctl(
      'put',
      `${PREFIX}/identity`,
      JSON.stringify({ format: 1, identity: 'f'.repeat(32) }),
    );
    await expect(open({ seen })).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'identity' } });
    await server.etcdctl('del', `${PREFIX}/identity`);
    await expect(open({ seen })).rejects.toMatchObject({ code: 'CORRUPT', details: { what: 'identity' } });
    expect(await server.etcdctl('get', `${PREFIX}/identity`)).toBe('');
  });

  test('records without an identity are not made a store', async () => {
    await change(store, 1);
    await server.etcdctl('del', `${PREFIX}/identity`);
    await expect(open()).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('what is no store of ours, or of a later version, is refused', async () => {
    await server.etcdctl('put', '/foreign/identity', 'hello');
    await expect(open({ prefix: '/foreign' })).rejects.toMatchObject({ code: 'CORRUPT' });
    await server.etcdctl('put', '/later/identity', JSON.stringify({ format: 2, identity: 'f'.repeat(32) }));
    await expect(open({ prefix: '/later' })).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining('upgrade'),
    });
  });

  test('many daemons that open it for the first time at once get one identity', async () => {
    const stores = await Promise.all(Array.from({ length: 8 }, async () => await open({ prefix: '/fresh' })));
    expect(new Set(stores.map(({ identity }) => identity)).size).toBe(1);
    for (const opened of stores) await opened.close();
  });

  test('a restart of etcd changes nothing of what is seen', async () => {
    await change(store, 5);
    const seen = await store.position();
    await server.restart();
    await change(store, 1);
    await (await open({ seen })).close();
  });
});
