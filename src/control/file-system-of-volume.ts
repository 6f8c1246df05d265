// Which file system a volume has, and that it was made. It is made once in a volume's life: the choice is
// recorded before mkfs, the fact after it, first in the replica's superblock and then in the store.

import { HoldfastError } from '../core/errors.ts';
import type { FileSystemType, VolumeRecord } from './records.ts';
import { requireOwn, type VolumeContext } from './volume-context.ts';

/** The caller holds the lock of the volume here and in fileSystemMade. */
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

/** CONFLICT for use by hand while the node stage has mkfs before it: that would format over what was written. */
export function requireFileSystemFinished({ id, name, fileSystem }: VolumeRecord): void {
  if (fileSystem === null || fileSystem.made) return;
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" is to get a file system of type ${fileSystem.type} that was not made yet or not finished, and ` +
      'making it would format over what is written by hand: let the node stage the volume (again), or delete it.',
    { details: { volumeId: id, fileSystem: fileSystem.type } },
  );
}
