// The cluster's configuration memory, as a contract of five operations. Few small objects, changed
// rarely and only by compare-and-swap; nothing here is on the path of a user's write.
// Every implementation runs the suite in test/store-contract.ts.

import { type ErrorCode, HoldfastError } from '../core/errors.ts';

const MAX_VALUE_BYTES = 256 * 1024;
const MAX_KEY_LENGTH = 512;

export interface StoreEntry {
  /** 1 to 512 printable ASCII characters. */
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

/** A swap that was sent and not answered: it may have happened, may happen yet, or never. */
export interface UnknownSwap {
  readonly key: string;
  readonly expectedRevision: number;
  readonly value: string | undefined;
  readonly leaseId: string | undefined;
  /** 24 hex digits. Names this one attempt to change the key, wherever it is seen again. */
  readonly proposal: string;
  /** The store had at least this revision when it was sent. */
  readonly sentAtRevision: number;
}

/** What `compareAndSwap` throws when it cannot know; no other error of it leaves the outcome open. */
export class UnknownSwapError extends HoldfastError {
  readonly swap: UnknownSwap;

  constructor(
    code: Extract<ErrorCode, 'UNAVAILABLE' | 'TIMEOUT'>,
    message: string,
    swap: UnknownSwap,
    cause: unknown,
  ) {
    super(code, message, { cause });
    this.swap = swap;
  }
}

export type SettledSwap =
  /** It happened, once, with this revision; later changes may have followed. */
  | { readonly outcome: 'committed'; readonly revision: number }
  /** It never happened and never will. `current` is what stands there. */
  | { readonly outcome: 'refused'; readonly current: StoreEntry | undefined }
  /** It will not happen any more; whether it had is beyond telling: others changed the key since. */
  | { readonly outcome: 'superseded'; readonly current: StoreEntry | undefined };

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
   * Durable when it resolves. Ends in one of three ways: swapped, not swapped, or UnknownSwapError when the
   * outcome is unknown, which is never to be taken for 'failed': settle it. A reply that comes late changes
   * nothing for the caller. After any other error nothing has changed, nor will.
   */
  compareAndSwap(
    key: string,
    expectedRevision: number,
    value: string | undefined,
    lease?: StoreLease,
  ): Promise<SwapResult>;
  /**
   * Decides a swap whose outcome was unknown, by trying it again under its old name: it never happens twice,
   * and once this resolves it never happens later. Throws UnknownSwapError while the store does not answer,
   * NOT_FOUND when its lease is over, and with it whatever it had written.
   */
  settle(swap: UnknownSwap): Promise<SettledSwap>;
  /**
   * Every change of a key below `prefix` after `afterRevision`, in order. Throws OUT_OF_RANGE when that
   * history is gone: list, then watch from what the list showed. A watch that was cut off and finds the
   * history of the meantime gone leaves out what was overwritten then; it shows every key's newest state, and
   * never an older one after a newer. Deletions by one lease may share a revision. Ends on abort.
   */
  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<StoreEvent>;
  /** The store's current revision: ask before a list, to watch from there afterwards. */
  revision(): Promise<number>;
  /** Liveness of nodes and leadership of housekeeping only; never the right to serve. */
  lease(ttlMs: number): Promise<StoreLease>;
  close(): Promise<void>;
}

/** INVALID unless it may be a key. */
export function checkKey(key: string): void {
  if (key.length > MAX_KEY_LENGTH || !/^[\x21-\x7e]+$/.test(key)) {
    throw new HoldfastError(
      'INVALID',
      `A store key is 1 to ${MAX_KEY_LENGTH} printable ASCII characters, not ${JSON.stringify(key)}.`,
    );
  }
}

/** INVALID when it is too large. */
export function checkValue(key: string, value: string): void {
  const bytes = Buffer.byteLength(value);
  if (bytes > MAX_VALUE_BYTES) {
    throw new HoldfastError(
      'INVALID',
      `The value of ${key} has ${bytes} bytes; the store takes at most ${MAX_VALUE_BYTES}.`,
    );
  }
}
