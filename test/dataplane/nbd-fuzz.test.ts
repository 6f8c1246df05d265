import { startHoldfast } from '../support/nbd-programs.ts';
import { nbdFuzzSuite } from './nbd-fuzz-suite.ts';

const BUDGET_MS = process.env['HOLDFAST_SOAK'] === undefined ? 10_000 : 600_000;

for (const ioMode of ['direct', 'buffered'] as const) {
  nbdFuzzSuite(`ours on a ${ioMode} pool`, () => startHoldfast(96 * 1024 * 1024, ioMode), BUDGET_MS);
}
