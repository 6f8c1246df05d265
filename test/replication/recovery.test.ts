// What a copy is worth to the process that opens it, by what its superblock and the store say of its last one.

import { describe, expect, test } from 'vitest';
import type { Superblock } from '../../src/replication/layout/superblock.ts';
import { OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

const FOUND = 'incarnation of own';
const BEFORE = 'the boot before';

interface Found extends Partial<Superblock> {
  readonly storeDurability?: 'writeback' | 'writethrough';
  readonly storedBoot?: string | null;
}

/** The first superblock that the opened copy makes durable. */
function judged({ storeDurability = 'writeback', storedBoot = BEFORE, ...found }: Found): Superblock {
  const world = new ReplicaWorld({
    config: {
      primary: { replicaId: OWN, opening: 'f'.repeat(32) },
      inSync: [{ replicaId: OWN, incarnation: FOUND }],
      replicas: [{ ...replicaOn(OWN), bootId: storedBoot }],
      durability: storeDurability,
    },
    superblock: { bootId: BEFORE, cleanMark: null, lastInSyncIncarnation: FOUND, ...found },
  });
  world.pass(1000);
  const [first] = world.superblocks;
  if (first === undefined) throw new Error('the copy was not judged');
  return first;
}

describe('a copy keeps its incarnation', () => {
  test.each<[string, Found]>([
    ['that was never opened', { bootId: null, storedBoot: null }],
    ['whose process was killed in this boot', { bootId: 'boot', storedBoot: 'boot' }],
    ['that was stopped cleanly before a reboot', { cleanMark: { epoch: 1 } }],
    [
      'that is written through, as the store says too',
      { durability: 'writethrough', storeDurability: 'writethrough' },
    ],
  ])('%s, and it is of this boot and not clean from then on', (_, found) => {
    expect(judged(found)).toMatchObject({ incarnation: FOUND, bootId: 'boot', cleanMark: null });
  });
});

describe('a copy gets a new incarnation, and remembers the one that was last in sync,', () => {
  test.each<[string, Found]>([
    ['after a reboot without a clean stop', {}],
    ['after another such reboot', { incarnation: 'e'.repeat(32) }],
    ['when it was written through and the store says otherwise', { durability: 'writethrough' }],
    ['when the store says written through and it was not', { storeDurability: 'writethrough' }],
  ])('%s', (_, found) => {
    const { incarnation, lastInSyncIncarnation, bootId } = judged(found);
    expect([FOUND, 'e'.repeat(32)]).not.toContain(incarnation);
    expect({ lastInSyncIncarnation, bootId }).toEqual({ lastInSyncIncarnation: FOUND, bootId: 'boot' });
  });
});

test.each<[string, Found]>([
  ['however clean: the store knows a later boot', { cleanMark: { epoch: 1 }, storedBoot: 'a later boot' }],
  ['from before it was opened: the store knows a boot of it', { bootId: null, storedBoot: BEFORE }],
])('an older image of a copy, put back, is not the copy that it was, %s', (_, found) => {
  const { incarnation, lastInSyncIncarnation } = judged(found);
  expect(incarnation).not.toBe(FOUND);
  expect(lastInSyncIncarnation).toBeNull();
});
