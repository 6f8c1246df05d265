// The records of all volumes for whoever looks at them over and over: listed once, then followed by the store's watch, so
// that a round costs the store nothing. What it shows may be behind by as much as the watch is: who decides reads the
// record again. As a net below the watch everything is listed anew at a long interval, and whenever the watch ends.

import type { VolumeRecord } from './records.ts';
import type { Stored, VolumeRecords } from './volume-records.ts';

const RELIST_INTERVAL_MS = 10 * 60_000;

export class FollowedRecords {
  readonly #records: Pick<VolumeRecords, 'revision' | 'listChanges' | 'watch'>;
  readonly #relistMs: number;
  /** By volume id; undefined: nothing is followed. Records that cannot be understood are left out. */
  #known: Map<string, Stored<VolumeRecord>> | undefined;
  #listedMs = 0;
  #following = new AbortController();

  constructor(
    records: Pick<VolumeRecords, 'revision' | 'listChanges' | 'watch'>,
    relistMs = RELIST_INTERVAL_MS,
  ) {
    this.#records = records;
    this.#relistMs = relistMs;
  }

  /** In all states. Nothing is followed any more once `signal` aborts. Throws what the store throws at a listing. */
  async list(signal: AbortSignal): Promise<VolumeRecord[]> {
    const isOld = performance.now() - this.#listedMs >= this.#relistMs;
    const known = this.#known === undefined || isOld ? await this.#listAnew(signal) : this.#known;
    return [...known.values()].map(({ value }) => value);
  }

  async #listAnew(signal: AbortSignal): Promise<Map<string, Stored<VolumeRecord>>> {
    this.#following.abort();
    // Before the listing: what changes after it is seen, some of it twice.
    const revision = await this.#records.revision();
    const known = new Map<string, Stored<VolumeRecord>>();
    for (const { volumeId, stored } of await this.#records.listChanges())
      if (stored !== undefined) known.set(volumeId, stored);
    this.#known = known;
    this.#listedMs = performance.now();
    this.#following = new AbortController();
    void this.#follow(known, revision, AbortSignal.any([signal, this.#following.signal]));
    return known;
  }

  /** Never rejects: at its end, whatever the reason, the next look lists. */
  async #follow(
    known: Map<string, Stored<VolumeRecord>>,
    revision: number,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      for await (const { volumeId, stored } of this.#records.watch(revision, signal)) {
        if (stored === undefined) known.delete(volumeId);
        else if (stored.revision >= (known.get(volumeId)?.revision ?? 0)) known.set(volumeId, stored);
      }
    } catch {
      // A store that does not answer says so to the next listing.
    }
    if (this.#known === known) this.#known = undefined;
  }
}
