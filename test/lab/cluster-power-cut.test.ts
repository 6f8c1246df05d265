// Power cuts of a cluster's machines, on disks that forget what was not flushed: of one, of two, of all at once. And
// the proof that it can fail: with the flushes of the copies switched off a cut of all is noticed.

import { describe, expect, test } from 'vitest';
import {
  ClusterRig,
  type ClusterRigOptions,
  type ClusterRound,
  type CutKind,
} from './power-cut/cluster-rig.ts';

const IS_SOAK = process.env['HOLDFAST_SOAK'] !== undefined;
const SEED = Number(process.env['HOLDFAST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const ROUND_MS = 90_000;
const START_MS = 90_000;

/** Until something is wrong, or there are no more cuts to make. */
async function cutAndCheck(options: ClusterRigOptions, kinds: readonly CutKind[]): Promise<ClusterRound[]> {
  await using rig = await ClusterRig.create(options);
  const rounds: ClusterRound[] = [];
  for (const kind of kinds) {
    const round = await rig.round(kind);
    rounds.push(round);
    const { cut, requests, lostPieces, pauseMs } = round;
    console.log(
      `${cut.join(' ')} cut: ${requests} requests, ${lostPieces} unflushed sectors lost, longest pause ${Math.round(pauseMs)} ms`,
    );
    if (round.violations.length > 0) break;
  }
  return rounds;
}

function violations(rounds: readonly ClusterRound[]): string[] {
  return rounds.flatMap((round) => round.violations).slice(0, 20);
}

describe('a cluster whose machines lose power', () => {
  const kinds: CutKind[] = ['all', 'one', 'two'];
  const cuts = IS_SOAK ? Array.from({ length: 10 }, () => kinds).flat() : [...kinds, 'all' as const];

  test('loses nothing that was flushed, and its copies are equal afterwards', {
    timeout: START_MS + cuts.length * ROUND_MS,
  }, async () => {
    const rounds = await cutAndCheck({ seed: SEED }, cuts);
    expect(violations(rounds), `seed ${SEED}`).toEqual([]);
    expect(rounds.reduce((sum, { lostPieces }) => sum + lostPieces, 0)).toBeGreaterThan(0);
  });

  test('is caught when the flushes of its copies do nothing', {
    timeout: START_MS + 5 * ROUND_MS,
  }, async () => {
    const always = Array.from({ length: 5 }, (): CutKind => 'all');
    const rounds = await cutAndCheck({ seed: SEED, faults: ['no-data-flush'] }, always);
    expect(violations(rounds).join('\n'), `seed ${SEED}`).toMatch(/replaced for good|been acknowledged/);
  });
});
