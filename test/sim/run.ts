// One run: draws a shape, lets things go wrong for a while, mends everything, and demands that the volume serves
// again, that all copies come back into the set, and that they are equal.

import { EXTENT_BYTES, BLOCK_BYTES } from '../../src/core/units.ts';
import { InvariantError } from '../../src/core/invariant.ts';
import { memberOf } from '../../src/replication/config.ts';
import { type BrokenRules, NOTHING_BROKEN } from '../../src/replication/rules.ts';
import { arrangeFaults } from './faults.ts';
import { Random } from './random.ts';
import { arrangeRestore, endHeld } from './restore.ts';
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
    extraNodes: random.below(3),
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
    hearsAfterClose: random.chance(0.5),
    storeDelayMs: random.pick([1, 5, 30]),
    storeLossRate: random.chance(0.4) ? random.between(0.02, 0.4) : 0,
    diskDelayMs: random.pick([0.1, 0.5, 2]),
    slowDiskRate: sometimes(hasFault, 2000, 10_000),
    clockDrift: random.pick([0, 0.001, 0.005]),
    killMs: sometimes(hasFault + 0.2, 800, 6000),
    cleanStopMs: sometimes(hasFault * 0.5, 1500, 8000),
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
    storeSlowMs: sometimes(0.2, 2000, 8000),
    spaceMs: sometimes(hasFault * 0.4, 2500, 8000),
    burstMs: sometimes(0.15, 1500, 6000),
    failureModeMs: sometimes(0.2, 1000, 5000),
    weakenMs: sometimes(0.3, 1500, 6000),
    addReplicaMs: sometimes(0.25, 1000, 5000),
    removeReplicaMs: sometimes(0.2, 1500, 6000),
    restoresStore: random.chance(0.06),
    safetyMs: random.between(6000, 20_000),
    growMs: sometimes(0.12, 1500, 6000),
    forceMs: sometimes(0.08, 3000, 10_000),
    turnChance: random.pick([1, 1, 1, 0.1]),
    // Of directed mixes only.
    metaErrorMs: 0,
    frameStallRate: 0,
    lingerRate: 0,
    storeLateRate: 0,
    storeOldRate: 0,
    imageMs: 0,
    fullMs: sometimes(hasFault * 0.3, 2500, 8000),
    fullForMs: 1500,
    fullSparesRate: 0,
    endsFull: false,
  };
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
  const { hearsAfterClose } = world.shape;
  world.network.shape = {
    delayMs,
    lossRate: 0,
    repeatRate: 0,
    reorderRate: 0,
    flipRate: 0,
    stallRate: 0,
    lingerRate: 0,
    hearsAfterClose,
  };
  world.store.isDown = false;
  world.isEveryDiskFull = false;
  world.store.cutOff.clear();
  world.store.lossRate = 0;
  world.store.lateRate = 0;
  world.store.oldRate = 0;
  world.store.delayMs = world.shape.storeDelayMs;
  for (const node of world.nodes) {
    node.slowFactor = 1;
    node.errorsLeft = 0;
    if (node.isPaused) node.resume();
    // Watches are taken up again.
    node.process?.storeChanged();
  }
  const repair = (): void => {
    world.restartFailed();
    world.readmitCopies();
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
    if (world.isHealed) return;
    keepAttached(world);
    schedule.after(500, watch);
  };
  const checkEverything = (): void => {
    world.checks.everything();
    schedule.after(250, checkEverything);
  };
  schedule.after(500, checkEverything);
  schedule.after(500, watch);
  runUntil(world, shape.safetyMs, () => false);
  const snapshot = arrangeRestore(world);
  heal(world);
  if (snapshot !== undefined) {
    endHeld(world, snapshot, (endMs) => runUntil(world, endMs, () => false));
    return;
  }
  keepAttached(world);
  // It serves again. A client that thinks for long asks little.
  const before = world.answeredCount;
  const wanted = shape.thinkMs > 500 ? 5 : 20;
  let lastCheckMs = 0;
  const servesAgain = runUntil(world, schedule.nowMs + SERVE_AGAIN_MS, () => {
    if (schedule.nowMs - lastCheckMs > 1000) {
      lastCheckMs = schedule.nowMs;
      keepAttached(world);
    }
    return world.answeredCount >= before + wanted;
  });
  if (!servesAgain)
    throw new Violation('liveness', `nothing is served ${SERVE_AGAIN_MS} ms after everything was mended`);
  rest(world);
  if (shape.endsFull) {
    answersWhileFull(world);
    rest(world);
  }
}

/** All copies are there, no disk has room, and connections break: whoever asks is answered all the same. */
function answersWhileFull(world: World): void {
  const { schedule } = world;
  const random = new Random(world.seed, 'full end');
  // Copies that have just joined have heard that everything is settled: none is to be filled again.
  runUntil(world, schedule.nowMs + 1000, () => false);
  world.fillDisks(true);
  world.isIssuing = true;
  world.consumers.at(-1)?.fill();
  for (let count = random.below(4); count >= 0; count--) {
    runUntil(world, schedule.nowMs + random.wait(100), () => false);
    world.network.breakSome(random.pick([0.5, 1]));
  }
  const before = world.answeredCount;
  const isAnswered = (): boolean => world.answeredCount >= before + 20;
  if (!runUntil(world, schedule.nowMs + SERVE_AGAIN_MS, isAnswered))
    throw new Violation('liveness', `nothing is answered for ${SERVE_AGAIN_MS} ms while every disk is full`);
  const lost = world.inSyncNodes().find(({ replicaId, index }) => {
    const isUsed = world.consumers.some(({ node }) => node.index === index);
    return replicaId !== world.current.primary.replicaId && !isUsed;
  });
  if (lost !== undefined && world.shape.failureMode === 'hard') {
    // It comes back with room: the others fill it, whatever they have refused, and have not failed.
    world.isIssuing = false;
    world.cutPower([lost]);
    lost.errorsLeft = 0;
    const cutMs = schedule.nowMs;
    const named = (): string | null | undefined => memberOf(world.current, lost.replicaId)?.incarnation;
    const old = named();
    const isBack = (): boolean => named() !== old;
    if (!runUntil(world, schedule.nowMs + SERVE_AGAIN_MS, isBack))
      throw new Violation('liveness', `${lost.name} is not filled while the other disks are full`);
    for (const { name, failedMs } of world.nodes)
      if (failedMs > cutMs) throw new Violation('liveness', `${name} counts as failed, and is only full`);
  }
  world.fillDisks(false);
}

/** All copies come back, nothing is left to do, and they are equal. */
function rest(world: World): void {
  const { schedule } = world;
  world.isIssuing = false;
  const isQuiet = (): boolean =>
    world.current.inSync.length === world.current.replicas.length &&
    (world.consumers.at(-1)?.asked.length ?? 0) === 0 &&
    world.hosts().every(({ process }) => process?.replica.copy.isDataQuiet === true) &&
    world.hosts().every(({ disk }) => disk.sizeBytes >= world.current.sizeBytes) &&
    world.nodes.some(({ process }) => process?.replica.primary?.isIdle === true);
  if (!runUntil(world, schedule.nowMs + ALL_IN_SYNC_MS, isQuiet)) {
    const { inSync, epoch } = world.current;
    throw new Violation(
      'liveness',
      `not at rest: epoch ${epoch}, in sync ${inSync.map(({ replicaId }) => replicaId).join(' ')} of ${world.current.replicas.length}`,
    );
  }
  world.checkEquality();
  world.throwViolation();
}
