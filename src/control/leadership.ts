// One daemon of the cluster does the housekeeping: the one whose name stands under a key with a lease. Any can be.
//
// Promises: the work of one daemon never runs twice at once; its signal aborts at once when the lease is lost, by
// our clock before the store's, so that the work of two daemons overlaps at most by what a stalled process has in
// its hands. Whatever the work changes it changes by compare-and-swap, so that even then nothing breaks: leadership
// saves work, it gives no right.

import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { errorText } from '../core/errors.ts';
import type { Logger } from '../observe/log.ts';
import { type KeptLease, keepLease } from './kept-lease.ts';
import { type Store, type StoreLease, UnknownSwapError } from './store.ts';

const KEY = 'housekeeping/leader';
const LEASE_MS = 10_000;
const RETRY_MS = 1000;
/** How long a stop waits for the store to take the lease back. */
const GOODBYE_MS = 2000;

const leaderSchema = z.looseObject({ node: z.string(), process: z.string() });

/** Whose daemon leads now; undefined: nobody's. */
export async function leaderOf(store: Store): Promise<string | undefined> {
  const entry = await store.get(KEY);
  return entry && leaderSchema.parse(JSON.parse(entry.value)).node;
}

export interface LeadershipOptions {
  readonly node: string;
  readonly process: string;
  readonly log: Logger;
  readonly leaseMs?: number;
  readonly retryMs?: number;
  /** Runs while this daemon leads; ends soon after its signal aborts. One that ends before gives the lead up. */
  readonly work: (signal: AbortSignal) => Promise<void>;
}

export class Leadership {
  readonly #store: Store;
  readonly #options: LeadershipOptions;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(store: Store, options: LeadershipOptions) {
    this.#store = store;
    this.#options = options;
  }

  /** Once. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends the work, then lets others lead at once where the store can be told. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    const { log, retryMs = RETRY_MS } = this.#options;
    const { signal } = this.#stop;
    let hadTrouble = false;
    while (!signal.aborted) {
      try {
        await this.#vacancy();
        if (!signal.aborted) await this.#stand();
        hadTrouble = false;
      } catch (error) {
        // Once a trouble, not once a second.
        if (!hadTrouble) log.warn({ reason: errorText(error) }, 'the housekeeping cannot be led or followed');
        hadTrouble = true;
      }
      await sleep(retryMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  /** Returns when nobody leads, or on a stop. */
  async #vacancy(): Promise<void> {
    const { signal } = this.#stop;
    const standing = await this.#store.get(KEY);
    if (standing === undefined) return;
    for await (const event of this.#store.watch(KEY, standing.revision, signal)) {
      if (event.type === 'delete' && event.key === KEY) return;
    }
  }

  /** Leads until the lease is lost or the work ends, if nobody was quicker. */
  async #stand(): Promise<void> {
    const { leaseMs = LEASE_MS, log, work } = this.#options;
    const kept = await keepLease(this.#store, leaseMs);
    try {
      if (!(await this.#take(kept.lease))) return;
      log.info({ leaseMs }, 'this daemon does the housekeeping of the cluster now');
      await work(AbortSignal.any([this.#stop.signal, kept.lost]));
      if (kept.lost.aborted) log.warn({ leaseMs }, 'the lease of the housekeeping is lost: others may do it');
    } finally {
      await goodbye(kept);
    }
  }

  async #take(lease: StoreLease): Promise<boolean> {
    const { node, process } = this.#options;
    try {
      return (await this.#store.compareAndSwap(KEY, 0, JSON.stringify({ node, process }), lease)).swapped;
    } catch (error) {
      if (!(error instanceof UnknownSwapError)) throw error;
      return (await this.#store.settle(error.swap)).outcome === 'committed';
    }
  }
}

/** Where the store cannot be reached the lease runs out by itself. */
async function goodbye(kept: KeptLease): Promise<void> {
  const given = kept.giveBack().catch(() => undefined);
  await Promise.race([given, sleep(GOODBYE_MS, undefined, { ref: false })]);
}
