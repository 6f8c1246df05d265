import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Level } from 'level';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { LevelStore } from '../../src/control/level-store.ts';
import { type StoreEvent, UnknownSwapError } from '../../src/control/store.ts';
import { storeContract } from '../store-contract.ts';

storeContract('level', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-store-'));
  return {
    leaseMs: 120,
    connect: async () => await LevelStore.open(join(directory, 'store')),
    dispose: async () => await rm(directory, { recursive: true }),
  };
});

describe('level store', () => {
  let parent: string;
  let directory: string;

  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), 'holdfast-store-'));
    directory = join(parent, 'store');
  });

  afterEach(async () => {
    vi.restoreAllMocks();
    await rm(parent, { recursive: true });
  });

  async function fill(count: number): Promise<void> {
    const store = await LevelStore.open(directory);
    for (let index = 0; index < count; index += 1)
      await store.compareAndSwap(`key/${index}`, 0, `{"n":${index}}`);
    await store.close();
  }

  test('a second owner is told that the store is in use, and by what to go on', async () => {
    const store = await LevelStore.open(directory);
    await expect(LevelStore.open(directory)).rejects.toMatchObject({
      code: 'BUSY',
      message: expect.stringContaining('another data directory'),
    });
    await store.close();
    await (await LevelStore.open(directory)).close();
  });

  test('many who make a store in one place at once end with one store', async () => {
    const results = await Promise.allSettled(
      Array.from({ length: 6 }, async () => await LevelStore.open(directory)),
    );
    const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    expect(opened).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'BUSY' });
    }
    await opened[0]?.close();
    expect(await readdir(parent)).toEqual(['store']);
  });

  test('what an interrupted creation left is removed, and the store is made', async () => {
    await mkdir(join(parent, 'store.new-abcdef'));
    await writeFile(join(parent, 'store.new-abcdef', 'CURRENT'), 'half');
    const store = await LevelStore.open(directory);
    expect(await readdir(parent)).toEqual(['store']);
    await store.close();
  });

  test('a directory that cannot be made is an IO error that names it', async () => {
    await writeFile(join(parent, 'file'), '');
    await expect(LevelStore.open(join(parent, 'file', 'store'))).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining(join(parent, 'file', 'store')),
    });
  });

  describe('damage', () => {
    async function files(ending: RegExp): Promise<string[]> {
      return (await readdir(directory))
        .filter((name) => ending.test(name))
        .map((name) => join(directory, name));
    }

    async function expectCorrupt(): Promise<void> {
      await expect(LevelStore.open(directory)).rejects.toMatchObject({
        code: 'CORRUPT',
        message: expect.stringContaining('backup'),
      });
    }

    test('a missing CURRENT file is damage, never a new and empty store', async () => {
      await fill(3);
      await rm(join(directory, 'CURRENT'));
      await expectCorrupt();
    });

    test('an unreadable manifest is damage', async () => {
      await fill(3);
      for (const file of await files(/^MANIFEST/)) await writeFile(file, 'not a manifest');
      await expectCorrupt();
    });

    test('a row that somebody else wrote is damage', async () => {
      await fill(3);
      const database = new Level<string, string>(directory);
      await database.put('record/key/1', JSON.stringify({ revision: 3, leased: false, value: '{"n":99}' }));
      await database.close();
      await expectCorrupt();
    });

    test('a store of a later version is refused instead of half understood', async () => {
      await fill(3);
      const database = new Level<string, string>(directory);
      const meta = JSON.parse((await database.get('meta')) ?? '{}') as Record<string, unknown>;
      await database.put('meta', JSON.stringify({ ...meta, version: 2 }));
      await database.close();
      await expectCorrupt();
    });

    test('damage in the middle of the log is noticed when later writes survived it', async () => {
      const store = await LevelStore.open(directory);
      // More than two of the log's 32 KiB blocks: leveldb skips the damaged one and reads the next.
      for (let index = 0; index < 40; index += 1) {
        await store.compareAndSwap(`key/${index}`, 0, JSON.stringify('x'.repeat(4000)));
      }
      await store.close();
      const [log] = await files(/\.log$/);
      const bytes = await readFile(log ?? '');
      bytes.fill(0xff, 40_000, 40_100);
      await writeFile(log ?? '', bytes);
      await expectCorrupt();
    });
  });

  test('cut off anywhere in its log, the store is one that was there, with all that was acknowledged by then', async () => {
    const store = await LevelStore.open(directory);
    const acknowledged: { logBytes: number; state: string }[] = [];
    const logName = (await readdir(directory)).find((name) => name.endsWith('.log')) ?? '';
    const note = async (): Promise<void> => {
      const logBytes = (await readFile(join(directory, logName))).length;
      acknowledged.push({ logBytes, state: JSON.stringify(await store.list('')) });
    };
    await note();
    for (let step = 0; step < 12; step += 1) {
      const current = await store.get(`key/${step % 3}`);
      await store.compareAndSwap(
        `key/${step % 3}`,
        current?.revision ?? 0,
        step % 4 === 3 ? undefined : `{"step":${step}}`,
      );
      await note();
    }
    await store.close();
    const contents = new Map<string, Buffer>();
    for (const name of await readdir(directory)) contents.set(name, await readFile(join(directory, name)));
    const log = contents.get(logName) ?? Buffer.alloc(0);
    expect(acknowledged.at(-1)?.logBytes).toBe(log.length);

    const copy = join(parent, 'copy');
    // Around every boundary between batches: inside the header of the next one, and inside its contents.
    const ends = acknowledged.map((note) => note.logBytes);
    const cuts = ends.flatMap((end) => [end - 40, end - 1, end, end + 1, end + 6, end + 7, end + 8]);
    for (const cut of new Set(cuts.filter((offset) => offset >= 0 && offset <= log.length))) {
      await mkdir(copy);
      for (const [name, bytes] of contents) {
        await writeFile(join(copy, name), name === logName ? bytes.subarray(0, cut) : bytes);
      }
      const reopened = await LevelStore.open(copy);
      const durable = acknowledged.filter((note) => note.logBytes <= cut).at(-1);
      expect(JSON.stringify(await reopened.list(''))).toBe(durable?.state ?? acknowledged[0]?.state);
      await reopened.close();
      await rm(copy, { recursive: true });
    }
  });

  test('a write that fails makes the store answer UNAVAILABLE from then on, and reopening shows what is there', async () => {
    const store = await LevelStore.open(directory);
    const { revision } = { revision: 0, ...(await store.compareAndSwap('a', 0, '1')) };
    vi.spyOn(Level.prototype, 'batch').mockRejectedValueOnce(new Error('No space left on device'));
    const both = await Promise.allSettled([
      store.compareAndSwap('a', revision, '2'),
      store.compareAndSwap('b', 0, '1'),
    ]);
    for (const [index, result] of both.entries()) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: {
          code: 'UNAVAILABLE',
          message: expect.stringContaining('No space left on device'),
          swap: { key: 'ab'[index], sentAtRevision: revision },
        },
      });
    }
    await expect(store.get('a')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const refused = await store.compareAndSwap('c', 0, '1').catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: 'UNAVAILABLE' });
    expect(refused).not.toBeInstanceOf(UnknownSwapError);
    await store.close();
    const reopened = await LevelStore.open(directory);
    expect(await reopened.list('')).toEqual([{ key: 'a', value: '1', revision }]);
    await reopened.close();
  });

  test('changes that wait together are written in one batch', async () => {
    const store = await LevelStore.open(directory);
    const batch = vi.spyOn(Level.prototype, 'batch');
    await Promise.all(
      Array.from({ length: 100 }, async (_, index) => await store.compareAndSwap(`k/${index}`, 0, '1')),
    );
    expect(batch).toHaveBeenCalledTimes(1);
    expect(batch).toHaveBeenCalledWith(expect.anything(), { sync: true });
    await store.close();
  });

  test('swaps of one key that wait together are decided in the order they came', async () => {
    const store = await LevelStore.open(directory);
    const start = await store.revision();
    const results = await Promise.all([
      store.compareAndSwap('a', 0, '"first"'),
      store.compareAndSwap('a', 0, '"second"'),
      store.compareAndSwap('a', start + 1, '"third"'),
      store.compareAndSwap('a', start + 2, undefined),
      store.compareAndSwap('a', 0, '"fifth"'),
    ]);
    expect(results).toEqual([
      { swapped: true, revision: start + 1 },
      { swapped: false, current: { key: 'a', value: '"first"', revision: start + 1 } },
      { swapped: true, revision: start + 2 },
      { swapped: true, revision: start + 3 },
      { swapped: true, revision: start + 4 },
    ]);
    await store.close();
  });

  test('keys of a lease are gone after a restart: the lease died with its process', async () => {
    const store = await LevelStore.open(directory);
    await store.compareAndSwap('leased', 0, '1', await store.lease(60_000));
    await store.compareAndSwap('kept', 0, '1');
    await store.close();
    const reopened = await LevelStore.open(directory);
    expect((await reopened.list('')).map((entry) => entry.key)).toEqual(['kept']);
    await reopened.close();
  });

  test('a watch from before the kept history is told to list again, at its start and when it falls behind', async () => {
    const store = await LevelStore.open(directory, { historyLimit: 10 });
    const start = await store.revision();
    const slow = store.watch('k', start, new AbortController().signal)[Symbol.asyncIterator]();
    await store.compareAndSwap('k', 0, '0');
    expect((await slow.next()).value).toMatchObject({ type: 'put', entry: { value: '0' } });
    for (let index = 1; index <= 11; index += 1) await store.compareAndSwap('k', start + index, `${index}`);
    await expect(slow.next()).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    const late = store.watch('k', start, new AbortController().signal)[Symbol.asyncIterator]();
    await expect(late.next()).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    await store.close();
  });

  test('a watch does not outlive its store', async () => {
    const store = await LevelStore.open(directory);
    const waiting = drain(store.watch('', await store.revision(), new AbortController().signal));
    await sleep(10);
    const rejected = expect(waiting).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await store.close();
    await rejected;
  });
});

async function drain(events: AsyncIterable<StoreEvent>): Promise<void> {
  for await (const event of events) void event;
}
