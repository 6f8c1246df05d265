// What this daemon has seen of the replication of its volumes: enough to tell, after a failover, who fell silent when,
// who took over, and when it was over. Kept in memory, the newest of each volume; a restart begins anew. Other daemons
// saw other parts of it: `volume timeline` asks them all.

import type { ReplicaEvent } from '../replication/ports.ts';

export interface TimelineEntry {
  /** By this machine's clock, RFC 3339 with milliseconds. */
  readonly at: string;
  readonly what: ReplicaEvent['type'] | 'lastIo';
  readonly text: string;
}

/** Of each volume. Several failovers, and what resyncs say meanwhile. */
const MAX_ENTRIES = 200;
const MAX_VOLUMES = 2000;

export class Timelines {
  readonly #entries = new Map<string, TimelineEntry[]>();
  readonly #now: () => Date;

  constructor(now: () => Date = () => new Date()) {
    this.#now = now;
  }

  note({ volumeId, ...event }: ReplicaEvent & { readonly volumeId: string }): void {
    const entries = this.#entries.get(volumeId) ?? [];
    const last = entries.at(-1);
    // Of a resync the newest word is enough.
    if (event.type === 'resync' && last?.what === 'resync') entries.pop();
    const now = this.#now();
    if (event.type === 'firstIo') entries.push(lastIoBefore(event, now));
    entries.push({ at: now.toISOString(), what: event.type, text: textOf(event) });
    if (entries.length > MAX_ENTRIES) entries.splice(0, entries.length - MAX_ENTRIES);
    // The one that was quiet for longest goes first.
    this.#entries.delete(volumeId);
    this.#entries.set(volumeId, entries);
    if (this.#entries.size > MAX_VOLUMES) this.#entries.delete(this.#entries.keys().next().value ?? '');
  }

  /** The oldest first. */
  of(volumeId: string): readonly TimelineEntry[] {
    // The last answer before a pause is known when the pause is over.
    return (this.#entries.get(volumeId) ?? []).toSorted((a, b) => (a.at === b.at ? 0 : a.at < b.at ? -1 : 1));
  }
}

function lastIoBefore({ pauseMs, fromNode }: ReplicaEvent & { type: 'firstIo' }, now: Date): TimelineEntry {
  return {
    at: new Date(now.getTime() - pauseMs).toISOString(),
    what: 'lastIo',
    text: `its user got the last good answer of the primary on node "${fromNode}"`,
  };
}

/** Copies are named by their ids; who knows their nodes puts those in the place (collect-timeline.ts). */
function textOf(event: ReplicaEvent): string {
  switch (event.type) {
    case 'role':
      return `is ${event.role} and serves, in epoch ${event.epoch}`;
    case 'memberSilent':
      return `the copy ${event.replicaId} is silent or failing: it is to leave the in-sync set`;
    case 'memberDropped':
      return `the copy ${event.replicaId} left the in-sync set, in epoch ${event.epoch}`;
    case 'memberAdded':
      return `the copy ${event.replicaId} joined the in-sync set, in epoch ${event.epoch}`;
    case 'heldOut':
      return `the copy ${event.replicaId} left ${event.times} times in a row, soon after joining: it is held out for ${Math.round(event.forMs / 1000)} s`;
    case 'suspected':
      return `the primary ${event.replicaId} is suspected: nothing was heard of it for ${Math.round(event.silentMs)} ms`;
    case 'leaseOver':
      return `the lease of the primary ${event.replicaId} is over, as far as it was granted here: takes over`;
    case 'firstIo':
      return `its user got the first good answer of the primary on node "${event.toNode}", ${Math.round(event.pauseMs)} ms after the last one`;
    case 'reconciled':
      return `the copies are equal again, ${event.bytes} bytes were in doubt, in epoch ${event.epoch}`;
    case 'resync':
      return `${event.bytesLeft} bytes are left to copy to the copy ${event.replicaId}`;
    case 'failed':
      return `its ${event.what} failed (errno ${event.errno})`;
  }
}
