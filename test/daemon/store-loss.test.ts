// What a node does with a store that is not the one it knew: nothing, until a person has decided.

import { cp, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Daemon, Workplace } from './daemon.fixture.ts';

let place: Workplace;
beforeEach(async () => {
  place = await Workplace.create();
});
afterEach(() => place.dispose());

const ID = /^[0-9a-f]{32}$/;
const store = (): string => place.path('data/store');
const copies = async (pool = place.path('data/pools/default')): Promise<string[]> =>
  (await readdir(pool)).filter((name) => ID.test(name));

async function refused(text: RegExp, code: number, args: readonly string[] = []): Promise<void> {
  const daemon = place.daemon(args);
  expect(await daemon.end()).toBe(code);
  expect(daemon.lines.at(-1)).toMatch(text);
}

const orphansIn = (daemon: Daemon): number =>
  daemon.log.filter(({ msg }) => msg === 'a pool holds a copy that no volume knows').length;

test('another node name is refused with the one to use', async () => {
  const daemon = await place.serving();
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  await daemon.end('SIGTERM');
  await refused(/data directory of node "test-node".*--node-name test-node/, 64, ['--node-name', 'other']);
  await (await place.serving()).json('volume', 'show', 'data');
});

test('a store that is lost is not made anew unasked; asked, every copy is kept and reported', async () => {
  const before = await place.serving();
  await before.json('volume', 'create', 'data', '--size', '8MiB');
  await before.end('SIGTERM');
  await rm(store(), { recursive: true });
  await refused(/no store in .*served with one before.*--accept-store any/, 65);
  await mkdir(store()); // an empty directory is no store either
  await refused(/no store in/, 65);
  const daemon = await place.serving(['--accept-store', 'any']);
  expect(orphansIn(daemon)).toBe(1);
  expect(await copies()).toHaveLength(1);
  await daemon.end('SIGTERM');
  await (await place.serving()).end('SIGTERM');
  expect(await copies()).toHaveLength(1);
});

test('a data directory that is lost does not let the copies in its pools be forgotten', async () => {
  const pool = ['--pool', `p=${place.path('pool')}`];
  const before = await place.serving(pool);
  await before.json('volume', 'create', 'data', '--size', '8MiB');
  await before.end('SIGTERM');
  await rm(place.path('data'), { recursive: true });
  await refused(/no store in .*pool "p" holds 1 copies/, 65, pool);
  expect(await copies(place.path('pool'))).toHaveLength(1);
});

test('records of devices are reason enough to ask for the store', async () => {
  await mkdir(join(place.path('data'), 'devices'), { recursive: true });
  await writeFile(join(place.path('data'), 'devices', '0'.repeat(32)), '');
  await refused(/records of 1 devices/, 65);
});

test("another node's store, and an older one, are refused; the right one serves", async () => {
  const stranger = await place.serving([], {}, 'other');
  await stranger.end('SIGTERM');
  const first = await place.serving();
  await first.json('volume', 'create', 'old', '--size', '8MiB');
  await first.end('SIGTERM');
  await cp(store(), place.path('backup'), { recursive: true });
  const second = await place.serving();
  const created = await second.json('volume', 'create', 'new', '--size', '8MiB');
  await second.end('SIGTERM');
  await cp(store(), place.path('current'), { recursive: true });

  const put = async (from: string): Promise<void> => {
    await rm(store(), { recursive: true });
    await cp(place.path(from), store(), { recursive: true });
  };
  await put('other/store');
  await refused(/served with [0-9a-f]{32} before/, 65);
  await put('backup');
  await refused(/restored from a backup/, 65);
  const accepted = await place.serving(['--accept-store', 'any']);
  expect(orphansIn(accepted)).toBe(1);
  await accepted.end('SIGKILL');
  await put('current');
  const last = await place.serving();
  expect(await last.json('volume', 'show', 'new')).toEqual(created);
  expect(await copies()).toHaveLength(2);
});
