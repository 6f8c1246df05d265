// The last resort, by a person's word: no copy that holds everything can come back, and one that lacks writes becomes
// the volume. It begins a new lineage, ends the attachment, and names no other copy any more; those keep their bytes.
//
// Two copies must never serve: for every member that is given up its own daemon says that it does not serve, or the
// person says that its machine is off; nothing is taken from a node that is merely silent.

import { HoldfastError } from '../core/errors.ts';
import { forcePromotion as forced } from '../replication/config.ts';
import { askPrimary, requireCluster } from './change-copies.ts';
import type { ClusterContext } from './cluster-context.ts';
import { drawId } from './names.ts';
import { isUndecided, type ReplicaRecord, type VolumeRecord } from './records.ts';
import { configOf, withConfig } from './volume-config.ts';
import type { VolumeContext } from './volume-context.ts';

/** `statedOff`: nodes whose machines are off by the person's word. The caller holds the lock of the volume. */
export async function forcePromotion(
  context: VolumeContext,
  volumeId: string,
  node: string,
  statedOff: readonly string[],
): Promise<VolumeRecord> {
  const cluster = requireCluster(context, 'a forced promotion');
  const record = await context.records.ready(volumeId);
  const target = record.replicas.find((replica) => replica.node === node);
  if (target === undefined) {
    const nodes = record.replicas.map((replica) => `"${replica.node}"`).join(', ');
    throw conflict(record, `node "${node}" has no copy of it: its copies are on ${nodes}`);
  }
  await requireNeeded(context, record);
  await requireUsable(cluster, record, target);
  await requireNobodyServes(cluster, record, target, statedOff);
  return await context.records.updateReady(volumeId, (current) => {
    if (current.epoch !== record.epoch || current.lineage !== record.lineage) {
      throw new HoldfastError('BUSY', `Volume "${record.name}" has just changed: look at it, and try again.`);
    }
    return withConfig(current, forced(configOf(current), target, drawId()));
  });
}

async function requireNeeded(context: VolumeContext, record: VolumeRecord): Promise<void> {
  const primary = await askPrimary(context, record);
  if (primary?.isActive !== true) return;
  throw conflict(
    record,
    'its primary serves: "holdfast volume move" gives its place to another copy, and loses nothing',
  );
}

async function requireUsable(
  { calls }: ClusterContext,
  record: VolumeRecord,
  { id, node }: ReplicaRecord,
): Promise<void> {
  const { replica } = await calls.call(node, 'describeReplica', { volumeId: record.id });
  const isMeant = replica?.replicaId === id && replica.lineage === record.lineage;
  if (isMeant && replica.problem === null) return;
  const problem = replica?.problem ?? (replica === null ? 'it is not there' : 'it is another one');
  throw conflict(record, `the copy on node "${node}" cannot be used: ${problem}`);
}

async function requireNobodyServes(
  { nodes, calls }: ClusterContext,
  record: VolumeRecord,
  target: ReplicaRecord,
  statedOff: readonly string[],
): Promise<void> {
  const alive = new Set((await nodes.list()).filter(({ isAlive }) => isAlive).map(({ name }) => name));
  const isMember = ({ id }: ReplicaRecord): boolean =>
    record.inSync.some(({ replicaId }) => replicaId === id);
  const members = record.replicas.filter((replica) => replica.id !== target.id && isMember(replica));
  const unknown: string[] = [];
  for (const { node } of members) {
    if (!alive.has(node)) {
      if (!statedOff.includes(node)) unknown.push(node);
      continue;
    }
    // By this store nobody serves it, whoever is the one that is named.
    if (isUndecided(record)) continue;
    const { replica } = await calls.call(node, 'describeReplica', { volumeId: record.id });
    if (replica?.isOpen === true) {
      throw conflict(
        record,
        `the daemon of node "${node}" has its copy open, which is in sync: that one is to take over, or its daemon is to be stopped`,
      );
    }
  }
  const user = record.attachment.node;
  const isSilentUser = user !== null && user !== target.node && !alive.has(user);
  if (isSilentUser && !statedOff.includes(user) && !unknown.includes(user)) unknown.push(user);
  if (unknown.length === 0) return;
  throw conflict(
    record,
    `nobody knows whether these nodes still serve or use it: ${unknown.join(', ')}. Make sure that their machines are off, ` +
      `say so with ${unknown.map((name) => `--off ${name}`).join(' ')}, and what only they hold is lost`,
    { unknown },
  );
}

function conflict(
  { id, name }: VolumeRecord,
  reason: string,
  details: Record<string, unknown> = {},
): HoldfastError {
  return new HoldfastError('CONFLICT', `Volume "${name}" was left as it is: ${reason}.`, {
    details: { volumeId: id, ...details },
  });
}
