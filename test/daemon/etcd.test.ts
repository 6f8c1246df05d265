// A daemon whose store is etcd: a real etcd beside a real daemon.

import { writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EtcdServer } from '../control/etcd-server.ts';
import { Workplace } from './daemon.fixture.ts';

let place: Workplace;
let etcd: EtcdServer;
let store: string[];

beforeEach(async () => {
  place = await Workplace.create();
  etcd = await EtcdServer.start();
  store = ['--store', `etcd://${etcd.address}`];
});

afterEach(async () => {
  await place.dispose();
  await etcd.dispose();
});

async function refused(args: readonly string[], code: number, text: RegExp): Promise<void> {
  const daemon = place.daemon(args);
  expect(await daemon.end()).toBe(code);
  expect(daemon.lines.at(-1)).toMatch(text);
}

test('volumes are recorded in etcd and are there after restarts of both', async () => {
  const daemon = await place.serving(store);
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  const { storeIdentity } = await daemon.json<{ storeIdentity: string }>('status');
  await daemon.end('SIGTERM');
  expect(await etcd.etcdctl('get', '/holdfast/identity')).toContain(storeIdentity);
  await etcd.restart();
  const next = await place.serving(store);
  expect(await next.json('volume', 'show', 'data')).toMatchObject({ name: 'data' });
});

test('an etcd restored from an old snapshot is refused until a person accepts it', async () => {
  const daemon = await place.serving(store);
  await etcd.saveSnapshot(place.path('snapshot'));
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  await daemon.end('SIGTERM');
  await etcd.restoreSnapshot(place.path('snapshot'));
  await refused(store, 65, /not the store that it was.*--accept-store any/);
  await (await place.serving([...store, '--accept-store', 'any'])).end('SIGTERM');
  await (await place.serving(store)).end('SIGTERM');
});

test('a store that is not below the prefix any more is not made anew', async () => {
  const daemon = await place.serving(store);
  await daemon.end('SIGTERM');
  await refused([...store, '--store-prefix', '/elsewhere'], 65, /identity.*--accept-store any/);
  expect(await etcd.etcdctl('get', '/elsewhere', '--prefix')).toBe('');
});

test('what is missing in the options, or not there, is named with the next step', async () => {
  const password = place.path('password');
  await writeFile(password, 'secret\n');
  await refused(['--store-user', 'a', '--store-password-file', password], 64, /--store etcd:/);
  await refused([...store, '--store-user', 'a'], 64, /--store-password-file/);
  await refused([...store, '--store-cert', password], 64, /--store-key/);
  await etcd.kill();
  await refused(store, 69, /cannot be reached.*Check that it runs/);
});
