// What this node's copy of one volume is to be, by the volume's record: open and as large as promised, or closed, or
// gone. May be cut short anywhere and repeated.
//
// Promises: nothing is made here. A copy is deleted only while a record stands that says so, read while nobody can
// make a copy of that volume here, and only if that record is not older than the copy. A copy without a record may be
// all that is left of its volume: it stays, and is reported.

import { HoldfastError } from '../core/errors.ts';
import type { ClusterStorage } from '../dataplane/cluster-storage.ts';
import type { NodeStorage, ReplicaStatus } from '../dataplane/node-storage.ts';
import type { Logger } from '../observe/log.ts';
import type { KeyedLock } from './keyed-lock.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import type { Stored, VolumeRecords } from './volume-records.ts';

export interface KeepContext {
  readonly node: string;
  readonly records: VolumeRecords;
  readonly storage: Pick<
    NodeStorage,
    'closedPools' | 'deleteReplica' | 'replica' | 'replicas' | 'resizeReplica'
  >;
  readonly replication: Pick<
    ClusterStorage,
    'closeReplica' | 'configChanged' | 'isReplicaOpen' | 'openReplica'
  >;
  /** Of the copies on this node, by volume: whoever makes or deletes one holds it. */
  readonly locks: KeyedLock;
  readonly log: Logger;
}

export interface Kept {
  /** The record that was followed; undefined: there is none. */
  readonly stored: Stored<VolumeRecord> | undefined;
  /** A copy is on this node and is to stay. */
  readonly isHere: boolean;
}

/** What throws is to be reported and tried again. */
export async function keepReplica(context: KeepContext, volumeId: string): Promise<Kept> {
  return await context.locks.run(volumeId, async () => {
    const stored = await context.records.readStored(volumeId);
    const own = stored?.value.replicas.find(({ node }) => node === context.node);
    if (stored === undefined) await keepOrphan(context, volumeId);
    else if (own === undefined || stored.value.state === 'deleting') await clear(context, stored.value);
    else if (stored.value.state === 'ready') await open(context, stored.value, own);
    return { stored, isHere: own !== undefined && stored?.value.state !== 'deleting' };
  });
}

async function keepOrphan({ storage, replication }: KeepContext, volumeId: string): Promise<void> {
  await replication.closeReplica(volumeId);
  const local = await storage.replica(volumeId);
  if (local === undefined) return;
  throw new HoldfastError(
    'CONFLICT',
    `pool "${local.pool}" holds a copy of volume ${volumeId} that the store does not know: it stays; put back the store ` +
      'that knows it, or remove its directory by hand once you are sure',
  );
}

/** The record does not want a copy here. */
async function clear({ storage, replication, log }: KeepContext, record: VolumeRecord): Promise<void> {
  const { id: volumeId, name } = record;
  await replication.closeReplica(volumeId);
  const local = await storage.replica(volumeId);
  if (local === undefined) return;
  requireUnwanted(record, local);
  await storage.deleteReplica(volumeId, local.pool);
  log.info({ volumeId, volume: name, pool: local.pool }, 'deleted a copy that its record does not want here');
}

/** CONFLICT when something says that this copy is worth more than its record knows. */
function requireUnwanted(
  { name, epoch, state, lineage, replicas }: VolumeRecord,
  local: ReplicaStatus,
): void {
  const { superblock, pool } = local;
  const copy = `the copy of volume "${name}" in pool "${pool}"`;
  if (superblock !== undefined && superblock.promisedEpoch > epoch) {
    throw new HoldfastError(
      'CONFLICT',
      `${copy} was in use at epoch ${superblock.promisedEpoch}, and the store, which does not want it, is at ${epoch}: ` +
        'the store is an older one, and the copy stays: put the newer store back',
    );
  }
  if (state === 'deleting') return;
  if (superblock === undefined) {
    throw new HoldfastError(
      'CORRUPT',
      `${copy} cannot be read: remove its directory by hand if it is not wanted`,
    );
  }
  if (superblock.lineage !== lineage) {
    throw new HoldfastError(
      'CONFLICT',
      `${copy} is from before a forced promotion, and may hold writes that the volume lost by that: it stays; remove its ` +
        'directory by hand once nothing of it is needed',
    );
  }
  const place = replicas.find(({ id }) => id === superblock.replicaId);
  if (place !== undefined) {
    throw new HoldfastError(
      'CONFLICT',
      `${copy} belongs to node "${place.node}" by the store: bring its disk back there; it stays as it is`,
    );
  }
}

async function open(context: KeepContext, record: VolumeRecord, own: ReplicaRecord): Promise<void> {
  const { storage, replication, log } = context;
  const { id: volumeId, name } = record;
  const sizeBytes = Math.max(record.sizeBytes, record.targetSizeBytes);
  const closed = storage.closedPools(); // before the copy: a pool that opens meanwhile must not make it 'missing'
  const local = await storage.replica(volumeId);
  if (local === undefined) throw missing(record, own, closed.find((pool) => pool.name === own.pool)?.problem);
  const { superblock } = local;
  if (superblock !== undefined && superblock.replicaId !== own.id) {
    // One that was here before another was put here: it makes room.
    await clear(context, record);
    throw missing(record, own, undefined);
  }
  if (superblock !== undefined && superblock.sizeBytes < sizeBytes) {
    await storage.resizeReplica(volumeId, sizeBytes);
    log.info({ volumeId, volume: name, sizeBytes }, 'grew a copy');
  }
  if (!replication.isReplicaOpen(volumeId)) {
    const report = await replication.openReplica(volumeId);
    log.info({ volumeId, volume: name, ...report }, 'opened a copy');
  }
  replication.configChanged(volumeId);
}

function missing(
  { name }: VolumeRecord,
  { pool }: ReplicaRecord,
  problem: string | undefined,
): HoldfastError {
  return new HoldfastError(
    'UNAVAILABLE',
    problem === undefined
      ? `the copy of volume "${name}" is missing from pool "${pool}": bring the pool's disk back; if the copy is lost ` +
          'for good, have another one made'
      : `the copy of volume "${name}" is in pool "${pool}", which is not open: ${problem}`,
  );
}
