import { expect, test } from 'vitest';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

/** The other copy is out of sync, and welcomes the stream that is to fill it. */
function withCopyToFill(failureMode: 'alwayson' | 'hard'): ReplicaWorld {
  const world = new ReplicaWorld({
    config: {
      failureMode,
      replicas: [OWN, OTHER].map(replicaOn),
      inSync: [{ replicaId: OWN, incarnation: null }],
    },
  });
  world.stored = { ...world.stored, config: { ...world.stored.config, epoch: 4 } };
  world.onHello = () => world.welcomeStream();
  return world;
}

const seatOf = (world: ReplicaWorld, replicaId: string) =>
  [...(world.replica.primary?.seats ?? [])].find((seat) => seat.replicaId === replicaId);

test('a copy is filled when it is its turn, and the turn is given back when it has joined', () => {
  const world = withCopyToFill('alwayson');
  world.isResyncTurn = false;
  world.pass(5000);
  expect(seatOf(world, OTHER)).toMatchObject({ isOpen: true, isWaitingForTurn: true, resync: undefined });
  expect(world.stored.config.inSync).toHaveLength(1);
  world.isResyncTurn = true;
  world.pass(200, 'stamps');
  expect(seatOf(world, OTHER)).toMatchObject({ isWaitingForTurn: false, resync: expect.anything() });
  expect(world.resyncsEnded).toBe(0);
  world.pass(1000);
  expect(world.stored.config.inSync).toHaveLength(2);
  expect(world.resyncsEnded).toBe(1);
});

test('a turn is given back when the stream ends', () => {
  const world = withCopyToFill('alwayson');
  world.pass(1000, 'stamps');
  expect(seatOf(world, OTHER)?.resync).toBeDefined();
  world.breakLink(world.linkTo(OTHER));
  expect(world.resyncsEnded).toBe(1);
});

test('a copy that requests wait for is asked for as urgent', () => {
  const calm = withCopyToFill('alwayson');
  calm.pass(1000);
  expect(calm.resyncsAsked).toEqual([false]);
  const short = withCopyToFill('hard');
  short.pass(1000);
  expect(short.resyncsAsked).toEqual([true]);
});
