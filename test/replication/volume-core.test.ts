import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FLAG_FUA, FLUSH, READ, WRITE } from '../../src/replication/requests.ts';
import { BLOCKS, World } from './one-copy-world.ts';

/** A small generator of our own: the same seed is the same run, and shrinking a seed means nothing anyway. */
function randomOf(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state ^ (state >>> 15)) >>> 0) / 0x1_0000_0000;
  };
}

function run(seed: number, failureRate: number): World {
  const random = randomOf(seed);
  const world = new World(random, failureRate, random() < 0.3 ? 'writethrough' : 'writeback');
  const writeShare = random();
  const flushShare = random() * 0.3;
  const span = 1 + Math.floor(random() * BLOCKS);
  for (let step = 0; step < 400; step++) {
    const draw = random();
    if (draw < 0.4) {
      const kind = random() < flushShare ? FLUSH : random() < writeShare ? WRITE : READ;
      const flags = kind === WRITE && random() < 0.2 ? FLAG_FUA : 0;
      world.issue(kind, Math.floor(random() * span), 1 + Math.floor(random() * 5), flags);
    } else if (draw < 0.95) {
      world.step();
    } else {
      for (let tick = 0; tick < 7; tick++) world.core.tick();
    }
    world.checkPowerCut();
    if (world.problems.length > 0) break;
  }
  while (world.problems.length === 0 && world.step()) world.checkPowerCut();
  return world;
}

describe('the volume core with one copy', () => {
  it('keeps order, marks, window, flush coverage and one reply a request, whatever order the disk ends things in', () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const world = run(seed, 0);
        expect(world.problems).toEqual([]);
        expect(world.replies.size).toBe(0);
        expect(world.core.inFlightCount).toBe(0);
        expect(world.window.readEntries('boot')).toEqual([]);
        expect(world.table.freeCount).toBe(world.table.capacity);
      }),
      { numRuns: 1500 },
    );
  });

  it('acknowledges nothing more after a flush or a log write failed, and still answers everything once', () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const world = run(seed, 0.03);
        expect(world.problems).toEqual([]);
        expect(world.replies.size).toBe(0);
        expect(world.core.inFlightCount).toBe(0);
      }),
      { numRuns: 1500 },
    );
  });

  it('cools what is idle: nothing stays hot, and a clean stop leaves no mark', () => {
    const world = run(11, 0);
    for (let round = 0; round < 100 && !(world.core.coolAll() && world.core.isQuiet); round++)
      while (world.step());
    expect(world.core.extents.hotCount).toBe(0);
    expect([...world.core.extents.bits]).toEqual([0]);
  });

  it('answers an ordinary error of a write to that write alone', () => {
    const world = new World(() => 0.5, 0, 'writeback');
    const errors: number[] = [];
    const reply = world.reply.bind(world);
    world.reply = (request, errno) => {
      errors.push(errno);
      reply(request, errno);
    };
    world.startWrite = (request) => {
      world.pending.push({ run: () => world.core.requestDone(request, 28) });
    };
    world.issue(WRITE, 0, 1, 0);
    world.issue(FLUSH, 0, 0, 0);
    while (world.step());
    expect(errors.toSorted((a, b) => a - b)).toEqual([0, 28]);
    expect(world.core.hasFailed).toBe(false);
  });
});
