// How many copies a volume has, and how many of them its requests wait for. More copies are named, made, and then
// filled by the primary; of fewer the least useful go first. May be repeated: what was done is not done again.

import { HoldfastError } from '../core/errors.ts';
import { minimumInSync } from '../replication/config.ts';
import { changeFailureMode, leastUseful, MAX_REPLICAS } from '../replication/replica-set.ts';
import { addCopy, askPrimary, dropCopy, makeNamedCopies, requireCluster } from './change-copies.ts';
import { requirePlacesFor } from './choose-places.ts';
import { failureModeSchema, type ReplicaRecord, type VolumeRecord } from './records.ts';
import { configOf, withConfig } from './volume-config.ts';
import type { VolumeContext } from './volume-context.ts';
import type { CopyLeft } from './volume-service.ts';

export interface ReplicasSet {
  readonly record: VolumeRecord;
  /** Copies that left the record and are still on a disk: their nodes are away. */
  readonly left: readonly CopyLeft[];
}

/** `count`: beside the primary. The caller holds the lock of the volume. */
export async function setReplicas(
  context: VolumeContext,
  volumeId: string,
  count: number,
): Promise<ReplicasSet> {
  if (!Number.isInteger(count) || count < 0 || count > MAX_REPLICAS) {
    throw new HoldfastError(
      'INVALID',
      `A volume has from 0 to ${MAX_REPLICAS} replicas beside its primary, not ${count}.`,
    );
  }
  const cluster = requireCluster(context, 'a number of replicas');
  let record = await context.records.ready(volumeId);
  requireEnough(record.failureMode, count);
  await requirePlacesFor(context, cluster, record, count - replicaCountOf(record));
  // What an attempt before this one may have named and not made.
  await makeNamedCopies(context, record);
  const left: CopyLeft[] = [];
  while (replicaCountOf(record) < count) record = await addCopy(context, record);
  while (replicaCountOf(record) > count) {
    const replica = await leastUsefulOf(context, record);
    if (replica === undefined) break;
    const dropped = await dropCopy(context, record, replica);
    record = dropped.record;
    if (dropped.left !== undefined) left.push(dropped.left);
  }
  return { record, left };
}

/** Beside the primary. Of a copy and the one that takes its place one counts. */
export function replicaCountOf({ replicas }: VolumeRecord): number {
  return replicas.filter(({ leaving }) => leaving !== true).length - 1;
}

async function leastUsefulOf(
  context: VolumeContext,
  record: VolumeRecord,
): Promise<ReplicaRecord | undefined> {
  const primary = await askPrimary(context, record);
  const unreached = primary?.others
    .filter(({ isConnected }) => !isConnected)
    .map(({ replicaId }) => replicaId);
  const candidates = leastUseful(configOf(record), unreached).map((id) =>
    record.replicas.find((replica) => replica.id === id),
  );
  return candidates.find((replica) => replica !== undefined && replica.leaving !== true);
}

/** CONFLICT when requests would have to wait from then on. The caller holds the lock of the volume. */
export async function setFailureMode(
  context: VolumeContext,
  volumeId: string,
  failureMode: VolumeRecord['failureMode'],
): Promise<VolumeRecord> {
  if (!failureModeSchema.safeParse(failureMode).success) {
    throw new HoldfastError(
      'INVALID',
      `The failure mode is hard, soft, alwayson or a number from 0 to 5, not ${JSON.stringify(failureMode)}.`,
    );
  }
  return await context.records.updateReady(volumeId, (record) => {
    if (record.failureMode === failureMode) return record;
    if (context.cluster !== undefined) requireEnough(failureMode, replicaCountOf(record));
    const config = configOf(record);
    const changed = changeFailureMode(config, failureMode);
    requireMet(record, minimumInSync(config), minimumInSync(changed));
    return withConfig(record, changed);
  });
}

/** INVALID when the failure mode asks for more replicas than there are to be. */
export function requireEnough(failureMode: VolumeRecord['failureMode'], replicaCount: number): void {
  if (typeof failureMode !== 'number' || failureMode <= replicaCount) return;
  throw new HoldfastError(
    'INVALID',
    `The failure mode ${failureMode} wants that many replicas in sync, and there would be ${replicaCount}: have more ` +
      'replicas, or another failure mode.',
  );
}

function requireMet({ id, name, inSync }: VolumeRecord, before: number, after: number): void {
  if (inSync.length >= after || after <= before) return;
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" has ${inSync.length} copies in sync, and that failure mode asks for ${after}: its requests would ` +
      `wait. Repeat this when more copies are in sync ("holdfast volume show ${id}").`,
    { details: { volumeId: id, inSync: inSync.length, minimum: after } },
  );
}
