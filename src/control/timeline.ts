// What this daemon has seen of the replication of its volumes: enough to tell, after a failover, who fell silent when,
// who took over, and when it was over. Kept in memory, the newest of each volume; a restart begins anew. Other daemons
// saw other parts of it: `volume timeline` asks them all.

import type { ReplicaEvent } from '../replication/ports.ts';

export interface TimelineEntry {
  /** By this machine's clock, RFC 3339 with milliseconds. */
  readonly at: string;
  readonly what: ReplicaEvent['type'];
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
    entries.push({ at: this.#now().toISOString(), what: event.type, text: textOf(event) });
    if (entries.length > MAX_ENTRIES) entries.shift();
    // The one that was quiet for longest goes first.
    this.#entries.delete(volumeId);
    this.#entries.set(volumeId, entries);
    if (this.#entries.size > MAX_VOLUMES) this.#entries.delete(this.#entries.keys().next().value ?? '');
  }

  /** The oldest first. */
  of(volumeId: string): readonly TimelineEntry[] {
    return [...(this.#entries.get(volumeId) ?? [])];
  }
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
    case 'suspected':
      return `the primary ${event.replicaId} is silent, and what was granted to it has run out: takes over`;
    case 'reconciled':
      return `the copies are equal again, ${event.bytes} bytes were in doubt, in epoch ${event.epoch}`;
    case 'resync':
      return `${event.bytesLeft} bytes are left to copy to the copy ${event.replicaId}`;
    case 'failed':
      return `its ${event.what} failed (errno ${event.errno})`;
  }
}
