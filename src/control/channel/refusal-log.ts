// Who was refused, in the log: once a peer and minute, so that a misconfigured or hostile one does not fill it.

import type { Logger } from '../../observe/log.ts';

const QUIET_MS = 60_000;
/** Addresses that are remembered. */
const MAX_PEERS = 1000;

export class RefusalLog {
  readonly #log: Logger;
  readonly #loggedAt = new Map<string, number>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** TLS failed: no key, another one, or no TLS at all. */
  ofHandshake(error: Error & { code?: string }, address: string | undefined): void {
    // Who says nothing and goes is a health check or a scan.
    if (error.code === 'ECONNRESET')
      return this.#log.debug({ address }, 'a connection ended before it began');
    if (!this.#isDue('key', address)) return;
    this.#log.warn(
      { address, reason: error.code ?? error.message },
      'a connection was refused: the other end does not hold the cluster key (--cluster-key must be the same on every node)',
    );
  }

  /** It began like nothing that daemons say to each other. */
  ofProtocol(address: string | undefined): void {
    if (!this.#isDue('protocol', address)) return;
    this.#log.warn(
      { address },
      'a connection was closed: no daemon of ours is at its other end (--listen is for daemons only)',
    );
  }

  /** For want of descriptors, say: it may go on for a while. */
  ofAccept(error: unknown): void {
    if (!this.#isDue('accept')) return;
    this.#log.warn({ error }, 'a connection of another daemon could not be accepted');
  }

  ofCluster(address: string | undefined, from: unknown, cluster: unknown): void {
    if (!this.#isDue('cluster', address)) return;
    this.#log.warn(
      { address, from, cluster },
      'a call was refused: it comes from another cluster with the same key',
    );
  }

  #isDue(what: string, address = 'unknown'): boolean {
    const now = performance.now();
    const key = `${what} ${address}`;
    const last = this.#loggedAt.get(key);
    if (last !== undefined && now - last < QUIET_MS) return false;
    // The one that was logged longest ago goes first.
    this.#loggedAt.delete(key);
    this.#loggedAt.set(key, now);
    const [oldest] = this.#loggedAt.keys();
    if (this.#loggedAt.size > MAX_PEERS && oldest !== undefined) this.#loggedAt.delete(oldest);
    return true;
  }
}
