// Who uses a block device: mounts, devices stacked on it, loop devices, swap. Pure but for reading /proc and
// /sys, which never waits for the device itself.

import { readFileSync } from 'node:fs';
import { type Mount, parseMountInfo } from './mountinfo.ts';
import type { NbdSysfs } from './nbd-sysfs.ts';
import { isErrno } from './run-command.ts';

/** What is asked about, as it appears in mountinfo, in /sys and in /proc/swaps. */
export interface UsedDevice {
  readonly path: string;
  /** 'major:minor' */
  readonly number: string | undefined;
  readonly holders: readonly string[];
}

/** Each user in words for people: 'mounted at /mnt', 'held by dm-0', … Empty: nobody. */
export function deviceUsers(index: number, sysfs: NbdSysfs): string[] {
  const device = {
    path: `/dev/nbd${index}`,
    number: sysfs.deviceNumber(index),
    holders: sysfs.holders(index),
  };
  // The daemon's own mounts, and those of the machine when it can see them (a container sees both).
  const mounts = ['/proc/self/mountinfo', '/proc/1/mountinfo'].flatMap((path) =>
    parseMountInfo(readProc(path)),
  );
  return describeUsers(device, mounts, sysfs.loopDevices(), readProc('/proc/swaps'));
}

export function describeUsers(
  device: UsedDevice,
  mounts: readonly Mount[],
  loopDevices: readonly { name: string; backingFile: string }[],
  swaps: string,
): string[] {
  const mountPoints = mounts
    .filter((mount) => mount.device === device.number)
    .map((mount) => mount.mountPoint);
  return [
    ...new Set(mountPoints.map((mountPoint) => `mounted at ${mountPoint}`)),
    ...device.holders.map((holder) => `held by ${holder}`),
    ...loopDevices
      .filter(({ backingFile }) => backingFile === device.path)
      .map(({ name }) => `shown by /dev/${name}`),
    ...(swaps.split('\n').some((line) => line.startsWith(`${device.path} `)) ? ['used as swap'] : []),
  ];
}

function readProc(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'EACCES', 'EPERM', 'ESRCH')) return '';
    throw error;
  }
}
