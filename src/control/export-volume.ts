// Exports by hand: a volume that is served to NBD clients outside of any attachment. Nothing keeps such a client
// and a mounted file system apart, so a volume is exported or published, never both; each side asks about the
// other under the volume's lock. Exports are users of the open volume and end with the daemon: nothing is stored.

import { HoldfastError } from '../core/errors.ts';
import { requireFileSystemFinished } from './file-system-of-volume.ts';
import type { VolumeRecord } from './records.ts';
import { requireOwn, type VolumeContext } from './volume-context.ts';

/** One more export of a volume that is then open. The caller holds the lock of the volume. */
export async function acquireForExport(context: VolumeContext, volumeId: string): Promise<VolumeRecord> {
  const found = await context.records.ready(volumeId);
  requireOwn(context, found);
  requireUnpublished(found);
  requireFileSystemFinished(found);
  const record = await context.openVolumes.acquire(volumeId);
  context.exportCounts.set(volumeId, (context.exportCounts.get(volumeId) ?? 0) + 1);
  return record;
}

/** Once for every acquireForExport, when no client of that export is left. The caller holds the lock of the volume. */
export async function releaseExport(context: VolumeContext, volumeId: string): Promise<void> {
  const left = (context.exportCounts.get(volumeId) ?? 0) - 1;
  if (left > 0) context.exportCounts.set(volumeId, left);
  else context.exportCounts.delete(volumeId);
  await context.openVolumes.release(volumeId);
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

function requireUnpublished({ name, attachment: { node } }: VolumeRecord): void {
  if (node === null) return;
  throw new HoldfastError(
    'CONFLICT',
    `volume "${name}" is attached to node "${node}", and an export beside it would corrupt its file system: detach it first`,
  );
}
