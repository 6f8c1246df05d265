import { describe, expect, test } from 'vitest';
import { BLOCK_BYTES, EXTENT_BYTES, GENERATION_BLOCK_BYTES, MIB } from '../../src/core/units.ts';
import { BURST_BYTES } from '../../src/replication/pace.ts';
import { WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

/** A primary whose other copy was in sync and has left the set. */
function worldAlone(): ReplicaWorld {
  const world = new ReplicaWorld({
    config: {
      failureMode: 'alwayson',
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [
        { replicaId: OWN, incarnation: null },
        { replicaId: OTHER, incarnation: null },
      ],
    },
  });
  world.onHello = () => world.welcomeStream();
  world.pass(2000);
  world.onHello = () => undefined;
  world.breakLink(world.linkTo(OTHER));
  // No client is to be heard: it takes longer.
  world.pass(5000);
  expect(world.stored.config.inSync).toHaveLength(1);
  return world;
}

function writeBlock(world: ReplicaWorld, link: number, tag: number, offsetBytes: number): void {
  expect(world.request(link, tag, WRITE, offsetBytes, BLOCK_BYTES)).toBe(true);
}

/** The other copy is back, and its stream has been open for a while. */
function comeBack(world: ReplicaWorld, ...held: readonly string[]): void {
  world.onHello = () => world.welcomeStream();
  world.reads.length = 0;
  world.pass(3000, ...held);
}

describe('a copy that comes back', () => {
  test('gets the blocks that were written while it was away, and nothing around them', () => {
    const world = worldAlone();
    const session = world.openSession(1);
    writeBlock(world, session, 1, 5 * BLOCK_BYTES);
    writeBlock(world, session, 2, EXTENT_BYTES + GENERATION_BLOCK_BYTES);
    world.pass(300);
    comeBack(world);
    expect(world.reads).toEqual([
      { offsetBytes: 5 * BLOCK_BYTES, lengthBytes: BLOCK_BYTES },
      { offsetBytes: EXTENT_BYTES + GENERATION_BLOCK_BYTES, lengthBytes: BLOCK_BYTES },
    ]);
  });

  test('gets as many blocks in a burst as that has room for, each alone, and of several extents', () => {
    const world = worldAlone();
    const session = world.openSession(1);
    const offsets = Array.from(
      { length: 20 },
      (_, at) => 2 * at * BLOCK_BYTES + (at < 10 ? 0 : EXTENT_BYTES),
    );
    for (const [tag, offsetBytes] of offsets.entries()) {
      writeBlock(world, session, tag, offsetBytes);
      world.settle();
    }
    world.pass(2000);
    writeBlock(world, session, 20, 2 * EXTENT_BYTES - BLOCK_BYTES);
    comeBack(world, 'write');
    expect(world.reads.map(({ offsetBytes }) => offsetBytes)).toEqual(
      offsets.slice(0, BURST_BYTES / BLOCK_BYTES),
    );
  });

  test('gives way to the clients of other volumes of its node', () => {
    const world = worldAlone();
    const session = world.openSession(1);
    expect(world.request(session, 1, WRITE, 0, MIB)).toBe(true);
    world.pass(2000);
    world.otherClients.openCount = 1;
    comeBack(world);
    expect(world.reads.map(({ lengthBytes }) => lengthBytes)).toEqual([BURST_BYTES]);
  });

  test('does not give way to them while requests of its volume wait for it', () => {
    const world = worldAlone();
    const session = world.openSession(1);
    expect(world.request(session, 1, WRITE, 0, MIB)).toBe(true);
    world.pass(2000);
    world.changeStored((config) => ({ ...config, failureMode: 'hard' }));
    world.otherClients.openCount = 1;
    comeBack(world);
    expect(world.reads.map(({ lengthBytes }) => lengthBytes)).toEqual(
      Array.from({ length: 4 }, () => MIB / 4),
    );
  });

  test.each([
    ['in one small burst at a time while a client waits', true, [BURST_BYTES]],
    ['at full pace when no client asks for anything', false, Array.from({ length: 4 }, () => MIB / 4)],
  ])('is filled %s', (_, isAnyoneWaiting, lengths) => {
    const world = worldAlone();
    const session = world.openSession(1);
    expect(world.request(session, 1, WRITE, 0, MIB)).toBe(true);
    world.pass(2000);
    // A write that its disk does not end.
    if (isAnyoneWaiting) writeBlock(world, session, 2, EXTENT_BYTES);
    comeBack(world, 'write');
    expect(world.reads.map(({ lengthBytes }) => lengthBytes)).toEqual(lengths);
  });
});
