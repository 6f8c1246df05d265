// The store's name for good: a random number under a key that is made once, by create-if-absent.

import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { HoldfastError } from '../../core/errors.ts';
import { EtcdCallError } from './call-error.ts';
import type { EtcdClient } from './client.ts';
import { HistoryGuard, type StorePosition } from './history-guard.ts';
import { missingStore } from '../node-record.ts';
import { type KeySpace, STORE_FORMAT } from './stored-value.ts';

const identitySchema = z.object({ format: z.number(), identity: z.string().regex(/^[0-9a-f]{32}$/) });

export interface StoreIdentity {
  readonly identity: string;
  /** As it stands in etcd: every swap compares it. */
  readonly value: Buffer;
  readonly clusterId: string;
}

/** CORRUPT when it is not the one of `seen`, or is missing though it was seen or there is `evidence` of it. */
export async function readIdentity(
  client: EtcdClient,
  keys: KeySpace,
  { seen, evidence }: { readonly seen?: StorePosition | undefined; readonly evidence?: string | undefined },
): Promise<StoreIdentity> {
  for (;;) {
    const found = await client.repeatable('Range', { key: keys.identity });
    const clusterId = found.header?.cluster_id ?? '';
    if (seen !== undefined) new HistoryGuard(seen).checkCluster(found.header);
    const value = found.kvs[0]?.value;
    if (value !== undefined) {
      const identity = parse(Buffer.from(value).toString());
      if (seen !== undefined && seen.identity !== identity) {
        new HistoryGuard(seen).refuse('identity', seen.identity, identity);
      }
      return { identity, value: Buffer.from(value), clusterId };
    }
    if (seen !== undefined) new HistoryGuard(seen).refuse('identity', seen.identity, 'none');
    if (evidence !== undefined)
      throw missingStore(`etcd at ${client.addresses} (${keys.identity.toString()})`, evidence);
    await create(client, keys);
  }
}

function parse(text: string): string {
  let parsed: z.infer<typeof identitySchema>;
  try {
    parsed = identitySchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new HoldfastError(
      'CORRUPT',
      'What stands in etcd below --store-prefix is no store of Holdfast: give it a prefix of its own.',
      { cause },
    );
  }
  if (parsed.format !== STORE_FORMAT) {
    throw new HoldfastError(
      'CORRUPT',
      `The store in etcd has format ${parsed.format}; this version of Holdfast knows ${STORE_FORMAT}: upgrade the daemon.`,
    );
  }
  return parsed.identity;
}

/** Whoever comes first; the caller reads again, also when this was not answered. */
async function create(client: EtcdClient, keys: KeySpace): Promise<void> {
  const { kvs } = await client.repeatable('Range', { ...keys.range(''), limit: '1', keys_only: true });
  if (kvs.length > 0) {
    // Another daemon may have made the store since the look before: then its identity is older than its records.
    const again = await client.repeatable('Range', { key: keys.identity });
    if (again.kvs.length > 0) return;
    throw new HoldfastError(
      'CORRUPT',
      'The store in etcd has records and no identity: somebody removed its key. Restore etcd from a backup.',
    );
  }
  const identity = randomBytes(16).toString('hex');
  const value = Buffer.from(JSON.stringify({ format: STORE_FORMAT, identity }));
  try {
    await client.once('Txn', {
      compare: [{ target: 'MOD', key: keys.identity, mod_revision: '0' }],
      success: [{ request_put: { key: keys.identity, value } }],
      failure: [],
    });
  } catch (error) {
    if (!(error instanceof EtcdCallError && error.kind === 'unknown')) throw error;
  }
}
