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
    thinkMs: random.pick([200, 400]),
    depth: 2,
    readShare: 0.2,
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
} as const satisfies Record<string, Mix>;

export type MixName = keyof typeof MIXES | 'any';

export function mixedShape(name: MixName, seed: number): Shape {
  if (name === 'any') return drawShape(seed);
  const random = new Random(seed, `mix ${name}`);
  return { ...calm(seed, random), ...(MIXES[name] as Mix)(random) };
}
