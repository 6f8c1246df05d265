// One copy of a volume, wherever it is: made, looked at, grown, removed. On one machine by its storage; in a cluster
// by a call to the daemon of the copy's node, which looks up in the store whether it is to do that. Every call may be
// repeated.

import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError, isHoldfastError } from '../core/errors.ts';
import type { ReplicaSpec } from '../dataplane/node-storage.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

/** What a node has of a copy, as far as its superblock can be read. */
export interface FoundCopy {
  readonly sizeBytes: number | null;
  readonly promisedEpoch: number | null;
}

/** A copy's node is at work on it for somebody else, or closes it. */
const BUSY_TRIES = 5;
const BUSY_PAUSE_MS = 200;

/** Durable when it resolves. The incarnation that it was made with; null: its first opening tells. */
export async function makeCopy(
  { cluster, storage }: VolumeContext,
  record: VolumeRecord,
  replica: ReplicaRecord,
): Promise<string | null> {
  const spec = specOf(record, replica);
  if (cluster === undefined) {
    await storage.createReplica(spec);
    return null;
  }
  const made = await whileBusy(() => cluster.calls.call(replica.node, 'createReplica', spec));
  return made.incarnation;
}

/** undefined: there is none. */
export async function findCopy(
  { cluster, storage }: VolumeContext,
  volumeId: string,
  { node }: ReplicaRecord,
): Promise<FoundCopy | undefined> {
  if (cluster === undefined) {
    const found = await storage.replica(volumeId);
    const { sizeBytes = null, promisedEpoch = null } = found?.superblock ?? {};
    return found && { sizeBytes, promisedEpoch };
  }
  const { replica } = await cluster.calls.call(node, 'describeReplica', { volumeId });
  return replica ?? undefined;
}

export async function growCopy(
  { cluster, storage }: VolumeContext,
  volumeId: string,
  { node, id: replicaId }: ReplicaRecord,
  sizeBytes: number,
): Promise<void> {
  if (cluster === undefined) await storage.resizeReplica(volumeId, sizeBytes);
  else await whileBusy(() => cluster.calls.call(node, 'growReplica', { volumeId, replicaId, sizeBytes }));
}

/** Gone is success. */
export async function removeCopy(
  { cluster, storage, served }: VolumeContext,
  volumeId: string,
  { node, pool, id: replicaId }: ReplicaRecord,
): Promise<void> {
  if (cluster !== undefined) {
    await whileBusy(() => cluster.calls.call(node, 'deleteReplica', { volumeId, replicaId, pool }));
    return;
  }
  await served.closeUnused(volumeId);
  await storage.deleteReplica(volumeId, pool);
}

function specOf(record: VolumeRecord, { id: replicaId, pool }: ReplicaRecord): ReplicaSpec {
  const { id: volumeId, name: volumeName, sizeBytes, lineage, epoch, durability, failureMode } = record;
  return {
    volumeId,
    volumeName,
    replicaId,
    pool,
    sizeBytes,
    lineage,
    epoch,
    durability,
    failureMode: String(failureMode),
  };
}

/** BUSY, and after the last try UNAVAILABLE: that it is busy there says nothing of the caller's own request. */
async function whileBusy<T>(call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call();
    } catch (error) {
      if (!isHoldfastError(error, 'BUSY')) throw error;
      if (tries === BUSY_TRIES) throw new HoldfastError('UNAVAILABLE', error.message, { cause: error });
    }
    await sleep(BUSY_PAUSE_MS);
  }
}
