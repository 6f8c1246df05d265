// Leases in etcd. It counts in seconds and keeps none shorter than one and a half election timeouts (2 s as
// etcd is shipped), so a lease may last longer than asked for, never shorter.

import { HoldfastError } from '../../core/errors.ts';
import type { StoreLease } from '../store.ts';
import { EtcdCallError } from './call-error.ts';
import type { EtcdClient } from './client.ts';

const MAX_LEASE_MS = 24 * 3600 * 1000;

export class EtcdLeases {
  readonly #client: EtcdClient;

  constructor(client: EtcdClient) {
    this.#client = client;
  }

  /** `guarded` wraps the calls of the lease's later life. A grant whose answer is lost runs out by itself. */
  async grant(ttlMs: number, guarded: <T>(make: () => Promise<T>) => Promise<T>): Promise<StoreLease> {
    if (!(ttlMs >= 1 && ttlMs <= MAX_LEASE_MS)) {
      throw new HoldfastError('INVALID', `A lease lasts between 1 ms and a day, not ${ttlMs} ms.`);
    }
    const ttlSeconds = Math.ceil(ttlMs / 1000);
    const { ID: id } = await this.#client.repeatable('LeaseGrant', { TTL: String(ttlSeconds) });
    return {
      id,
      renew: async () => await guarded(async () => await this.#renew(id)),
      revoke: async () => await guarded(async () => await this.#revoke(id)),
    };
  }

  gone(id: string): HoldfastError {
    return new HoldfastError('NOT_FOUND', `Lease ${id} has run out: take a new one.`);
  }

  async #renew(id: string): Promise<void> {
    const answer = await this.#client.attempt((endpoint, options) =>
      endpoint.ask('LeaseKeepAlive', { ID: id }, options),
    );
    if (Number(answer.TTL) <= 0) throw this.gone(id);
  }

  async #revoke(id: string): Promise<void> {
    try {
      await this.#client.repeatable('LeaseRevoke', { ID: id });
    } catch (error) {
      if (!(error instanceof EtcdCallError && /lease not found/.test(error.message))) throw error;
    }
  }
}
