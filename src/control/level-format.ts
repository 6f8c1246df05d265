// What the embedded store keeps in its database: one row a key, and one row of its own that is rewritten in
// the same batch as every change.
//
//   meta           {version, identity, revision, count, digest}
//   record/<key>   {revision, leased, value}
//
// leveldb drops unreadable log records without a word. `count` and `digest` (the exclusive or of a hash of
// every row) notice it when anything that came later survived: the store is then refused instead of being a
// mixture of old and new. A cut-off tail cannot be told from a write that was never acknowledged; what such a
// store forgot is noticed by the promises in the replicas' superblocks.

import { createHash } from 'node:crypto';
import { z } from 'zod';

export const FORMAT_VERSION = 1;
export const META_KEY = 'meta';
export const ROW_PREFIX = 'record/';
const DIGEST_BYTES = 16;

export const metaSchema = z.strictObject({
  version: z.literal(FORMAT_VERSION),
  identity: z.string().regex(/^[0-9a-f]{32}$/),
  revision: z.number().int().min(1),
  count: z.number().int().min(0),
  digest: z.string().regex(/^[0-9a-f]{32}$/),
});
export type Meta = z.infer<typeof metaSchema>;

export const rowSchema = z.strictObject({
  revision: z.number().int().min(1),
  leased: z.boolean(),
  value: z.string(),
});
export type StoredRow = z.infer<typeof rowSchema>;

/** Order-free fingerprint of all rows: adding a row twice takes it out again. */
export class RowDigest {
  readonly #bytes = new Uint8Array(DIGEST_BYTES);

  toggle(key: string, row: StoredRow): void {
    const hash = createHash('sha256').update(`${key}\n${row.revision}\n${row.leased}\n${row.value}`).digest();
    for (let index = 0; index < DIGEST_BYTES; index += 1) {
      this.#bytes[index] = (this.#bytes[index] ?? 0) ^ (hash[index] ?? 0);
    }
  }

  hex(): string {
    return Buffer.from(this.#bytes).toString('hex');
  }
}
