// Exports by hand: a volume that is served to NBD clients outside of any attachment. Nothing keeps such a client
// and a mounted file system apart, so a volume is exported or published, never both; each side asks about the
// other under the volume's lock. Exports are users of the open volume and end with the daemon.
//
// The record says it to everybody: all exports of a volume on one node share an attachment, taken by the first and
// given back by the last. What a daemon that died left of one is given back by the next one of that node.

import { HoldfastError } from '../core/errors.ts';
import { withAttachment } from './attachment.ts';
import { requireFileSystemFinished } from './file-system-of-volume.ts';
import type { VolumeRecord } from './records.ts';
import { requireOwn, type VolumeContext } from './volume-context.ts';

/** One more export of a volume that is then open. The caller holds the lock of the volume. */
export async function acquireForExport(context: VolumeContext, volumeId: string): Promise<VolumeRecord> {
  const found = await context.records.ready(volumeId);
  requireOwn(context, found);
  const count = context.exportCounts.get(volumeId) ?? 0;
  // Before the record says so: what it says of an export that is not counted is a leftover.
  context.exportCounts.set(volumeId, count + 1);
  try {
    if (count === 0) await attachForExport(context, volumeId);
    return await context.served.acquire(volumeId);
  } catch (error) {
    countDown(context, volumeId);
    // The reason of the failure goes first; what stays attached is a leftover.
    await endUncounted(context, volumeId).catch(() => undefined);
    throw error;
  }
}

/** Once for every acquireForExport, when no client of that export is left. The caller holds the lock of the volume. */
export async function releaseExport(context: VolumeContext, volumeId: string): Promise<void> {
  countDown(context, volumeId);
  try {
    await context.served.release(volumeId);
  } finally {
    await endUncounted(context, volumeId);
  }
}

/** By its record the volume is exported on this node, and it is not: a daemon died, or the store was away. */
export function isLeftoverExport(context: VolumeContext, record: VolumeRecord): boolean {
  return isExportedHere(context, record) && !context.exportCounts.has(record.id);
}

/** Gives the attachment of exports back, unless there are any. The caller holds the lock of the volume. */
export async function endUncounted(context: VolumeContext, volumeId: string): Promise<void> {
  if (context.exportCounts.has(volumeId)) return;
  const record = await context.records.read(volumeId);
  if (record === undefined || !isExportedHere(context, record)) return;
  await context.records.update(volumeId, (current) =>
    isExportedHere(context, current) ? withAttachment(current, null) : current,
  );
}

function countDown({ exportCounts }: VolumeContext, volumeId: string): void {
  const left = (exportCounts.get(volumeId) ?? 0) - 1;
  if (left > 0) exportCounts.set(volumeId, left);
  else exportCounts.delete(volumeId);
}

async function attachForExport(context: VolumeContext, volumeId: string): Promise<void> {
  await context.records.updateReady(volumeId, (record) => {
    // A leftover of this node's, whose clients are gone: the next number keeps them out.
    if (!isExportedHere(context, record)) requireExportable(record);
    return withAttachment(record, context.node, { use: 'export' });
  });
}

function isExportedHere({ node }: VolumeContext, { attachment }: VolumeRecord): boolean {
  return attachment.node === node && attachment.use === 'export';
}

function requireExportable(record: VolumeRecord): void {
  requireUnpublished(record);
  requireFileSystemFinished(record);
}

/** CONFLICT while the volume is exported. The caller holds the lock of the volume. */
export function requireNotExported(context: VolumeContext, { id, name }: VolumeRecord): void {
  const exports = context.exportCounts.get(id) ?? 0;
  if (exports === 0) return;
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" is exported by "holdfast volume export" on node "${context.node}" (${exports} times), and a ` +
      'second writer would corrupt its file system: end the export first.',
    { details: { volumeId: id, exports } },
  );
}

function requireUnpublished({ name, attachment: { node, use } }: VolumeRecord): void {
  if (node === null) return;
  const [is, end] = use === 'export' ? ['exported on', 'end that export'] : ['attached to', 'detach it'];
  throw new HoldfastError(
    'CONFLICT',
    `volume "${name}" is ${is} node "${node}", and an export beside it would corrupt its file system: ${end} first`,
  );
}
