// A volume of one copy: what its clients are answered, in whatever order its disk ends things, and when it fails.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EXTENT_BYTES } from '../../src/core/units.ts';
import { FRAME_REPLY } from '../../src/replication/frames.ts';
import { FLUSH, READ, UNTOUCHED, WRITE } from '../../src/replication/requests.ts';
import { OTHER, ReplicaWorld, replicaOn } from './replica-world.ts';

const BLOCK = 4096;
const EIO = 5;
const ENOSPC = 28;

/** Serving, with nothing under way; the link of its client. */
function serving(): { world: ReplicaWorld; link: number } {
  const world = new ReplicaWorld({ slots: 64 });
  world.pass(1000);
  const link = world.openSession(1);
  world.settle();
  return { world, link };
}

function repliesOf(world: ReplicaWorld, link: number): (readonly [tag: number, errno: number])[] {
  return world.sentOn(link, FRAME_REPLY).map(({ sequence, errno }) => [sequence, errno] as const);
}

const FIRST_BLOCK = EXTENT_BYTES / BLOCK - 6;

/** A small generator of our own: the same seed is the same run, and shrinking a seed means nothing. */
function randomOf(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state ^ (state >>> 15)) >>> 0) / 0x1_0000_0000;
  };
}

/** `kinds`: what was asked, by tag. */
function play(seed: number, failureRate: number): { world: ReplicaWorld; link: number; kinds: number[] } {
  const random = randomOf(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const { world, link } = serving();
  const kinds: number[] = [];
  const overlapping: string[] = [];
  for (let step = 0; step < 300; step++) {
    const draw = random();
    if (draw < 0.4) {
      const kind = draw < 0.06 ? FLUSH : draw < 0.28 ? WRITE : READ;
      // Blocks around the end of an extent, so that writes overlap and need the marks of two.
      const offset = kind === FLUSH ? 0 : (FIRST_BLOCK + below(12)) * BLOCK;
      const length = kind === FLUSH ? 0 : (1 + below(5)) * BLOCK;
      if (world.request(link, kinds.length, kind, offset, length)) kinds.push(kind);
    } else if (draw < 0.95) endOne(world, below(world.operations.length), random() < failureRate);
    else {
      world.nowMilliseconds += 1000;
      world.replica.tick();
    }
    overlapping.push(...overlaps(world));
  }
  expect(overlapping).toEqual([]);
  world.pass(1000);
  return { world, link, kinds };
}

function endOne(world: ReplicaWorld, which: number, fails: boolean): void {
  const { operations } = world;
  const [one] = operations.splice(which, 1);
  if (one === undefined) return;
  const canFail = ['write', 'flush', 'intent', 'merge'].includes(one.what);
  one.end(fails && canFail ? (one.what === 'write' ? ENOSPC : EIO) : 0);
}

/** Reads and writes that are on their way to the same blocks, one of them a write. */
function overlaps({ operations, table }: ReplicaWorld): string[] {
  const onData = operations.filter(({ what }) => what === 'read' || what === 'write');
  const found: string[] = [];
  for (const [at, one] of onData.entries()) {
    for (const other of onData.slice(at + 1)) {
      const [from, to] = [one, other].map(({ request }) => table.offsetBytes[request] as number);
      const [fromBytes, toBytes] = [one, other].map(({ request }) => table.lengthBytes[request] as number);
      if (from === undefined || to === undefined || fromBytes === undefined || toBytes === undefined)
        continue;
      const isWrite = one.what === 'write' || other.what === 'write';
      if (isWrite && from < to + toBytes && to < from + fromBytes)
        found.push(`${one.what} and ${other.what} at ${to}`);
    }
  }
  return found;
}

describe('a volume of one copy', () => {
  test('answers every request once, whatever order the disk ends things in, and holds nothing after that', () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { world, link, kinds } = play(seed, 0);
        const replies = repliesOf(world, link).toSorted(([a], [b]) => a - b);
        expect(replies).toEqual(kinds.map((_, tag) => [tag, 0]));
        expect(world.table.freeCount).toBe(world.table.capacity);
        expect(world.replica.copy.suspects()).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });

  test('acknowledges nothing more after a flush or a log write failed, and still answers everything once', () => {
    let failedRuns = 0;
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { world, link, kinds } = play(seed, 0.03);
        const tags = repliesOf(world, link).map(([tag]) => tag);
        expect(tags.toSorted((a, b) => a - b)).toEqual(kinds.map((_, tag) => tag));
        expect(world.table.freeCount).toBe(world.table.capacity);
        if (!world.replica.copy.hasFailed) return;
        failedRuns += 1;
        expect(world.events.filter((event) => event.type === 'failed' && event.what !== 'data')).toHaveLength(
          1,
        );
        const next = kinds.length;
        for (const [at, kind] of [WRITE, FLUSH].entries())
          world.request(link, next + at, kind, 0, kind === FLUSH ? 0 : BLOCK);
        world.pass(1000);
        expect(repliesOf(world, link).slice(-2)).toEqual([
          [next, EIO],
          [next + 1, EIO],
        ]);
      }),
      { numRuns: 60 },
    );
    expect(failedRuns).toBeGreaterThan(5);
  });

  test('acknowledges no write that was under way when a flush failed', () => {
    const { world, link } = serving();
    world.request(link, 1, WRITE, 0, BLOCK);
    world.pass(200, 'write');
    world.request(link, 2, FLUSH, 0, 0);
    world.pass(100, 'write', 'flush');
    world.end('flush', EIO);
    world.pass(500);
    expect(repliesOf(world, link).toSorted(([a], [b]) => a - b)).toEqual([
      [1, EIO],
      [2, EIO],
    ]);
    expect(world.events).toContainEqual({ type: 'failed', what: 'flush', errno: EIO });
  });

  test('answers a write that finds no room with that, and goes on', () => {
    const { world, link } = serving();
    world.ownWrites = ENOSPC;
    world.request(link, 1, WRITE, 0, BLOCK);
    world.pass(300);
    world.ownWrites = 0;
    world.request(link, 2, FLUSH, 0, 0);
    world.request(link, 3, WRITE, BLOCK, BLOCK);
    world.pass(300);
    expect(repliesOf(world, link).toSorted(([a], [b]) => a - b)).toEqual([
      [1, ENOSPC],
      [2, 0],
      [3, 0],
    ]);
    expect(world.replica.copy.hasFailed).toBe(false);
  });

  test('has not failed when it finds no room after its place was given to another', () => {
    const { world, link } = serving();
    world.request(link, 1, WRITE, 0, BLOCK);
    world.pass(100, 'write');
    world.changeStored((config) => ({
      ...config,
      epoch: config.epoch + 1,
      primary: { replicaId: OTHER, opening: 'opening of other' },
      inSync: [...config.inSync, { replicaId: OTHER, incarnation: null }],
      replicas: [...config.replicas, replicaOn(OTHER)],
    }));
    world.pass(200, 'write');
    expect(world.replica.primary?.hasEnded).toBe(true);
    world.end('write', ENOSPC | UNTOUCHED);
    world.pass(200);
    expect(world.events.filter(({ type }) => type === 'failed')).toEqual([]);
  });

  test('has nothing hot when nobody has written for a while', () => {
    const { world, link } = serving();
    world.request(link, 1, WRITE, FIRST_BLOCK * BLOCK, 12 * BLOCK);
    world.pass(300);
    const { extents } = world.replica.copy;
    expect(extents.hotExtents()).toEqual([0, 1]);
    world.pass(60_000);
    expect(extents.hotExtents()).toEqual([]);
    expect([...extents.bits]).toEqual([0]);
  });
});
