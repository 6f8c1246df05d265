// Which file system a volume has, and that it was made. It is made once in a volume's life: the choice is
// recorded before mkfs, the fact after it, first in the replica's superblock and then in the store; in a cluster,
// where the volume may have no copy on this node, in the store only.

import { HoldfastError } from '../core/errors.ts';
import type { FileSystemType, VolumeRecord } from './records.ts';
import { primaryReplica, requireOwn, type VolumeContext } from './volume-context.ts';

/**
 * The record tells which of two follows: `made` false: make it now; true: it was made before, and its end was not
 * recorded. CONFLICT when another type was made, or when nothing was chosen yet and the volume holds data: what
 * that is nobody knows, and it is not formatted over. The caller holds the lock of the volume here and in
 * fileSystemMade.
 */
export async function chooseFileSystem(
  context: VolumeContext,
  volumeId: string,
  type: FileSystemType,
): Promise<VolumeRecord> {
  const before = await context.records.ready(volumeId);
  if (before.fileSystem?.made !== true) requireOwn(context, before);
  const isKnown = before.fileSystem?.made === true || context.cluster !== undefined;
  const copy = isKnown ? undefined : await context.storage.replica(volumeId);
  const madeType = copy?.superblock?.fileSystemMade ?? null;
  if (before.fileSystem === null && madeType === null) await requireUnwritten(context, before);
  return await context.records.updateReady(volumeId, (record) => {
    const has = record.fileSystem?.made ? record.fileSystem.type : madeType;
    if (has !== null && has !== type) {
      throw new HoldfastError(
        'CONFLICT',
        `Volume "${record.name}" holds a file system of type ${has}, not ${type}: ask for that type, ` +
          'or make a new volume and copy the data.',
        { details: { volumeId, has, asked: type } },
      );
    }
    const made = has !== null;
    if (record.fileSystem?.type === type && record.fileSystem.made === made) return record;
    return { ...record, fileSystem: { type, made } };
  });
}

async function requireUnwritten(context: VolumeContext, record: VolumeRecord): Promise<void> {
  const { id, name } = record;
  if (!(await hasData(context, record))) return;
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" holds data and no file system that is known: it was never formatted here and will not be now. ` +
      `Use it as a block volume; or, if the data is not wanted, attach it ("holdfast volume attach ${id}") and discard ` +
      'all of it with blkdiscard, or delete it and make a new one.',
    { details: { volumeId: id } },
  );
}

/** In a cluster the primary's node is asked: its copy has everything that was ever acknowledged. */
async function hasData({ cluster, storage }: VolumeContext, record: VolumeRecord): Promise<boolean> {
  if (cluster === undefined) return await storage.hasData(record.id);
  const { node, id: replicaId } = primaryReplica(record);
  return (await cluster.calls.call(node, 'hasData', { volumeId: record.id, replicaId })).hasData;
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
  if (context.cluster === undefined) {
    await context.storage.updateSuperblock(volumeId, { fileSystemMade: fileSystem.type });
  }
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
