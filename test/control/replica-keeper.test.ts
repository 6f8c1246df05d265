// The keeper against a real store; the node's storage is in memory and shows what was asked of it.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { KeyedLock } from '../../src/control/keyed-lock.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { drawId } from '../../src/control/names.ts';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { ReplicaKeeper } from '../../src/control/replica-keeper.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { MIB } from '../../src/core/units.ts';
import { MemoryDisks, MemoryStorage } from '../support/memory-storage.ts';

const HERE = 'here';
const WAIT = { timeout: 5000, interval: 5 };

let directory: string;
let store: LevelStore;
let records: VolumeRecords;
let storage: MemoryStorage;
let locks: KeyedLock;
let keeper: ReplicaKeeper;
let lines: string[];
let seen: VolumeRecord[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-keeper-'));
  store = await LevelStore.open(directory, { sync: false });
  records = new VolumeRecords(store);
  storage = new MemoryStorage(new MemoryDisks());
  storage.disks.pools.set('other', { totalBytes: 1000 * MIB, overcommitRatio: 1 });
  locks = new KeyedLock();
  lines = [];
  seen = [];
  keeper = newKeeper();
});

afterEach(async () => {
  await keeper.close();
  await store.close();
  await rm(directory, { recursive: true });
});

function newKeeper(lookIntervalMs = 3_600_000): ReplicaKeeper {
  return new ReplicaKeeper({
    node: HERE,
    records,
    storage,
    replication: storage,
    locks,
    log: pino({ level: 'info' }, { write: (line: string) => void lines.push(line) }),
    onRecord: (record) => void seen.push(record),
    onBroken: (error) => {
      throw error;
    },
    lookIntervalMs,
    firstRetryMs: 5,
  });
}

/** A record of one copy here and one elsewhere; and, unless `made` is false, the copy. */
async function volume(changes: Partial<VolumeRecord> = {}, made = true): Promise<VolumeRecord> {
  const ours = drawId();
  const theirs = drawId();
  const record: VolumeRecord = {
    version: 2,
    id: drawId(),
    name: `data-${ours.slice(0, 4)}`,
    state: 'ready',
    coordinator: null,
    sizeBytes: 64 * MIB,
    targetSizeBytes: 64 * MIB,
    lineage: drawId(),
    epoch: 3,
    primary: { replicaId: ours, opening: null },
    inSync: [
      { replicaId: ours, incarnation: null },
      { replicaId: theirs, incarnation: null },
    ],
    replicas: [newReplica(ours, HERE, 'default'), newReplica(theirs, 'there', 'default')],
    attachment: { number: 0, node: null, readOnly: false, use: 'device' },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: {},
    ...changes,
  };
  await records.insert(record);
  if (made) await makeCopy(record, record.replicas[0]?.id ?? ours, record.replicas[0]?.pool ?? 'default');
  return record;
}

async function makeCopy(record: VolumeRecord, replicaId: string, pool = 'default'): Promise<void> {
  await storage.createReplica({
    volumeId: record.id,
    volumeName: record.name,
    replicaId,
    pool,
    sizeBytes: record.sizeBytes,
    lineage: record.lineage,
    epoch: record.epoch,
    durability: record.durability,
    failureMode: 'soft',
  });
}

async function isOpen(...volumes: VolumeRecord[]): Promise<void> {
  await vi.waitFor(
    () => expect([...storage.openReplicas]).toEqual(expect.arrayContaining(volumes.map(({ id }) => id))),
    WAIT,
  );
}

async function isGone(record: VolumeRecord): Promise<void> {
  await vi.waitFor(() => expect(storage.disks.replicas.has(record.id)).toBe(false), WAIT);
  expect(storage.openReplicas.has(record.id)).toBe(false);
}

async function isReported(record: VolumeRecord, problem: string): Promise<void> {
  await vi.waitFor(() => expect(keeper.problemWith(record.id)).toContain(problem), WAIT);
  expect(lines.filter((line) => line.includes(JSON.stringify(problem).slice(1, -1)))).toHaveLength(1);
}

describe('a copy that is to be here', () => {
  test('is opened at the start, or as soon as its volume is ready', async () => {
    const before = await volume();
    keeper.start();
    await isOpen(before);
    const after = await volume({ state: 'creating', coordinator: 'there' });
    await sleep(50);
    expect(storage.isReplicaOpen(after.id)).toBe(false);
    await records.update(after.id, (record) => ({ ...record, state: 'ready', coordinator: null }));
    await isOpen(after);
  });

  test('is told of every change of its record, and of no volume without a copy here', async () => {
    const record = await volume();
    const stranger = await volume({ replicas: [newReplica('r', 'there', 'default')] }, false);
    keeper.start();
    await isOpen(record);
    storage.configChanges.length = 0;
    await records.update(record.id, (stored) => ({ ...stored, epoch: 9 }));
    await vi.waitFor(() => expect(storage.configChanges).toContain(record.id), WAIT);
    expect(seen.at(-1)).toMatchObject({ id: record.id, epoch: 9 });
    expect(storage.openReplicas.has(stranger.id)).toBe(false);
    expect(keeper.problemWith(stranger.id)).toBeUndefined();
  });

  test('grows to what was promised, before it is opened and while it is', async () => {
    const record = await volume({ targetSizeBytes: 96 * MIB });
    keeper.start();
    await isOpen(record);
    expect(storage.superblockOf(record.id).sizeBytes).toBe(96 * MIB);
    await records.update(record.id, (stored) => ({ ...stored, targetSizeBytes: 128 * MIB }));
    await vi.waitFor(() => expect(storage.superblockOf(record.id).sizeBytes).toBe(128 * MIB), WAIT);
  });

  test('is reported once when it is missing, and opened when it is back', async () => {
    const record = await volume({}, false);
    keeper.start();
    await isReported(record, 'is missing from pool "default"');
    await makeCopy(record, record.primary.replicaId);
    keeper.look(record.id);
    await isOpen(record);
    expect(keeper.problemWith(record.id)).toBeUndefined();
  });

  test('is waited for while its pool is not open', async () => {
    const record = await volume();
    storage.disks.closed.set('default', 'its disk is not mounted');
    keeper.start();
    await isReported(record, 'its disk is not mounted');
    storage.disks.closed.clear();
    await keeper.poolOpened();
    await isOpen(record);
  });

  test('makes an earlier one that is still here go first', async () => {
    const record = await volume({}, false);
    await makeCopy({ ...record, epoch: 1 }, drawId());
    keeper.start();
    await isGone(record);
    await makeCopy(record, record.primary.replicaId);
    await isOpen(record);
  });

  test('is not opened, nor removed, when what is here belongs to another node', async () => {
    const record = await volume({}, false);
    await makeCopy(record, record.replicas[1]?.id ?? '');
    keeper.start();
    await isReported(record, 'belongs to node "there"');
    expect(storage.disks.replicas.has(record.id)).toBe(true);
    expect(storage.openReplicas.has(record.id)).toBe(false);
  });
});

