import { expect, test } from 'vitest';
import { BLOCK_BYTES, EXTENT_BYTES } from '../../src/core/units.ts';
import { FRAME_FLUSH, FRAME_REPLY, FRAME_WRITE, type SuspectRange } from '../../src/replication/frames.ts';
import { FLUSH, WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

function twoCopies(): ReplicaWorld {
  return new ReplicaWorld({
    config: {
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [
        { replicaId: OWN, incarnation: null },
        { replicaId: OTHER, incarnation: null },
      ],
    },
  });
}

/** A primary of two copies that has reconciled what the other one holds in doubt. */
function reconciled(suspects: readonly SuspectRange[]): ReplicaWorld {
  const world = twoCopies();
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

test('a flush waits until the copies are equal: one may hold what nobody was told of, on stable storage even', () => {
  const world = twoCopies();
  world.onHello = () => world.welcomeStream([range(0, BLOCK_BYTES)]);
  // The bytes of the piece that is in doubt are not read yet: the primary serves what it does not touch.
  world.pass(1000, 'read');
  const session = world.openSession(1);
  world.request(session, 7, FLUSH, 0, 0);
  world.pass(500, 'read');
  expect(world.waiting()).toEqual(['read']);
  expect(world.sent.filter(({ type }) => type === FRAME_FLUSH)).toEqual([]);
  world.pass(500);
  expect(world.sent.filter(({ type }) => type === FRAME_FLUSH)).toHaveLength(1);
  expect(world.sentOn(session, FRAME_REPLY)).toMatchObject([{ sequence: 7, errno: 0 }]);
});

test('a copy that is being filled ends its stream when a write fails on the primary, which it may have', () => {
  const world = new ReplicaWorld({
    config: { replicas: [replicaOn(OWN), { ...replicaOn(OTHER), outSince: 1 }] },
  });
  let greetings = 0;
  world.onHello = () => {
    greetings += 1;
    if (greetings === 1) world.welcomeStream();
  };
  // The copy pass never begins to end: the other copy stays a joining one.
  world.pass(1000, 'stamps');
  const filled = world.linkTo(OTHER);
  const session = world.openSession(1);
  world.request(session, 7, WRITE, 0, BLOCK_BYTES);
  world.settle('stamps', 'write');
  expect(world.sentOn(filled, FRAME_WRITE)).toHaveLength(1);
  world.end('write', 28);
  world.settle('stamps');
  expect(world.openLinks().some(({ number }) => number === filled)).toBe(false);
  expect(world.sentOn(session, FRAME_REPLY)).toMatchObject([{ sequence: 7, errno: 28 }]);
  world.pass(1000, 'stamps');
  expect(greetings).toBe(2);
});
