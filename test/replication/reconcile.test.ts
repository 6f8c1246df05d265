import { expect, test } from 'vitest';
import { BLOCK_BYTES, EXTENT_BYTES } from '../../src/core/units.ts';
import { FRAME_WRITE, type SuspectRange } from '../../src/replication/frames.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

/** A primary of two copies that has reconciled what the other one holds in doubt. */
function reconciled(suspects: readonly SuspectRange[]): ReplicaWorld {
  const world = new ReplicaWorld({
    config: {
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [
        { replicaId: OWN, incarnation: null },
        { replicaId: OTHER, incarnation: null },
      ],
    },
  });
  world.onHello = () => world.welcomeStream(suspects);
  world.pass(1000);
  expect(world.events).toContainEqual(expect.objectContaining({ type: 'reconciled' }));
  return world;
}

const range = (offsetBytes: number, lengthBytes: number): SuspectRange => ({ offsetBytes, lengthBytes });

test('what is in doubt is read and written in whole blocks, whatever the alignment of the write was', () => {
  const world = reconciled([
    range(1, 1),
    range(BLOCK_BYTES + 512, 2 * BLOCK_BYTES),
    range(EXTENT_BYTES - 100, 200),
    range(2 * EXTENT_BYTES - 1, 1),
  ]);
  const pieces = [
    range(0, BLOCK_BYTES),
    range(BLOCK_BYTES, 3 * BLOCK_BYTES),
    range(EXTENT_BYTES - BLOCK_BYTES, BLOCK_BYTES),
    range(EXTENT_BYTES, BLOCK_BYTES),
    range(2 * EXTENT_BYTES - BLOCK_BYTES, BLOCK_BYTES),
  ];
  expect(world.reads).toEqual(pieces);
  const written = world.sent.filter(({ type }) => type === FRAME_WRITE);
  expect(written.map(({ offsetBytes, lengthBytes }) => range(offsetBytes, lengthBytes))).toEqual(pieces);
});

test('writes within one block are one suspect', () => {
  const world = reconciled([range(10, 20), range(100, 200), range(0, BLOCK_BYTES)]);
  expect(world.reads).toEqual([range(0, BLOCK_BYTES)]);
});
