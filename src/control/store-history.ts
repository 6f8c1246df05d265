// The recent changes of a store, kept in memory so that watches can follow without gaps. Bounded: a watcher
// that falls further behind than `limit` changes is told so (OUT_OF_RANGE) and lists again. Watchers hold
// nothing but their place, so a slow one costs no memory.
//
// Invariant: every change has the revision after the one before it, without holes; the position of a change
// is therefore its revision minus the floor.

import { HoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { StoreEvent } from './store.ts';

export class StoreHistory {
  readonly #limit: number;
  readonly #events: StoreEvent[] = [];
  readonly #waiters = new Set<() => void>();
  /** Changes up to this revision are gone. */
  #floorRevision: number;

  constructor(startRevision: number, limit: number) {
    this.#floorRevision = startRevision;
    this.#limit = limit;
  }

  append(events: readonly StoreEvent[]): void {
    for (const event of events) {
      invariant(revisionOf(event) === this.#floorRevision + this.#events.length + 1, 'revisions rise by one');
      this.#events.push(event);
    }
    const excess = Math.max(0, this.#events.length - this.#limit);
    this.#events.splice(0, excess);
    this.#floorRevision += excess;
    this.wake();
  }

  /** The changes after `revision`, oldest first. */
  after(revision: number): readonly StoreEvent[] {
    if (revision < this.#floorRevision) {
      throw new HoldfastError(
        'OUT_OF_RANGE',
        `The store's changes after revision ${revision} are no longer kept (the oldest follows ${this.#floorRevision}): list, and watch from what the list showed.`,
        { details: { askedRevision: revision, floorRevision: this.#floorRevision } },
      );
    }
    return this.#events.slice(revision - this.#floorRevision);
  }

  /** Resolves at the next change, at `wake`, or when `signal` aborts. */
  async changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        signal.removeEventListener('abort', done);
        this.#waiters.delete(done);
        resolve();
      };
      signal.addEventListener('abort', done);
      this.#waiters.add(done);
    });
  }

  /** Lets every waiting watcher look again. */
  wake(): void {
    for (const waiter of this.#waiters) waiter();
  }
}

export function revisionOf(event: StoreEvent): number {
  return event.type === 'put' ? event.entry.revision : event.revision;
}

export function keyOf(event: StoreEvent): string {
  return event.type === 'put' ? event.entry.key : event.key;
}
