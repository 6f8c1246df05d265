//   npm run sim -- --seeds N [--seed S] [--minutes M] [--trace]
import { parseArgs } from 'node:util';
import { runSeed } from './run.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string' },
    trace: { type: 'boolean', default: false },
  },
});
const first = Number(values.seed);
const began = performance.now();
let calls = 0;
let faults = 0;
let operations = 0;
let violations = 0;
let seeds = 0;
for (let seed = first; seed < first + Number(values.seeds); seed++) {
  const outcome = runSeed(seed, undefined, values.trace);
  seeds += 1;
  calls += outcome.calls;
  faults += outcome.faults;
  operations += outcome.operations;
  if (values.trace) console.log(outcome.log.join('\n'));
  if (outcome.violation !== undefined) {
    violations += 1;
    console.log(`seed ${seed}: ${outcome.violation.checker}: ${outcome.violation.message}`);
    if (values.trace && outcome.violation.cause !== undefined) console.log(outcome.violation.cause);
  }
}
const seconds = (performance.now() - began) / 1000;
console.log(
  `${seeds} seeds, ${violations} violations, ${operations} operations, ${faults} faults, ` +
    `${Math.round(calls / seconds)} calls/s, ${seconds.toFixed(1)} s`,
);
