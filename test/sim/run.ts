// One run: draws a shape, lets things go wrong for a while, mends everything, and demands that the volume serves
// again, that all copies come back into the set, and that they are equal.

import { EXTENT_BYTES, BLOCK_BYTES } from '../../src/core/units.ts';
import { InvariantError } from '../../src/core/invariant.ts';
import { type BrokenRules, NOTHING_BROKEN } from '../../src/replication/rules.ts';
import { Random } from './random.ts';
import { type Shape, Violation, World } from './world.ts';

const SERVE_AGAIN_MS = 20_000;
const ALL_IN_SYNC_MS = 120_000;

export interface Outcome {
  readonly seed: number;
  readonly violation: Violation | undefined;
  readonly calls: number;
  readonly operations: number;
  readonly faults: number;
  readonly epochs: number;
  readonly simulatedMs: number;
  readonly log: readonly string[];
}

export function drawShape(seed: number): Shape {
  const random = new Random(seed, 'shape');
  const copies = random.pick([1, 2, 2, 3, 3, 3, 4, 5, 6]);
  const extents = 1 + random.below(3);
  const blockCount = (extents * EXTENT_BYTES) / BLOCK_BYTES;
  const positions = random.pick([2, 4, 8, 24, 64]);
  const blocks = Array.from({ length: positions }, () =>
    random.chance(0.5) ? random.below(Math.min(64, blockCount)) : random.below(blockCount),
  );
  const sometimes = (probability: number, from: number, to: number): number =>
    random.chance(probability) ? random.between(from, to) : 0;
  const isStormy = random.chance(0.3);
  const hasFault = isStormy ? 0.6 : 0.3;
  return {
    copies,
    extraNodes: random.below(2),
    failureMode: random.pick(['soft', 'soft', 'alwayson', 'alwayson', 'hard', 1]),
    durability: random.chance(0.75) ? 'writeback' : 'writethrough',
    extents,
    blocks,
    maxBlocks: random.pick([1, 2, 4, 17]),
    depth: random.pick([1, 2, 4, 8, 16]),
    readShare: random.pick([0.1, 0.3, 0.5, 0.8]),
    flushShare: random.pick([0, 0.02, 0.1]),
    zeroShare: random.pick([0, 0, 0.05, 0.2]),
    fuaShare: random.pick([0, 0.05, 0.3]),
    thinkMs: random.pick([0, 1, 5, 30]),
    networkDelayMs: random.pick([0.1, 0.5, 2, 10]),
    frameLossRate: sometimes(0.3, 0, 0.003),
    frameRepeatRate: sometimes(0.2, 0, 0.003),
    frameReorderRate: sometimes(0.2, 0, 0.003),
    frameFlipRate: sometimes(0.2, 0, 0.003),
    storeDelayMs: random.pick([1, 5, 30]),
    storeLossRate: random.chance(0.4) ? random.between(0.02, 0.4) : 0,
    diskDelayMs: random.pick([0.1, 0.5, 2]),
    slowDiskRate: sometimes(hasFault, 2000, 10_000),
    clockDrift: random.pick([0, 0.001, 0.005]),
    killMs: sometimes(hasFault + 0.2, 800, 6000),
    powerCutMs: sometimes(hasFault, 1500, 8000),
    allPowerCutMs: sometimes(0.15, 4000, 10_000),
    pauseMs: sometimes(hasFault, 1500, 8000),
    partitionMs: sometimes(hasFault + 0.1, 1000, 6000),
    linkBreakMs: sometimes(hasFault, 500, 4000),
    storeDownMs: sometimes(hasFault * 0.7, 2000, 10_000),
    storeCutMs: sometimes(hasFault * 0.7, 2000, 10_000),
    diskErrorMs: sometimes(hasFault * 0.6, 2500, 10_000),
    moveMs: sometimes(0.4, 1500, 8000),
    handOverMs: sometimes(0.4, 700, 5000),
    frontendKillMs: sometimes(0.3, 1500, 8000),
    safetyMs: random.between(6000, 20_000),
  };
}

