import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createBeat, turnBegins, turnEnds, Watchdog } from '../../src/dataplane/watchdog.ts';

const LIMIT_MS = 1000;
let stuck: string[];
let watchdog: Watchdog;

beforeEach(() => {
  vi.useFakeTimers();
  stuck = [];
  watchdog = new Watchdog(LIMIT_MS, (error) => stuck.push(error.message));
});

afterEach(() => {
  watchdog.stop();
  vi.useRealTimers();
});

test('a thread that stays in one turn is stuck after the limit and before a quarter more, once', () => {
  const beat = createBeat();
  watchdog.watch(beat);
  turnBegins(beat);
  vi.advanceTimersByTime(LIMIT_MS);
  expect(stuck).toEqual([]);
  vi.advanceTimersByTime(LIMIT_MS / 4);
  expect(stuck).toEqual([expect.stringContaining('more than 1000 ms')]);
  vi.advanceTimersByTime(10 * LIMIT_MS);
  expect(stuck).toHaveLength(1);
});

test('a thread that waits, has not begun, or takes one turn after the other is not stuck', () => {
  const [waiting, fresh, busy] = [createBeat(), createBeat(), createBeat()];
  for (const beat of [waiting, fresh, busy]) watchdog.watch(beat);
  turnBegins(waiting);
  turnEnds(waiting);
  turnBegins(busy);
  for (let look = 0; look < 40; look += 1) {
    vi.advanceTimersByTime(LIMIT_MS / 4);
    turnEnds(busy);
    turnBegins(busy);
  }
  expect(stuck).toEqual([]);
});

test('the word runs over without ever meaning the opposite', () => {
  const beat = createBeat();
  beat[0] = 0x7ffffffe;
  turnBegins(beat);
  expect(beat[0]).toBe(0x7fffffff);
  turnEnds(beat);
  expect(beat[0]).toBe(-0x80000000);
  turnBegins(beat);
  expect((beat[0] & 1) === 1).toBe(true);
});

test('a limit of 0 watches nothing', () => {
  const none = new Watchdog(0, (error) => stuck.push(error.message));
  const beat = createBeat();
  none.watch(beat);
  turnBegins(beat);
  vi.advanceTimersByTime(100 * LIMIT_MS);
  expect(stuck).toEqual([]);
  none.stop();
});