describe('a copy that is not to be here', () => {
  test('is closed and deleted when its record no longer names this node', async () => {
    const record = await volume();
    keeper.start();
    await isOpen(record);
    await records.update(record.id, (stored) => ({ ...stored, replicas: stored.replicas.slice(1) }));
    await isGone(record);
  });

  test('is deleted by a node that was away while its volume was deleted, as long as the record stands', async () => {
    const record = await volume({ state: 'deleting', coordinator: 'there' });
    keeper.start();
    await isGone(record);
    expect(await records.read(record.id)).toBeDefined();
  });

  test('stays when no record knows it', async () => {
    const record = await volume();
    keeper.start();
    await isOpen(record);
    await records.remove(record.id);
    await isReported(record, 'the store does not know');
    expect(storage.openReplicas.has(record.id)).toBe(false);
    expect(storage.disks.replicas.has(record.id)).toBe(true);
  });

  test('stays, and is reported, when it was found by the start and no record knows it', async () => {
    const record = await volume();
    await records.remove(record.id);
    keeper.start();
    await isReported(record, 'the store does not know');
    expect(storage.disks.replicas.has(record.id)).toBe(true);
  });

  test('stays when it has promised more than the store knows: the store is an older one', async () => {
    const record = await volume({ state: 'deleting' });
    await storage.updateSuperblock(record.id, { promisedEpoch: record.epoch + 1 });
    keeper.start();
    await isReported(record, 'the store is an older one');
    expect(storage.disks.replicas.has(record.id)).toBe(true);
  });

  test('stays when its disk was brought here from the node that is to have it', async () => {
    const record = await volume();
    await records.update(record.id, (stored) => ({
      ...stored,
      replicas: stored.replicas.map((replica) => ({ ...replica, node: 'there' })),
    }));
    keeper.start();
    await isReported(record, 'belongs to node "there"');
    expect(storage.disks.replicas.has(record.id)).toBe(true);
  });

  test('is not deleted while somebody makes one: what is read then decides', async () => {
    const record = await volume();
    await records.update(record.id, (stored) => ({ ...stored, replicas: stored.replicas.slice(1) }));
    const made = Promise.withResolvers<void>();
    const making = locks.run(record.id, async () => await made.promise);
    keeper.start();
    await sleep(30);
    // Meanwhile it is put back into the record, by another daemon that then has the copy made here.
    await records.update(record.id, (stored) => ({ ...stored, replicas: [...record.replicas] }));
    made.resolve();
    await making;
    await isOpen(record);
    expect(storage.disks.replicas.has(record.id)).toBe(true);
  });
});

describe('many copies', () => {
  test('a few of a pool are opened at a time, and a pool that hangs holds up no other', async () => {
    const answers = Promise.withResolvers<void>();
    storage.hung.set('other', answers.promise);
    const replica = newReplica(drawId(), HERE, 'other');
    const hanging: VolumeRecord[] = [];
    for (let index = 0; index < 8; index += 1) hanging.push(await volume({ replicas: [replica] }));
    const others: VolumeRecord[] = [];
    for (let index = 0; index < 8; index += 1) others.push(await volume());
    keeper.start();
    await isOpen(...others);
    expect(storage.openReplicas.size).toBe(8);
    expect(storage.mostOpening).toBeLessThanOrEqual(6);
    answers.resolve();
    await isOpen(...hanging);
  });

  test('what the watch does not show is seen by the next look', async () => {
    const record = await volume({}, false);
    await keeper.close();
    keeper = newKeeper(20);
    const blind = vi.spyOn(records, 'watch').mockImplementation(async function* (_revision, signal) {
      await sleep(60_000, undefined, { signal });
      yield { volumeId: record.id, stored: undefined };
    });
    keeper.start();
    const late = await volume();
    await isOpen(late);
    blind.mockRestore();
  });

  test('a stop does not wait for a copy that hangs, and nothing begins after it', async () => {
    const answers = Promise.withResolvers<void>();
    storage.hung.set('default', answers.promise);
    await volume();
    keeper.start();
    await vi.waitFor(() => expect(storage.opening).toBe(1), WAIT);
    const began = performance.now();
    await keeper.close();
    expect(performance.now() - began).toBeLessThan(4000);
    const late = await volume();
    keeper.look(late.id);
    answers.resolve();
    await sleep(20);
    expect(storage.isReplicaOpen(late.id)).toBe(false);
  });
});