/** Lets things go wrong, each kind at its own rate. */
function arrangeFaults(world: World): void {
  const { shape, random, schedule } = world;
  const faults = random.faults;
  const every = (meanMs: number, run: () => void): void => {
    if (meanMs === 0) return;
    const next = (): void => {
      if (world.isHealed) return;
      run();
      schedule.after(faults.wait(meanMs), next);
    };
    schedule.after(faults.wait(meanMs), next);
  };
  const replicaNodes = world.nodes.slice(0, shape.copies);
  const aNode = () =>
    faults.chance(0.5) ? world.nodeOf(world.current.primary.replicaId) : faults.pick(replicaNodes);
  every(shape.killMs, () => world.kill(aNode()));
  every(shape.powerCutMs, () => world.cutPower([aNode()]));
  every(shape.allPowerCutMs, () => world.cutPower(world.nodes));
  every(shape.pauseMs, () => {
    const node = aNode();
    if (!node.isUp || node.isPaused) return;
    world.fault(`${node.name} stands still`);
    node.pause();
    schedule.after(faults.pick([50, 500, 2000, 4000, 8000]) * faults.between(0.5, 1.5), () => node.resume());
  });
  every(shape.partitionMs, () => {
    const count = world.nodes.length;
    const one = aNode().index;
    const cuts: [number, number][] = [];
    const isOneWay = faults.chance(0.4);
    const isWhole = faults.chance(0.5);
    for (let other = 0; other < count; other++) {
      if (other === one || (!isWhole && faults.chance(0.5))) continue;
      if (!isOneWay || faults.chance(0.5)) cuts.push([one, other]);
      if (!isOneWay || faults.chance(0.5)) cuts.push([other, one]);
    }
    world.fault(`the network is cut: ${cuts.map(([from, to]) => `${from}>${to}`).join(' ')}`);
    for (const [from, to] of cuts) world.network.cut(from, to);
    const losesStore = faults.chance(0.3);
    if (losesStore) world.store.cutOff.add(one);
    schedule.after(faults.pick([100, 800, 3000, 6000]) * faults.between(0.5, 1.5), () => {
      for (const [from, to] of cuts) world.network.mend(from, to);
      if (losesStore) world.store.cutOff.delete(one);
    });
  });
  every(shape.linkBreakMs, () => {
    world.fault('connections break');
    world.network.breakSome(faults.pick([0.1, 0.5, 1]));
  });
  every(shape.storeDownMs, () => {
    if (world.store.isDown) return;
    world.fault('the store is down');
    world.store.isDown = true;
    schedule.after(faults.wait(2500), () => {
      world.store.isDown = false;
    });
  });
  every(shape.storeCutMs, () => {
    const node = aNode().index;
    world.fault(`node${node} does not reach the store`);
    world.store.cutOff.add(node);
    schedule.after(faults.wait(2500), () => world.store.cutOff.delete(node));
  });
  every(shape.slowDiskRate, () => {
    const node = aNode();
    world.fault(`${node.name}'s disk is slow`);
    node.slowFactor = faults.pick([10, 100, 1000]);
    schedule.after(faults.wait(2000), () => {
      node.slowFactor = 1;
    });
  });
  every(shape.diskErrorMs, () => {
    const node = aNode();
    // The last good copy is spared: what has no copy left cannot be judged.
    if (world.inSyncNodes().filter((other) => other.isUp).length < 2 || shape.copies < 3) return;
    if (replicaNodes.some((other) => other.errorsLeft > 0)) return;
    world.fault(`${node.name}'s disk fails`);
    node.errorKind = faults.pick(['data', 'data', 'flush'] as const);
    node.errorsLeft = 1 + faults.below(3);
  });
  every(shape.moveMs, () => {
    world.fault('the volume moves');
    world.move();
  });
  every(shape.handOverMs, () => {
    const primary = world.nodeOf(world.current.primary.replicaId);
    const target = faults.pick(world.current.inSync).replicaId;
    if (target === primary.replicaId) return;
    if (primary.process?.isAlive() === true && !primary.isPaused && primary.process.replica.handOver(target))
      world.fault(`handover from ${primary.name} to ${target}`);
  });
  every(shape.frontendKillMs, () => {
    const consumer = world.consumers.at(-1);
    if (consumer?.frontend === undefined || consumer.node.isPaused) return;
    world.fault('the consumer’s daemon is killed');
    consumer.kill();
    schedule.after(faults.wait(800), () => consumer.start());
  });
}

