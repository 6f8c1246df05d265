// Linearizable reads, each checked by the history guard. A list of several pages is read at one revision.

import { status } from '@grpc/grpc-js';
import { EtcdCallError } from './call-error.ts';
import type { EtcdClient } from './client.ts';
import type { CallOptions, Endpoint } from './endpoint.ts';
import type { HistoryGuard, StorePosition } from './history-guard.ts';
import type { KeyValue, RangeRequest, RangeResponse, Sent } from './messages.ts';
import type { KeySpace } from './stored-value.ts';

/** Values have up to 256 KiB: 16 MiB a page at most. */
const PAGE_KEYS = 64;
/** A list whose revision is compacted away while it is read begins again. */
const LIST_ATTEMPTS = 5;

export class EtcdReads {
  readonly #client: EtcdClient;
  readonly #guard: HistoryGuard;
  readonly #identity: Buffer;

  constructor(client: EtcdClient, guard: HistoryGuard, keys: KeySpace) {
    this.#client = client;
    this.#guard = guard;
    this.#identity = keys.identity;
  }

  async range(request: Sent<RangeRequest>): Promise<RangeResponse> {
    const mark = this.#guard.mark();
    const response = await this.#client.repeatable('Range', request);
    this.#guard.check(response.header, mark);
    return response;
  }

  /** Sorted by key. Of now, or of `atRevision`: then OUT_OF_RANGE when that is compacted. */
  async list(
    range: { readonly key: Buffer; readonly range_end: Buffer },
    options: { readonly atRevision?: number; readonly keysOnly?: boolean } = {},
  ): Promise<{ kvs: KeyValue[]; revision: number }> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#listOnce(range, options.atRevision ?? 0, options.keysOnly ?? false);
      } catch (error) {
        if (!isCompacted(error) || options.atRevision !== undefined || attempt === LIST_ATTEMPTS) throw error;
      }
    }
  }

  /** Where the store is now; the raft index of the very member that answered. */
  async position(): Promise<StorePosition> {
    const mark = this.#guard.mark();
    return await this.#client.attempt(async (endpoint, options) => {
      const read = await endpoint.call('Range', { key: this.#identity, count_only: true }, options);
      // After a linearizable read the member knows everything that was committed before.
      const raftIndex = await this.#raftIndex(endpoint, options);
      return this.#guard.check(read.header, mark, raftIndex);
    });
  }

  /** 0 where this user may not ask for it. */
  async #raftIndex(endpoint: Endpoint, options: CallOptions): Promise<number> {
    try {
      return Number((await endpoint.call('Status', {}, options)).raftIndex);
    } catch (error) {
      if (error instanceof EtcdCallError && error.kind === 'refused') return 0;
      throw error;
    }
  }

  async revision(): Promise<number> {
    return Number((await this.range({ key: this.#identity, count_only: true })).header?.revision);
  }

  async #listOnce(
    range: { readonly key: Buffer; readonly range_end: Buffer },
    atRevision: number,
    keysOnly: boolean,
  ): Promise<{ kvs: KeyValue[]; revision: number }> {
    const kvs: KeyValue[] = [];
    let key = range.key;
    let revision = atRevision;
    for (;;) {
      const page = await this.range({
        key,
        range_end: range.range_end,
        limit: String(PAGE_KEYS),
        revision: String(revision),
        keys_only: keysOnly,
      });
      if (revision === 0) revision = Number(page.header?.revision);
      kvs.push(...page.kvs);
      const last = page.kvs.at(-1);
      if (!page.more || last === undefined) return { kvs, revision };
      // The first possible key after the last one.
      key = Buffer.concat([last.key, Buffer.of(0)]);
    }
  }
}

/** The revision that was asked for is no longer kept, or (after a restore) not yet there. */
export function isCompacted(error: unknown): boolean {
  return error instanceof EtcdCallError && error.status === status.OUT_OF_RANGE;
}
