// The store of a single machine, on leveldb. One process owns it (leveldb's lock); all rows are held in
// memory, the database is their durable log.
//
// Promises: a compare-and-swap is durable (one synced batch) before anybody can see it, its caller included;
// swaps are decided one after the other in the order they came, and those that came while a batch was being
// written share the next one. Revisions rise by one with every change and go on over restarts.
// It never believes a second attempt: after a failed write the outcome is unknown, and the store answers
// UNAVAILABLE until the process starts anew and reads what is there.

import { randomBytes } from 'node:crypto';
import { errorText, HoldfastError } from '../core/errors.ts';
import { type Database, openDatabase } from './level-files.ts';
import { FORMAT_VERSION, META_KEY, type Meta, ROW_PREFIX, RowDigest } from './level-format.ts';
import { Draft, entryOf, type Loaded, load, type Row, storedRow } from './level-rows.ts';
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
} from './store.ts';
import { keyOf, revisionOf, StoreHistory } from './store-history.ts';

const MAX_LEASE_MS = 24 * 3600 * 1000;
/** Swaps that share one synced batch, and swaps that may wait for their batch. */
const BATCH_LIMIT = 128;
const QUEUE_LIMIT = 4096;

export interface LevelStoreOptions {
  /** false only where a test of power cuts proves that it would notice. */
  readonly sync?: boolean;
  /** Changes kept for watches. */
  readonly historyLimit?: number;
}

/** A change waiting for its batch. `decide` sees every change before it and returns how to answer once durable. */
interface Job {
  readonly decide: (draft: Draft) => () => void;
  readonly reject: (error: unknown) => void;
}

export class LevelStore implements Store {
  readonly identity: string;
  readonly #directory: string;
  readonly #database: Database;
  readonly #sync: boolean;
  readonly #rows: Map<string, Row>;
  readonly #digest: RowDigest;
  readonly #history: StoreHistory;
  readonly #leases = new Map<string, NodeJS.Timeout>();
  readonly #queue: Job[] = [];
  #revision: number;
  #writer: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #failure: HoldfastError | undefined;

  /** BUSY when another process has it, CORRUPT when it cannot be trusted; keys under a lease are gone. */
  static async open(directory: string, options: LevelStoreOptions = {}): Promise<LevelStore> {
    const database = await openDatabase(directory, async (fresh) => {
      const meta: Meta = {
        version: FORMAT_VERSION,
        identity: randomBytes(16).toString('hex'),
        revision: 1,
        count: 0,
        digest: new RowDigest().hex(),
      };
      await fresh.put(META_KEY, JSON.stringify(meta), { sync: true });
    });
    try {
      const loaded = await load(directory, database);
      const store = new LevelStore(directory, database, loaded, options);
      await store.#endLeases((row) => row.leaseId !== undefined);
      return store;
    } catch (error) {
      await database.close();
      throw error;
    }
  }

  private constructor(directory: string, database: Database, loaded: Loaded, options: LevelStoreOptions) {
    this.identity = loaded.meta.identity;
    this.#directory = directory;
    this.#database = database;
    this.#sync = options.sync ?? true;
    this.#rows = loaded.rows;
    this.#digest = loaded.digest;
    this.#revision = loaded.meta.revision;
    this.#history = new StoreHistory(loaded.meta.revision, options.historyLimit ?? 4096);
  }

  async get(key: string): Promise<StoreEntry | undefined> {
    this.#assertUsable();
    const row = this.#rows.get(key);
    return row && entryOf(key, row);
  }

  async list(prefix: string): Promise<StoreEntry[]> {
    this.#assertUsable();
    const entries: StoreEntry[] = [];
    for (const [key, row] of this.#rows) {
      if (key.startsWith(prefix)) entries.push(entryOf(key, row));
    }
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async compareAndSwap(
    key: string,
    expectedRevision: number,
    value: string | undefined,
    lease?: StoreLease,
  ): Promise<SwapResult> {
    checkKey(key);
    if (value !== undefined) checkValue(key, value);
    this.#assertUsable();
    const leaseId = lease?.id;
    const sentAtRevision = this.#revision;
    try {
      return await this.#swap(key, expectedRevision, value, leaseId);
    } catch (error) {
      if (error !== this.#failure) throw error;
      const proposal = randomBytes(12).toString('hex');
      const swap = { key, expectedRevision, value, leaseId, proposal, sentAtRevision };
      throw new UnknownSwapError('UNAVAILABLE', errorText(error), swap, error);
    }
  }

  /** A store that failed settles nothing until it is opened anew; rows do not name the swap that made them. */
  async settle(swap: UnknownSwap): Promise<SettledSwap> {
    this.#assertUsable();
    const result = await this.#swap(swap.key, swap.expectedRevision, swap.value, swap.leaseId);
    return result.swapped
      ? { outcome: 'committed', revision: result.revision }
      : { outcome: 'superseded', current: result.current };
  }

  async #swap(
    key: string,
    expectedRevision: number,
    value: string | undefined,
    leaseId: string | undefined,
  ): Promise<SwapResult> {
    return await this.#enqueue((draft): SwapResult => {
      if (leaseId !== undefined && !this.#leases.has(leaseId)) throw leaseGone(leaseId);
      const current = draft.get(key);
      if ((current?.revision ?? 0) !== expectedRevision) {
        return { swapped: false, current: current && entryOf(key, current) };
      }
      // Nothing was expected and nothing is wanted: true already, and no change.
      if (current === undefined && value === undefined) return { swapped: true, revision: draft.revision };
      return { swapped: true, revision: draft.set(key, value, leaseId) };
    });
  }

