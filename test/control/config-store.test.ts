import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RecordConfigs } from '../../src/control/config-store.ts';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { type Store, UnknownSwapError } from '../../src/control/store.ts';
import { configOf } from '../../src/control/volume-config.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { invariant } from '../../src/core/invariant.ts';
import {
  attach,
  dropMembers,
  openPrimary,
  type StoredConfig,
  type VolumeConfig,
} from '../../src/replication/config.ts';
import { EtcdServer } from './etcd-server.ts';
import { recordOn } from '../support/volume-record.ts';

interface Place {
  readonly store: Store;
  dispose(): Promise<void>;
}

const PLACES: readonly { readonly name: string; open(): Promise<Place> }[] = [
  {
    name: 'level',
    async open() {
      const directory = await mkdtemp(join(tmpdir(), 'holdfast-configs-'));
      const store = await LevelStore.open(directory, { sync: false });
      const dispose = async (): Promise<void> => {
        await store.close();
        await rm(directory, { recursive: true });
      };
      return { store, dispose };
    },
  },
  {
    name: 'etcd',
    async open() {
      const server = await EtcdServer.start();
      const store = await EtcdStore.open({
        endpoints: [server.address],
        prefix: `/test/${randomUUID()}`,
        timeoutMs: 1000,
      });
      const dispose = async (): Promise<void> => {
        await store.close();
        await server.dispose();
      };
      return { store, dispose };
    },
  },
];

function newRecord(): VolumeRecord {
  return recordOn(['a', 'b'], {
    epoch: 1,
    replicas: [newReplica('r1', 'a', 'fast'), newReplica('r2', 'b', 'slow')],
    attachment: { number: 3, node: 'c', readOnly: true, use: 'device' },
    labels: { app: 'db' },
  });
}

