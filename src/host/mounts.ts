// Mounts of this node: mount, bind, unmount, and whether one still works. What is mounted is read from
// mountinfo each time, never remembered: kubelet, people and reboots change it too.
//
// - Paths are compared with mountinfo, which knows no symbolic links: pass them through `resolvePath` first.
// - Nothing here removes files. A directory is removed by its owner, with rmdir, after the unmount.
// - Every call ends within its deadline; TIMEOUT means that the kernel may still be at it.

import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { HoldfastError, isHoldfastError } from '../core/errors.ts';
import { type Mount, mountAt, parseMountInfo } from './mountinfo.ts';
import { isErrno, runCommand } from './run-command.ts';

/** Replay of a journal included. */
const MOUNT_TIMEOUT_MS = 600_000;
/** Write-back of everything dirty included. */
const UNMOUNT_TIMEOUT_MS = 600_000;
const PROBE_TIMEOUT_MS = 10_000;
/** A mount that leaked into a dying container is free again soon after. */
const BUSY_RETRY_DELAYS_MS = [100, 300, 600, 1000, 1000] as const;
/** More than this many mounts on one path are nobody's doing but a loop's. */
const MAX_STACKED_MOUNTS = 16;

export async function readMounts(): Promise<Mount[]> {
  return parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** The path as mountinfo shows it. Its last component is not looked at: that may be a mount that hangs. */
export async function resolvePath(path: string): Promise<string> {
  try {
    return join(await realpath(dirname(path)), basename(path));
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return path;
    throw error;
  }
}

/** 'major:minor' of a block device; undefined when there is no such device. */
export async function deviceNumber(devicePath: string): Promise<string | undefined> {
  try {
    const status = await stat(devicePath);
    return status.isBlockDevice() ? `${major(status.rdev)}:${minor(status.rdev)}` : undefined;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENXIO')) return undefined;
    throw error;
  }
}

/** As glibc splits a dev_t. */
function major(device: number): number {
  return Number(((BigInt(device) >> 8n) & 0xfffn) | ((BigInt(device) >> 32n) & ~0xfffn));
}
function minor(device: number): number {
  return Number((BigInt(device) & 0xffn) | ((BigInt(device) >> 12n) & 0xffffff00n));
}

/** The options may be secrets (the orchestrator's mount flags): they appear in no message. */
export async function mountDevice(
  devicePath: string,
  target: string,
  fileSystem: string,
  options: readonly string[],
): Promise<void> {
  const flags = options.length === 0 ? [] : ['-o', options.join(',')];
  await runCommand('mount', ['-t', fileSystem, ...flags, '--', devicePath, target], {
    timeoutMs: MOUNT_TIMEOUT_MS,
    shownAs: `mount -t ${fileSystem} ${devicePath} ${target}`,
  });
}

/** Two steps in the kernel; interrupted between them a read-only bind mount is still writable. */
export async function bindMount(source: string, target: string, readOnly: boolean): Promise<void> {
  await runCommand('mount', ['--bind', '--', source, target], { timeoutMs: MOUNT_TIMEOUT_MS });
  if (readOnly) await remountReadOnly(target);
}

/** This mount only; the file system stays writable through its other mounts. */
export async function remountReadOnly(target: string): Promise<void> {
  await runCommand('mount', ['-o', 'remount,bind,ro', '--', target], { timeoutMs: MOUNT_TIMEOUT_MS });
}

/**
 * Takes away every mount on `path`; nothing mounted there is success. Waits a little for a busy one, then
 * BUSY: somebody has files open. Only a mount that no longer works is detached lazily: a lazy unmount of a
 * working one would leave its users writing to a volume that is about to move.
 */
export async function unmount(path: string): Promise<void> {
  for (let count = 0; mountAt(await readMounts(), path) !== undefined; count++) {
    if (count === MAX_STACKED_MOUNTS) {
      throw new HoldfastError('BUSY', `${path} is mounted again and again; find out by whom`);
    }
    await unmountOnce(path);
  }
}

async function unmountOnce(path: string): Promise<void> {
  for (const delayMs of [...BUSY_RETRY_DELAYS_MS, undefined]) {
    try {
      await runCommand('umount', ['--no-canonicalize', '--', path], { timeoutMs: UNMOUNT_TIMEOUT_MS });
      return;
    } catch (error) {
      if (!isHoldfastError(error, 'IO')) throw error;
      if (mountAt(await readMounts(), path) === undefined) return;
      if (!(await isUsable(path))) {
        await unmountLazily(path);
        return;
      }
      if (delayMs === undefined) {
        throw new HoldfastError('BUSY', `${path} is in use; end the processes that have files open there`, {
          cause: error,
        });
      }
      await setTimeout(delayMs);
    }
  }
}

/** Out of the tree at once; the kernel finishes when the last user is gone. For mounts that no longer work. */
export async function unmountLazily(path: string): Promise<void> {
  await runCommand('umount', ['--no-canonicalize', '--lazy', '--', path], { timeoutMs: PROBE_TIMEOUT_MS });
}

/**
 * False when the file system has given up (shut down, aborted, device gone): opening and syncing its root
 * fails then, while a mere stat often still answers from memory. TIMEOUT says neither: the device may be
 * pausing while its daemon restarts.
 */
export async function isUsable(mountPoint: string): Promise<boolean> {
  const { exitCode } = await runCommand('sync', ['--', mountPoint], {
    timeoutMs: PROBE_TIMEOUT_MS,
    exitCodes: [0, 1],
  });
  return exitCode === 0;
}
