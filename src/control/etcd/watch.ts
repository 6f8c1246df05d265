// A watch that outlives connections, servers and compactions.
//
// It remembers the revision of every key below its prefix. After a cut it goes on from the last revision it
// has shown; if that history was compacted meanwhile it lists, and shows the difference to what it remembers:
// the newest state of every key that changed, deletions included. It never shows an older state after a newer.
//
// A stream that is silent is asked for a sign of life. The revision in that answer is not used: servers
// before 3.4.25 may send it ahead of events that it covers.

import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceError } from '@grpc/grpc-js';
import { HoldfastError } from '../../core/errors.ts';
import type { StoreEntry, StoreEvent } from '../store.ts';
import { keyOf, revisionOf } from '../store-history.ts';
import { callError, EtcdCallError, isTokenProblem } from './call-error.ts';
import type { EtcdClient } from './client.ts';
import type { EtcdStream } from './endpoint.ts';
import type { HistoryGuard } from './history-guard.ts';
import type { Event, WatchResponse } from './messages.ts';
import { type EtcdReads, isCompacted } from './reads.ts';
import type { KeySpace } from './stored-value.ts';

/** Silence until a sign of life is asked for, and again until the stream is given up. */
const SILENCE_MS = 3000;
const PAUSE_MS = 200;

export interface WatchContext {
  readonly client: EtcdClient;
  readonly guard: HistoryGuard;
  readonly reads: EtcdReads;
  readonly keys: KeySpace;
}

type Ending = 'cut' | 'silent' | 'compacted' | 'badToken';

export class EtcdWatch {
  readonly #context: WatchContext;
  readonly #range: { readonly key: Buffer; readonly range_end: Buffer };
  /** Key → revision, as far as shown. */
  readonly #known = new Map<string, number>();
  #shownRevision: number;

  constructor(context: WatchContext, prefix: string, afterRevision: number) {
    this.#context = context;
    this.#range = context.keys.range(prefix);
    this.#shownRevision = afterRevision;
  }