/** The same store, but some calls are lost on their way: they happen, and nobody is told. */
function losing(store: Store, lost: { get?: boolean; swap?: boolean }): Store {
  const never = Promise.withResolvers<never>().promise;
  return new Proxy(store, {
    get(target, name) {
      if (name === 'get' && lost.get === true) return async () => await never;
      if (name === 'compareAndSwap' && lost.swap === true) {
        return async (key: string, expectedRevision: number, value: string) => {
          await target.compareAndSwap(key, expectedRevision, value);
          const swap = { key, expectedRevision, value, leaseId: undefined, proposal: '', sentAtRevision: 0 };
          throw new UnknownSwapError('TIMEOUT', 'no answer came', swap, undefined);
        };
      }
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

describe.each(PLACES)('configurations in $name', ({ open }) => {
  let place: Place;
  let records: VolumeRecords;
  let configs: RecordConfigs;
  let record: VolumeRecord;

  beforeEach(async () => {
    place = await open();
    records = new VolumeRecords(place.store);
    configs = new RecordConfigs(records);
    record = newRecord();
    await records.insert(record);
  });

  afterEach(async () => {
    await place.dispose();
  });

  const standing = async (): Promise<StoredConfig> => {
    const found = await configs.read(record.id);
    invariant(found !== 'gone' && found !== undefined, 'the volume is there');
    return found;
  };

  const opened = (config: VolumeConfig): VolumeConfig =>
    openPrimary(config, { replicaId: 'r1', incarnation: 'i', opening: 'o', bootId: 'b' });

  test('a configuration is read with the revision of its record', async () => {
    const entry = await place.store.get(`volumes/${record.id}`);
    expect(await standing()).toEqual({ config: configOf(record), revision: entry?.revision });
  });

  test('a proposal is committed, and the rest of the record stays as it was', async () => {
    const { config, revision } = await standing();
    const proposed = dropMembers(opened(config), ['r2']);
    const outcome = await configs.swap(record.id, revision, proposed);
    const after = await standing();
    expect(outcome).toEqual({ type: 'committed', revision: after.revision });
    expect(after.config).toEqual(proposed);
    const stored = await records.read(record.id);
    expect(stored).toMatchObject({ name: 'data', labels: { app: 'db' }, attachment: record.attachment });
    expect(stored?.replicas.map(({ pool }) => pool)).toEqual(['fast', 'slow']);
    expect(stored?.replicas[1]).toMatchObject({ outSince: proposed.epoch });
  });

  test('of two proposals on one revision one is committed, and the other is shown what stands', async () => {
    const { config, revision } = await standing();
    const outcomes = await Promise.all([
      configs.swap(record.id, revision, opened(config)),
      configs.swap(record.id, revision, attach(config, null)),
    ]);
    const current = await standing();
    expect(outcomes.map(({ type }) => type).sort()).toEqual(['committed', 'conflict']);
    expect(outcomes.find(({ type }) => type === 'conflict')).toEqual({ type: 'conflict', current });
  });

  test('a change of anything in the record makes an older base a conflict', async () => {
    const { config, revision } = await standing();
    await records.update(record.id, (stored) => ({ ...stored, labels: {} }));
    expect(await configs.swap(record.id, revision, opened(config))).toEqual({
      type: 'conflict',
      current: await standing(),
    });
  });

  test('a volume that is being deleted, or is deleted, is gone', async () => {
    const { config, revision } = await standing();
    await records.update(record.id, (stored) => ({ ...stored, state: 'deleting' }));
    const gone = { type: 'conflict', current: undefined };
    expect(await configs.read(record.id)).toBe('gone');
    expect(await configs.swap(record.id, revision, opened(config))).toEqual(gone);
    await records.remove(record.id);
    expect(await configs.read(record.id)).toBe('gone');
    expect(await configs.swap(record.id, revision, opened(config))).toEqual(gone);
  });

  test('a proposal whose answer is lost is unknown, and is found to have happened', async () => {
    const { config, revision } = await standing();
    const cutOff = new RecordConfigs(new VolumeRecords(losing(place.store, { swap: true })));
    expect(await cutOff.swap(record.id, revision, opened(config))).toEqual({ type: 'unknown' });
    expect((await standing()).config).toEqual(opened(config));
  });

  test('a store that is silent is no answer and an unknown outcome, in bounded time', async () => {
    const { config, revision } = await standing();
    const silent = new RecordConfigs(new VolumeRecords(losing(place.store, { get: true })), 50);
    expect(await silent.read(record.id)).toBeUndefined();
    expect(await silent.swap(record.id, revision, opened(config))).toEqual({ type: 'unknown' });
    await sleep(60);
    expect(await standing()).toEqual({ config, revision });
  });

  test('a record that cannot be understood is no answer: the volume is not gone', async () => {
    const { config, revision } = await standing();
    const damaged = await place.store.compareAndSwap(`volumes/${record.id}`, revision, '{"version":99}');
    invariant(damaged.swapped, 'nobody else writes');
    expect(await configs.read(record.id)).toBeUndefined();
    expect(await configs.swap(record.id, damaged.revision, opened(config))).toEqual({ type: 'unknown' });
  });
});

test('without its etcd nothing is said of a volume', async () => {
  const server = await EtcdServer.start();
  const store = await EtcdStore.open({ endpoints: [server.address], prefix: '/test', timeoutMs: 300 });
  try {
    const record = newRecord();
    const records = new VolumeRecords(store);
    await records.insert(record);
    const configs = new RecordConfigs(records);
    const before = await configs.read(record.id);
    invariant(before !== 'gone' && before !== undefined, 'the volume is there');
    await server.kill();
    expect(await configs.read(record.id)).toBeUndefined();
    const proposed = attach(before.config, 'a');
    expect(await configs.swap(record.id, before.revision, proposed)).toEqual({ type: 'unknown' });
    await server.start();
    expect(await configs.read(record.id)).toEqual(before);
  } finally {
    await store.close();
    await server.dispose();
  }
});
