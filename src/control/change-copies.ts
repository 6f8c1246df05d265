// One copy more, or one fewer, of a volume in a cluster: each a compare-and-swap of its record by the pure functions
// of replication/replica-set.ts. What the in-sync set becomes is the primary's word otherwise; here a member leaves it
// only when the primary has just said that it serves, and goes on without.
//
// Cut short anywhere nothing is wrong: a copy that is named and was not made is made by whoever does the housekeeping;
// one that is no longer named is deleted by its node.

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { isNewcomer, memberOf } from '../replication/config.ts';
import { addReplica, removeReplica } from '../replication/replica-set.ts';
import { type Place, withPlaceFor } from './choose-places.ts';
import type { ClusterContext } from './cluster-context.ts';
import { makeCopy, removeCopy } from './copies.ts';
import { drawId } from './names.ts';
import { newReplica, type ReplicaRecord, type VolumeRecord } from './records.ts';
import { configOf, withConfig } from './volume-config.ts';
import { primaryReplica, type VolumeContext } from './volume-context.ts';
import type { CopyLeft } from './volume-service.ts';

const STATE_TIMEOUT_MS = 3000;

/** INVALID on a machine that is alone with its store. */
export function requireCluster({ cluster }: VolumeContext, what: string): ClusterContext {
  if (cluster !== undefined) return cluster;
  throw new HoldfastError(
    'INVALID',
    `${what} needs a cluster, and this daemon is alone with its store: start the daemons of several machines with ` +
      '--store etcd://…, --listen and --cluster-key.',
  );
}

/** CONFLICT while it is growing: a copy that came now would have either size. */
export function requireNotGrowing({ name, id, sizeBytes, targetSizeBytes }: VolumeRecord): void {
  if (sizeBytes === targetSizeBytes) return;
  throw new HoldfastError(
    'CONFLICT',
    `A resize of volume "${name}" is not finished: repeat it ("holdfast volume resize ${id} --size ${targetSizeBytes}") first.`,
    { details: { volumeId: id, sizeBytes, targetSizeBytes } },
  );
}

/**
 * Where placement says. It is not in sync yet: the primary fills it. `insteadOf`: the copy whose place it takes then.
 * The caller holds the lock of the volume.
 */
export async function addCopy(
  context: VolumeContext,
  record: VolumeRecord,
  insteadOf?: ReplicaRecord,
): Promise<VolumeRecord> {
  const cluster = requireCluster(context, 'another copy');
  requireNotGrowing(record);
  const id = drawId();
  const named = await withPlaceFor(
    context,
    cluster,
    record,
    insteadOf,
    async (place) =>
      await context.records.updateReady(record.id, (current) => {
        requireNotGrowing(current);
        return withLeaving(withReplica(current, id, place), insteadOf?.id, true);
      }),
  );
  const replica = named.replicas.find((candidate) => candidate.id === id);
  if (replica === undefined)
    throw new HoldfastError('BUSY', `Volume "${record.name}" is being changed by others.`);
  try {
    await makeCopy(context, named, replica);
    return named;
  } catch (error) {
    // Its node deletes what it may have made. Where that fails the housekeeping has it made after all.
    await cancelCopy(context, named, replica, insteadOf).catch(() => undefined);
    throw error;
  }
}

/** A copy that was never filled goes again; `stays`: the one whose place it was to take. */
export async function cancelCopy(
  context: VolumeContext,
  record: VolumeRecord,
  newcomer: ReplicaRecord,
  stays: ReplicaRecord | undefined,
): Promise<void> {
  await context.records.updateReady(record.id, (current) => {
    const standing = current.replicas.find(({ id }) => id === newcomer.id);
    // It has been filled after all.
    if (standing === undefined || !isNewcomer(standing)) return current;
    return withLeaving(withoutReplica(current, newcomer), stays?.id, false);
  });
}

/** The copy leaves the record, then its disk. `left`: its node is away, and deletes it when it is back. */
export async function dropCopy(
  context: VolumeContext,
  record: VolumeRecord,
  replica: ReplicaRecord,
): Promise<{ readonly record: VolumeRecord; readonly left: CopyLeft | undefined }> {
  const isMember = memberOf(configOf(record), replica.id) !== undefined;
  if (isMember) await requireWithout(context, record, replica);
  const changed = await context.records.updateReady(record.id, (current) => {
    if (isMember && current.epoch !== record.epoch) throw changedMeanwhile(record);
    return withoutReplica(current, replica);
  });
  try {
    await removeCopy(context, record.id, replica);
    return { record: changed, left: undefined };
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    return { record: changed, left: { node: replica.node, reason: errorText(error) } };
  }
}

