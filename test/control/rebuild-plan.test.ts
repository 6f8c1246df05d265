import fc from 'fast-check';
import { expect, test } from 'vitest';
import { volumeRecordSchema } from '../../src/control/records.ts';
import { type FoundCopy, type PlannedVolume, planCatalog } from '../../src/control/rebuild-plan.ts';
import { configOf } from '../../src/control/volume-config.ts';
import {
  addMember,
  dropMembers,
  isMember,
  knownSet,
  memberOf,
  promote,
  type VolumeConfig,
} from '../../src/replication/config.ts';

const hex = (digit: number | string): string => String(digit).padStart(32, '0');
const VOLUME = hex('a');
const NODES = ['n0', 'n1', 'n2', 'n3'];

// ---- copies by hand

type Set = readonly [epoch: number, ...members: readonly (number | readonly [number, string])[]];

/** The copy on node `n<index>`; members are [index, incarnation], or an index for its first one. */
function copy(index: number, set: Set, changes: Partial<FoundCopy['superblock']> = {}): FoundCopy {
  const [epoch, ...members] = set;
  return {
    node: `n${index}`,
    pool: 'p',
    problem: null,
    superblock: {
      volumeId: VOLUME,
      volumeName: 'data',
      replicaId: hex(index),
      sizeBytes: 4096,
      lineage: 'l1',
      promisedEpoch: epoch,
      incarnation: `i${index}`,
      lastInSyncIncarnation: `i${index}`,
      earlierIncarnations: [],
      bootId: 'boot',
      earlierBootIds: [],
      storedBootId: null,
      cleanMark: null,
      inSync: {
        epoch,
        members: members.map((member) => {
          const [of, incarnation] = typeof member === 'number' ? [member, `i${member}`] : member;
          return { replicaId: hex(of), incarnation, node: `n${of}` };
        }),
      },
      attachmentNumber: 5,
      durability: 'writeback',
      failureMode: 'soft',
      fileSystemMade: null,
      ...changes,
    },
  };
}

const plan = (...found: readonly FoundCopy[]): PlannedVolume => {
  const [planned] = planCatalog(found);
  if (planned === undefined) throw new Error('nothing was planned');
  return planned;
};
const inSyncOf = ({ record }: PlannedVolume): string[] => record.inSync.map(({ replicaId }) => replicaId);

test('a volume whose newest set is all there serves, above everything that was found', () => {
  const found = [
    copy(0, [7, 0, 1], { fileSystemMade: 'xfs', failureMode: '2' }),
    copy(1, [7, 0, 1], { attachmentNumber: 9, fileSystemMade: 'xfs', failureMode: '2' }),
  ];
  const planned = plan(...found);
  expect(planned.verdict).toBe('inSync');
  expect(inSyncOf(planned)).toEqual([hex(0), hex(1)]);
  expect(planned.record).toMatchObject({
    id: VOLUME,
    name: 'data',
    state: 'ready',
    lineage: 'l1',
    epoch: 8,
    primary: { replicaId: hex(0), opening: null },
    attachment: { number: 10, node: null },
    failureMode: 2,
    fileSystem: { type: 'xfs', made: true },
  });
});

test('a copy that was dropped, and one that was never filled, are filled in full', () => {
  const planned = plan(
    copy(0, [9, 0]),
    copy(1, [7, 0, 1]),
    copy(2, [0], { promisedEpoch: 9, lastInSyncIncarnation: null }),
  );
  expect(planned.verdict).toBe('inSync');
  expect(inSyncOf(planned)).toEqual([hex(0)]);
  expect(planned.record.replicas.map(({ needsFullCopy, outSince }) => [needsFullCopy, outSince])).toEqual([
    [false, null],
    [true, 10],
    [true, null],
  ]);
});

test('a member in another incarnation than the set names is not in sync', () => {
  const planned = plan(copy(0, [7, 0, [1, 'before the reboot']]), copy(1, [7, 0, [1, 'before the reboot']]));
  expect(planned.verdict).toBe('inSync');
  expect(inSyncOf(planned)).toEqual([hex(0)]);
  expect(planned.record.replicas[1]).toMatchObject({ id: hex(1), needsFullCopy: true });
});

test('where all members were rebooted they are named as before, and find out together', () => {
  const set: Set = [7, [0, 'old0'], [1, 'old1']];
  const planned = plan(copy(0, set), copy(1, set));
  expect(planned.record.inSync).toEqual([
    { replicaId: hex(0), incarnation: 'old0' },
    { replicaId: hex(1), incarnation: 'old1' },
  ]);
});

