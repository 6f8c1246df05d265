// The pools of a node: each opens, fails and comes back by itself.

import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { KnownPools } from '../../src/dataplane/known-pools.ts';
import { NodePools, type PoolEvent } from '../../src/dataplane/node-pools.ts';
import { Pool } from '../../src/dataplane/pool.ts';

let directory: string;
let events: PoolEvent[];
let running: NodePools[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-pools-'));
  events = [];
  running = [];
});
afterEach(async () => {
  for (const pools of running) await pools.close();
  await rm(directory, { recursive: true });
});

const path = (name: string): string => join(directory, name);

async function start(names: readonly string[], poolRetryIntervalMs = 3_600_000): Promise<NodePools> {
  const pools = await NodePools.open({
    pools: names.map((name) => ({ name, directory: path(name), ioMode: 'buffered', overcommitRatio: 1 })),
    knownPools: await KnownPools.load(path('pools.json')),
    onPoolEvent: (event) => events.push(event),
    poolRetryIntervalMs,
    poolBusyWaitMs: 200,
  });
  running.push(pools);
  return pools;
}

async function stop(pools: NodePools): Promise<void> {
  await pools.close();
  running = running.filter((other) => other !== pools);
}

const namesOf = (pools: readonly { name: string }[]): string[] => pools.map(({ name }) => name);

describe('a pool that cannot be opened', () => {
  test('costs the others nothing, is reported once, and is opened when it can be', async () => {
    await writeFile(path('b'), 'in the way');
    const pools = await start(['a', 'b', 'c'], 20);
    expect(namesOf(pools.opened())).toEqual(['a', 'c']);
    expect(pools.closed()).toEqual([
      { name: 'b', directory: path('b'), problem: expect.stringContaining(path('b')) },
    ]);
    expect(() => pools.required('b')).toThrow(expect.objectContaining({ code: 'UNAVAILABLE' }));
    expect(() => pools.required('x')).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
    await pools.retry();
    await rm(path('b'));
    await expect.poll(() => namesOf(pools.opened()), { timeout: 5000 }).toEqual(['a', 'b', 'c']);
    expect(pools.closed()).toEqual([]);
    const told = events.filter(({ pool }) => pool === 'b').map(({ type }) => type);
    expect(told).toEqual(['failed', 'opened']);
  });

  test.each([
    ['damaged', '{"version":1', 'CORRUPT'],
    ['another one', '{"version":1,"id":"x","name":"other"}', 'INVALID'],
  ])('because its identity is %s is left as it is', async (_, text, code) => {
    await mkdir(path('a'));
    await writeFile(join(path('a'), 'pool.json'), text);
    const pools = await start(['a']);
    expect(pools.opened()).toEqual([]);
    expect(events).toEqual([
      expect.objectContaining({ type: 'failed', error: expect.objectContaining({ code }) }),
    ]);
    expect(await readFile(join(path('a'), 'pool.json'), 'utf8')).toBe(text);
  });

  test('because another process has it is opened when that one has gone', async () => {
    const other = await Pool.open('a', path('a'), { overcommitRatio: 1 });
    const pools = await start(['a', 'b']);
    expect(namesOf(pools.opened())).toEqual(['b']);
    expect(pools.closed()[0]?.problem).toContain(`process ${process.pid}`);
    await other.close();
    await pools.retry();
    expect(namesOf(pools.opened())).toEqual(['a', 'b']);
  });

  test('and is opened while the daemon stops is given back', async () => {
    await writeFile(path('a'), 'in the way');
    const pools = await start(['a']);
    await rm(path('a'));
    const trying = pools.retry();
    await stop(pools);
    await trying;
    expect(pools.opened()).toEqual([]);
    await (await Pool.open('a', path('a'), { overcommitRatio: 1 })).close();
  });
});

