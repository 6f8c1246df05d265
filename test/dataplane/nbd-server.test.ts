// Our NBD server and, beside it, nbdkit, which holds the suite to the protocol and not to our habits.

import { startHoldfast, startNbdkitMemory } from '../support/nbd-programs.ts';
import { nbdInteropSuite } from './nbd-interop-suite.ts';
import { nbdProtocolSuite } from './nbd-protocol-suite.ts';

const SIZE_BYTES = 96 * 1024 * 1024;

nbdProtocolSuite('nbdkit, the yardstick', () => startNbdkitMemory(SIZE_BYTES));
for (const ioMode of ['direct', 'buffered'] as const) {
  nbdProtocolSuite(`ours on a ${ioMode} pool`, () => startHoldfast(SIZE_BYTES, ioMode));
  nbdInteropSuite(`ours on a ${ioMode} pool`, () => startHoldfast(SIZE_BYTES, ioMode));
}