/** What the primary says of itself and the others; undefined: it does not answer, or is none. */
export async function askPrimary(
  context: VolumeContext,
  record: VolumeRecord,
  timeoutMs = STATE_TIMEOUT_MS,
): Promise<PrimaryState | undefined> {
  const { node, id } = primaryReplica(record);
  try {
    const request = { volumeId: record.id };
    const answer = await context.cluster?.calls.call(node, 'replicaState', request, timeoutMs);
    return answer?.replica?.replicaId === id && answer.replica.state === 'primary'
      ? answer.replica
      : undefined;
  } catch (error) {
    if (isHoldfastError(error)) return undefined;
    throw error;
  }
}

export interface PrimaryState {
  readonly epoch: number;
  readonly isActive: boolean;
  readonly mayReply: boolean;
  readonly others: readonly {
    readonly replicaId: string;
    readonly isConnected: boolean;
    readonly resyncBytesLeft: number | null;
    readonly resyncBytesSent: number;
    /** As in ReplicaView. */
    readonly isWaitingForTurn: boolean;
    readonly departureCount: number;
    readonly heldOutMs: number;
  }[];
}

/**
 * CONFLICT unless the primary that the record names is at work, and nothing but this copy may keep its requests
 * waiting: then what is left holds everything, and goes on without it.
 */
async function requireWithout(
  context: VolumeContext,
  record: VolumeRecord,
  replica: ReplicaRecord,
): Promise<void> {
  const primary = await askPrimary(context, record);
  const isReached = ({ replicaId }: VolumeRecord['inSync'][number]): boolean =>
    replicaId === record.primary.replicaId ||
    replicaId === replica.id ||
    primary?.others.find((other) => other.replicaId === replicaId)?.isConnected === true;
  const isAtWork = primary?.isActive === true && primary.epoch === record.epoch;
  if (isAtWork && (primary.mayReply || record.inSync.every(isReached))) return;
  const { node } = primaryReplica(record);
  throw new HoldfastError(
    'CONFLICT',
    `The primary of volume "${record.name}" on node "${node}" does not serve now, and a copy in sync may be the last one: ` +
      `nothing was removed. "holdfast volume explain ${record.id}" says what is in the way.`,
    { details: { volumeId: record.id, node } },
  );
}

function withReplica(record: VolumeRecord, id: string, { node, pool }: Place): VolumeRecord {
  // Another daemon was quicker.
  if (record.replicas.some((replica) => replica.node === node)) throw changedMeanwhile(record);
  const config = addReplica(configOf(record), id, node);
  return withConfig({ ...record, replicas: [...record.replicas, newReplica(id, node, pool)] }, config);
}

function withLeaving(record: VolumeRecord, replicaId: string | undefined, isLeaving: boolean): VolumeRecord {
  const replicas = record.replicas.map((replica): ReplicaRecord => {
    if (replica.id !== replicaId) return replica;
    const { leaving: _, ...rest } = replica;
    return isLeaving ? { ...rest, leaving: true } : rest;
  });
  return { ...record, replicas };
}

function withoutReplica(record: VolumeRecord, { id, node }: ReplicaRecord): VolumeRecord {
  if (!record.replicas.some((replica) => replica.id === id)) return record;
  const removal = removeReplica(configOf(record), id);
  if ('config' in removal) return withConfig(record, removal.config);
  if (removal.refused === 'primary') {
    throw new HoldfastError(
      'CONFLICT',
      `The copy of volume "${record.name}" on node "${node}" is its primary: give its place to another one first ` +
        `("holdfast volume move ${record.id} NODE").`,
      { details: { volumeId: record.id, node } },
    );
  }
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${record.name}" has ${record.inSync.length} of ${record.replicas.length} copies in sync, and its failure ` +
      `mode ${record.failureMode} cannot do without the one on node "${node}": wait until the others are in sync, or ` +
      `change it ("holdfast volume set-failure-mode ${record.id} MODE").`,
    { details: { volumeId: record.id, node, inSync: record.inSync.length } },
  );
}

function changedMeanwhile({ id, name }: VolumeRecord): HoldfastError {
  return new HoldfastError('BUSY', `Volume "${name}" has just changed: try again in a moment.`, {
    details: { volumeId: id },
  });
}

/** Copies that were named and never opened: whoever was to make them may have died. Those that are made stay as they are. */
export async function makeNamedCopies(context: VolumeContext, record: VolumeRecord): Promise<void> {
  const unopened = record.replicas.filter((replica) => isNewcomer(replica) && replica.bootId === null);
  for (const replica of unopened) await makeCopy(context, record, replica);
}
