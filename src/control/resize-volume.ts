// Resize, upwards only: the target is recorded (which reserves the room), the replica grows, the new size is
// recorded. Cut short anywhere, repeating it or the daemon's next start finishes it.

import { HoldfastError } from '../core/errors.ts';
import { requireSound } from './open-volumes.ts';
import type { VolumeRecord } from './records.ts';
import { checkRoom, checkVolumeSize, provisionedIn, sizeText } from './sizes.ts';
import { findPool, poolLock, primaryReplica, requireOwn, type VolumeContext } from './volume-context.ts';

/** The caller holds the lock of the volume. */
export async function resizeVolume(
  context: VolumeContext,
  volumeId: string,
  sizeBytes: number,
): Promise<VolumeRecord> {
  checkVolumeSize(sizeBytes);
  const record = await context.records.ready(volumeId);
  if (sizeBytes < record.sizeBytes) {
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `Volume "${record.name}" has ${sizeText(record.sizeBytes)} and cannot shrink to ${sizeText(sizeBytes)}: ` +
        'make a smaller volume and copy the data.',
      { details: { volumeId, haveBytes: record.sizeBytes, askedBytes: sizeBytes } },
    );
  }
  if (sizeBytes === record.sizeBytes && record.targetSizeBytes === record.sizeBytes) return record;
  requireOwn(context, record);
  const replica = await requireSound(context.storage, record);
  // An earlier attempt may have grown the copy beyond what is asked now, and nothing shrinks.
  const targetSizeBytes = Math.max(sizeBytes, replica.superblock.sizeBytes);
  await reserveGrowth(context, record, targetSizeBytes);
  await context.storage.resizeReplica(volumeId, targetSizeBytes);
  return await context.records.updateReady(volumeId, (current) => ({
    ...current,
    sizeBytes: targetSizeBytes,
  }));
}

async function reserveGrowth(
  context: VolumeContext,
  record: VolumeRecord,
  targetSizeBytes: number,
): Promise<void> {
  const pool = await findPool(context, primaryReplica(record).pool, 'NOT_FOUND');
  await context.locks.run(poolLock(pool.name), async () => {
    const others = (await context.records.list()).filter((other) => other.id !== record.id);
    checkRoom(pool, provisionedIn(others, context.node, pool.name), targetSizeBytes);
    await context.records.updateReady(record.id, (current) =>
      current.targetSizeBytes === targetSizeBytes ? current : { ...current, targetSizeBytes },
    );
  });
}
