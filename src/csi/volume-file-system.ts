// The file system of a volume, made once in its life. What decides is the volume record, never a probe alone:
//
//   record            device            then
//   made              anything          check and mount; mkfs never again
//   chosen, not made  blank, or what    our own mkfs was interrupted: nobody has used it yet, make it again
//                     its mkfs leaves
//   chosen, not made  other data        somebody used it all the same: refuse, a person must look
//   nothing           blank             record the choice, make it, record that it was made; refused where
//                                       the copy holds data anywhere: a few blank MiB are no blank device
//   nothing           a file system     somebody made it on the attached device: mount it, record nothing
//   nothing           other data        refuse: a person must look
//   nothing           unreadable        an error, never 'blank'
//
// 'Chosen' is recorded only here, after the device was seen blank and its copy empty, and from then on until it is
// made the volume is not to be had as a block volume, by hand or as an export: that is what makes the second row
// safe, and why nothing is recorded where somebody else's file system is found.

import { HoldfastError } from '../core/errors.ts';
import type { VolumeRecord } from '../control/records.ts';
import type { VolumeService } from '../control/volume-service.ts';
import type { AttachedDevice } from '../host/device-service.ts';
import {
  checkFileSystem,
  detectFileSystem,
  FILE_SYSTEM_TYPES,
  type FileSystemType,
  isBlank,
  makeFileSystem,
  MIN_FILE_SYSTEM_BYTES,
} from '../host/filesystems.ts';
import { parseFileSystemType } from './capabilities.ts';

/** A label of volumes whose class or claim named a file system: it is read here when the volume is staged. */
export const FILE_SYSTEM_LABEL = 'holdfast.dev/fs-type';
export const DEFAULT_FILE_SYSTEM: FileSystemType = 'ext4';

export type FileSystemRecords = Pick<VolumeService, 'chooseFileSystem' | 'fileSystemMade'>;

/** Explicitly asked for, else what the volume has or was created for, else ext4. CONFLICT when it has another. */
export function fileSystemTypeFor(record: VolumeRecord, asked: FileSystemType | undefined): FileSystemType {
  const { fileSystem } = record;
  if (fileSystem?.made === true) {
    if (asked === undefined || asked === fileSystem.type) return fileSystem.type;
    throw new HoldfastError(
      'CONFLICT',
      `volume '${record.name}' holds a file system of type ${fileSystem.type}, not ${asked}: ask for that type`,
    );
  }
  const label = record.labels[FILE_SYSTEM_LABEL];
  return asked ?? (label === undefined ? DEFAULT_FILE_SYSTEM : parseFileSystemType(label));
}

/** When it resolves, the device holds a file system of this type, checked, ready to mount. */
export async function prepareFileSystem(
  volumes: FileSystemRecords,
  record: VolumeRecord,
  device: AttachedDevice,
  type: FileSystemType,
): Promise<void> {
  if (record.fileSystem?.made !== true) await makeOrFind(volumes, record, device, type);
  // A check would write. A journal left over makes the read-only mount fail, which says so.
  if (!device.readOnly) await checkFileSystem(device.path, type);
}

async function makeOrFind(
  volumes: FileSystemRecords,
  record: VolumeRecord,
  device: AttachedDevice,
  type: FileSystemType,
): Promise<void> {
  const wasInterrupted = record.fileSystem !== null;
  const fresh = !wasInterrupted && (await isBlank(device.path, device.sizeBytes));
  if (!fresh && !wasInterrupted) {
    await requireFileSystem(record, device, type);
    return;
  }
  if (wasInterrupted) await requireOwnLeftover(record, device, type);
  if (device.readOnly) {
    throw new HoldfastError(
      'CONFLICT',
      `volume '${record.name}' has no file system yet and is published read-only: publish it for writing once`,
    );
  }
  const leastBytes = MIN_FILE_SYSTEM_BYTES[type];
  if (device.sizeBytes < leastBytes) {
    throw new HoldfastError(
      'CONFLICT',
      `volume '${record.name}' has ${device.sizeBytes} bytes, too few for ${type}: it needs ${leastBytes}`,
    );
  }
  const { fileSystem } = await volumes.chooseFileSystem(record.id, type);
  if (fileSystem?.made === true) return;
  await makeFileSystem(device.path, type, { fresh });
  await volumes.fileSystemMade(record.id);
}

/** What no mkfs of ours leaves when it is interrupted was put there by somebody: it is not formatted over. */
async function requireOwnLeftover(
  record: VolumeRecord,
  device: AttachedDevice,
  type: FileSystemType,
): Promise<void> {
  const found = await detectFileSystem(device.path);
  const own = [record.fileSystem?.type, type].map(familyOf);
  if (found === undefined || own.includes(familyOf(found))) return;
  throw new HoldfastError(
    'CONFLICT',
    `volume '${record.name}' was to get a file system of type ${type}, which was not finished, and holds ${found} data ` +
      'that was not made here: it is not formatted over. Copy that data elsewhere, or, if it is not wanted, delete the ' +
      'volume and make a new one',
    { details: { found } },
  );
}

/** The ext types are told apart by features alone, and those come one after the other. */
function familyOf(type: string | undefined): string | undefined {
  return type?.replace(/^ext[234]$/, 'ext');
}

async function requireFileSystem(
  record: VolumeRecord,
  device: AttachedDevice,
  type: FileSystemType,
): Promise<void> {
  const found = await detectFileSystem(device.path);
  if (found === type) return;
  const known = FILE_SYSTEM_TYPES.find((candidate) => candidate === found);
  throw new HoldfastError(
    'CONFLICT',
    known === undefined
      ? `volume '${record.name}' holds data that is no file system of ours (${found ?? 'unknown'}); it was never formatted here and will not be now: use it as a block volume, or wipe it`
      : `volume '${record.name}' holds a file system of type ${known}, not ${type}: ask for that type`,
    { details: { found: found ?? null } },
  );
}
