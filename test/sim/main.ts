// `npm run sim`: whole clusters in one thread, seed after seed, on as many cores as asked for. A seed that fails
// is printed with the commit and how to see it again; --shrink looks for the smallest world that still fails.
//   --seeds N      how many (1000; without an end when --minutes is given)
//   --seed S       the first one (1); 'fresh': never run before
//   --minutes M    as many seeds as there is time for
//   --jobs J       worker threads (1)
//   --trace        prints what happened
//   --shrink       shortens the first failing seed
//   --mix NAME     in a mix of faults (mixes.ts); 'each': in one after the other, seed by seed; 'any' (the default): as drawn
//   --shape JSON   replaces fields of what the seed draws
//   --broken RULE  switches a rule of the protocol off (src/replication/rules.ts)

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { breaking, NOTHING_BROKEN, type Rule } from '../../src/replication/rules.ts';
import { MIXES, type MixName, mixedShape } from './mixes.ts';
import { drawShape, runSeed } from './run.ts';
import type { SeedTask, Tally } from './seed-worker.ts';
import { shrink } from './shrink.ts';
import type { Shape } from './world.ts';

const CHUNK_SEEDS = 10;
const TRACE_TAIL_LINES = 30;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string' },
    jobs: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false },
    shrink: { type: 'boolean', default: false },
    mix: { type: 'string', default: 'any' },
    shape: { type: 'string', default: '{}' },
    broken: { type: 'string' },
  },
});

const change = JSON.parse(values.shape) as Partial<Shape>;
const everyMix = Object.keys(MIXES) as MixName[];
const mixes = values.mix === 'each' ? everyMix : [values.mix as MixName];
if (mixes.some((mix) => mix !== 'any' && !everyMix.includes(mix)))
  throw new Error(`no mix '${values.mix}': use any, each, ${everyMix.join(', ')}`);
/** Of a seed alone, whichever others run. */
const mixOf = (seed: number): MixName => mixes[seed % mixes.length] as MixName;
const brokenRules = values.broken === undefined ? [] : (values.broken.split(',') as Rule[]);
const rules = brokenRules.length === 0 ? NOTHING_BROKEN : breaking(...brokenRules);
const firstSeed = values.seed === 'fresh' ? Math.floor(Date.now() / 1000) * 1000 : Number(values.seed);
const seedLimit = Number(values.seeds ?? (values.minutes === undefined ? 1000 : Number.POSITIVE_INFINITY));
const minutes = Number(values.minutes ?? Number.POSITIVE_INFINITY);

function commit(): string {
  const git = (...args: string[]): string => {
    try {
      return execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    } catch {
      return 'unknown';
    }
  };
  const isChanged = git('status', '--porcelain', '--', 'src', 'test/sim') !== '';
  return `${git('rev-parse', '--short', 'HEAD')}${isChanged ? ' with changes' : ''}`;
}

function report({ seed, checker, message }: Tally['failures'][number]): void {
  const mix = mixOf(seed);
  console.log(`seed ${seed}, mix ${mix}, commit ${commit()}: ${checker}: ${message}`);
  const options = ['shape', 'broken'] as const;
  const repeated = options.map((name) =>
    process.argv.includes(`--${name}`) ? ` --${name} '${values[name]}'` : '',
  );
  const ofMix = mix === 'any' ? '' : ` --mix ${mix}`;
  console.log(`  again: npm run sim -- --seed ${seed} --seeds 1 --trace${ofMix}${repeated.join('')}`);
}

/** Hands out seeds to the workers until there are no more, or no more time. */
async function runAll(jobs: number): Promise<Tally> {
  const total: Tally = {
    seeds: 0,
    calls: 0,
    operations: 0,
    faults: 0,
    simulatedMs: 0,
    cpuMs: 0,
    failures: [],
  };
  const endsMs = performance.now() + minutes * 60_000;
  let next = firstSeed;
  const task = (): SeedTask | undefined => {
    const left = firstSeed + seedLimit - next;
    if (left <= 0 || performance.now() >= endsMs) return undefined;
    const first = next;
    next += Math.min(CHUNK_SEEDS, left);
    return { first, end: next, mixes, change, brokenRules };
  };
  const work = async (): Promise<void> => {
    const worker = new Worker(new URL('./seed-worker.ts', import.meta.url));
    try {
      for (let given = task(); given !== undefined; given = task()) {
        worker.postMessage(given);
        const [tally] = (await once(worker, 'message')) as [Tally];
        for (const failure of tally.failures) report(failure);
        total.seeds += tally.seeds;
        total.calls += tally.calls;
        total.operations += tally.operations;
        total.faults += tally.faults;
        total.simulatedMs += tally.simulatedMs;
        total.cpuMs += tally.cpuMs;
        total.failures.push(...tally.failures);
      }
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return total;
}

function showShrunk(seed: number): void {
  const shape = { ...mixedShape(mixOf(seed), seed), ...change };
  const result = shrink(seed, shape, rules);
  if (result === undefined) {
    console.log(`seed ${seed} does not fail by itself`);
    return;
  }
  const drawn = drawShape(seed);
  const fields = Object.entries(result.shape).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(drawn[name as keyof Shape]),
  );
  console.log(
    `shortened in ${result.runCount} runs from ${result.fromMs} to ${result.toMs} ms of simulated time`,
  );
  console.log(`  --seed ${seed} --seeds 1 --trace --shape '${JSON.stringify(Object.fromEntries(fields))}'`);
  for (const [name, value] of Object.entries(result.shape))
    if (value !== 0 && value !== false) console.log(`  ${name} ${JSON.stringify(value)}`);
  console.log(result.outcome.log.slice(-TRACE_TAIL_LINES).join('\n'));
}

function traceOne(seed: number): Tally {
  const outcome = runSeed(seed, rules, true, { ...mixedShape(mixOf(seed), seed), ...change });
  console.log(outcome.log.join('\n'));
  const { violation } = outcome;
  if (violation?.cause !== undefined) console.log(violation.cause);
  const failures =
    violation === undefined ? [] : [{ seed, checker: violation.checker, message: violation.message }];
  for (const failure of failures) report(failure);
  return { ...outcome, seeds: 1, cpuMs: process.cpuUsage().user / 1000, failures };
}

const began = performance.now();
const total = values.trace ? traceOne(firstSeed) : await runAll(Number(values.jobs));
const seconds = (performance.now() - began) / 1000;
console.log(
  `${total.seeds} seeds from ${firstSeed}, ${total.failures.length} violations: ${total.operations} simulated operations, ` +
    `${total.faults} faults, ${(total.simulatedMs / 3_600_000).toFixed(1)} h of simulated time in ${seconds.toFixed(1)} s, ` +
    `${Math.round(total.cpuMs / 1000)} s of CPU; ` +
    `${Math.round(total.calls / (total.cpuMs / 1000))} calls into the core a second and core, ` +
    `${Math.round(total.operations / seconds)} operations and ${Math.round(total.faults / seconds)} faults a second`,
);
const failed = total.failures[0];
if (failed !== undefined) {
  process.exitCode = 1;
  if (values.shrink) showShrunk(failed.seed);
}
