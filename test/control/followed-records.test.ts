import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { FollowedRecords } from '../../src/control/followed-records.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { HoldfastError } from '../../src/core/errors.ts';
import { recordOn } from '../support/volume-record.ts';

const soon = { timeout: 5000, interval: 5 };
let directory: string;
let store: LevelStore;
let records: VolumeRecords;
let leading: AbortController;
let listings: number;

/** The same, and the listings are counted. */
function counted(): Pick<VolumeRecords, 'revision' | 'listChanges' | 'watch'> {
  return {
    revision: () => records.revision(),
    listChanges: () => {
      listings += 1;
      return records.listChanges();
    },
    watch: (revision, signal) => records.watch(revision, signal),
  };
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-followed-'));
  store = await LevelStore.open(directory, { sync: false });
  records = new VolumeRecords(store);
  leading = new AbortController();
  listings = 0;
});
afterEach(async () => {
  leading.abort();
  await store.close();
  await rm(directory, { recursive: true });
});

test('what comes, changes and goes is seen without another listing', async () => {
  const standing = recordOn(['a']);
  await records.insert(standing);
  const followed = new FollowedRecords(counted());
  const seen = async (): Promise<string[]> =>
    (await followed.list(leading.signal)).map(({ id, epoch }) => `${id} ${epoch}`).sort();
  expect(await seen()).toEqual([`${standing.id} 7`]);
  const other = recordOn(['b']);
  await records.insert(other);
  await records.update(standing.id, (record) => ({ ...record, epoch: 9 }));
  await expect.poll(seen, soon).toEqual([`${standing.id} 9`, `${other.id} 7`].sort());
  await records.remove(standing.id);
  await expect.poll(seen, soon).toEqual([`${other.id} 7`]);
  expect(listings).toBe(1);
});

test('when the watch has ended, and after the interval, everything is listed anew', async () => {
  const { id } = recordOn(['a']);
  await records.insert({ ...recordOn(['a']), id });
  const ends = Promise.withResolvers<void>();
  const lossy = {
    ...counted(),
    // A store that forgets who watches.
    async *watch(): AsyncGenerator<never> {
      await ends.promise;
      yield* [];
      throw new HoldfastError('OUT_OF_RANGE', 'this history is gone');
    },
  };
  const followed = new FollowedRecords(lossy);
  await followed.list(leading.signal);
  await records.update(id, (record) => ({ ...record, epoch: 8 }));
  expect((await followed.list(leading.signal))[0]?.epoch).toBe(7);
  ends.resolve();
  await expect.poll(async () => (await followed.list(leading.signal))[0]?.epoch, soon).toBe(8);
  expect(listings).toBeGreaterThanOrEqual(2);

  const impatient = new FollowedRecords(counted(), 0);
  listings = 0;
  await impatient.list(leading.signal);
  await impatient.list(leading.signal);
  expect(listings).toBe(2);
});

test('who leads no more follows nothing; who leads again lists first', async () => {
  const followed = new FollowedRecords(counted());
  await followed.list(leading.signal);
  leading.abort();
  await records.insert(recordOn(['a']));
  leading = new AbortController();
  await expect.poll(async () => (await followed.list(leading.signal)).length, soon).toBe(1);
  expect(listings).toBe(2);
});

test('a store that cannot be listed is told, and is listed at the next look', async () => {
  let isDown = true;
  const failing = {
    ...counted(),
    revision: async (): Promise<number> => {
      if (isDown) throw new HoldfastError('UNAVAILABLE', 'down');
      return await records.revision();
    },
  };
  const followed = new FollowedRecords(failing);
  await expect(followed.list(leading.signal)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  isDown = false;
  expect(await followed.list(leading.signal)).toEqual([]);
});
