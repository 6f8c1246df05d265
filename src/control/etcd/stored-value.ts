// How keys and values stand in etcd: below one prefix, readable with etcdctl.
//   PREFIX/identity        {"format":1,"identity":"<32 hex>"}
//   PREFIX/records/KEY     <proposal: 24 hex>\n<the value>
// The first line names the swap that wrote the value: so a swap without an answer is found again.

import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import type { StoreEntry } from '../store.ts';
import type { KeyValue } from './messages.ts';

export const STORE_FORMAT = 1;

const PROPOSAL = /^[0-9a-f]{24}$/;

export interface StoredEntry extends StoreEntry {
  readonly proposal: string;
}

export class KeySpace {
  readonly identity: Buffer;
  readonly #records: string;

  /** `prefix` as a person configured it, with or without slashes at its ends. */
  constructor(prefix: string) {
    const root = `/${prefix}`.replace(/\/+$/, '').replace(/^\/+/, '/');
    this.identity = Buffer.from(`${root}/identity`);
    this.#records = `${root}/records/`;
  }

  key(key: string): Buffer {
    return Buffer.from(this.#records + key);
  }

  /** All keys that begin with `prefix`: [key, range_end). */
  range(prefix: string): { readonly key: Buffer; readonly range_end: Buffer } {
    const key = Buffer.from(this.#records + prefix);
    const end = Buffer.from(key);
    // Keys are printable ASCII, so the last byte can always be raised.
    end[end.length - 1] = (end[end.length - 1] ?? 0) + 1;
    return { key, range_end: end };
  }

  keyOf(stored: Uint8Array): string {
    return Buffer.from(stored).toString().slice(this.#records.length);
  }

  entry(stored: KeyValue): StoredEntry {
    const key = this.keyOf(stored.key);
    const text = Buffer.from(stored.value).toString();
    const end = text.indexOf('\n');
    const proposal = text.slice(0, Math.max(0, end));
    if (!PROPOSAL.test(proposal)) {
      throw new HoldfastError(
        'CORRUPT',
        `${this.#records}${key} in etcd was not written by Holdfast: give Holdfast a --store-prefix of its own, or restore the key.`,
      );
    }
    return { key, value: text.slice(end + 1), revision: Number(stored.mod_revision), proposal };
  }
}

export function newProposal(): string {
  return randomBytes(12).toString('hex');
}

export function encodeValue(proposal: string, value: string): Buffer {
  invariant(PROPOSAL.test(proposal), 'a proposal is 24 hex digits');
  return Buffer.from(`${proposal}\n${value}`);
}
