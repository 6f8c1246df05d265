// The store of a cluster, in etcd (3.4 and newer).
//
// Promises: a swap is one transaction that compares the key's revision and this store's identity, so it
// cannot land in another store; it is sent once; without an answer it is UnknownSwapError, and its proposal,
// which stands before the value, lets `settle` find it again. Reads are linearizable. What shows that etcd
// was restored or replaced makes every later call CORRUPT until the daemon is started anew; a swap that is the
// first to meet a restored store may have landed there.

import { HoldfastError } from '../../core/errors.ts';
import {
  checkKey,
  checkValue,
  type SettledSwap,
  type Store,
  type StoreEntry,
  type StoreEvent,
  type StoreLease,
  type SwapResult,
  type UnknownSwap,
  UnknownSwapError,
} from '../store.ts';
import { EtcdCallError, holdfastErrorOf } from './call-error.ts';
import { EtcdClient, type EtcdClientOptions, storeClosed } from './client.ts';
import { HistoryGuard, type StorePosition } from './history-guard.ts';
import { readIdentity } from './identity.ts';
import { EtcdLeases } from './leases.ts';
import { EtcdReads } from './reads.ts';
import { outcomeInHistory } from './settle.ts';
import { encodeValue, KeySpace, newProposal, type StoredEntry } from './stored-value.ts';
import { EtcdWatch, type WatchContext } from './watch.ts';

export interface EtcdStoreOptions extends EtcdClientOptions {
  /** Everything of this store stands below it. */
  readonly prefix: string;
  /** From `position` of an earlier run: a store that is not this one, or behind it, is CORRUPT. */
  readonly seen?: StorePosition | undefined;
  /** What says that there is a store already; undefined: it is made if there is none. */
  readonly evidence?: string | undefined;
}

export class EtcdStore implements Store {
  readonly identity: string;
  readonly #context: WatchContext;
  readonly #identityValue: Buffer;
  readonly #leases: EtcdLeases;
  readonly #writes = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;

  /** Makes the store if nothing is below the prefix, and nothing says that there should be. */
  static async open(options: EtcdStoreOptions): Promise<EtcdStore> {
    const client = new EtcdClient(options);
    const keys = new KeySpace(options.prefix);
    try {
      const { identity, value, clusterId } = await readIdentity(client, keys, options);
      const guard = new HistoryGuard(
        options.seen ?? { identity, clusterId, memberId: '', revision: 0, raftTerm: 0, raftIndex: 0 },
      );
      const store = new EtcdStore(
        { client, guard, keys, reads: new EtcdReads(client, guard, keys) },
        identity,
        value,
      );
      await store.position();
      return store;
    } catch (error) {
      client.close();
      throw holdfastErrorOf(error, client.addresses);
    }
  }

  private constructor(context: WatchContext, identity: string, identityValue: Buffer) {
    this.identity = identity;
    this.#context = context;
    this.#identityValue = identityValue;
    this.#leases = new EtcdLeases(context.client);
  }

