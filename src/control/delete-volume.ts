// Deletion: the record is set to 'deleting' (from here on nobody can use the volume), each copy is removed by its
// node and leaves the record, then goes the record, and the claim of the name. Cut short anywhere, repeating it
// finishes it; so do the daemon's start and, in a cluster, whoever does the housekeeping. The record goes after the
// copies: none is left behind that nobody knows.
//
// In a cluster a node that is away does not hold up a deletion: it is done for whoever asked, the name is free, and
// the record stays 'deleting' until that node is back and has removed its copy.

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { findCopy, removeCopy } from './copies.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import { requireOwn, type VolumeContext } from './volume-context.ts';
import type { CopyLeft } from './volume-service.ts';

/** CONFLICT while somebody uses it. The caller holds the locks of the volume and of its name. */
export async function deleteVolume(
  context: VolumeContext,
  volumeId: string,
  name: string,
): Promise<CopyLeft[]> {
  const users = context.served.userCount(volumeId);
  if (users > 0) {
    throw new HoldfastError(
      'CONFLICT',
      `Volume "${name}" is attached or exported on node "${context.node}" (${users} users): detach it and end its exports first.`,
      { details: { volumeId, users } },
    );
  }
  return await removeVolume(context, volumeId, name);
}

/** Whatever stands of a volume goes, in the order that can be repeated. Gone is success. Returns what is left of it. */
export async function removeVolume(
  context: VolumeContext,
  volumeId: string,
  name: string,
): Promise<CopyLeft[]> {
  const found = await context.records.read(volumeId);
  let left: CopyLeft[] = [];
  if (found !== undefined) {
    requireOwn(context, found);
    if (found.state === 'creating') await requireNeverUsed(context, found);
    const record = await context.records.update(volumeId, (current) => markDeleting(context, found, current));
    left = await removeCopies(context, record);
  }
  await context.records.freeName(name, volumeId);
  return left;
}

function markDeleting(context: VolumeContext, found: VolumeRecord, current: VolumeRecord): VolumeRecord {
  const { id, name, state, attachment } = current;
  if (attachment.node !== null) {
    throw new HoldfastError(
      'CONFLICT',
      `Volume "${name}" is published to node "${attachment.node}": unpublish or detach it there first.`,
      { details: { volumeId: id, node: attachment.node } },
    );
  }
  // It was to be undone because nobody had been told of it; now somebody may have been.
  if (found.state === 'creating' && state === 'ready') {
    throw new HoldfastError('BUSY', `The creation of volume "${name}" has just been finished: try again.`);
  }
  return state === 'deleting' ? current : { ...current, state: 'deleting', coordinator: context.node };
}

async function removeCopies(context: VolumeContext, record: VolumeRecord): Promise<CopyLeft[]> {
  const outcomes = await Promise.allSettled(
    record.replicas.map(async (replica) => await removeCopy(context, record.id, replica)),
  );
  const left: CopyLeft[] = [];
  const isGone = new Set<ReplicaRecord['id']>();
  record.replicas.forEach(({ id, node }, index) => {
    const outcome = outcomes[index];
    if (outcome?.status === 'fulfilled') isGone.add(id);
    else if (context.cluster === undefined || !isHoldfastError(outcome?.reason)) throw outcome?.reason;
    else left.push({ node, reason: errorText(outcome.reason) });
  });
  if (left.length === 0) await context.records.remove(record.id);
  else if (isGone.size > 0) await forgetCopies(context, record.id, isGone);
  return left;
}

async function forgetCopies(
  context: VolumeContext,
  volumeId: string,
  isGone: ReadonlySet<string>,
): Promise<void> {
  try {
    await context.records.update(volumeId, (record) => withoutCopies(record, isGone));
  } catch (error) {
    // Another who finishes it was quicker.
    if (!isHoldfastError(error, 'NOT_FOUND')) throw error;
  }
}

/** Of what nobody serves any more only the copies are left to be told; its primary is one of them. */
function withoutCopies(record: VolumeRecord, isGone: ReadonlySet<string>): VolumeRecord {
  const replicas = record.replicas.filter(({ id }) => !isGone.has(id));
  const [first] = replicas;
  // None: whoever removed the last one removes the record.
  if (first === undefined || replicas.length === record.replicas.length) return record;
  return {
    ...record,
    replicas,
    primary: { replicaId: first.id, opening: null },
    inSync: [{ replicaId: first.id, incarnation: null }],
  };
}

/** A copy that was opened after its creation was finished: the store that calls it half made is an old backup. */
async function requireNeverUsed(context: VolumeContext, record: VolumeRecord): Promise<void> {
  const { id, name, epoch } = record;
  for (const replica of record.replicas) {
    const found = await findCopy(context, id, replica).catch((error: unknown) => {
      // Its node is away. The others tell as much.
      if (context.cluster !== undefined && isHoldfastError(error)) return undefined;
      throw error;
    });
    const promisedEpoch = found?.promisedEpoch ?? epoch;
    if (promisedEpoch <= epoch) continue;
    throw new HoldfastError(
      'CORRUPT',
      `Volume "${name}" (${id}) is half made by the store, but its copy was in use at epoch ${promisedEpoch}: the store is ` +
        'older than the copy, probably restored from a backup. The copy stays: put the newer store back.',
      { details: { volumeId: id, promisedEpoch } },
    );
  }
}
