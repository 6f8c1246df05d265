// Publication: which node may use a volume. Every change of the attachment takes the next number and the next
// epoch in one compare-and-swap, then an open volume is told, and its sessions of older numbers are refused.
// All three may be repeated: what the store has and the storage was not told is told then. In a cluster the copies
// and the other nodes learn of it from the record.

import { HoldfastError } from '../core/errors.ts';
import { withAttachment } from './attachment.ts';
import { requireNotExported } from './export-volume.ts';
import type { VolumeRecord } from './records.ts';
import { nodeLock, requireOwn, type VolumeContext } from './volume-context.ts';

/** The caller holds the lock of the volume in each of these. `requireUsable` throws to refuse the record as it stands. */
export async function publishVolume(
  context: VolumeContext,
  volumeId: string,
  node: string,
  readOnly: boolean,
  requireUsable: (record: VolumeRecord) => void = () => undefined,
): Promise<VolumeRecord> {
  const published = await context.locks.run(nodeLock(node), async () => {
    const record = await context.records.ready(volumeId);
    await requireKnown(context, node);
    requireOwn(context, record);
    requireNotExported(context, record);
    if (record.attachment.node === null) await requireFreePlace(context, node);
    return await context.records.updateReady(volumeId, (current) => {
      requireUsable(current);
      requireUnexported(current);
      requireUnpublishedElsewhere(current, node, readOnly);
      return current.attachment.node === node ? current : withAttachment(current, node, { readOnly });
    });
  });
  await context.served.tell(published);
  return published;
}

/** Unknown, unpublished, or published to another node than the given one: nothing is left to do. */
export async function unpublishVolume(
  context: VolumeContext,
  volumeId: string,
  node: string | null,
): Promise<void> {
  const found = await context.records.read(volumeId);
  if (found?.state !== 'ready') return;
  const record = await context.records.updateReady(volumeId, (current) => {
    const { attachment } = current;
    const isMeant = attachment.node !== null && (node === null || attachment.node === node);
    // An export by hand is no publication: it ends with its command.
    return isMeant && attachment.use === 'device' ? withAttachment(current, null) : current;
  });
  await context.served.tell(record);
}

/**
 * As `unpublishVolume` from this node, asked for by a person. CONFLICT when another node of the cluster uses the volume;
 * with `force` its permission is revoked nevertheless, unless that node is alive.
 */
export async function unpublishByHand(
  context: VolumeContext,
  volumeId: string,
  force: boolean,
): Promise<void> {
  const { cluster, node: here } = context;
  const record = await context.records.read(volumeId);
  const user = record?.attachment.node ?? null;
  if (record === undefined || cluster === undefined || user === null || user === here) {
    return await unpublishVolume(context, volumeId, here);
  }
  const { name, attachment } = record;
  const isAlive = (await cluster.nodes.list()).some((node) => node.name === user && node.isAlive);
  if (!force || isAlive) {
    const use = attachment.use === 'export' ? 'exported' : 'attached';
    const remedy = isAlive ? 'end that there' : 'start its daemon; if that node is gone for good, --force';
    throw new HoldfastError('CONFLICT', `Volume "${name}" is ${use} on node "${user}": ${remedy}.`, {
      details: { volumeId, node: user },
    });
  }
  await context.records.updateReady(volumeId, (current) =>
    current.attachment.number === attachment.number ? withAttachment(current, null) : current,
  );
}

export async function renewAttachment(
  context: VolumeContext,
  volumeId: string,
  node: string,
): Promise<VolumeRecord> {
  const renewed = await context.records.updateReady(volumeId, (current) => {
    if (current.attachment.node !== node) {
      const place = current.attachment.node === null ? 'nowhere' : `to node "${current.attachment.node}"`;
      throw new HoldfastError(
        'CONFLICT',
        `Volume "${current.name}" is published ${place}, not to "${node}": publish it to that node first.`,
        { details: { volumeId, node: current.attachment.node } },
      );
    }
    requireUnexported(current);
    return withAttachment(current, node, current.attachment);
  });
  await context.served.tell(renewed);
  return renewed;
}

async function requireKnown(context: VolumeContext, node: string): Promise<void> {
  if (node === context.node) return;
  if (context.cluster !== undefined) return void (await context.cluster.nodes.find(node));
  throw new HoldfastError(
    'NOT_FOUND',
    `Node "${node}" is not known: this version publishes a volume to the node that keeps it, "${context.node}".`,
    { details: { node } },
  );
}

function requireUnexported({ id, name, attachment: { node, use } }: VolumeRecord): void {
  if (node === null || use !== 'export') return;
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" is exported by "holdfast volume export" on node "${node}", and a second writer would corrupt its ` +
      'file system: end the export first.',
    { details: { volumeId: id, node } },
  );
}

function requireUnpublishedElsewhere(record: VolumeRecord, node: string, readOnly: boolean): void {
  const { attachment } = record;
  if (attachment.node !== null && attachment.node !== node) {
    throw new HoldfastError(
      'CONFLICT',
      `Volume "${record.name}" is published to node "${attachment.node}": unpublish it there first.`,
      { details: { volumeId: record.id, node: attachment.node } },
    );
  }
  if (attachment.node === node && attachment.readOnly !== readOnly) {
    const has = attachment.readOnly ? 'read-only' : 'for writing';
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `Volume "${record.name}" is published to node "${node}" already, ${has}: unpublish it first.`,
      { details: { volumeId: record.id, node, readOnly: attachment.readOnly } },
    );
  }
}

async function requireFreePlace(context: VolumeContext, node: string): Promise<void> {
  const records = await context.records.list();
  const count = records.filter((record) => record.attachment.node === node).length;
  if (count < context.maxVolumesPerNode) return;
  throw new HoldfastError(
    'LIMIT',
    `Node "${node}" has ${count} volumes, as many as it may have: detach one, or raise the daemon's limit of volumes.`,
    { details: { node, count, maxVolumesPerNode: context.maxVolumesPerNode } },
  );
}
