import { beforeEach, describe, expect, test } from 'vitest';
import { GIB, MIB } from '../../src/core/units.ts';
import {
  BURST_BYTES,
  BURST_LIMIT_MS,
  CLIENTS_MS,
  FLOOR_BYTES_PER_SECOND,
  LARGE_BURST_BYTES,
  Pace,
  REST_LIMIT_MS,
  RESTS,
} from '../../src/replication/pace.ts';

const ONE = { name: 'a resync' };
const OTHER = { name: 'another resync' };

let load: { openCount: number; begunCount: number };
let pace: Pace;
beforeEach(() => {
  load = { openCount: 0, begunCount: 0 };
  pace = new Pace(load);
});

/** At this time clients come: nothing is owed yet. */
function withClients(nowMs: number): void {
  pace.clientsSeen(nowMs);
}

describe('the pace of resyncs', () => {
  test('is full while no client asks for anything', () => {
    expect(pace.isFull(0, 0)).toBe(true);
    expect(pace.isFull(10, 0)).toBe(true);
  });

  test('is a burst at a time once clients have been seen, and full again a while after the last', () => {
    expect(pace.isFull(5, 1)).toBe(false);
    expect(pace.begin(ONE, 6, 0)).toBe(BURST_BYTES);
    pace.clientsSeen(7);
    expect(pace.isFull(7 + CLIENTS_MS - 1, 0)).toBe(false);
    expect(pace.isFull(7 + CLIENTS_MS, 0)).toBe(true);
  });

  test('knows the clients of other volumes, those that wait and those that were there', () => {
    load.openCount = 1;
    expect(pace.isFull(0, 0)).toBe(false);
    load.openCount = 0;
    expect(pace.isFull(CLIENTS_MS, 0)).toBe(true);
    load.begunCount += 1;
    expect(pace.isFull(CLIENTS_MS, 0)).toBe(false);
    expect(pace.isFull(2 * CLIENTS_MS - 1, 0)).toBe(false);
    expect(pace.isFull(2 * CLIENTS_MS, 0)).toBe(true);
  });

  test('rests after a burst in proportion to its length, while clients wait', () => {
    withClients(0);
    pace.begin(ONE, 0, 4);
    pace.ended(ONE, 2, BURST_BYTES);
    expect(pace.begin(ONE, 2 + 2 * RESTS - 1, 4)).toBe(0);
    expect(pace.begin(ONE, 2 + 2 * RESTS, 4)).toBe(BURST_BYTES);
  });

  test('does not rest when nobody came during a burst', () => {
    withClients(0);
    pace.begin(ONE, 0, 0);
    pace.ended(ONE, 2, BURST_BYTES);
    expect(pace.begin(ONE, 2, 0)).toBe(BURST_BYTES);
  });

  test.each([
    ['waits', { openCount: 1, begunCount: 0 }],
    ['came meanwhile', { openCount: 0, begunCount: 1 }],
  ])('rests when a client of another volume %s', (_, clients) => {
    withClients(0);
    pace.begin(ONE, 0, 0);
    Object.assign(load, clients);
    pace.ended(ONE, 2, BURST_BYTES);
    expect(pace.begin(ONE, 2, 0)).toBe(0);
    expect(pace.waitMs(3)).toBe(2 * RESTS - 1);
    expect(pace.begin(ONE, 2 + 2 * RESTS, 0)).toBe(BURST_BYTES);
    expect(pace.isAnyoneWaiting).toBe(false);
  });

  test('never rests for long, however slow everything has become', () => {
    withClients(0);
    pace.begin(ONE, 0, 0);
    pace.ended(ONE, 60_000, 60 * FLOOR_BYTES_PER_SECOND);
    expect(pace.begin(ONE, 60_000 + REST_LIMIT_MS - 1, 100)).toBe(0);
    expect(pace.begin(ONE, 60_000 + REST_LIMIT_MS, 100)).toBe(BURST_BYTES);
  });
});