  /** Ends when `signal` aborts. */
  async *events(signal: AbortSignal): AsyncGenerator<StoreEvent> {
    let next: 'learn' | 'compare' | 'follow' = 'learn';
    while (!signal.aborted) {
      try {
        if (next === 'learn') await unlessAborted(this.#learnKeys(), signal);
        // The check that this is still the same store: a watch of the future would wait for ever.
        else if (next === 'follow') await unlessAborted(this.#context.reads.position(), signal);
        else yield* await unlessAborted(this.#difference(), signal);
        next = 'follow';
        const ending = yield* this.#stream(signal);
        if (ending === 'badToken') this.#context.client.forgetToken();
        if (ending === 'compacted') next = 'compare';
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof EtcdCallError) || error.kind === 'refused') throw error;
        await sleep(PAUSE_MS);
      }
    }
  }

  /** OUT_OF_RANGE when the history after `afterRevision` is gone. */
  async #learnKeys(): Promise<void> {
    if (this.#shownRevision < 1) return;
    try {
      const options = { atRevision: this.#shownRevision, keysOnly: true };
      const { kvs } = await this.#context.reads.list(this.#range, options);
      for (const kv of kvs) this.#known.set(this.#context.keys.keyOf(kv.key), Number(kv.mod_revision));
    } catch (error) {
      if (!isCompacted(error)) throw error;
      // Not kept any more, or not there yet: that would be a store taken back in time.
      await this.#context.reads.position();
      throw new HoldfastError(
        'OUT_OF_RANGE',
        `The store's changes after revision ${this.#shownRevision} are no longer kept: list, and watch from what the list showed.`,
        { cause: error, details: { askedRevision: this.#shownRevision } },
      );
    }
  }

  /** What has changed since, as events to show. */
  async #difference(): Promise<Iterable<StoreEvent>> {
    const { kvs, revision } = await this.#context.reads.list(this.#range);
    const entries = kvs.map((kv) => withoutProposal(this.#context.keys.entry(kv)));
    const present = new Set(entries.map(({ key }) => key));
    const gone = [...this.#known.keys()].filter((key) => !present.has(key));
    const events: StoreEvent[] = [
      ...entries
        .filter((entry) => entry.revision > (this.#known.get(entry.key) ?? 0))
        .sort((a, b) => a.revision - b.revision)
        .map((entry) => ({ type: 'put' as const, entry })),
      ...gone.map((key) => ({ type: 'delete' as const, key, revision })),
    ];
    for (const event of events) this.#learn(event);
    this.#shownRevision = revision;
    return events;
  }

  /** Returns why it ended; throws only what no other server would answer differently. */
  async *#stream(signal: AbortSignal): AsyncGenerator<StoreEvent, Ending> {
    const { stream, leave } = await this.#context.client.watch();
    const cancel = (): void => stream.cancel();
    signal.addEventListener('abort', cancel);
    try {
      if (signal.aborted) return 'cut';
      stream.write({
        create_request: { ...this.#range, start_revision: String(this.#shownRevision + 1) },
      });
      const responses = stream[Symbol.asyncIterator]() as AsyncIterator<WatchResponse, undefined>;
      for (;;) {
        const response = await nextResponse(stream, responses);
        if (response === 'cut' || response === 'silent') {
          if (!signal.aborted) leave(response === 'silent');
          if (!signal.aborted) await sleep(PAUSE_MS);
          return response;
        }
        this.#context.guard.checkCluster(response.header);
        if (response.canceled) return endingOf(response);
        yield* this.#show(response.events);
      }
    } finally {
      signal.removeEventListener('abort', cancel);
      stream.cancel();
    }
  }

  *#show(events: readonly Event[]): Generator<StoreEvent> {
    for (const { type, kv } of events) {
      if (kv === null || kv === undefined) continue;
      const event: StoreEvent =
        type === 'PUT'
          ? { type: 'put', entry: withoutProposal(this.#context.keys.entry(kv)) }
          : { type: 'delete', key: this.#context.keys.keyOf(kv.key), revision: Number(kv.mod_revision) };
      if (revisionOf(event) <= this.#shownRevision) continue;
      this.#learn(event);
      yield event;
    }
    // All changes of one revision come in one response.
    this.#shownRevision = Math.max(this.#shownRevision, Number(events.at(-1)?.kv?.mod_revision ?? 0));
  }

  #learn(event: StoreEvent): void {
    if (event.type === 'put') this.#known.set(keyOf(event), revisionOf(event));
    else this.#known.delete(keyOf(event));
  }
}

function endingOf(response: WatchResponse): Ending {
  if (response.compact_revision !== '0') return 'compacted';
  if (isTokenProblem(response.cancel_reason)) return 'badToken';
  if (/permission denied/.test(response.cancel_reason)) {
    throw new HoldfastError(
      'INVALID',
      "etcd does not let this user watch the store's prefix: grant it a role that reads everything below it.",
    );
  }
  return 'cut';
}

function withoutProposal({ key, value, revision }: StoreEntry): StoreEntry {
  return { key, value, revision };
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(signal.reason);
  signal.addEventListener('abort', stop);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** The next response of a watch; 'silent' when none comes even if one is asked for. */
export async function nextResponse(
  stream: EtcdStream<'Watch'>,
  responses: AsyncIterator<WatchResponse, undefined>,
): Promise<WatchResponse | 'cut' | 'silent'> {
  let isSilent = false;
  const ask = setTimeout(() => stream.write({ progress_request: {} }), SILENCE_MS);
  const giveUp = setTimeout(() => {
    isSilent = true;
    stream.cancel();
  }, 2 * SILENCE_MS);
  try {
    const { value, done } = await responses.next();
    return done === true || value === undefined ? 'cut' : value;
  } catch (error) {
    const { kind, message, status, cause } = callError(error as ServiceError);
    if (kind === 'refused') throw new EtcdCallError(kind, status, message, cause);
    return isSilent ? 'silent' : 'cut';
  } finally {
    clearTimeout(ask);
    clearTimeout(giveUp);
  }
}
