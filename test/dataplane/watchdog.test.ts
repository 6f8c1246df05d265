import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createBeat, turnBegins, turnEnds, Watchdog } from '../../src/dataplane/watchdog.ts';

const LIMIT_MS = 1000;
let stuck: string[];
let hung: string[];
/** Thread ids; a beat names its thread in its second word. */
let inDiskSleep: Set<number>;
let watchdog: Watchdog;

const watch = {
  stuck: (error: Error): unknown => stuck.push(error.message),
  hung: (thread: number, isOver: boolean): unknown => hung.push(`${thread} ${isOver ? 'over' : 'hung'}`),
};

beforeEach(() => {
  vi.useFakeTimers();
  stuck = [];
  hung = [];
  inDiskSleep = new Set();
  watchdog = new Watchdog(LIMIT_MS, watch, (threadId) => inDiskSleep.has(threadId));
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

test.each(['inside a turn', 'while it waits for the ring'])(
  'a thread that sleeps for a disk %s is told once, is not stuck, and is told again when it goes on',
  (where) => {
    const [sound, hanging] = [createBeat(), createBeat()];
    for (const beat of [sound, hanging]) watchdog.watch(beat);
    hanging[1] = 77;
    inDiskSleep.add(77);
    turnBegins(hanging);
    if (where !== 'inside a turn') turnEnds(hanging);
    vi.advanceTimersByTime(LIMIT_MS);
    expect(hung).toEqual([]);
    vi.advanceTimersByTime(10 * LIMIT_MS);
    expect(hung).toEqual(['1 hung']);
    turnEnds(hanging);
    turnBegins(hanging);
    turnEnds(hanging);
    inDiskSleep.clear();
    vi.advanceTimersByTime(10 * LIMIT_MS);
    expect(hung).toEqual(['1 hung', '1 over']);
    expect(stuck).toEqual([]);
  },
);

test('a thread that stays in its turn after the disk has answered is stuck after the limit', () => {
  const beat = createBeat();
  watchdog.watch(beat);
  beat[1] = 77;
  inDiskSleep.add(77);
  turnBegins(beat);
  vi.advanceTimersByTime(10 * LIMIT_MS);
  inDiskSleep.clear();
  vi.advanceTimersByTime((LIMIT_MS * 3) / 4);
  expect(stuck).toEqual([]);
  vi.advanceTimersByTime(LIMIT_MS / 4);
  expect(stuck).toHaveLength(1);
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
  const none = new Watchdog(0, watch);
  const beat = createBeat();
  none.watch(beat);
  turnBegins(beat);
  vi.advanceTimersByTime(100 * LIMIT_MS);
  expect(stuck).toEqual([]);
  none.stop();
});
