// `npm test`: every suite, one after the other, then the closing line 'N passed, N failed'. A suite that
// runs out of its time, loads no test, skips one or ends oddly counts as a failure: nothing is retried,
// nothing passes in silence. What failed is told once more at the end, so that the tail of a log is enough.
//   --only NAME   one suite: check, unit, sim, sim-mixes, cluster, lab or csi-sanity

import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { countReport, type Totals } from './test-report.ts';

interface Suite {
  readonly name: string;
  readonly limitMinutes: number;
  /** Arguments of vitest, or else a script of its own, which counts as one test. */
  readonly vitest?: readonly string[];
  readonly script?: readonly [string, ...string[]];
}

const SOAK_FACTOR = 12;
const isSoak = process.env['HOLDFAST_SOAK'] === '1';
/** Of fresh seeds, on every core, in a soak. */
const SIM_MINUTES = 5 * SOAK_FACTOR;

/** Of a whole ordinary run, from cold on 2 cores, its set-up included. */
const TOTAL_MINUTES = 56 * (isSoak ? SOAK_FACTOR : 1);
/** Seconds since 1970; run.sh tells when the set-up began. */
const startedAtMs = 1000 * Number(process.env['HOLDFAST_STARTED_AT'] ?? Date.now() / 1000);

/** Each has its own limit, and all together what is left of the whole. */
const SUITES: readonly Suite[] = [
  { name: 'check', limitMinutes: 3, script: ['scripts/check.ts'] },
  { name: 'unit', limitMinutes: 15, vitest: ['--project', 'unit', '--reporter', 'default'] },
  {
    name: 'sim',
    limitMinutes: isSoak ? SIM_MINUTES + 2 : 12,
    script: [
      'test/sim/main.ts',
      // The same seeds in every ordinary run, about five minutes of two cores, so that a change is what makes a difference;
      // a soak draws fresh ones.
      ...(isSoak ? ['--seed=fresh', `--minutes=${SIM_MINUTES}`] : ['--seed=1', '--seeds=12000']),
      `--jobs=${availableParallelism()}`,
    ],
  },
  {
    name: 'sim-mixes',
    limitMinutes: isSoak ? SIM_MINUTES + 2 : 6,
    // The mixes that planted faults are hunted in, with the intact core: a hundred seeds each.
    script: [
      'test/sim/main.ts',
      '--mix=each',
      ...(isSoak ? ['--seed=fresh', `--minutes=${SIM_MINUTES}`] : ['--seed=1', '--seeds=3800']),
      `--jobs=${availableParallelism()}`,
    ],
  },
  { name: 'cluster', limitMinutes: 14, vitest: ['--project', 'cluster', '--reporter', 'verbose'] },
  { name: 'lab', limitMinutes: 25, vitest: ['--project', 'lab', '--reporter', 'verbose'] },
  { name: 'csi-sanity', limitMinutes: 5, vitest: ['--project', 'csi-sanity', '--reporter', 'verbose'] },
];
/** How long a suite that was told to stop may take to clean up its guests and daemons. */
const STOP_GRACE_MS = 20_000;

const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs a command in a process group of its own, so that a suite out of time ends with all its children. */
function run(
  file: string,
  args: readonly string[],
  limitMs: number,
): Promise<{ ok: boolean; timedOut: boolean }> {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], detached: true });
    let timedOut = false;
    const signalGroup = (signal: NodeJS.Signals): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, signal);
      } catch {
        // The group is gone: nothing left to stop.
      }
    };
    const stop = (): void => {
      signalGroup('SIGTERM');
      setTimeout(() => signalGroup('SIGKILL'), STOP_GRACE_MS).unref();
    };
    const timer = setTimeout(() => {
      timedOut = true;
      stop();
    }, limitMs);
    const interrupted = (): void => stop();
    process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
    const finish = (ok: boolean): void => {
      clearTimeout(timer);
      signalGroup('SIGKILL');
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
      resolve({ ok, timedOut });
    };
    child.once('error', (error) => {
      console.log(`${file}: ${error.message}`);
      finish(false);
    });
    child.once('exit', (code) => finish(code === 0));
  });
}

/** Undefined: vitest left none, or none that can be read. */
async function readReport(path: string): Promise<Totals | undefined> {
  try {
    return countReport(await readFile(path, 'utf8'), root);
  } catch {
    return undefined;
  }
}

async function runSuite(suite: Suite, scratch: string): Promise<Totals> {
  const leftMinutes = TOTAL_MINUTES - (Date.now() - startedAtMs) / 60_000;
  const limitMinutes = Math.floor(Math.min(suite.limitMinutes * (isSoak ? SOAK_FACTOR : 1), leftMinutes));
  if (limitMinutes < 1) {
    console.log(`\n=== ${suite.name}: not run, nothing is left of the ${TOTAL_MINUTES} min of the whole run`);
    return { passed: 0, failed: 1, failures: [`${suite.name}: not run`] };
  }
  const started = performance.now();
  console.log(`\n=== ${suite.name} (at most ${limitMinutes} min)`);
  const report = join(scratch, `${suite.name}.json`);
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', ...(suite.vitest ?? [])];
  const args = suite.script ?? [...vitest, '--reporter', 'json', '--outputFile.json', report];
  const { ok, timedOut } = await run(process.execPath, args, limitMinutes * 60_000);
  const counted = suite.script === undefined ? await readReport(report) : undefined;
  const scriptPassed = suite.script !== undefined && ok;
  const result = counted ?? { passed: scriptPassed ? 1 : 0, failed: 0, failures: [] };
  if (timedOut) console.log(`${suite.name}: not finished after ${limitMinutes} min`);
  if (result.failed === 0 && (!ok || result.passed === 0)) {
    result.failed = 1;
    result.failures.push(`${suite.name}: ${timedOut ? 'out of its time' : 'ended oddly, see above'}`);
  }
  const seconds = Math.round((performance.now() - started) / 1000);
  console.log(`=== ${suite.name}: ${result.passed} passed, ${result.failed} failed, ${seconds} s`);
  return result;
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { only: { type: 'string' } } });
  const suites = SUITES.filter(({ name }) => values.only === undefined || values.only === name);
  if (suites.length === 0)
    throw new Error(`no suite '${values.only}': use ${SUITES.map(({ name }) => name).join(', ')}`);
  let interrupted = false;
  process.on('SIGINT', () => (interrupted = true)).on('SIGTERM', () => (interrupted = true));
  const scratch = await mkdtemp(join(tmpdir(), 'holdfast-test-'));
  const totals: Totals = { passed: 0, failed: 0, failures: [] };
  try {
    for (const suite of suites) {
      if (interrupted) break;
      const { passed, failed, failures } = await runSuite(suite, scratch);
      totals.passed += passed;
      totals.failed += failed;
      totals.failures.push(...failures);
    }
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  if (interrupted) totals.failed += 1;
  if (totals.failures.length > 0) console.log('\n=== failed');
  for (const failure of totals.failures) console.log(failure);
  console.log(`\n${totals.passed} passed, ${totals.failed} failed`);
  process.exitCode = totals.failed === 0 ? 0 : 1;
}

await main();
