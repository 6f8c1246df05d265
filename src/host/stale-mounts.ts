// Mounts that a crash left behind: of devices of ours whose volume is gone, or published elsewhere by now.
// Run once when the daemon starts, before devices are recovered: a device that is still mounted cannot be
// taken away cleanly. Directories stay: whoever made them removes them. A mount that will not go is reported and keeps
// nothing from starting.

import type { JudgeAttachment } from '../core/attachment-verdict.ts';
import { HoldfastError } from '../core/errors.ts';
import type { Logger } from '../observe/log.ts';
import { type Mount, mountAt } from './mountinfo.ts';
import { readMounts, unmountLazily } from './mounts.ts';
import { type BackendIdentifier, NbdSysfs } from './nbd-sysfs.ts';

export interface StaleMountsOptions {
  /** Volumes that this daemon has, or had, devices of (DeviceRecords): those of another daemon are not ours to judge. */
  readonly volumeIds: ReadonlySet<string>;
  readonly judge: JudgeAttachment;
  readonly log: Logger;
  /** Whose a device is; undefined: not Holdfast's. Default: what the kernel keeps while anything uses the device. */
  readonly ownerOf?: (devicePath: string) => BackendIdentifier | undefined;
}

/**
 * Detaches them lazily: their device may answer nothing any more. Mounts of other devices, or whose owner
 * cannot be told, are left alone. Returns how many went.
 */
export async function repairStaleMounts({
  volumeIds,
  judge,
  log,
  ownerOf = nbdOwner,
}: StaleMountsOptions): Promise<number> {
  let count = 0;
  // The latest first: a mount below another one cannot be reached by its path.
  for (const mount of (await readMounts()).reverse()) {
    const device = shownDevice(mount);
    const owner = device === undefined ? undefined : ownerOf(device);
    if (owner === undefined || !volumeIds.has(owner.volumeId)) continue;
    if ((await judge(owner.volumeId, owner.attachmentNumber)) !== 'over') continue;
    const context = { volumeId: owner.volumeId, device, mountPoint: mount.mountPoint };
    try {
      if (!(await takeAway(mount))) continue;
      log.info(context, 'took away a stale mount');
      count++;
    } catch (error) {
      log.error({ ...context, error }, 'a stale mount could not be taken away; unmount it by hand');
    }
  }
  return count;
}

/** False: it went with another one, since the kernel unmounts what was propagated together. */
async function takeAway({ id, mountPoint }: Mount): Promise<boolean> {
  const mounts = await readMounts();
  if (!mounts.some((mount) => mount.id === id)) return false;
  if (mountAt(mounts, mountPoint)?.id !== id) {
    throw new HoldfastError('CONFLICT', `another mount lies on ${mountPoint}: unmount that one first`);
  }
  await unmountLazily(mountPoint);
  return true;
}

function shownDevice(mount: Mount): string | undefined {
  if (mount.fileSystem === 'devtmpfs') return mount.root === '/' ? undefined : `/dev${mount.root}`;
  return mount.source.startsWith('/dev/') ? mount.source : undefined;
}

function nbdOwner(devicePath: string): BackendIdentifier | undefined {
  const index = /^\/dev\/nbd([0-9]+)$/.exec(devicePath)?.[1];
  return index === undefined ? undefined : new NbdSysfs().device(Number(index));
}
