// Runs seeds for main.ts on a core of its own.

import { parentPort } from 'node:worker_threads';
import { breaking, NOTHING_BROKEN, type Rule } from '../../src/replication/rules.ts';
import { type MixName, mixedShape } from './mixes.ts';
import { runSeed } from './run.ts';
import type { Shape } from './world.ts';

export interface SeedTask {
  readonly first: number;
  readonly end: number;
  /** By seed, in turn. */
  readonly mixes: readonly MixName[];
  readonly change: Partial<Shape>;
  readonly brokenRules: readonly Rule[];
}

export interface Tally {
  seeds: number;
  calls: number;
  operations: number;
  faults: number;
  simulatedMs: number;
  /** Of the threads that ran them. */
  cpuMs: number;
  readonly failures: { readonly seed: number; readonly checker: string; readonly message: string }[];
}

parentPort?.on('message', ({ first, end, mixes, change, brokenRules }: SeedTask) => {
  const rules = brokenRules.length === 0 ? NOTHING_BROKEN : breaking(...brokenRules);
  const before = process.threadCpuUsage();
  const tally: Tally = {
    seeds: 0,
    calls: 0,
    operations: 0,
    faults: 0,
    simulatedMs: 0,
    cpuMs: 0,
    failures: [],
  };
  for (let seed = first; seed < end; seed++) {
    const shape = mixedShape(mixes[seed % mixes.length] as MixName, seed);
    const outcome = runSeed(seed, rules, false, { ...shape, ...change });
    tally.seeds += 1;
    tally.calls += outcome.calls;
    tally.operations += outcome.operations;
    tally.faults += outcome.faults;
    tally.simulatedMs += outcome.simulatedMs;
    const { violation } = outcome;
    if (violation !== undefined)
      tally.failures.push({ seed, checker: violation.checker, message: violation.message });
  }
  const { user, system } = process.threadCpuUsage(before);
  tally.cpuMs = (user + system) / 1000;
  parentPort?.postMessage(tally);
});
