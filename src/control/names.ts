// Names, identifiers and the keys under which the store keeps them. A name may hold any characters, a store
// key may not: a claim is kept under the hash of its name.

import { createHash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import { HoldfastError } from '../core/errors.ts';

export const VOLUME_PREFIX = 'volumes/';
export const CLAIM_PREFIX = 'volume-names/';
const MAX_NAME_BYTES = 128;

/** A name taken: made before the record of its volume, removed after it. */
export const nameClaimSchema = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{32}$/),
  name: z.string().min(1),
  /** Whose creation or deletion a claim without a record was: only that daemon may remove it. */
  node: z.string().min(1),
});
export type NameClaim = z.infer<typeof nameClaimSchema>;

export function volumeKey(volumeId: string): string {
  return VOLUME_PREFIX + volumeId;
}

export function claimKey(name: string): string {
  return CLAIM_PREFIX + createHash('sha256').update(name).digest('hex');
}

/** 128 random bits as 32 hex digits: volumes, replicas, lineages, openings. */
export function drawId(): string {
  return randomBytes(16).toString('hex');
}

export function isVolumeId(text: string): boolean {
  return /^[0-9a-f]{32}$/.test(text);
}

export function checkName(name: string): void {
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > MAX_NAME_BYTES || !name.isWellFormed()) {
    throw new HoldfastError(
      'INVALID',
      `A volume's name has 1 to ${MAX_NAME_BYTES} bytes of Unicode; this one has ${bytes}.`,
    );
  }
}