test('a volume one of whose newest members is missing waits for that one, and no other copy serves', () => {
  const planned = plan(copy(0, [7, 0, 1]));
  expect(planned.verdict).toBe('waitsForNode');
  expect(planned.reason).toContain('node "n1"');
  expect(isMember(configOf(planned.record), hex(1), 'i1')).toBe(false);
  expect(planned.record.primary.replicaId).toBe(hex(1));
  expect(planned.record.replicas).toMatchObject([
    { id: hex(1), node: 'n1', needsFullCopy: false },
    { id: hex(0), node: 'n0', needsFullCopy: true, outSince: 8 },
  ]);
});

test('the copy that a volume waited for serves only if it was not left behind itself', () => {
  // n1 was made primary, took n2 in, and n2 went on alone.
  const others = [copy(0, [7, 0, 1]), copy(3, [0], { promisedEpoch: 7, lastInSyncIncarnation: null })];
  const left = copy(1, [9, 1, 2]);
  expect(plan(...others).verdict).toBe('waitsForNode');
  expect(plan(...others, left)).toMatchObject({
    verdict: 'waitsForNode',
    record: { primary: { replicaId: hex(2) } },
  });
  const alone = copy(1, [8, 1]);
  expect(inSyncOf(plan(...others, alone))).toEqual([hex(1)]);
});

test.each([
  ['two members are missing', [copy(0, [7, 0, 1, 2])], 'were not found'],
  ['two copies tell different sets', [copy(0, [7, 0]), copy(1, [7, 1])], 'different in-sync sets'],
  [
    'sets are equal and lineages are not',
    [copy(0, [7, 0, 1]), copy(1, [7, 0, 1], { lineage: 'l2' })],
    'different',
  ],
  [
    'a copy has promised a later epoch',
    [copy(0, [7, 0]), copy(1, [5, 0, 1], { promisedEpoch: 8 })],
    'promised epoch 8',
  ],
  ['no copy was ever in sync', [copy(0, [0], { promisedEpoch: 4 })], 'ever been in sync'],
] as const)('a person decides where %s', (_, found, reason) => {
  const planned = plan(...found);
  expect(planned.verdict).toBe('waitsForPerson');
  expect(planned.reason).toContain(reason);
  for (const { superblock } of found)
    expect(isMember(configOf(planned.record), superblock.replicaId, superblock.incarnation)).toBe(false);
});

test('two volumes of one name: the one that serves keeps it', () => {
  const other = { volumeId: hex('b') };
  const found = [copy(0, [7, 0, 1]), copy(2, [3, 2], other)];
  const names = planCatalog(found).map(({ record, notes }) => [record.name, notes.length]);
  expect(names).toEqual([
    [`data-${VOLUME}`, 1],
    ['data', 0],
  ]);
});

test('of two copies on one node the newer one counts', () => {
  const old = { ...copy(0, [3, 0], { replicaId: hex(5) }), pool: 'old' };
  const planned = plan(old, copy(0, [7, 0]));
  expect(planned.record.replicas.map(({ id, pool }) => [id, pool])).toEqual([[hex(0), 'p']]);
  expect(planned.notes).toEqual([expect.stringContaining('pool "old"')]);
});

// ---- histories of a cluster

/** What a volume went through: every change of its configuration, who noted it, and what was acknowledged when. */
class History {
  config: VolumeConfig;
  readonly copies = new Map<string, FoundCopy>();
  /** By copy, the newest write that it holds; the newest that was acknowledged. */
  readonly held = new Map<string, number>();
  acknowledged = 0;
  #writes = 0;

  constructor(members: number) {
    const replicas = NODES.map((node, index) => ({
      id: hex(index),
      node,
      outSince: null,
      needsFullCopy: index >= members,
      bootId: 'boot',
      report: null,
    }));
    this.config = {
      volumeId: VOLUME,
      sizeBytes: 4096,
      lineage: 'l1',
      epoch: 1,
      primary: { replicaId: hex(0), opening: 'o' },
      inSync: replicas.slice(0, members).map(({ id }) => ({ replicaId: id, incarnation: `i${Number(id)}` })),
      replicas,
      attachment: { number: 1, node: null },
      durability: 'writeback',
      failureMode: 'alwayson',
    };
    NODES.forEach((_, index) => {
      this.copies.set(hex(index), copy(index, [0], { promisedEpoch: 1, lastInSyncIncarnation: null }));
      this.held.set(hex(index), 0);
    });
    this.note(0b1111);
  }

  /** `who`: a bit for each copy. The primary notes its own changes before anything else. */
  note(who: number): void {
    const { config } = this;
    for (const { replicaId } of config.inSync) {
      if (replicaId !== config.primary.replicaId && (who & (1 << Number(replicaId))) === 0) continue;
      const found = this.copies.get(replicaId);
      if (found === undefined) continue;
      const superblock = { ...found.superblock, promisedEpoch: config.epoch, inSync: knownSet(config) };
      this.copies.set(replicaId, { ...found, superblock });
    }
  }

