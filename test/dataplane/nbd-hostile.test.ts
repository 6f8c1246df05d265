import { startHoldfast } from '../support/nbd-programs.ts';
import { nbdHostileSuite } from './nbd-hostile-suite.ts';

nbdHostileSuite('ours', () => startHoldfast(96 * 1024 * 1024, 'direct'), { handshakeLimitMs: 30_000 });
