// Which file system a volume has, and that it was made. It is made once in a volume's life: the choice is
// recorded before mkfs, the fact after it, first in the replica's superblock and then in the store.

import { HoldfastError } from '../core/errors.ts';
import type { FileSystemType, VolumeRecord } from './records.ts';
import { requireOwn, type VolumeContext } from './volume-context.ts';

/** The caller holds the lock of the volume in both. */
export async function chooseFileSystem(
  context: VolumeContext,
  volumeId: string,
  type: FileSystemType,
): Promise<VolumeRecord> {
  return await context.records.updateReady(volumeId, (record) => {
    if (record.fileSystem?.type === type) return record;
    if (record.fileSystem?.made) {
      throw new HoldfastError(
        'CONFLICT',
        `Volume "${record.name}" holds a file system of type ${record.fileSystem.type}, not ${type}: ask for that type, ` +
          'or make a new volume and copy the data.',
        { details: { volumeId, has: record.fileSystem.type, asked: type } },
      );
    }
    return { ...record, fileSystem: { type, made: false } };
  });
}

export async function fileSystemMade(context: VolumeContext, volumeId: string): Promise<VolumeRecord> {
  const record = await context.records.ready(volumeId);
  requireOwn(context, record);
  const { fileSystem } = record;
  if (fileSystem === null) {
    throw new HoldfastError(
      'CONFLICT',
      `No file system was chosen for volume "${record.name}": choose one first.`,
    );
  }
  await context.storage.updateSuperblock(volumeId, { fileSystemMade: fileSystem.type });
  return await context.records.updateReady(volumeId, (current) =>
    current.fileSystem?.made ? current : { ...current, fileSystem: { type: fileSystem.type, made: true } },
  );
}
