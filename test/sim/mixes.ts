// Directed mixes: shapes in which a certain kind of fault is frequent, and everything else is small and quick. A
// swarm of general shapes finds most faults; a rarer one is looked for where it lives.

import { Random } from './random.ts';
import { drawShape } from './run.ts';
import type { Shape } from './world.ts';

/** One extent, a few blocks, quick disks and network, no faults at all: a mix adds its own. */
function calm(seed: number, random: Random): Shape {
  // Every rate of a fault, also of those that are thought of later.
  const entries = Object.entries(drawShape(seed)) as [string, unknown][];
  const quiet = Object.fromEntries(
    entries.map(([name, value]) => [name, /(Ms|Rate)$/.test(name) && typeof value === 'number' ? 0 : value]),
  ) as unknown as Shape;
  return {
    ...quiet,
    copies: random.pick([2, 3, 3]),
    extraNodes: random.below(2),
    failureMode: random.pick(['soft', 'alwayson', 'alwayson']),
    durability: 'writeback',
    extents: 1,
    blocks: Array.from({ length: random.pick([1, 2, 4, 8]) }, () => random.below(64)),
    maxBlocks: random.pick([1, 2, 4]),
    depth: random.pick([2, 4, 8]),
    readShare: random.pick([0.2, 0.5]),
    flushShare: random.pick([0, 0.1]),
    zeroShare: random.pick([0, 0.1]),
    fuaShare: random.pick([0, 0.1]),
    thinkMs: random.pick([1, 10, 40]),
    networkDelayMs: random.pick([0.5, 2, 10]),
    storeDelayMs: random.pick([1, 5, 30]),
    diskDelayMs: random.pick([0.2, 2, 5]),
    clockDrift: 0,
    restoresStore: false,
    hearsAfterClose: random.chance(0.7),
    safetyMs: random.between(5000, 12_000),
  };
}

type Mix = (random: Random) => Partial<Shape>;

