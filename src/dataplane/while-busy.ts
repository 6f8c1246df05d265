// Waiting for what a process that was just killed still holds: the kernel gives it free when the last of its
// requests has landed.

import { setTimeout as delay } from 'node:timers/promises';
import { isHoldfastError } from '../core/errors.ts';
import { native } from './native.ts';

/** A dead daemon's requests are waited for this long before BUSY reaches the caller. */
const LOCK_WAIT_MS = 30_000;
const LOCK_RETRY_MS = 50;

export async function whileBusy<Result>(
  attempt: () => Promise<Result>,
  waitMs = LOCK_WAIT_MS,
): Promise<Result> {
  const deadlineMs = native.bootTimeMs() + waitMs;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!isHoldfastError(error, 'BUSY') || native.bootTimeMs() > deadlineMs) throw error;
      await delay(LOCK_RETRY_MS);
    }
  }
}
