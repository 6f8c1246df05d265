// What a report of the simulator is worth: a seed shows the same thing every time, and a failure gets shorter
// without becoming another one. The seeds themselves run as a suite of their own (scripts/test.ts).

import { describe, expect, test } from 'vitest';
import { breaking } from '../../src/replication/rules.ts';
import { drawShape, runSeed } from './run.ts';
import { shrink } from './shrink.ts';

/** How much there is to a world. */
function kindsOf(shape: object): number {
  return Object.values(shape).filter((value) => value !== 0 && value !== false).length;
}

describe('the simulator', () => {
  test('plays a seed the same way every time, event by event', () => {
    for (const seed of [11, 12, 13]) {
      const first = runSeed(seed, undefined, true);
      const again = runSeed(seed, undefined, true);
      expect(first.log.length).toBeGreaterThan(50);
      expect(again.log).toEqual(first.log);
      expect(again.calls).toBe(first.calls);
    }
  });

  test('lets fewer kinds of faults happen without moving the others', () => {
    const shape = { ...drawShape(5), killMs: 1500, pauseMs: 1000, restoresStore: false };
    const killsOf = (log: readonly string[]): string[] =>
      log.filter((line) => line.includes("'s daemon is killed")).map((line) => line.slice(0, 10));
    const withBoth = killsOf(runSeed(5, undefined, true, { ...shape, copies: 1 }).log);
    const alone = killsOf(runSeed(5, undefined, true, { ...shape, copies: 1, pauseMs: 0 }).log);
    expect(alone.length).toBeGreaterThan(0);
    expect(withBoth.slice(0, 1)).toEqual(alone.slice(0, 1));
  });

  test('shortens a failing seed to a smaller world in which the same checker notices', () => {
    const broken = breaking('ackWaitsForEveryMember');
    let seed = 1;
    while (runSeed(seed, broken).violation === undefined) seed += 1;
    const before = runSeed(seed, broken);
    const shrunk = shrink(seed, drawShape(seed), broken);
    expect(shrunk?.outcome.violation?.checker).toBe(before.violation?.checker);
    expect(shrunk?.outcome.faults).toBeLessThanOrEqual(before.faults);
    expect(kindsOf(shrunk?.shape ?? {})).toBeLessThan(kindsOf(drawShape(seed)));
    expect(shrunk?.outcome.log.at(-1)).toContain('VIOLATION');
  }, 60_000);
});