describe('several resyncs of a thread', () => {
  test('have one burst between them, in turns', () => {
    withClients(0);
    expect(pace.begin(ONE, 0, 0)).toBe(BURST_BYTES);
    expect(pace.begin(OTHER, 0, 0)).toBe(0);
    expect(pace.waitMs(0)).toBeUndefined();
    pace.ended(ONE, 1, BURST_BYTES);
    expect(pace.begin(ONE, 1, 0)).toBe(0);
    expect(pace.waitMs(1 + RESTS)).toBe(0);
    expect(pace.begin(OTHER, 1 + RESTS, 0)).toBe(BURST_BYTES);
    pace.ended(OTHER, 5, BURST_BYTES);
    expect(pace.begin(OTHER, 9, 0)).toBe(0);
    expect(pace.begin(ONE, 9, 0)).toBe(BURST_BYTES);
  });

  test('wait for the answers to one of them for so long only', () => {
    withClients(0);
    pace.begin(ONE, 0, 0);
    expect(pace.begin(OTHER, BURST_LIMIT_MS - 1, 0)).toBe(0);
    expect(pace.begin(OTHER, BURST_LIMIT_MS, 0)).toBeGreaterThan(0);
    pace.ended(ONE, BURST_LIMIT_MS + 1, BURST_BYTES);
    expect(pace.begin(ONE, BURST_LIMIT_MS + 1, 0)).toBe(0);
  });

  test('do not wait for one that has ended', () => {
    withClients(0);
    pace.begin(ONE, 0, 0);
    pace.begin(OTHER, 0, 0);
    pace.leave(OTHER);
    pace.leave(ONE);
    expect(pace.begin(ONE, 0, 0)).toBe(BURST_BYTES);
  });
});

/** Bursts one after the other, each of so many copies, answered after so many ms, looked for every so many ms. */
function fill(
  totalBytes: number,
  { copyBytes, copyMs, lookEveryMs }: { copyBytes: number; copyMs: number; lookEveryMs: number },
): number {
  withClients(0);
  let [nowMs, sentBytes] = [0, 0];
  while (sentBytes < totalBytes) {
    const budgetBytes = pace.begin(ONE, nowMs, 64);
    if (budgetBytes === 0) {
      nowMs += lookEveryMs;
      continue;
    }
    const copies = Math.max(1, Math.min(16, Math.floor(budgetBytes / copyBytes)));
    const bytes = copies * Math.min(budgetBytes, copyBytes);
    nowMs += copies * copyMs;
    sentBytes += bytes;
    pace.ended(ONE, nowMs, Math.max(bytes, copies * BURST_BYTES));
  }
  return nowMs / 1000;
}

describe('the floor of a resync under load', () => {
  test.each([
    ['a disk that clients keep busy', 30, 1],
    ['another thread that is looked at with its ticks only', 1, 100],
  ])('is kept beside %s', (_, copyMs, lookEveryMs) => {
    const seconds = fill(GIB, { copyBytes: LARGE_BURST_BYTES, copyMs, lookEveryMs });
    expect(GIB / seconds).toBeGreaterThan(0.95 * FLOOR_BYTES_PER_SECOND);
  });

  test('is exceeded by bursts alone where these are short, and makes none larger', () => {
    const seconds = fill(100 * MIB, { copyBytes: BURST_BYTES, copyMs: 1, lookEveryMs: 1 });
    expect((100 * MIB) / seconds / BURST_BYTES).toBeCloseTo(1000 / (1 + RESTS), 0);
  });

  test('is 64 blocks a second of those that lie each alone', () => {
    const seconds = fill(4 * MIB, { copyBytes: 4096, copyMs: 9, lookEveryMs: 1 });
    expect(1024 / seconds).toBeGreaterThan(64);
  });

  test('leaves a disk no rest that cannot keep it', () => {
    const seconds = fill(100 * MIB, { copyBytes: LARGE_BURST_BYTES, copyMs: 200, lookEveryMs: 1 });
    expect(seconds).toBeLessThan(1.05 * 400 * 0.2 + 1);
  });
});
