// Mounts that a crash left behind: of devices of ours whose volume is gone, or published elsewhere by now.
// Run once when the daemon starts, before devices are recovered: a device that is still mounted cannot be
// taken away cleanly. Directories stay: whoever made them removes them.

import { readFile } from 'node:fs/promises';
import { HoldfastError } from '../core/errors.ts';
import type { Logger } from '../observe/log.ts';
import type { Mount } from './mountinfo.ts';
import { readMounts, unmountLazily } from './mounts.ts';
import { isErrno } from './run-command.ts';

interface DeviceOwner {
  readonly volumeId: string;
  readonly attachmentNumber: number;
}

export interface StaleMountsOptions {
  readonly isCurrent: (volumeId: string, attachmentNumber: number) => Promise<boolean>;
  readonly log: Logger;
  /** Whose a device is; undefined: not ours. Default: what the kernel keeps as the backend identifier. */
  readonly ownerOf?: (devicePath: string) => Promise<DeviceOwner | undefined>;
}

/**
 * Detaches them lazily: their device may answer nothing any more. Mounts of devices that are not ours, or
 * whose owner cannot be told, are left alone. Returns how many went.
 */
export async function repairStaleMounts({
  isCurrent,
  log,
  ownerOf = nbdOwner,
}: StaleMountsOptions): Promise<number> {
  let count = 0;
  // The latest first: a mount below another one cannot be reached by its path.
  for (const mount of (await readMounts()).reverse()) {
    const device = shownDevice(mount);
    const owner = device === undefined ? undefined : await ownerOf(device);
    if (owner === undefined || (await isCurrent(owner.volumeId, owner.attachmentNumber))) continue;
    await unmountLazily(mount.mountPoint);
    log.info({ ...owner, device, mountPoint: mount.mountPoint }, 'took away a stale mount');
    count++;
  }
  return count;
}

function shownDevice(mount: Mount): string | undefined {
  if (mount.fileSystem === 'devtmpfs') return mount.root === '/' ? undefined : `/dev${mount.root}`;
  return mount.source.startsWith('/dev/') ? mount.source : undefined;
}

/** 'volumeId/attachmentNumber', kept by the kernel while anything still uses the device. */
async function nbdOwner(devicePath: string): Promise<DeviceOwner | undefined> {
  const name = /^\/dev\/(nbd[0-9]+)$/.exec(devicePath)?.[1];
  if (name === undefined) return undefined;
  try {
    const text = await readFile(`/sys/block/${name}/backend`, 'utf8');
    const [, volumeId, number] = /^([0-9a-f]{32})\/([0-9]+)\s*$/.exec(text) ?? [];
    return volumeId === undefined ? undefined : { volumeId, attachmentNumber: Number(number) };
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return undefined;
    throw new HoldfastError('IO', `whose device ${devicePath} is cannot be read`, { cause: error });
  }
}