function runUntil(world: World, endMs: number, isDone: () => boolean): boolean {
  while (world.schedule.nowMs < endMs) {
    if (!world.schedule.step()) break;
    world.throwViolation();
    if (isDone()) return true;
  }
  return isDone();
}

function heal(world: World): void {
  world.isHealed = true;
  world.trace(() => 'everything is mended');
  world.network.mendAll();
  const delayMs = Math.min(world.shape.networkDelayMs, 2);
  world.network.shape = { delayMs, lossRate: 0, repeatRate: 0, reorderRate: 0, flipRate: 0 };
  world.store.isDown = false;
  world.store.cutOff.clear();
  world.store.lossRate = 0;
  for (const node of world.nodes) {
    node.slowFactor = 1;
    node.errorsLeft = 0;
    if (node.isPaused) node.resume();
  }
  const repair = (): void => {
    world.restartFailed();
    world.schedule.after(500, repair);
  };
  repair();
}

/** A volume whose attachment is over gets another one. */
function keepAttached(world: World): void {
  const consumer = world.consumers.at(-1);
  const isOver =
    consumer === undefined ||
    consumer.isDead ||
    consumer.attachment < world.current.attachment.number ||
    consumer.frontend?.core.isRevoked === true;
  if (isOver) world.move();
  else if (consumer.frontend === undefined && consumer.node.isUp) consumer.start();
}

export function runSeed(
  seed: number,
  broken: BrokenRules = NOTHING_BROKEN,
  isTraced = false,
  shape = drawShape(seed),
): Outcome {
  const world = new World(seed, shape, broken, isTraced);
  let violation: Violation | undefined;
  try {
    play(world);
  } catch (error) {
    if (error instanceof Violation) violation = error;
    else if (error instanceof InvariantError) violation = new Violation('invariant', error.message, error);
    else violation = new Violation('invariant', `the core threw ${String(error)}`, error);
    for (const line of world.describe()) world.trace(() => line);
    world.trace(() => `VIOLATION (${violation?.checker}): ${violation?.message}`);
  }
  return {
    seed,
    violation,
    calls: world.calls,
    operations: world.answeredCount,
    faults: world.faultCount,
    epochs: world.current.epoch,
    simulatedMs: world.schedule.nowMs,
    log: world.log ?? [],
  };
}

function play(world: World): void {
  const { schedule, shape } = world;
  arrangeFaults(world);
  const watch = (): void => {
    if (!world.isHealed) {
      keepAttached(world);
      schedule.after(500, watch);
  const checkEverything = (): void => {
    world.checks.everything();
    schedule.after(100, checkEverything);
  };
  checkEverything();
    }
  };
  schedule.after(500, watch);
  runUntil(world, shape.safetyMs, () => false);
  heal(world);
  keepAttached(world);
  // It serves again.
  const before = world.answeredCount;
  let lastCheckMs = 0;
  const servesAgain = runUntil(world, schedule.nowMs + SERVE_AGAIN_MS, () => {
    if (schedule.nowMs - lastCheckMs > 1000) {
      lastCheckMs = schedule.nowMs;
      keepAttached(world);
    }
    return world.answeredCount >= before + 20;
  });
  if (!servesAgain)
    throw new Violation('liveness', `nothing is served ${SERVE_AGAIN_MS} ms after everything was mended`);
  world.isIssuing = false;
  // All copies come back, and nothing is left to do.
  const isQuiet = (): boolean =>
    world.current.inSync.length === shape.copies &&
    (world.consumers.at(-1)?.asked.length ?? 0) === 0 &&
    world.nodes.slice(0, shape.copies).every(({ process }) => process?.replica.copy.isDataQuiet === true) &&
    world.nodes.some(({ process }) => process?.replica.primary?.isIdle === true);
  if (!runUntil(world, schedule.nowMs + ALL_IN_SYNC_MS, isQuiet)) {
    const { inSync, epoch } = world.current;
    throw new Violation(
      'liveness',
      `not at rest: epoch ${epoch}, in sync ${inSync.map(({ replicaId }) => replicaId).join(' ')} of ${shape.copies}`,
    );
  }
  world.checkEquality();
  world.throwViolation();
}
