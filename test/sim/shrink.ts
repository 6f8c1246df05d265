// Finds a smaller world that fails in the same way: fewer kinds of faults, rarer ones, a shorter run, fewer copies,
// positions and requests. Every kind of fault has its own stream of chance, so that what is left stays where it was.

import { BLOCK_BYTES, EXTENT_BYTES } from '../../src/core/units.ts';
import type { BrokenRules } from '../../src/replication/rules.ts';
import { type Outcome, runSeed } from './run.ts';
import type { Shape } from './world.ts';

const RUN_LIMIT = 400;
const TIME_LIMIT_MS = 120_000;

/** Off at 0. */
const SWITCHES = [
  'allPowerCutMs',
  'powerCutMs',
  'killMs',
  'cleanStopMs',
  'pauseMs',
  'partitionMs',
  'linkBreakMs',
  'storeDownMs',
  'storeCutMs',
  'storeSlowMs',
  'slowDiskRate',
  'diskErrorMs',
  'spaceMs',
  'fullMs',
  'moveMs',
  'handOverMs',
  'burstMs',
  'failureModeMs',
  'weakenMs',
  'addReplicaMs',
  'removeReplicaMs',
  'frontendKillMs',
  'frameLossRate',
  'frameRepeatRate',
  'frameReorderRate',
  'frameFlipRate',
  'storeLossRate',
  'clockDrift',
  'flushShare',
  'zeroShare',
  'fuaShare',
  'extraNodes',
] as const satisfies readonly (keyof Shape)[];

export interface Shrunk {
  readonly shape: Shape;
  readonly outcome: Outcome;
  readonly runCount: number;
  readonly fromMs: number;
  readonly toMs: number;
}

function* smaller(shape: Shape): Generator<Shape> {
  for (const name of SWITCHES) if (shape[name] !== 0) yield { ...shape, [name]: 0 };
  for (const share of [0.25, 0.5, 0.75, 0.9]) yield { ...shape, safetyMs: shape.safetyMs * share };
  if (shape.copies > 1) yield { ...shape, copies: shape.copies - 1 };
  if (shape.extents > 1) {
    const blockCount = EXTENT_BYTES / BLOCK_BYTES;
    yield { ...shape, extents: 1, blocks: shape.blocks.map((block) => block % blockCount) };
  }
  if (shape.depth > 1) yield { ...shape, depth: Math.ceil(shape.depth / 2) };
  if (shape.blocks.length > 1)
    yield { ...shape, blocks: shape.blocks.slice(0, Math.ceil(shape.blocks.length / 2)) };
  if (shape.maxBlocks > 1) yield { ...shape, maxBlocks: 1 };
  if (shape.thinkMs < 30) yield { ...shape, thinkMs: 30 };
  for (const name of SWITCHES) if (shape[name] > 100) yield { ...shape, [name]: shape[name] * 2 };
}

/** undefined: the seed does not fail in this shape. */
export function shrink(seed: number, from: Shape, broken: BrokenRules): Shrunk | undefined {
  const first = runSeed(seed, broken, false, from);
  if (first.violation === undefined) return undefined;
  const { checker } = first.violation;
  const endsMs = performance.now() + TIME_LIMIT_MS;
  let runCount = 1;
  let shape = from;
  const attempt = (): Shape | undefined => {
    for (const candidate of smaller(shape)) {
      if (runCount >= RUN_LIMIT || performance.now() >= endsMs) return undefined;
      runCount += 1;
      if (runSeed(seed, broken, false, candidate).violation?.checker === checker) return candidate;
    }
    return undefined;
  };
  for (let next = attempt(); next !== undefined; next = attempt()) shape = next;
  const outcome = runSeed(seed, broken, true, shape);
  return {
    shape,
    outcome,
    runCount,
    fromMs: Math.round(first.simulatedMs),
    toMs: Math.round(outcome.simulatedMs),
  };
}
