// Sizes of volumes: what is allowed, and what fits a pool.

import prettyBytes from 'pretty-bytes';
import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, MAX_VOLUME_BYTES, MIN_VOLUME_BYTES } from '../core/units.ts';
import type { PoolStatus } from '../dataplane/node-storage.ts';
import type { VolumeRecord } from './records.ts';

export function sizeText(sizeBytes: number): string {
  return `${prettyBytes(sizeBytes, { binary: true })} (${sizeBytes} bytes)`;
}

/** The edges have rounded up to whole blocks already. */
export function checkVolumeSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes % BLOCK_BYTES !== 0) {
    throw new HoldfastError(
      'INVALID',
      `A volume's size is a multiple of ${BLOCK_BYTES} bytes, not ${sizeBytes}.`,
    );
  }
  if (sizeBytes < MIN_VOLUME_BYTES || sizeBytes > MAX_VOLUME_BYTES) {
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `A volume has between ${sizeText(MIN_VOLUME_BYTES)} and ${sizeText(MAX_VOLUME_BYTES)}, not ${sizeText(sizeBytes)}.`,
      { details: { sizeBytes, minBytes: MIN_VOLUME_BYTES, maxBytes: MAX_VOLUME_BYTES } },
    );
  }
}

/** What the volumes with a replica in this pool may grow to by what was promised them. */
export function provisionedIn(records: readonly VolumeRecord[], node: string, pool: string): number {
  return records
    .filter((record) => record.replicas.some((replica) => replica.node === node && replica.pool === pool))
    .reduce((sum, record) => sum + Math.max(record.sizeBytes, record.targetSizeBytes), 0);
}

/** How much may still be promised: total × overcommit − provisioned, at least 0, in whole blocks. */
export function creatableIn(
  pool: Pick<PoolStatus, 'totalBytes' | 'overcommitRatio'>,
  provisionedBytes: number,
): number {
  const freeBytes = pool.totalBytes * pool.overcommitRatio - provisionedBytes;
  return Math.max(0, Math.floor(freeBytes / BLOCK_BYTES) * BLOCK_BYTES);
}

/** NO_SPACE with all figures unless `wantedBytes` more may be promised. `node`: whose pool it is, where that is not plain. */
export function checkRoom(
  pool: Pick<PoolStatus, 'name' | 'totalBytes' | 'overcommitRatio'>,
  provisionedBytes: number,
  wantedBytes: number,
  node?: string,
): void {
  const creatableBytes = creatableIn(pool, provisionedBytes);
  if (wantedBytes <= creatableBytes) return;
  const { name, totalBytes, overcommitRatio } = pool;
  throw new HoldfastError(
    'NO_SPACE',
    `Pool "${name}"${node === undefined ? '' : ` of node "${node}"`} has no room for ${sizeText(wantedBytes)} more: of ${sizeText(totalBytes)} × ${overcommitRatio} ` +
      `(overcommit) ${sizeText(provisionedBytes)} are promised to volumes, ${sizeText(creatableBytes)} are left. ` +
      'Ask for less, delete volumes, enlarge the pool or raise its overcommit.',
    { details: { pool: name, wantedBytes, totalBytes, overcommitRatio, provisionedBytes, creatableBytes } },
  );
}
