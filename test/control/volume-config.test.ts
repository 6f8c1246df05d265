import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  newReplica,
  replicaState,
  storedRecordSchema,
  type VolumeRecord,
} from '../../src/control/records.ts';
import { configOf, withConfig } from '../../src/control/volume-config.ts';
import type { VolumeConfig } from '../../src/replication/config.ts';

const id = fc.stringMatching(/^[0-9a-f]{32}$/);
const epoch = fc.integer({ min: 1, max: 2 ** 31 });
const orNull = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(value, { nil: null });
const report = fc.record({ incarnation: id, descendsFrom: orNull(id) });
const sizeBytes = fc.integer({ min: 1, max: 2 ** 50 });
const durability = fc.constantFrom('writeback', 'writethrough');
const failureMode = fc.oneof(
  fc.constantFrom('hard', 'soft', 'alwayson'),
  fc.integer({ min: 0, max: 5 }),
) as fc.Arbitrary<VolumeRecord['failureMode']>;
const primary = fc.record({ replicaId: id, opening: orNull(id) });
const inSync = fc.array(fc.record({ replicaId: id, incarnation: orNull(id) }), {
  minLength: 1,
  maxLength: 6,
});
const protocolReplica = fc.record({
  outSince: orNull(epoch),
  needsFullCopy: fc.boolean(),
  bootId: orNull(fc.uuid()),
  report: orNull(report),
});
const name = fc.string({ minLength: 1 });

const record: fc.Arbitrary<VolumeRecord> = fc.record({
  version: fc.constant(2),
  id,
  name,
  state: fc.constantFrom('creating', 'ready', 'deleting'),
  coordinator: orNull(name),
  sizeBytes,
  targetSizeBytes: sizeBytes,
  lineage: id,
  epoch,
  primary,
  inSync,
  replicas: fc.uniqueArray(
    fc
      .record({ id, node: name, pool: name, protocol: protocolReplica })
      .map(({ protocol, ...place }) => ({ ...place, ...protocol })),
    { minLength: 1, maxLength: 6, selector: (replica) => replica.id },
  ),
  attachment: fc.record({
    number: fc.nat(),
    node: orNull(name),
    readOnly: fc.boolean(),
    use: fc.constantFrom('device', 'export'),
  }),
  durability,
  failureMode,
  fileSystem: orNull(fc.record({ type: fc.constantFrom('ext4', 'xfs'), made: fc.boolean() })),
  labels: fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.string(), { noNullPrototype: true }),
});

/** Whatever a replica may propose of that record. */
function proposalOf({ id: volumeId, replicas }: VolumeRecord): fc.Arbitrary<VolumeConfig> {
  return fc.record({
    volumeId: fc.constant(volumeId),
    sizeBytes,
    lineage: id,
    epoch,
    primary,
    inSync,
    replicas: fc.tuple(
      ...replicas.map(({ id: replicaId, node }) =>
        protocolReplica.map((fields) => ({ id: replicaId, node, ...fields })),
      ),
    ),
    attachment: fc.record({ number: fc.nat(), node: orNull(name) }),
    durability,
    failureMode,
  });
}

test('a record that is given its own configuration is the same record', () => {
  fc.assert(
    fc.property(record, (before) => {
      expect(withConfig(before, configOf(before))).toEqual(before);
    }),
  );
});

test('a proposal is stored whole, in a record that can be read, and leaves what is not of the protocol alone', () => {
  const both = record.chain((before) => fc.tuple(fc.constant(before), proposalOf(before)));
  fc.assert(
    fc.property(both, ([before, config]) => {
      const after = withConfig(before, config);
      expect(configOf(after)).toEqual(config);
      expect(storedRecordSchema.parse(JSON.parse(JSON.stringify(after)))).toEqual(after);
      const { name: nameBefore, state, coordinator, targetSizeBytes, fileSystem, labels } = before;
      expect(after).toMatchObject({
        name: nameBefore,
        state,
        coordinator,
        targetSizeBytes,
        fileSystem,
        labels,
      });
      expect(after.replicas.map(({ pool }) => pool)).toEqual(before.replicas.map(({ pool }) => pool));
    }),
  );
});

test('how a volume is used is forgotten with its attachment, and kept as long as that stands', () => {
  const [before] = fc.sample(record, { numRuns: 1, seed: 1 });
  if (before === undefined) throw new Error('a record was drawn');
  const used: VolumeRecord = {
    ...before,
    attachment: { number: 4, node: 'a', readOnly: true, use: 'export' },
  };
  expect(withConfig(used, { ...configOf(used), epoch: 77 }).attachment).toEqual(used.attachment);
  const revoked = withConfig(used, { ...configOf(used), attachment: { number: 5, node: null } });
  expect(revoked.attachment).toEqual({ number: 5, node: null, readOnly: false, use: 'device' });
});

test('a record of version 1 is read as the same volume', () => {
  const version1 = {
    version: 1,
    id: '0'.repeat(32),
    name: 'data',
    state: 'ready',
    sizeBytes: 4096,
    targetSizeBytes: 4096,
    lineage: 'l',
    epoch: 7,
    primary: { replicaId: 'r', opening: 'o' },
    inSync: [{ replicaId: 'r', incarnation: 'i' }],
    replicas: [{ id: 'r', node: 'a', pool: 'default', state: 'inSync', outSince: null }],
    attachment: { number: 3, node: 'a', readOnly: true },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: { app: 'db' },
  };
  expect(storedRecordSchema.parse(version1)).toEqual({
    ...version1,
    version: 2,
    coordinator: null,
    replicas: [newReplica('r', 'a', 'default')],
    attachment: { number: 3, node: 'a', readOnly: true, use: 'device' },
  });
  expect(storedRecordSchema.safeParse({ ...version1, unheardOf: 1 }).success).toBe(false);
});

test('the state of a copy follows from the set and from what its primary does', () => {
  const volume = { inSync: [{ replicaId: 'r', incarnation: null }] };
  const out = { id: 's', outSince: 3, needsFullCopy: false };
  expect(replicaState(volume, { ...out, id: 'r' })).toBe('inSync');
  expect(replicaState(volume, out)).toBe('outOfSync');
  expect(replicaState(volume, out, true)).toBe('syncing');
  expect(replicaState(volume, { ...out, needsFullCopy: true })).toBe('failed');
  expect(replicaState(volume, { ...out, outSince: null, needsFullCopy: true })).toBe('outOfSync');
});
