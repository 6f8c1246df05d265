// The configurations that replicas read and propose, in the volumes' records.
//
// Promises: never rejects, but for a broken invariant, and answers in bounded time. Whatever leaves a doubt is
// 'unknown' or no answer, never 'conflict' or 'gone': on those a replica acts. Of a change that is answered
// 'unknown' it is not known either whether it comes later; it is one compare-and-swap at the revision that it was
// proposed for, so it comes before every other change or never.

import { HoldfastError } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';
import type { ConfigStore } from '../dataplane/cluster-storage.ts';
import { inTime } from '../dataplane/in-time.ts';
import type { StoredConfig, VolumeConfig } from '../replication/config.ts';
import type { ProposalOutcome } from '../replication/ports.ts';
import type { VolumeRecord } from './records.ts';
import { configOf, withConfig } from './volume-config.ts';
import type { Stored, VolumeRecords } from './volume-records.ts';

/** Longer than any call of a store: for one that has stopped keeping its own time. */
const ANSWER_LIMIT_MS = 6000;

export class RecordConfigs implements ConfigStore {
  readonly #records: Pick<VolumeRecords, 'readStored' | 'swap'>;
  readonly #limitMs: number;

  constructor(records: Pick<VolumeRecords, 'readStored' | 'swap'>, limitMs = ANSWER_LIMIT_MS) {
    this.#records = records;
    this.#limitMs = limitMs;
  }

  async read(volumeId: string): Promise<StoredConfig | 'gone' | undefined> {
    return await this.#answer(
      async () => storedConfigOf(await this.#records.readStored(volumeId)) ?? 'gone',
      undefined,
    );
  }

  async swap(volumeId: string, baseRevision: number, config: VolumeConfig): Promise<ProposalOutcome> {
    return await this.#answer<ProposalOutcome>(
      async () => {
        const standing = await this.#records.readStored(volumeId);
        const current = storedConfigOf(standing);
        if (standing === undefined || current?.revision !== baseRevision)
          return { type: 'conflict', current };
        const result = await this.#records.swap(standing, withConfig(standing.value, config));
        return result.swapped
          ? { type: 'committed', revision: result.revision }
          : { type: 'conflict', current: storedConfigOf(result.current) };
      },
      { type: 'unknown' },
    );
  }

  async #answer<T>(ask: () => Promise<T>, doubt: T): Promise<T> {
    try {
      return await inTime(ask(), this.#limitMs, () => new HoldfastError('TIMEOUT', 'the store is silent'));
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      return doubt;
    }
  }
}

/** undefined: the volume is gone, or on its way. */
function storedConfigOf(stored: Stored<VolumeRecord> | undefined): StoredConfig | undefined {
  if (stored === undefined || stored.value.state === 'deleting') return undefined;
  return { config: configOf(stored.value), revision: stored.revision };
}
