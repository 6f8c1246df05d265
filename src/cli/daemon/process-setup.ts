// What the process must be before it serves anything: locked in memory, with io_uring (and an I/O flusher, see
// io-flusher.ts). The daemon writes back the page cache of its own devices' users, so it must never wait for
// memory that only it can free.

import { errorText, HoldfastError } from '../../core/errors.ts';
import { isNativeError, native, type RingProbe } from '../../dataplane/native.ts';
import type { Logger } from '../../observe/log.ts';
import { ringRemedy } from '../preflight-checks.ts';

export function lockMemory(when: 'auto' | 'always' | 'never', log: Logger): void {
  if (when === 'never') return;
  try {
    native.lockMemory();
  } catch (error) {
    if (!isNativeError(error)) throw error;
    const remedy = 'raise the limit (LimitMEMLOCK=infinity) or add CAP_IPC_LOCK';
    if (when === 'always') {
      throw new HoldfastError('UNSUPPORTED', `memory cannot be locked (${errorText(error)}): ${remedy}`, {
        cause: error,
      });
    }
    log.warn({ error: errorText(error) }, `memory is not locked: ${remedy}`);
  }
}

/** UNSUPPORTED, with the remedy, where io_uring is refused. */
export function requireRing(): RingProbe {
  const probe = native.probeRing();
  if (probe.errno === 0) return probe;
  throw new HoldfastError(
    'UNSUPPORTED',
    `io_uring is refused here (errno ${probe.errno}): ${ringRemedy(probe.errno)}; "holdfast preflight" shows the rest`,
    { details: { errno: probe.errno } },
  );
}

/** Faults that tests of durability switch on to prove that they would notice; nothing without HOLDFAST_TEST=1. */
export function testFaults(environment: NodeJS.ProcessEnv, log: Logger): ReadonlySet<string> {
  const known = [
    'no-data-flush',
    'no-intent-flush',
    'no-store-sync',
    'no-zeroing',
    'cancelled-entries',
    'stuck-thread',
  ];
  const asked = (environment['HOLDFAST_TEST_FAULTS'] ?? '').split(',').filter((fault) => fault !== '');
  if (asked.length === 0) return new Set();
  if (environment['HOLDFAST_TEST'] !== '1') {
    log.error({ asked }, 'HOLDFAST_TEST_FAULTS is ignored without HOLDFAST_TEST=1');
    return new Set();
  }
  const unknown = asked.filter((fault) => !known.includes(fault));
  if (unknown.length > 0) {
    throw new HoldfastError(
      'INVALID',
      `unknown HOLDFAST_TEST_FAULTS ${unknown.join(', ')}: use ${known.join(', ')}`,
    );
  }
  log.error({ faults: asked }, 'TEST FAULTS ARE ON: THIS DAEMON LOSES DATA');
  return new Set(asked);
}
