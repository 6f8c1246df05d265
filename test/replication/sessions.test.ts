import { describe, expect, test } from 'vitest';
import { FRAME_REPLY, FRAME_WAITING, FRAME_WELCOME } from '../../src/replication/frames.ts';
import { FLUSH, READ, WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

const DEPTH = 8;

/** A primary whose other copy, which it cannot do without, takes writes and answers none. */
function paused(): ReplicaWorld {
  const world = new ReplicaWorld({
    slots: 128,
    config: {
      failureMode: 'hard',
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [
        { replicaId: OWN, incarnation: null },
        { replicaId: OTHER, incarnation: null },
      ],
    },
  });
  world.onHello = () => world.welcomeStream();
  world.pass(1000);
  world.otherWrites = undefined;
  return world;
}

function taken(world: ReplicaWorld): number {
  return world.table.capacity - world.table.freeCount;
}

function isWelcome(world: ReplicaWorld, link: number): boolean {
  return world.sentOn(link, FRAME_WELCOME).length > 0;
}

/** But the flush: it covers what was acknowledged, and need not wait. */
function answered(world: ReplicaWorld, link: number): number[] {
  const tags = world.sentOn(link, FRAME_REPLY).map(({ sequence }) => sequence);
  return tags.filter((tag) => tag !== DEPTH + 1).toSorted((a, b) => a - b);
}

/** As a frontend does: everything unanswered once it is welcome. */
function askAll(world: ReplicaWorld, link: number): void {
  for (let tag = 0; tag < DEPTH; tag++) world.request(link, tag, WRITE, tag * 4096, 4096);
  world.request(link, DEPTH, READ, 0, 4096);
  world.request(link, DEPTH + 1, FLUSH, 0, 0);
  world.pass(100);
}

describe('while requests wait', () => {
  test('their session gets signs of life, and a session that waits for nothing gets none', () => {
    const world = paused();
    const link = world.openSession(1);
    world.pass(3000);
    expect(world.sentOn(link, FRAME_WAITING)).toEqual([]);
    askAll(world, link);
    world.pass(5000);
    const count = world.sentOn(link, FRAME_WAITING).length;
    expect(count).toBeGreaterThanOrEqual(9);
    expect(count).toBeLessThanOrEqual(11);
    expect(answered(world, link)).toEqual([]);
  });

  test('however often the frontend comes back, its requests take the room of three sessions at most', () => {
    const world = paused();
    for (let session = 1; session <= 40; session++) {
      const link = world.openSession(session);
      if (isWelcome(world, link)) askAll(world, link);
      world.pass(500);
      expect(taken(world)).toBeLessThanOrEqual(3 * (DEPTH + 2));
      world.breakLink(link);
    }
    const link = world.openSession(41);
    world.pass(200);
    expect(isWelcome(world, link)).toBe(true);
    askAll(world, link);
    expect(answered(world, link)).toEqual([]);
    world.answerWrites();
    world.pass(500);
    expect(answered(world, link)).toEqual(Array.from({ length: DEPTH + 1 }, (_, tag) => tag));
    expect(taken(world)).toBe(0);
    expect(world.replica.primary?.isIdle).toBe(true);
  });

  test('a session of the next attachment is not welcome before what has begun of the last one is settled', () => {
    const world = paused();
    const old = world.openSession(1);
    askAll(world, old);
    world.changeStored((config) => ({
      ...config,
      epoch: config.epoch + 1,
      attachment: { ...config.attachment, number: 2 },
    }));
    world.pass(500);
    const link = world.openSession(1, 2);
    world.pass(2000);
    expect(isWelcome(world, link)).toBe(false);
    world.answerWrites();
    world.pass(500);
    expect(isWelcome(world, link)).toBe(true);
    expect(answered(world, old)).toEqual([]);
    expect(taken(world)).toBe(0);
  });
});
