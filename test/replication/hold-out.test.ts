import { expect, test } from 'vitest';
import { HoldOut } from '../../src/replication/primary/hold-out.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/** Joins and leaves at once, so many times; how long it was left out each time. */
function flap(holdOut: HoldOut, startMs: number, times: number): { outMs: number[]; endMs: number } {
  const outMs: number[] = [];
  let nowMs = startMs;
  for (let time = 0; time < times; time++) {
    holdOut.joined(nowMs);
    const left = holdOut.left(nowMs + SECOND, false);
    outMs.push(left);
    nowMs += SECOND + left;
  }
  return { outMs, endMs: nowMs };
}

test('a copy that leaves soon after joining is left out longer each time, and held out from the fifth on', () => {
  const holdOut = new HoldOut(0);
  expect(flap(holdOut, 0, 4).outMs).toEqual([1, 2, 4, 8].map((count) => count * SECOND));
  expect(holdOut.isFlapping).toBe(false);
  expect(flap(holdOut, 20 * SECOND, 6).outMs).toEqual([1, 2, 4, 8, 8, 8].map((count) => count * MINUTE));
  expect(holdOut).toMatchObject({ isFlapping: true, departureCount: 10 });
});

test('five departures within a minute are enough', () => {
  const { outMs, endMs } = flap(new HoldOut(0), 0, 5);
  expect(endMs - (outMs.at(-1) ?? 0)).toBeLessThan(MINUTE);
  expect(outMs.at(-1)).toBe(MINUTE);
});

test('one that stayed for a minute begins anew', () => {
  const holdOut = new HoldOut(0);
  const { endMs } = flap(holdOut, 0, 7);
  holdOut.joined(endMs);
  expect(holdOut.left(endMs + MINUTE, false)).toBe(SECOND);
  expect(holdOut.isFlapping).toBe(false);
});

test('daemons that are stopped in order are not held against it', () => {
  const holdOut = new HoldOut(0);
  for (let time = 0; time < 20; time++) {
    holdOut.joined(time * 10 * SECOND);
    expect(holdOut.left(time * 10 * SECOND + SECOND, true)).toBe(SECOND);
  }
  expect(holdOut.isFlapping).toBe(false);
});

test('it is over when its time is, when the copy has joined, and when somebody says so', () => {
  const holdOut = new HoldOut(0);
  const { endMs } = flap(holdOut, 0, 5);
  expect(holdOut.leftMs(endMs - SECOND)).toBe(SECOND);
  expect(holdOut.leftMs(endMs)).toBe(0);
  holdOut.end();
  expect([holdOut.leftMs(endMs - SECOND), holdOut.isFlapping]).toEqual([0, false]);
});

test('a daemon that is stopped in order is out for a moment only, however its copy flapped once', () => {
  const holdOut = new HoldOut(0);
  const { endMs } = flap(holdOut, 0, 7);
  holdOut.joined(endMs);
  expect(holdOut.left(endMs + SECOND, true)).toBe(SECOND);
  holdOut.joined(endMs + MINUTE);
  expect(holdOut.left(endMs + 10 * MINUTE, true)).toBe(SECOND);
  expect(holdOut.isFlapping).toBe(false);
});