  /** A write reaches some members; it is acknowledged when all hold it, and all have noted the set. */
  write(who: number): void {
    this.#writes += 1;
    const members = this.config.inSync.map(({ replicaId }) => replicaId);
    for (const id of members) if ((who & (1 << Number(id))) !== 0) this.held.set(id, this.#writes);
    const isNoted = (id: string): boolean =>
      this.copies.get(id)?.superblock.inSync.epoch === this.config.epoch;
    if (members.every((id) => this.held.get(id) === this.#writes && isNoted(id)))
      this.acknowledged = this.#writes;
  }

  change(kind: 'drop' | 'add' | 'promote', index: number): void {
    const { config } = this;
    const id = hex(index);
    const isIn = memberOf(config, id) !== undefined;
    const primary = config.primary.replicaId;
    if (kind === 'drop' && isIn && id !== primary) this.config = dropMembers(config, [id]);
    else if (kind === 'add' && !isIn) {
      // It has been filled.
      this.held.set(id, this.held.get(primary) ?? 0);
      this.config = addMember(config, { replicaId: id, incarnation: `i${index}` });
    } else if (kind === 'promote' && isIn && id !== primary) {
      this.config = promote(config, {
        replicaId: id,
        incarnation: `i${index}`,
        opening: 'o',
        bootId: 'boot',
      });
    } else return;
    this.note(0);
  }
}

const step = fc.oneof(
  fc.record({ type: fc.constant('write' as const), who: fc.constantFrom(0b1111, 0b1111, 0b0111, 0b0001) }),
  fc.record({ type: fc.constant('note' as const), who: fc.integer({ min: 0, max: 15 }) }),
  fc.record({
    type: fc.constantFrom('drop' as const, 'add' as const, 'promote' as const),
    index: fc.integer({ min: 0, max: 3 }),
  }),
);
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;
const histories = fc.record({
  members: fc.integer({ min: 1, max: 3 }),
  steps: fc.array(step, { maxLength: 30 }),
  lost: fc.integer({ min: 0, max: 14 }),
  order: fc.infiniteStream(fc.nat()),
});

function play({ members, steps }: { members: number; steps: readonly Step[] }): History {
  const history = new History(members);
  for (const one of steps) {
    if (one.type === 'write') history.write(one.who);
    else if (one.type === 'note') history.note(one.who);
    else history.change(one.type, one.index);
  }
  return history;
}

test('whatever happened and whatever was lost: what may serve holds all that was acknowledged, and no number goes back', () => {
  const verdicts = new Set<string>();
  fc.assert(
    fc.property(histories, ({ lost, order, ...past }) => {
      const history = play(past);
      const found = [...history.copies.values()].filter((_, index) => (lost & (1 << index)) === 0);
      const planned = plan(...found);
      verdicts.add(planned.verdict);
      const record = volumeRecordSchema.parse(planned.record);
      const config = configOf(record);

      for (const { superblock } of found) {
        expect(record.epoch).toBeGreaterThan(Math.max(superblock.promisedEpoch, superblock.inSync.epoch));
        expect(record.attachment.number).toBeGreaterThan(superblock.attachmentNumber);
        const isIn = memberOf(config, superblock.replicaId) !== undefined;
        const replica = record.replicas.find(({ id }) => id === superblock.replicaId);
        expect(replica?.needsFullCopy).toBe(!isIn);
      }
      expect(memberOf(config, record.primary.replicaId)).toBeDefined();
      expect(record.primary.opening).toBeNull();
      expect(new Set(record.replicas.map(({ node }) => node)).size).toBe(record.replicas.length);
      for (const { replicaId } of record.inSync)
        expect(record.replicas.some(({ id }) => id === replicaId)).toBe(true);

      for (const [id, { superblock }] of history.copies)
        if (isMember(config, id, superblock.incarnation))
          expect(history.held.get(id)).toBeGreaterThanOrEqual(history.acknowledged);

      const shuffled = found
        .map((one) => ({ one, key: order.next().value ?? 0 }))
        .sort((a, b) => a.key - b.key)
        .map(({ one }) => one);
      expect(plan(...shuffled)).toEqual(planned);
    }),
    { numRuns: 3000 },
  );
  expect([...verdicts].sort()).toEqual(['inSync', 'waitsForNode', 'waitsForPerson']);
});

test('with every disk there nothing waits for another node', () => {
  fc.assert(
    fc.property(histories, (past) => {
      const { copies } = play(past);
      expect(plan(...copies.values()).verdict).not.toBe('waitsForNode');
    }),
    { numRuns: 1000 },
  );
});
