// Which mounts show a device: its file system, or (block volumes) the device file itself, which appears in
// mountinfo as a file of devtmpfs.

import { basename } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import type { AttachedDevice } from '../host/device-service.ts';
import type { Mount } from '../host/mountinfo.ts';
import { deviceNumber } from '../host/mounts.ts';

export interface DeviceView {
  readonly device: AttachedDevice;
  /** 'major:minor' */
  readonly number: string;
}

export async function viewDevice(device: AttachedDevice): Promise<DeviceView> {
  const number = await deviceNumber(device.path);
  if (number === undefined) {
    throw new HoldfastError(
      'UNAVAILABLE',
      `${device.path} is attached but is no block device in this daemon's /dev: let it see the host's /dev`,
    );
  }
  return { device, number };
}

export function showsFileSystem(mount: Mount, { number }: DeviceView): boolean {
  return mount.device === number;
}

export function showsDeviceFile(mount: Mount, { device }: DeviceView): boolean {
  return mount.fileSystem === 'devtmpfs' && mount.root === `/${basename(device.path)}`;
}

export function showsDevice(mount: Mount, view: DeviceView): boolean {
  return showsFileSystem(mount, view) || showsDeviceFile(mount, view);
}

/** A mount of a device of the same kind ('/dev/nbd3' and '/dev/nbd0'), live or not. */
export function isOfSameKind(mount: Mount, { device }: DeviceView): boolean {
  const kind = (path: string): string => path.replace(/[0-9]+$/, '');
  const shown = mount.fileSystem === 'devtmpfs' ? `/dev${mount.root}` : mount.source;
  return kind(shown) === kind(device.path);
}
