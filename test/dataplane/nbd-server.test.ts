// Our NBD server and, beside it, nbdkit: what both must pass is the protocol, the rest is ours.

import { startHoldfast, startNbdkitMemory } from '../support/nbd-programs.ts';
import { nbdFuzzSuite } from './nbd-fuzz-suite.ts';
import { nbdHostileSuite } from './nbd-hostile-suite.ts';
import { nbdProtocolSuite } from './nbd-protocol-suite.ts';

const MIB = 1024 * 1024;
const FUZZ_MS = process.env['HOLDFAST_SOAK'] === undefined ? 10_000 : 600_000;
const direct = () => startHoldfast(96 * MIB, 'direct');
const buffered = () => startHoldfast(96 * MIB, 'buffered');

nbdProtocolSuite('nbdkit, the yardstick', () => startNbdkitMemory(96 * MIB));
nbdProtocolSuite('ours on a direct pool', direct);
nbdProtocolSuite('ours on a buffered pool', buffered);
nbdHostileSuite('ours on a direct pool', direct, { handshakeLimitMs: 30_000 });
nbdFuzzSuite('ours on a direct pool', direct, FUZZ_MS);
nbdFuzzSuite('ours on a buffered pool', buffered, FUZZ_MS);
