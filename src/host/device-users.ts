// Who uses a block device. Two looks: one at what /proc and /sys tell this process, which never waits for the
// device and takes no time; and one at all processes of the machine, made by a process of its own.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Mount, parseMountInfo, showsDevice } from './mountinfo.ts';
import type { NbdSysfs } from './nbd-sysfs.ts';
import { isErrno, runCommand } from './run-command.ts';

const SEARCH_TIMEOUT_MS = 15_000;

/** What is asked about, as it appears in mountinfo, in /sys and in /proc/swaps. */
export interface UsedDevice {
  readonly path: string;
  /** 'major:minor' */
  readonly number: string | undefined;
  readonly holders: readonly string[];
}

/** Each user in words for people: 'mounted at /mnt', 'held by dm-0', … Empty: none shows. */
export function shownUsers(index: number, sysfs: NbdSysfs): string[] {
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

/**
 * Those that `shownUsers` cannot show: mounts elsewhere, open descriptors, a file system that is no longer in any
 * mount table and still being written back. TIMEOUT when it cannot be found out.
 */
export async function hiddenUsers(devicePath: string, deviceNumber: string): Promise<string[]> {
  const worker = `./device-users-worker.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`;
  const { stdout } = await runCommand(
    process.execPath,
    [fileURLToPath(new URL(worker, import.meta.url)), devicePath, deviceNumber],
    { timeoutMs: SEARCH_TIMEOUT_MS, shownAs: `the search for users of ${devicePath}` },
  );
  return stdout
    .toString()
    .split('\n')
    .filter((line) => line !== '');
}

export function describeUsers(
  device: UsedDevice,
  mounts: readonly Mount[],
  loopDevices: readonly { name: string; backingFile: string }[],
  swaps: string,
): string[] {
  const mountPoints = mounts
    .filter((mount) => showsDevice(mount, device.path, device.number))
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
