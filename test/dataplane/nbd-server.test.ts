// Our NBD server and, beside it, nbdkit: what both must pass is the protocol, the rest is ours.

import { startNbdkitMemory } from '../support/nbd-programs.ts';
import { nbdProtocolSuite } from './nbd-protocol-suite.ts';

const MIB = 1024 * 1024;

nbdProtocolSuite('nbdkit, the yardstick', () => startNbdkitMemory(96 * MIB));
