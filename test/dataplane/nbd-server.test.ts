// Our NBD server and, beside it, nbdkit: what both must pass is the protocol, the rest is ours.

import { startHoldfast, startNbdkitMemory } from '../support/nbd-programs.ts';
import { nbdHostileSuite } from './nbd-hostile-suite.ts';
import { nbdProtocolSuite } from './nbd-protocol-suite.ts';

const MIB = 1024 * 1024;

nbdProtocolSuite('nbdkit, the yardstick', () => startNbdkitMemory(96 * MIB));
nbdProtocolSuite('ours on a direct pool', () => startHoldfast(96 * MIB, 'direct'));
nbdProtocolSuite('ours on a buffered pool', () => startHoldfast(96 * MIB, 'buffered'));
nbdHostileSuite('ours on a direct pool', () => startHoldfast(96 * MIB, 'direct'), {
  handshakeLimitMs: 30_000,
});
