// The simulator can fail: each planted fault is caught by a checker that should catch it; the intact core is clean on
// the same mixes (on fresh seeds: `npm run sim -- --mix each --seed fresh`).
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { RULES, type Rule } from '../../src/replication/rules.ts';
import { MIXES, type MixName } from './mixes.ts';
import {
  BUDGET,
  type Catch,
  hunt,
  intact,
  KNOWN_FILE,
  type Known,
  masksAlone,
  MUTANTS,
  trySeed,
} from './mutants.ts';

const known = JSON.parse(readFileSync(KNOWN_FILE, 'utf8')) as Known;
/** The seed that caught it last time, if it still does; else one is looked for. */
function caughtBy(rule: Rule): Catch | undefined {
  const quick = known[rule];
  const again = quick === undefined ? undefined : trySeed(rule, quick);
  if (again !== undefined && MUTANTS[rule].checkers.includes(again.checker)) return again;
  return hunt(rule, 1, BUDGET).caught;
}

describe('a planted fault is noticed by the checker that should', () => {
  for (const rule of RULES)
    it(`when it ${MUTANTS[rule].fault} (${rule})`, { timeout: 120_000 }, () => {
      expect(caughtBy(rule)?.checker, 'the checker that noticed').toBeDefined();
    });
});

describe('what masks a planted fault is not noticed by itself', () => {
  for (const rule of RULES.filter((one) => MUTANTS[one].masks.length > 0))
    it(`when ${MUTANTS[rule].masks.join(' and ')} is off, in the mixes of ${rule}`, {
      timeout: 120_000,
    }, () => {
      // A part of the budget: all of it is `npm run sim -- --mutants`.
      expect(masksAlone(rule, 1, { seeds: 40, seconds: BUDGET.seconds })).toBeUndefined();
    });
});

describe('the intact core', () => {
  it('is clean on seeds of every mix', { timeout: 180_000 }, () => {
    // The same ones in every run: a soak of fresh seeds is `npm run sim -- --seed fresh`.
    const firstSeed = 1;
    const mixes: MixName[] = [...(Object.keys(MIXES) as MixName[]), 'any'];
    expect(intact(mixes, firstSeed, 300), `seeds from ${firstSeed} on`).toEqual([]);
  });
  it('has at least thirty planted faults that are caught', () => {
    expect(RULES.length).toBeGreaterThanOrEqual(30);
  });
});
