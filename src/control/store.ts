// The cluster's configuration memory, as a contract of five operations. Few small objects, changed
// rarely and only by compare-and-swap; nothing here is on the path of a user's write.
// Every implementation runs the suite in test/store-contract.ts.

export interface StoreEntry {
  readonly key: string;
  /** JSON text. At most 256 KiB. */
  readonly value: string;
  /** Rises with every change of the store; equal revisions of a key mean equal values. Always > 0. */
  readonly revision: number;
}

export type SwapResult =
  | { readonly swapped: true; readonly revision: number }
  /** `current` is what stood there instead; undefined when the key did not exist. */
  | { readonly swapped: false; readonly current: StoreEntry | undefined };

export type StoreEvent =
  | { readonly type: 'put'; readonly entry: StoreEntry }
  | { readonly type: 'delete'; readonly key: string; readonly revision: number };

export interface StoreLease {
  readonly id: string;
  /** Extends the lease by its full time. Throws NOT_FOUND when it has already run out. */
  renew(): Promise<void>;
  /** Ends it at once; keys put under it disappear. */
  revoke(): Promise<void>;
}

export interface Store {
  /** Names this store for good: a daemon that sees another identity than before does not serve. */
  readonly identity: string;
  /** Linearizable. */
  get(key: string): Promise<StoreEntry | undefined>;
  /** Linearizable, one snapshot, sorted by key. */
  list(prefix: string): Promise<StoreEntry[]>;
  /**
   * Puts `value` (undefined: deletes) if the key's revision is `expectedRevision` (0: the key does not exist).
   * Durable when it resolves. Throws UNAVAILABLE or TIMEOUT when the outcome is unknown; a reply that
   * comes late changes nothing for the caller: it reads again.
   */
  compareAndSwap(
    key: string,
    expectedRevision: number,
    value: string | undefined,
    lease?: StoreLease,
  ): Promise<SwapResult>;
  /**
   * Every change of a key below `prefix` after `afterRevision`, in order, without gaps. Throws
   * OUT_OF_RANGE when that history is gone: list, then watch from what the list showed. Ends on abort.
   */
  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<StoreEvent>;
  /** The store's current revision: where to start a watch after a list. */
  revision(): Promise<number>;
  /** Liveness of nodes and leadership of housekeeping only; never the right to serve. */
  lease(ttlMs: number): Promise<StoreLease>;
  close(): Promise<void>;
}