  async get(key: string): Promise<StoreEntry | undefined> {
    return await this.#answer(async () => {
      const { reads, keys } = this.#context;
      const [stored] = (await reads.range({ key: keys.key(key) })).kvs;
      return stored && entryOf(keys.entry(stored));
    });
  }

  async list(prefix: string): Promise<StoreEntry[]> {
    return await this.#answer(async () => {
      const { reads, keys } = this.#context;
      const { kvs } = await reads.list(keys.range(prefix));
      return kvs.map((kv) => entryOf(keys.entry(kv)));
    });
  }

  async compareAndSwap(
    key: string,
    expectedRevision: number,
    value: string | undefined,
    lease?: StoreLease,
  ): Promise<SwapResult> {
    checkKey(key);
    if (value !== undefined) checkValue(key, value);
    const { revision: sentAtRevision } = this.#context.guard.mark();
    const proposal = newProposal();
    return await this.#swap({ key, expectedRevision, value, leaseId: lease?.id, proposal, sentAtRevision });
  }

  async settle(swap: UnknownSwap): Promise<SettledSwap> {
    // Either this commits it, or its expected revision has passed: then it cannot come later.
    const result = await this.#swap(swap);
    if (result.swapped) return { outcome: 'committed', revision: result.revision };
    try {
      return await outcomeInHistory(this.#context, swap, result.current);
    } catch (error) {
      throw this.#errorOf(swap, error);
    }
  }

  async *watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncGenerator<StoreEvent> {
    if (signal.aborted) return;
    this.#assertOpen();
    const watch = new EtcdWatch(this.#context, prefix, afterRevision);
    try {
      yield* watch.events(AbortSignal.any([signal, this.#closing.signal]));
    } catch (error) {
      throw holdfastErrorOf(error, this.#context.client.addresses);
    }
    if (!signal.aborted) this.#assertOpen();
  }

  async revision(): Promise<number> {
    return await this.#answer(async () => await this.#context.reads.revision());
  }

  /** Where the store is now: keep it, and give it to `open` the next time. */
  async position(): Promise<StorePosition> {
    return await this.#answer(async () => await this.#context.reads.position());
  }

  async lease(ttlMs: number): Promise<StoreLease> {
    const guarded = async <T>(make: () => Promise<T>): Promise<T> => await this.#answer(make);
    return await guarded(async () => await this.#leases.grant(ttlMs, guarded));
  }

  /** Waits for the swaps in flight: they have a deadline. */
  async close(): Promise<void> {
    this.#closed ??= this.#close();
    await this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    await Promise.allSettled(this.#writes);
    this.#context.client.close();
  }

  async #swap(swap: UnknownSwap): Promise<SwapResult> {
    this.#assertOpen();
    const write = this.#transact(swap);
    this.#writes.add(write);
    try {
      return await write;
    } catch (error) {
      throw this.#errorOf(swap, error);
    } finally {
      this.#writes.delete(write);
    }
  }

  async #transact({ key, expectedRevision, value, leaseId, proposal }: UnknownSwap): Promise<SwapResult> {
    const { client, guard, keys } = this.#context;
    const mark = guard.mark();
    const stored = keys.key(key);
    const response = await client.once('Txn', {
      compare: [
        { target: 'MOD', key: stored, mod_revision: String(expectedRevision) },
        { target: 'VALUE', key: keys.identity, value: this.#identityValue },
      ],
      success: [
        value === undefined
          ? { request_delete_range: { key: stored } }
          : { request_put: { key: stored, value: encodeValue(proposal, value), lease: leaseId ?? '0' } },
      ],
      failure: [{ request_range: { key: stored } }, { request_range: { key: keys.identity } }],
    });
    guard.check(response.header, mark);
    if (response.succeeded) return { swapped: true, revision: Number(response.header?.revision) };
    const [found, identity] = response.responses.map((part) => part.response_range?.kvs[0]);
    if (!this.#identityValue.equals(identity?.value ?? Buffer.alloc(0))) {
      guard.refuse('identity', this.identity, Buffer.from(identity?.value ?? []).toString() || 'none');
    }
    const current = found && keys.entry(found);
    // Settled for the second time, or repeated by something on the way: it had happened.
    if (current?.proposal === proposal) return { swapped: true, revision: current.revision };
    return { swapped: false, current: current && entryOf(current) };
  }

  #errorOf(swap: UnknownSwap, error: unknown): unknown {
    if (swap.leaseId !== undefined && isLeaseGone(error)) return this.#leases.gone(swap.leaseId);
    const told = holdfastErrorOf(error, this.#context.client.addresses);
    if (!(error instanceof EtcdCallError) || error.kind !== 'unknown' || !(told instanceof HoldfastError)) {
      return told;
    }
    const code = told.code === 'TIMEOUT' ? 'TIMEOUT' : 'UNAVAILABLE';
    return new UnknownSwapError(
      code,
      `${told.message} Whether the change of ${swap.key} was made is unknown.`,
      swap,
      error,
    );
  }

  async #answer<T>(make: () => Promise<T>): Promise<T> {
    this.#assertOpen();
    try {
      return await make();
    } catch (error) {
      throw holdfastErrorOf(error, this.#context.client.addresses);
    }
  }

  #assertOpen(): void {
    if (this.#closing.signal.aborted) throw storeClosed();
  }
}

function entryOf({ key, value, revision }: StoredEntry): StoreEntry {
  return { key, value, revision };
}

function isLeaseGone(error: unknown): boolean {
  return error instanceof EtcdCallError && /requested lease not found/.test(error.message);
}
