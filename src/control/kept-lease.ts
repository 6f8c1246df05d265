// A lease that is renewed until it is given back or lost. Lost means: the store said so, or it could not be
// asked for as long as the lease lasts. For liveness of nodes and leadership of housekeeping; who must be sure
// of anything asks the store by compare-and-swap.

import { setTimeout as sleep } from 'node:timers/promises';
import { isHoldfastError } from '../core/errors.ts';
import type { Store, StoreLease } from './store.ts';

/** Renewals in the time of one lease: two may fail. */
const RENEWALS = 3;
/** After a failed renewal, in parts of the lease's time. */
const RETRY_PARTS = 10;

export interface KeptLease {
  readonly lease: StoreLease;
  /** Aborts once, with the error as its reason, when the lease is lost; not when it is given back. */
  readonly lost: AbortSignal;
  /** Ends it at once: the keys under it disappear. Where the store cannot be reached it runs out. */
  giveBack(): Promise<void>;
}

export async function keepLease(store: Store, ttlMs: number): Promise<KeptLease> {
  const lost = new AbortController();
  const done = new AbortController();
  // Counted from before the request: the store's time cannot end before ours.
  const began = performance.now();
  const lease = await store.lease(ttlMs);
  const keeping = keep(lease, { ttlMs, began, lost, done: done.signal });
  return {
    lease,
    lost: lost.signal,
    giveBack: async () => {
      done.abort();
      await keeping;
      await lease.revoke();
    },
  };
}

/** Never rejects. */
async function keep(
  lease: StoreLease,
  options: { ttlMs: number; began: number; lost: AbortController; done: AbortSignal },
): Promise<void> {
  const { ttlMs, lost, done } = options;
  let renewedAt = options.began;
  let pauseMs = ttlMs / RENEWALS;
  const loseLater = (): NodeJS.Timeout =>
    setTimeout(
      () => lost.abort(new Error(`lease ${lease.id} could not be renewed for ${ttlMs} ms`)),
      Math.max(0, renewedAt + ttlMs - performance.now()),
    ).unref();
  let timer = loseLater();
  while (!done.aborted && !lost.signal.aborted) {
    // A stop ends the pause.
    await sleep(pauseMs, undefined, { signal: done, ref: false }).catch(() => undefined);
    if (done.aborted || lost.signal.aborted) break;
    const asked = performance.now();
    try {
      await lease.renew();
      clearTimeout(timer);
      renewedAt = asked;
      timer = loseLater();
      pauseMs = ttlMs / RENEWALS;
    } catch (error) {
      if (isHoldfastError(error, 'NOT_FOUND')) lost.abort(error);
      pauseMs = ttlMs / RETRY_PARTS;
    }
  }
  clearTimeout(timer);
}
