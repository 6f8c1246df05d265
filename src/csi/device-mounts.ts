// Which mounts show a device: its file system, or (block volumes) the device file itself, which appears in
// mountinfo as a file of devtmpfs.

import { basename } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import type { AttachedDevice, DeviceService } from '../host/device-service.ts';
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

/**
 * ALREADY_EXISTS unless `mount`, which is where `view` is to be, was left by a device of ours that is gone.
 * The mount of a live volume, or of anything else, is never taken away.
 */
export async function requireLeftover(mount: Mount, view: DeviceView, devices: DeviceService): Promise<void> {
  const shown = mount.fileSystem === 'devtmpfs' ? `/dev${mount.root}` : mount.source;
  for (const device of devices.list()) {
    if (!showsDevice(mount, await viewDevice(device))) continue;
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `${mount.mountPoint} shows volume ${device.volumeId} (${shown}): that must go first`,
    );
  }
  if (kindOf(shown) === kindOf(view.device.path)) return;
  throw new HoldfastError('ALREADY_EXISTS', `${mount.mountPoint} has ${shown} mounted: unmount it`);
}

/** '/dev/nbd' of '/dev/nbd3' */
function kindOf(devicePath: string): string {
  return devicePath.replace(/[0-9]+$/, '');
}
