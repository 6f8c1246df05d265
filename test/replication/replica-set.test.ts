import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type FailureMode,
  isNewcomer,
  minimumInSync,
  type ReplicaConfig,
  type VolumeConfig,
} from '../../src/replication/config.ts';
import {
  addReplica,
  changeFailureMode,
  leastUseful,
  removeReplica,
} from '../../src/replication/replica-set.ts';

function replica(id: string, changes: Partial<ReplicaConfig> = {}): ReplicaConfig {
  const node = `node of ${id}`;
  return { id, node, outSince: null, needsFullCopy: false, bootId: 'boot', report: null, ...changes };
}

/** The first is the primary. */
function config(
  replicas: readonly ReplicaConfig[],
  inSync: readonly string[],
  failureMode: FailureMode = 'soft',
): VolumeConfig {
  return {
    volumeId: 'v',
    sizeBytes: 8192,
    lineage: 'l',
    epoch: 7,
    primary: { replicaId: replicas[0]?.id ?? '', opening: 'o' },
    inSync: inSync.map((replicaId) => ({ replicaId, incarnation: `of ${replicaId}` })),
    replicas,
    attachment: { number: 1, node: null },
    durability: 'writeback',
    failureMode,
  };
}

const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((id) => replica(id)) as [
  ReplicaConfig,
  ReplicaConfig,
  ReplicaConfig,
  ReplicaConfig,
];

describe('a copy that comes', () => {
  test('is not in sync, and no copy changes its part by that', () => {
    const before = config([a, b], ['a', 'b']);
    const after = addReplica(before, 'c', 'third');
    expect(after).toEqual({
      ...before,
      replicas: [a, b, replica('c', { node: 'third', needsFullCopy: true, bootId: null })],
    });
  });

  test.each<FailureMode>(['hard', 'soft', 'alwayson', 1, 5])(
    'makes no request wait before it has been filled (%s)',
    (failureMode) => {
      const before = config([a, b], ['a', 'b'], failureMode);
      const after = addReplica(addReplica(before, 'c', 'third'), 'd', 'fourth');
      expect(minimumInSync(after)).toBe(minimumInSync(before));
    },
  );
});

describe('a copy that goes', () => {
  test('when it is not in sync changes no epoch', () => {
    const before = config([a, b, replica('c', { outSince: 5 })], ['a', 'b']);
    expect(removeReplica(before, 'c')).toEqual({ config: { ...before, replicas: [a, b] } });
  });

  test('as a member raises the epoch', () => {
    const before = config([a, b, c], ['a', 'b', 'c']);
    const { inSync } = config([a, b], ['a', 'b']);
    expect(removeReplica(before, 'c')).toEqual({
      config: { ...before, epoch: 8, inSync, replicas: [a, b] },
    });
  });

  test('is not the primary', () => {
    expect(removeReplica(config([a, b], ['a', 'b']), 'a')).toEqual({ refused: 'primary' });
  });

  test('is not one that the failure mode cannot do without while others are out', () => {
    const out = replica('c', { outSince: 5 });
    const also = replica('d', { outSince: 6 });
    expect(removeReplica(config([a, b, out, also], ['a', 'b'], 'soft'), 'b')).toEqual({ refused: 'minimum' });
    expect(removeReplica(config([a, b, out, also], ['a', 'b'], 'hard'), 'b')).toEqual({ refused: 'minimum' });
    expect(removeReplica(config([a, b, out, also], ['a', 'b'], 1), 'b')).toEqual({ refused: 'minimum' });
    expect(removeReplica(config([a, b, out, also], ['a', 'b'], 'alwayson'), 'b')).toHaveProperty('config');
    expect(removeReplica(config([a, b, out, also], ['a', 'b'], 'hard'), 'c')).toHaveProperty('config');
  });
});

test('of the copies that can be done without the longest out go first, members that nobody reaches before the others', () => {
  const set = config(
    [
      a,
      b,
      c,
      replica('late', { outSince: 6 }),
      replica('new', { needsFullCopy: true }),
      replica('early', { outSince: 2 }),
    ],
    ['a', 'b', 'c'],
  );
  expect(leastUseful(set, ['c'])).toEqual(['new', 'early', 'late', 'c', 'b']);
  expect(leastUseful(config([d, a], ['a', 'd']))).toEqual(['a']);
});

test('another failure mode is no new epoch', () => {
  const before = config([a, b], ['a', 'b']);
  expect(changeFailureMode(before, 'hard')).toEqual({ ...before, failureMode: 'hard' });
});

test('whatever is added and removed, the primary stays a member, every member is a replica, and epochs rise with the set', () => {
  const step = fc.record({ id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), adds: fc.boolean() });
  const steps = fc.array(step, { maxLength: 20 });
  fc.assert(
    fc.property(
      steps,
      fc.constantFrom<FailureMode>('hard', 'soft', 'alwayson', 0, 1, 2),
      (all, failureMode) => {
        let now = config([a, b, c], ['a', 'b', 'c'], failureMode);
        for (const { id, adds } of all) {
          const isThere = now.replicas.some((found) => found.id === id);
          if (adds === isThere) continue;
          const removal = adds ? { config: addReplica(now, id, `node of ${id}`) } : removeReplica(now, id);
          if ('refused' in removal) continue;
          const next = removal.config;
          expect(next.epoch - now.epoch).toBe(next.inSync.length === now.inSync.length ? 0 : 1);
          expect(next.inSync.length).toBeGreaterThanOrEqual(
            adds ? 1 : Math.min(now.inSync.length, minimumInSync(next)),
          );
          now = next;
        }
        const ids = now.replicas.map((found) => found.id);
        expect(now.inSync.map(({ replicaId }) => replicaId)).toContain('a');
        expect(now.inSync.every(({ replicaId }) => ids.includes(replicaId))).toBe(true);
        expect(
          now.replicas
            .filter(isNewcomer)
            .every(({ id }) => now.inSync.every(({ replicaId }) => replicaId !== id)),
        ).toBe(true);
      },
    ),
  );
});