export const MIXES = {
  /** Processes die and come back at once, or late. */
  kills: (random) => ({ killMs: random.between(400, 2500), linkBreakMs: random.pick([0, 1500]) }),
  /** No node has room, again and again; some node has none, and connections break. */
  full: (random) => ({
    fullMs: random.between(500, 2000),
    spaceMs: random.pick([0, 1500]),
    linkBreakMs: random.pick([0, 500, 1500]),
    killMs: random.pick([0, 0, 2500]),
    readShare: 0.2,
    fullForMs: random.pick([1500, 1500, 6000]),
    fullSparesRate: random.pick([0, 0.7]),
    addReplicaMs: random.pick([0, 0, 1500]),
    partitionMs: random.pick([0, 0, 1500]),
    endsFull: random.chance(0.5),
    failureMode: random.pick(['soft', 'hard', 'alwayson', 'alwayson']),
    powerCutMs: random.pick([0, 0, 2500]),
  }),
  /** Superblocks, intent logs and generations cannot be written, while copies come and go. */
  metadata: (random) => ({
    metaErrorMs: random.between(600, 3000),
    killMs: random.pick([0, 1500]),
    powerCutMs: random.pick([0, 2500]),
    moveMs: random.pick([0, 1500]),
    partitionMs: random.pick([0, 2000]),
    linkBreakMs: random.pick([0, 1500]),
    durability: random.pick(['writeback', 'writethrough'] as const),
  }),
  /** Machines stand still or are cut off, and wake up later. */
  stalls: (random) => ({
    copies: random.pick([2, 3]),
    pauseMs: random.between(1500, 4000),
    partitionMs: random.between(1500, 4000),
    storeCutMs: random.pick([0, 3000]),
    moveMs: random.pick([0, 0, 3000]),
    clockDrift: random.pick([0, 0.005]),
    safetyMs: 20_000,
  }),
  /** Primaries are cut off from some, and do not hear of it from the store. */
  leases: (random) => ({
    copies: random.pick([2, 3, 3]),
    networkDelayMs: random.pick([2, 50, 150]),
    partitionMs: random.between(800, 2500),
    storeCutMs: random.between(800, 2000),
    killMs: random.pick([0, 3000]),
    pauseMs: random.pick([0, 2500]),
    thinkMs: 10,
    safetyMs: 25_000,
  }),
  /** The store answers late or not at all while the set changes. */
  store: (random) => ({
    copies: random.pick([2, 3, 4]),
    storeLossRate: random.between(0.2, 0.6),
    storeDelayMs: random.pick([5, 30, 100]),
    killMs: random.pick([0, 2000]),
    partitionMs: random.between(1200, 3000),
    pauseMs: random.pick([0, 3000]),
    handOverMs: random.pick([0, 1500]),
    safetyMs: 15_000,
  }),
  /** Changes of the set take long, and writes go on meanwhile. */
  slowStore: (random) => ({
    copies: random.pick([2, 3]),
    failureMode: 'alwayson',
    storeDelayMs: random.between(100, 250),
    diskDelayMs: 0.2,
    networkDelayMs: 0.5,
    thinkMs: 1,
    readShare: 0.2,
    partitionMs: random.between(1500, 3000),
    killMs: random.pick([0, 2500]),
  }),
  /** Members that are away cannot be dropped; another copy could take their place. */
  lost: (random) => ({
    copies: random.pick([3, 4]),
    failureMode: random.pick(['soft', 'hard', 1]),
    killMs: random.pick([0, 1500]),
    diskErrorMs: random.pick([0, 2000]),
    powerCutMs: random.pick([0, 2500]),
    linkBreakMs: random.pick([0, 800]),
    partitionMs: random.between(1000, 3000),
    readShare: 0.2,
  }),
  /** Of two members that are lost and cannot be dropped one is replaced, and the newcomer meets the other. */
  replaced: (random) => ({
    copies: 5,
    failureMode: random.pick([2, 3]),
    blocks: Array.from({ length: 64 }, () => random.below(64)),
    depth: 4,
    thinkMs: random.pick([40, 100, 300]),
    readShare: 0.2,
    killMs: random.pick([400, 800]),
    partitionMs: random.between(500, 1500),
    moveMs: random.pick([1000, 3000]),
    safetyMs: 15_000,
  }),
  /** Copies leave and come back while writes go on. */
  resync: (random) => ({
    copies: random.pick([2, 3, 4]),
    failureMode: 'alwayson',
    blocks: Array.from({ length: 8 }, () => random.below(64)),
    readShare: 0.2,
    partitionMs: random.between(1500, 3000),
    killMs: random.pick([0, 2500]),
    linkBreakMs: random.pick([0, 1000]),
    safetyMs: 15_000,
  }),
  /** Copies are away for short, the place of the primary changes meanwhile or not, and few blocks are written. */
  absences: (random) => ({
    copies: 3,
    failureMode: 'alwayson',
    // Several in each generation block, and seldom the same one twice.
    blocks: Array.from({ length: 128 }, () => random.below(256)),
    maxBlocks: 1,
    readShare: 0.2,
    depth: 2,
    thinkMs: random.pick([40, 100, 200]),
    partitionMs: random.between(1500, 3000),
    handOverMs: random.pick([0, 700]),
    killMs: random.pick([0, 0, 2500]),
    safetyMs: 15_000,
  }),
  /** Machines lose power, one after the other or all at once. */
  power: (random) => ({
    powerCutMs: random.between(1500, 4000),
    allPowerCutMs: random.pick([0, 0, 5000]),
    killMs: random.pick([0, 2000]),
    flushShare: 0.1,
    safetyMs: 15_000,
  }),
  /** Daemons stop cleanly, machines reboot, and machines lose power. */
  stops: (random) => ({
    cleanStopMs: random.between(800, 2500),
    powerCutMs: random.between(1500, 4000),
    killMs: random.pick([0, 2000]),
    readShare: 0.2,
    safetyMs: 15_000,
  }),
  /** Writes stay unsettled for long, since members that are away cannot be dropped. */
  held: (random) => ({
    copies: random.pick([2, 3]),
    failureMode: 'hard',
    partitionMs: random.between(1500, 3000),
    thinkMs: 200,
    safetyMs: 30_000,
  }),
  /** Extents cool between bursts of writes, and machines lose power. */
  cooling: (random) => ({
    copies: random.pick([2, 3]),
    failureMode: 'alwayson',
    extents: 3,
    blocks: Array.from({ length: 12 }, () => random.below(3 * 1024)),
    thinkMs: random.pick([400, 1500, 3000]),
    depth: 2,
    readShare: 0.2,
    // Nobody else flushes what cools.
    flushShare: 0,
    fuaShare: 0,
    powerCutMs: random.between(4000, 12_000),
    allPowerCutMs: random.pick([0, 15_000]),
    partitionMs: random.pick([0, 6000]),
    safetyMs: 40_000,
  }),
  /** The volume moves from node to node. */
  moves: (random) => ({
    moveMs: random.between(300, 1500),
    killMs: random.pick([0, 2000]),
    partitionMs: random.pick([0, 2000]),
    frontendKillMs: random.pick([0, 1000]),
    depth: 8,
  }),
  /** The consumer's daemon dies, and its links break: requests are sent again. */
  sessions: (random) => ({
    frontendKillMs: random.pick([0, 500]),
    linkBreakMs: random.between(200, 800),
    partitionMs: random.pick([0, 2000]),
    handOverMs: random.pick([0, 1000]),
    killMs: random.pick([0, 2000]),
    networkDelayMs: random.pick([2, 10, 50]),
    depth: 8,
  }),
  /** The place of the primary is handed over again and again. */
  handover: (random) => ({
    handOverMs: random.between(200, 1000),
    storeLossRate: random.pick([0, 0.3]),
    linkBreakMs: random.pick([0, 2000]),
    pauseMs: random.pick([0, 4000]),
  }),
  /** Much is zeroed, and copies come and go. */
  zeroes: (random) => ({
    zeroShare: 0.5,
    readShare: 0.2,
    failureMode: 'alwayson',
    killMs: random.between(800, 2500),
    partitionMs: random.pick([0, 2000]),
  }),
  /** The volume grows while copies come and go, and primaries hear late of it. */
  growth: (random) => ({
    copies: random.pick([2, 3, 3]),
    failureMode: 'alwayson',
    growMs: random.between(300, 2000),
    readShare: 0.2,
    storeDelayMs: random.pick([1, 30, 150]),
    killMs: random.pick([0, 2000]),
    partitionMs: random.pick([0, 2500]),
    storeCutMs: random.pick([0, 1500]),
    addReplicaMs: random.pick([0, 2000]),
    handOverMs: random.pick([0, 1500]),
  }),
  /** Disks fail or hang. */
  disks: (random) => ({
    copies: random.pick([3, 4]),
    diskErrorMs: random.between(1500, 4000),
    slowDiskRate: random.pick([0, 3000]),
    flushShare: 0.1,
    fuaShare: 0.2,
    killMs: random.pick([0, 3000]),
  }),
  /** Copies are added while others are cut off, streams begin anew, and members leave late. */
  newcomers: (random) => ({
    copies: random.pick([2, 3]),
    extraNodes: 3,
    failureMode: 'alwayson',
    readShare: 0.2,
    // Seldom the same block: a later write would stamp it anew.
    blocks: Array.from({ length: 64 }, () => random.below(1024)),
    depth: 4,
    thinkMs: random.pick([40, 100]),
    addReplicaMs: random.between(500, 1000),
    removeReplicaMs: random.pick([0, 2000]),
    partitionMs: random.between(700, 1200),
    linkBreakMs: random.between(300, 600),
    storeDelayMs: random.between(50, 150),
  }),
  /** People force promotions, and take old copies up again. */
  forced: (random) => ({
    copies: 3,
    extraNodes: 1,
    failureMode: 'alwayson',
    // Many extents that are written seldom: what only an old copy has is where the chosen one never wrote.
    extents: 24,
    blocks: Array.from({ length: 80 }, () => random.below(24 * 1024)),
    depth: random.pick([1, 2]),
    thinkMs: random.pick([100, 300]),
    readShare: 0.3,
    forceMs: random.between(600, 2000),
    addReplicaMs: random.pick([0, 4000]),
    killMs: random.pick([0, 2500]),
    powerCutMs: random.pick([0, 4000]),
    partitionMs: random.between(800, 2500),
    moveMs: random.pick([0, 3000]),
    safetyMs: 30_000,
  }),
  /** Disks fail while others are not to be reached. */
  failing: (random) => ({
    copies: 3,
    failureMode: 'alwayson',
    diskErrorMs: random.between(800, 2500),
    partitionMs: random.between(800, 2500),
    linkBreakMs: random.pick([0, 800]),
    flushShare: 0.1,
    fuaShare: 0.2,
    safetyMs: 15_000,
  }),
  /** Single connections stand still, and what they bring is overtaken. */
  overtaken: (random) => ({
    failureMode: random.pick(['hard', 'soft', 'alwayson']),
    frameStallRate: random.pick([0.003, 0.02]),
    hearsAfterClose: true,
    lingerRate: 0.7,
    linkBreakMs: random.pick([0, 2000]),
    frontendKillMs: random.pick([0, 800]),
    killMs: random.pick([0, 3000]),
    partitionMs: random.pick([0, 3000]),
    slowDiskRate: random.pick([0, 2000]),
    networkDelayMs: random.pick([0.5, 2, 10]),
    depth: 8,
    safetyMs: 15_000,
  }),
  /** Machines lose power where every acknowledgement is on stable storage: copies stay who they are. */
  writethrough: (random) => ({
    durability: 'writethrough',
    powerCutMs: random.between(1500, 4000),
    allPowerCutMs: random.between(1500, 4000),
    killMs: random.pick([0, 2000]),
    safetyMs: 15_000,
  }),
  /** Old images of disks are put back. */
  images: (random) => ({
    copies: random.pick([2, 3]),
    durability: random.pick(['writeback', 'writethrough']),
    imageMs: random.between(500, 1500),
    powerCutMs: random.between(1500, 4000),
    cleanStopMs: random.pick([0, 2000]),
    safetyMs: 20_000,
  }),
  /** Daemons are killed while their disks hang, and come back at once. */
  landing: (random) => ({
    killMs: random.between(500, 1500),
    slowDiskRate: random.between(500, 1500),
    diskDelayMs: random.pick([0.2, 2]),
    readShare: 0.2,
    safetyMs: 15_000,
  }),
  /** The store is slow, and outcomes are heard long after they were given up. */
  lateStore: (random) => ({
    copies: random.pick([2, 2, 3]),
    storeLateRate: random.between(0.3, 0.8),
    storeDelayMs: random.pick([5, 100, 400]),
    networkDelayMs: random.pick([0.5, 10]),
    partitionMs: random.between(1500, 3000),
    pauseMs: random.pick([0, 3000]),
    moveMs: random.pick([0, 1500]),
    safetyMs: 25_000,
  }),
  /** Only moves, and disks that are slow at times. */
  calmMoves: (random) => ({
    moveMs: random.between(100, 600),
    slowDiskRate: random.pick([0, 1500]),
    diskDelayMs: random.pick([2, 5, 20]),
    networkDelayMs: random.pick([0.5, 2, 10]),
    depth: 8,
  }),
  /** Only handovers. */
  calmHandover: (random) => ({
    handOverMs: random.between(100, 600),
    diskDelayMs: random.pick([2, 5, 20]),
    depth: 8,
    readShare: 0.2,
  }),
  /** Frontends look at a store that shows old states, while primaries are cut off. */
  oldStates: (random) => ({
    copies: random.pick([2, 3]),
    extraNodes: random.pick([1, 2]),
    storeOldRate: 0.5,
    linkBreakMs: random.between(300, 1000),
    pauseMs: random.pick([0, 2500]),
    partitionMs: random.between(800, 2000),
    storeCutMs: random.between(800, 2000),
    depth: 4,
    safetyMs: 20_000,
  }),
  /** Machines reboot so quickly that the others have not noticed: their connections and leases stand. */
  reboots: (random) => ({
    copies: 2,
    durability: 'writethrough',
    powerCutMs: random.between(500, 1500),
    storeDelayMs: random.pick([1, 5]),
    diskDelayMs: random.pick([0.2, 1]),
    thinkMs: 40,
    safetyMs: 15_000,
  }),
  /** Primaries lose power when they have dropped a member, before the other one hears of it. */
  unheard: (random) => ({
    copies: 3,
    failureMode: 'alwayson',
    blocks: Array.from({ length: 64 }, () => random.below(1024)),
    depth: 8,
    thinkMs: random.pick([10, 40]),
    readShare: 0.2,
    networkDelayMs: random.between(50, 150),
    storeDelayMs: 1,
    powerCutMs: random.between(1000, 2000),
    partitionMs: random.between(1000, 2000),
    safetyMs: 20_000,
  }),
  /** Frontends die often, while disks hang and what they had sent is under way. */
  ghosts: (random) => ({
    copies: 2,
    frontendKillMs: random.between(300, 600),
    lingerRate: 1,
    frameStallRate: 0.03,
    hearsAfterClose: true,
    slowDiskRate: random.between(300, 800),
    diskDelayMs: random.pick([2, 10]),
    networkDelayMs: 0.5,
    thinkMs: 1,
    depth: 8,
    flushShare: 0.2,
    readShare: 0.2,
    safetyMs: 15_000,
  }),
  /** Members that cannot be dropped lose power, and copies that were added take their places. */
  givenUp: (random) => ({
    copies: random.pick([2, 3]),
    extraNodes: 3,
    failureMode: random.pick(['soft', 'hard', 1]),
    extents: 8,
    blocks: Array.from({ length: 200 }, () => random.below(8 * 1024)),
    depth: 8,
    thinkMs: random.pick([10, 40]),
    readShare: 0.1,
    flushShare: 0,
    addReplicaMs: random.between(800, 2000),
    removeReplicaMs: random.pick([0, 3000]),
    powerCutMs: random.between(800, 2000),
    moveMs: random.pick([0, 1500]),
    safetyMs: 20_000,
  }),
  /** Machines stand still for long, and wake up to what was on its way to them. */
  woken: (random) => ({
    copies: 2,
    networkDelayMs: random.between(50, 200),
    storeDelayMs: random.pick([1, 5]),
    pauseMs: random.between(800, 2000),
    safetyMs: 25_000,
  }),
  /** The same, while promotions take long. */
  promoting: (random) => ({
    copies: random.pick([2, 2, 3]),
    pauseMs: random.between(1000, 2500),
    storeDelayMs: random.pick([100, 400]),
    storeLossRate: random.pick([0, 0.3]),
    storeLateRate: random.pick([0, 0.5]),
    // The end of a stream is heard later than who caused it serves.
    networkDelayMs: random.pick([20, 60]),
    diskDelayMs: 0.2,
    thinkMs: 40,
    safetyMs: 25_000,
  }),
} as const satisfies Record<string, Mix>;

export type MixName = keyof typeof MIXES | 'any';

export function mixedShape(name: MixName, seed: number): Shape {
  if (name === 'any') return drawShape(seed);
  const random = new Random(seed, `mix ${name}`);
  return { ...calm(seed, random), ...(MIXES[name] as Mix)(random) };
}