  async *watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncGenerator<StoreEvent> {
    let seenRevision = afterRevision;
    while (!signal.aborted) {
      this.#assertUsable();
      const events = this.#history.after(seenRevision);
      if (events.length === 0) await this.#history.changed(signal);
      for (const event of events) {
        if (signal.aborted) return;
        seenRevision = revisionOf(event);
        if (keyOf(event).startsWith(prefix)) yield event;
      }
    }
  }

  async revision(): Promise<number> {
    this.#assertUsable();
    return this.#revision;
  }

  async lease(ttlMs: number): Promise<StoreLease> {
    this.#assertUsable();
    if (!(ttlMs >= 1 && ttlMs <= MAX_LEASE_MS)) {
      throw new HoldfastError('INVALID', `A lease lasts between 1 ms and a day, not ${ttlMs} ms.`);
    }
    const id = randomBytes(16).toString('hex');
    const timer = setTimeout(() => {
      // Fails only when the store has failed, and then every caller is told.
      this.#endLease(id).catch(() => undefined);
    }, ttlMs).unref();
    this.#leases.set(id, timer);
    return {
      id,
      renew: async () => {
        this.#assertUsable();
        if (!this.#leases.has(id)) throw leaseGone(id);
        timer.refresh();
      },
      revoke: async () => await this.#endLease(id),
    };
  }

  /** Writes what was accepted, then lets go of the directory. A second call waits for the first. */
  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async #close(): Promise<void> {
    for (const timer of this.#leases.values()) clearTimeout(timer);
    await this.#writer;
    this.#history.wake();
    await this.#database.close();
  }

  async #endLease(id: string): Promise<void> {
    const timer = this.#leases.get(id);
    if (timer === undefined) return;
    clearTimeout(timer);
    this.#leases.delete(id);
    await this.#endLeases((row) => row.leaseId === id);
  }

  async #endLeases(isOver: (row: Row) => boolean): Promise<void> {
    await this.#enqueue((draft) => {
      for (const [key, row] of draft.all()) {
        if (isOver(row)) draft.set(key, undefined, undefined);
      }
    });
  }

  #assertUsable(): void {
    if (this.#failure) throw this.#failure;
    if (this.#closing) throw new HoldfastError('UNAVAILABLE', 'The store is closed: the daemon is stopping.');
  }

  async #enqueue<T>(decide: (draft: Draft) => T): Promise<T> {
    this.#assertUsable();
    if (this.#queue.length >= QUEUE_LIMIT) {
      throw new HoldfastError('BUSY', 'Too many changes wait for the store: try again in a moment.');
    }
    return await new Promise<T>((resolve, reject) => {
      this.#queue.push({
        reject,
        decide: (draft) => {
          const answer = decide(draft);
          return () => resolve(answer);
        },
      });
      this.#writer ??= this.#writeQueue();
    });
  }

  /** Runs while there are jobs; never rejects. */
  async #writeQueue(): Promise<void> {
    await Promise.resolve(); // everything asked for in this turn shares the first batch
    while (this.#queue.length > 0) await this.#writeBatch(this.#queue.splice(0, BATCH_LIMIT));
    this.#writer = undefined;
  }

  async #writeBatch(jobs: readonly Job[]): Promise<void> {
    const draft = new Draft(this.#rows, this.#revision);
    const answers = jobs.map((job) => {
      try {
        return job.decide(draft);
      } catch (error) {
        return () => job.reject(error);
      }
    });
    try {
      await this.#commit(draft);
    } catch (error) {
      this.#fail(error, jobs);
      return;
    }
    for (const answer of answers) answer();
  }

  async #commit(draft: Draft): Promise<void> {
    if (draft.events.length === 0) return;
    const operations: ({ type: 'put'; key: string; value: string } | { type: 'del'; key: string })[] = [];
    let count = this.#rows.size;
    for (const [key, row] of draft.changes) {
      const before = this.#rows.get(key);
      if (before) this.#digest.toggle(key, storedRow(before));
      if (row) this.#digest.toggle(key, storedRow(row));
      count += (row ? 1 : 0) - (before ? 1 : 0);
      operations.push(
        row
          ? { type: 'put', key: ROW_PREFIX + key, value: JSON.stringify(storedRow(row)) }
          : { type: 'del', key: ROW_PREFIX + key },
      );
    }
    const meta: Meta = {
      version: FORMAT_VERSION,
      identity: this.identity,
      revision: draft.revision,
      count,
      digest: this.#digest.hex(),
    };
    operations.push({ type: 'put', key: META_KEY, value: JSON.stringify(meta) });
    await this.#database.batch(operations, { sync: this.#sync });

    for (const [key, row] of draft.changes) {
      if (row) this.#rows.set(key, row);
      else this.#rows.delete(key);
    }
    this.#revision = draft.revision;
    this.#history.append(draft.events);
  }

  #fail(cause: unknown, jobs: readonly Job[]): void {
    this.#failure = new HoldfastError(
      'UNAVAILABLE',
      `The store in ${this.#directory} could not be written (${errorText(cause)}): whether the last change is there is unknown. ` +
        'Check the space and the health of its disk, then restart the daemon.',
      { cause },
    );
    for (const job of [...jobs, ...this.#queue.splice(0)]) job.reject(this.#failure);
    this.#history.wake();
  }
}

function leaseGone(id: string): HoldfastError {
  return new HoldfastError('NOT_FOUND', `Lease ${id} has run out: take a new one.`);
}