describe('a pool that was used before', () => {
  test('is not made anew in the mount point of its missing disk, and nothing is written there', async () => {
    const before = await start(['a']);
    const id = before.required('a').id;
    await stop(before);
    await rename(path('a'), path('disk'));
    await mkdir(path('a'));
    const pools = await start(['a']);
    expect(pools.closed()[0]?.problem).toMatch(new RegExp(`was ${id} before.*holds no pool.*pool forget a`));
    expect(await readdir(path('a'))).toEqual([]);
    await rm(path('a'), { recursive: true });
    await pools.retry();
    expect(pools.opened()).toEqual([]);
    await rename(path('disk'), path('a'));
    await pools.retry();
    expect(pools.required('a').id).toBe(id);
  });

  test('is not replaced by another pool of its name', async () => {
    await stop(await start(['a']));
    await rename(path('a'), path('disk'));
    await (await Pool.open('a', path('a'), { overcommitRatio: 1 })).close();
    const pools = await start(['a']);
    expect(pools.closed()[0]?.problem).toMatch(/holds pool [0-9a-f]{32}: mount its disk/);
  });

  test('can be forgotten, unless it is open; then what is found takes its place, for good', async () => {
    const before = await start(['a']);
    const id = before.required('a').id;
    await expect(before.forget('a')).rejects.toMatchObject({ code: 'CONFLICT' });
    await expect(before.forget('x')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await stop(before);
    await rm(path('a'), { recursive: true });
    const pools = await start(['a']);
    expect(pools.opened()).toEqual([]);
    await pools.forget('a');
    const fresh = pools.required('a').id;
    expect(fresh).not.toBe(id);
    await stop(pools);
    expect((await start(['a'])).required('a').id).toBe(fresh);
  });

  test('is known again when the process ended before it was remembered', async () => {
    await (await Pool.open('a', path('a'), { overcommitRatio: 1 })).close();
    await writeFile(path('pools.json.new'), '{"version":1,"pools":{"a":');
    const pools = await start(['a']);
    expect((await KnownPools.load(path('pools.json'))).idOf('a')).toBe(pools.required('a').id);
  });
});

test('two pools in one directory, or of one name, are refused before any is touched', async () => {
  const pool = (name: string, place: string) => ({ name, directory: path(place), overcommitRatio: 1 });
  const open = (...pools: ReturnType<typeof pool>[]) => NodePools.open({ pools });
  await expect(open(pool('a', 'x'), pool('b', 'x'))).rejects.toMatchObject({ code: 'INVALID' });
  await expect(open(pool('a', 'x'), pool('a', 'y'))).rejects.toMatchObject({ code: 'INVALID' });
  expect(await readdir(directory)).toEqual([]);
});

test.each(['real', 'real/new'])(
  'one directory named twice through a symbolic link is refused as two pools in one: %s',
  async (place) => {
    await mkdir(path('real'));
    await symlink(path('real'), path('link'));
    const pool = (name: string, directory: string) => ({
      name,
      directory: path(directory),
      overcommitRatio: 1,
    });
    await expect(
      NodePools.open({ pools: [pool('a', place), pool('b', place.replace('real', 'link'))] }),
    ).rejects.toMatchObject({ code: 'INVALID', message: expect.stringContaining('give each its own') });
    expect(await readdir(path('real'))).toEqual([]);
  },
);

test('a list of known pools that cannot be read is refused with what to do', async () => {
  await writeFile(path('pools.json'), 'garbage');
  await expect(KnownPools.load(path('pools.json'))).rejects.toMatchObject({
    code: 'CORRUPT',
    message: expect.stringContaining('remove the file'),
  });
});

test('a pool that was used before and is missing from the configuration is closed until a person forgets it', async () => {
  await stop(await start(['a', 'b']));
  const pools = await start(['a']);
  expect(pools.closed()).toEqual([
    { name: 'b', directory: '', problem: expect.stringContaining('start the daemon with --pool b=') },
  ]);
  const unavailable = expect.objectContaining({ code: 'UNAVAILABLE' });
  expect(() => pools.required('b')).toThrow(unavailable);
  expect(() => pools.unlessForgotten('b')).toThrow(unavailable);
  await pools.forget('b');
  expect(pools.closed()).toEqual([]);
  expect(pools.unlessForgotten('b')).toBeUndefined();
});
