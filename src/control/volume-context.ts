// What the operations on volumes share: this node, its storage, the records, and the locks that keep them
// apart. Each operation is a function of one of these and stands in a file of its own.

import { HoldfastError } from '../core/errors.ts';
import { didYouMean } from '../core/nearest.ts';
import type { NodeStorage, PoolStatus } from '../dataplane/node-storage.ts';
import type { ClusterContext } from './cluster-context.ts';
import type { KeyedLock } from './keyed-lock.ts';
import type { VolumeRecord } from './records.ts';
import type { ServedVolumes } from './served-volumes.ts';
import type { VolumeRecords } from './volume-records.ts';

export interface VolumeContext {
  readonly node: string;
  /** undefined: the first pool that the storage names. */
  readonly defaultPool: string | undefined;
  /** Volumes that may be published to one node at a time. */
  readonly maxVolumesPerNode: number;
  readonly storage: NodeStorage;
  readonly records: VolumeRecords;
  readonly served: ServedVolumes;
  readonly locks: KeyedLock;
  /** Exports of each volume that has any; each volume's under its lock. */
  readonly exportCounts: Map<string, number>;
  /** undefined: this daemon is alone with its store, and every copy is on this node. */
  readonly cluster: ClusterContext | undefined;
}

/** The copy that is the primary; where a daemon is alone with its store, the only one. */
export function primaryReplica(record: VolumeRecord): VolumeRecord['replicas'][number] {
  const replica = record.replicas.find((candidate) => candidate.id === record.primary.replicaId);
  if (replica === undefined) {
    throw new HoldfastError(
      'CORRUPT',
      `The record of volume "${record.name}" (${record.id}) names a primary that is none of its replicas: put back a backup of the store.`,
    );
  }
  return replica;
}

/** UNAVAILABLE unless the copy is on this node; in a cluster it may be on any. */
export function requireOwn(context: VolumeContext, record: VolumeRecord): void {
  const { node } = primaryReplica(record);
  if (context.cluster !== undefined || node === context.node) return;
  throw new HoldfastError(
    'UNAVAILABLE',
    `The copy of volume "${record.name}" is on node "${node}", and this daemon is "${context.node}": ask the daemon ` +
      'there, or start this one with that --node-name if the node was renamed.',
    { details: { volumeId: record.id, node } },
  );
}

/** The pool of that name on this node, or the default one. UNAVAILABLE while it is not open. */
export async function findPool(
  context: VolumeContext,
  wanted: string | undefined,
  codeIfUnknown: 'INVALID' | 'NOT_FOUND',
): Promise<PoolStatus> {
  const pools = await context.storage.pools();
  const closed = context.storage.closedPools();
  const name = wanted ?? context.defaultPool ?? (pools[0] ?? closed[0])?.name;
  const pool = pools.find((candidate) => candidate.name === name);
  if (pool !== undefined) return pool;
  const missing = closed.find((candidate) => candidate.name === name);
  if (missing !== undefined) {
    throw new HoldfastError('UNAVAILABLE', `Pool "${missing.name}" is not open: ${missing.problem}`, {
      details: { pool: missing.name },
    });
  }
  if (name === undefined) {
    throw new HoldfastError(codeIfUnknown, 'This node has no pool: start the daemon with --pool NAME=DIR.');
  }
  const names = [...pools, ...closed].map((candidate) => candidate.name);
  throw new HoldfastError(
    codeIfUnknown,
    `Node "${context.node}" has no pool "${name}".${didYouMean(name, names)} "holdfast pool ls" shows its pools.`,
    { details: { pool: name, pools: names } },
  );
}

/** Keys of context.locks. A volume's is its id; these cannot be mistaken for one. */
export const placementLock = 'placement';
export function nameLock(name: string): string {
  return `name/${name}`;
}
export function poolLock(pool: string): string {
  return `pool/${pool}`;
}
export function nodeLock(node: string): string {
  return `node/${node}`;
}
