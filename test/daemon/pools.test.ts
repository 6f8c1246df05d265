// Pools that cannot be opened: the daemon serves the others, says what is wrong, and takes them when they are there.

import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Daemon, until, Workplace } from './daemon.fixture.ts';

let place: Workplace;
beforeEach(async () => {
  place = await Workplace.create();
});
afterEach(() => place.dispose());

interface Pools {
  readonly pools: readonly { name: string; directory: string; problem: string; creatableBytes: number }[];
}

const args = (): string[] => ['--pool', `a=${place.path('a')}`, '--pool', `b=${place.path('b')}`];

async function problemOf(daemon: Daemon, name: string): Promise<string | undefined> {
  const { pools } = await daemon.json<Pools>('pool', 'ls');
  return pools.find((pool) => pool.name === name)?.problem;
}

test('one pool that cannot be opened costs its own volumes, and they come back with it', async () => {
  const before = await place.serving(args());
  await before.json('volume', 'create', 'on-a', '--size', '8MiB', '--pool', 'a');
  const onB = await before.json('volume', 'create', 'on-b', '--size', '8MiB', '--pool', 'b');
  await before.end('SIGTERM');
  await rename(place.path('b'), place.path('disk-b'));
  await mkdir(place.path('b')); // the mount point

  const daemon = await place.serving([...args(), '--metrics', '127.0.0.1:0']);
  expect(await problemOf(daemon, 'a')).toBe('');
  expect(await problemOf(daemon, 'b')).toMatch(/holds no pool: mount its disk there.*holdfast pool forget b/);
  expect(daemon.log).toContainEqual(expect.objectContaining({ level: 'error', pool: 'b' }));
  expect((await daemon.run('volume', 'create', 'more', '--size', '8MiB', '--pool', 'a')).exitCode).toBe(0);
  expect((await daemon.run('volume', 'create', 'x', '--size', '8MiB', '--pool', 'b')).exitCode).toBe(69);
  const { stdout } = await daemon.run('volume', 'explain', 'on-b');
  expect(stdout).toContain('Its pool "b" is not open');
  expect((await daemon.run('volume', 'show', 'on-b')).stdout).toContain('its pool is not open');
  expect((await daemon.run('volume', 'delete', 'on-b')).exitCode).toBe(69);
  const port = daemon.log.find(({ msg }) => msg === 'serving metrics')?.['port'] as number;
  expect(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).toMatch(
    /holdfast_pool_up\{pool="b"[^}]*\} 0/,
  );
  expect(await readdir(place.path('b'))).toEqual([]);

  await rm(place.path('b'), { recursive: true });
  await rename(place.path('disk-b'), place.path('b'));
  await until('pool b is open', async () => (await problemOf(daemon, 'b')) === '', 25_000);
  await daemon.run('volume', 'delete', 'on-b');
  expect(onB).toMatchObject({ name: 'on-b' });
  expect(
    (await daemon.json<{ volumes: { name: string }[] }>('volume', 'ls')).volumes.map(({ name }) => name),
  ).toEqual(['more', 'on-a']);
});

test('without any pool that opens the daemon serves, and says why', async () => {
  await writeFile(place.path('a'), 'in the way');
  const daemon = await place.serving(['--pool', `a=${place.path('a')}`]);
  expect(await problemOf(daemon, 'a')).toContain(place.path('a'));
  expect((await daemon.run('volume', 'create', 'x', '--size', '8MiB')).exitCode).toBe(69);
});

test('a pool that is lost for good is forgotten by name, with its volumes only by force', async () => {
  const before = await place.serving(args());
  await before.json('volume', 'create', 'lost', '--size', '8MiB', '--pool', 'b');
  expect((await before.run('pool', 'forget', 'b', '--force')).exitCode).toBe(76);
  expect((await before.run('pool', 'forget', 'nope')).exitCode).toBe(66);
  await before.end('SIGTERM');
  await rm(place.path('b'), { recursive: true });

  const daemon = await place.serving(args());
  const refused = await daemon.run('pool', 'forget', 'b');
  expect(refused.exitCode).toBe(76);
  expect(refused.stderr).toContain('--force');
  expect(await daemon.json('pool', 'forget', 'b', '--force')).toEqual({ pool: 'b' });
  expect(await problemOf(daemon, 'b')).toBe('');
  expect((await daemon.run('volume', 'explain', 'lost')).stdout).toContain('copy is missing');
  expect((await daemon.run('volume', 'delete', 'lost')).exitCode).toBe(0);
});

test('a volume of a pool that the configuration does not name is not deleted until the pool is there or forgotten', async () => {
  const before = await place.serving(args());
  await before.json('volume', 'create', 'on-a', '--size', '8MiB', '--pool', 'a');
  const { id } = await before.json<{ id: string }>(
    'volume',
    'create',
    'on-b',
    '--size',
    '8MiB',
    '--pool',
    'b',
  );
  await before.end('SIGTERM');

  const daemon = await place.serving(args().slice(0, 2));
  const refused = await daemon.run('volume', 'delete', 'on-b');
  expect(refused.exitCode).toBe(69);
  expect(refused.stderr).toMatch(/--pool b=DIR.*holdfast pool forget b --force/);
  expect(await readdir(place.path('b'))).toContain(id);
  expect(await problemOf(daemon, 'b')).toContain('not in the configuration');
  await daemon.end('SIGTERM');

  // Its start finishes what was begun.
  await place.serving(args());
  expect(await readdir(place.path('b'))).not.toContain(id);
});

test('a pool whose disk is taken away under the daemon takes no new volume and keeps none of the others from theirs', async () => {
  const daemon = await place.serving([...args(), '--metrics', '127.0.0.1:0']);
  await daemon.json('volume', 'create', 'on-b', '--size', '8MiB', '--pool', 'b');
  await rename(place.path('a'), place.path('disk-a'));
  await mkdir(place.path('a')); // the mount point
  const refused = await daemon.run('volume', 'create', 'x', '--size', '8MiB', '--pool', 'a');
  expect(refused.exitCode).toBe(69);
  expect(refused.stderr).toContain('mount its disk there again');
  expect(await readdir(place.path('a'))).toEqual([]);

  await rm(place.path('a'), { recursive: true });
  expect(await problemOf(daemon, 'a')).toContain('mount its disk there again');
  expect(await problemOf(daemon, 'b')).toBe('');
  for (const command of [
    ['volume', 'create', 'more', '--size', '8MiB', '--pool', 'b'],
    ['volume', 'resize', 'on-b', '--size', '16MiB'],
    ['volume', 'explain', 'on-b'],
    ['volume', 'ls'],
  ]) {
    expect([command, (await daemon.run(...command)).exitCode]).toEqual([command, 0]);
  }
  const port = daemon.log.find(({ msg }) => msg === 'serving metrics')?.['port'] as number;
  const metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  expect(metrics).toMatch(/holdfast_pool_up\{pool="a"[^}]*\} 0/);
  expect(metrics).toMatch(/holdfast_pool_up\{pool="b"[^}]*\} 1/);
});
