// Deletion: the record is set to 'deleting' (from here on nobody can use the volume), the replica is removed,
// then the record, then the claim of the name. Cut short anywhere, repeating it finishes it; so does the
// daemon's start. The record goes after the replica: no copy is left behind that nobody knows.

import { HoldfastError } from '../core/errors.ts';
import type { ReplicaStatus } from '../dataplane/node-storage.ts';
import type { VolumeRecord } from './records.ts';
import { primaryReplica, requireOwn, type VolumeContext } from './volume-context.ts';

/** CONFLICT while somebody uses it. The caller holds the locks of the volume and of its name. */
export async function deleteVolume(context: VolumeContext, volumeId: string, name: string): Promise<void> {
  const users = context.openVolumes.userCount(volumeId);
  if (users > 0) {
    throw new HoldfastError(
      'CONFLICT',
      `Volume "${name}" is attached or exported on node "${context.node}" (${users} users): detach it and end its exports first.`,
      { details: { volumeId, users } },
    );
  }
  await removeVolume(context, volumeId, name);
}

/** Whatever stands of a volume goes, in the order that can be repeated. Gone is success. */
export async function removeVolume(context: VolumeContext, volumeId: string, name: string): Promise<void> {
  const record = await context.records.read(volumeId);
  if (record !== undefined) {
    requireOwn(context, record);
    if (record.state === 'creating') requireNeverUsed(record, await context.storage.replica(volumeId));
    await context.records.update(volumeId, (current) => {
      if (current.attachment.node !== null) {
        throw new HoldfastError(
          'CONFLICT',
          `Volume "${name}" is published to node "${current.attachment.node}": unpublish or detach it there first.`,
          { details: { volumeId, node: current.attachment.node } },
        );
      }
      return current.state === 'deleting' ? current : { ...current, state: 'deleting' };
    });
    await context.storage.closeVolume(volumeId);
    await context.storage.deleteReplica(volumeId, primaryReplica(record).pool);
    await context.records.remove(volumeId);
  }
  await context.records.freeName(name, volumeId);
}

/** A copy that was opened after its creation was finished: the store that calls it half made is an old backup. */
function requireNeverUsed({ id, name, epoch }: VolumeRecord, replica: ReplicaStatus | undefined): void {
  const promisedEpoch = replica?.superblock?.promisedEpoch ?? epoch;
  if (promisedEpoch <= epoch) return;
  throw new HoldfastError(
    'CORRUPT',
    `Volume "${name}" (${id}) is half made by the store, but its copy was in use at epoch ${promisedEpoch}: the store is ` +
      'older than the copy, probably restored from a backup. The copy stays: put the newer store back.',
    { details: { volumeId: id, promisedEpoch } },
  );
}
