// What ServedVolumes asks of the storage; the storage is in memory and shows it, the store is real.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withAttachment } from '../../src/control/attachment.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { drawId } from '../../src/control/names.ts';
import { ServedVolumes } from '../../src/control/served-volumes.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { HoldfastError } from '../../src/core/errors.ts';
import { MIB } from '../../src/core/units.ts';
import { MemoryDisks, MemoryStorage } from '../support/memory-storage.ts';
import { recordOn } from '../support/volume-record.ts';

let directory: string;
let store: LevelStore;
let records: VolumeRecords;
let storage: MemoryStorage;
let volumes: ServedVolumes;
const id = drawId();

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-attached-'));
  store = await LevelStore.open(directory, { sync: false });
  records = new VolumeRecords(store);
  storage = new MemoryStorage(new MemoryDisks());
  volumes = new ServedVolumes({ node: 'here', records, storage, replication: storage, isAlone: false });
  const attachment = { number: 4, node: 'here', readOnly: false, use: 'device' } as const;
  await records.insert(recordOn(['there'], { id, epoch: 1, attachment }));
});

afterEach(async () => {
  await store.close();
  await rm(directory, { recursive: true });
});

/** As another daemon does it; this one is told. */
async function change(apply: (record: VolumeRecord) => VolumeRecord): Promise<VolumeRecord> {
  const record = await records.update(id, apply);
  await volumes.tell(record);
  return record;
}

const frontend = (): unknown => storage.frontends.get(id);

test('the first user opens a frontend of the attachment, the last one closes it', async () => {
  await volumes.acquire(id);
  await volumes.acquire(id);
  expect(frontend()).toEqual({ volumeId: id, attachmentNumber: 4, sizeBytes: 64 * MIB });
  await volumes.release(id);
  expect(volumes.userCount(id)).toBe(1);
  expect(storage.isFrontendOpen(id)).toBe(true);
  await volumes.release(id);
  expect(storage.isFrontendOpen(id)).toBe(false);
});

test('a volume that is attached elsewhere, or nowhere, is not used here', async () => {
  await change((record) => withAttachment(record, 'there'));
  await expect(volumes.acquire(id)).rejects.toMatchObject({ code: 'CONFLICT', message: /node "there"/ });
  await change((record) => withAttachment(record, null));
  await expect(volumes.acquire(id)).rejects.toMatchObject({ code: 'CONFLICT', message: /no node/ });
  expect(volumes.userCount(id)).toBe(0);
});

test('an attachment that is over closes the frontend; the next one opens it again for the users that stayed', async () => {
  await volumes.acquire(id);
  await change((record) => withAttachment(record, null));
  expect(storage.isFrontendOpen(id)).toBe(false);
  await change((record) => withAttachment(record, 'here'));
  expect(frontend()).toMatchObject({ attachmentNumber: 6 });
  await volumes.release(id);
  await change((record) => withAttachment(record, 'here'));
  expect(storage.isFrontendOpen(id)).toBe(false);
});

test('news of an earlier attachment changes nothing', async () => {
  const before = await records.ready(id);
  await change((record) => withAttachment(record, 'here'));
  await volumes.acquire(id);
  expect(volumes.isBehind(before)).toBe(false);
  await volumes.tell(before);
  expect(frontend()).toMatchObject({ attachmentNumber: 5 });
});

test('a volume that has grown grows where it is used', async () => {
  await volumes.acquire(id);
  const grown = await records.update(id, (record) => ({ ...record, sizeBytes: 96 * MIB }));
  expect(volumes.isBehind(grown)).toBe(true);
  await volumes.tell(grown);
  expect(frontend()).toMatchObject({ sizeBytes: 96 * MIB });
  expect(volumes.isBehind(grown)).toBe(false);
});

test('what changes while the frontend is opened is not missed', async () => {
  const opening = Promise.withResolvers<void>();
  const open = storage.openFrontend.bind(storage);
  storage.openFrontend = async (wanted) => {
    await opening.promise;
    await open(wanted);
  };
  const acquired = volumes.acquire(id);
  await expect.poll(() => volumes.isBehind({ ...testRecord, sizeBytes: 128 * MIB })).toBe(true);
  opening.resolve();
  await acquired;
});

test('an opening that fails leaves nothing, and the next one begins anew', async () => {
  const open = storage.openFrontend.bind(storage);
  storage.openFrontend = () => Promise.reject(new HoldfastError('UNAVAILABLE', 'not now'));
  await expect(volumes.acquire(id)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(volumes.userCount(id)).toBe(0);
  storage.openFrontend = open;
  await volumes.acquire(id);
  expect(frontend()).toMatchObject({ attachmentNumber: 4 });
});

const testRecord = { id, attachment: { number: 4, node: 'here' } } as VolumeRecord;
