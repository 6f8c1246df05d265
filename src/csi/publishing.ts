// A staged volume at its target paths: a bind mount of the staged directory, or of the device file for a
// block volume. The driver makes the target and removes it, never recursively: a directory that turns out
// not to be empty belongs to somebody else.

import { lstat, mkdir, open, rmdir, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import type { DeviceService } from '../host/device-service.ts';
import { type Mount, mountAt } from '../host/mountinfo.ts';
import {
  bindMount,
  isUsable,
  readMounts,
  remountReadOnly,
  resolvePath,
  unmount,
  unmountLazily,
} from '../host/mounts.ts';
import { isErrno } from '../host/run-command.ts';
import { isReaderOnly, type Use } from './capabilities.ts';
import {
  requireLeftover,
  showsDevice,
  showsDeviceFile,
  type DeviceView,
  showsFileSystem,
} from './device-mounts.ts';

export interface Target {
  readonly stagingPath: string;
  readonly targetPath: string;
  readonly readOnly: boolean;
}

export class Publishing {
  readonly #devices: DeviceService;
  /**
   * Targets that this process has published for writing. Making a bind mount read-only is a second step in
   * the kernel, so a writable mount found where a read-only one is wanted is either a finished publication
   * with other arguments (it is in here) or one that a dead process left half done (it is not).
   */
  readonly #writable = new Set<string>();

  constructor(devices: DeviceService) {
    this.#devices = devices;
  }

  /** The volume is staged. ALREADY_EXISTS: something else, or with other arguments, is at the target. */
  async publish(view: DeviceView, use: Use, { stagingPath, targetPath, readOnly }: Target): Promise<void> {
    const target = await resolvePath(targetPath);
    const wantsReadOnly =
      readOnly ||
      isReaderOnly(use) ||
      view.device.readOnly ||
      (use.access === 'mount' && use.mountFlags.includes('ro'));
    const mounts = await readMounts();
    const standing = mountAt(mounts, target);
    if (standing !== undefined && (await this.#isPublished(standing, view, use, wantsReadOnly))) return;
    const staging = await resolvePath(stagingPath);
    requireSoleTarget(mounts, view, use, [staging, target]);
    await makeTarget(target, use);
    try {
      await bindMount(use.access === 'block' ? view.device.path : staging, target, wantsReadOnly);
    } catch (error) {
      // Nothing of ours stays; the error that is on its way says more than one from here.
      await this.unpublish(targetPath).catch(() => undefined);
      throw error;
    }
    if (!wantsReadOnly) this.#writable.add(target);
  }

  /** Afterwards nothing is at the target; nothing there is success. */
  async unpublish(targetPath: string): Promise<void> {
    const target = await resolvePath(targetPath);
    await unmount(target);
    await removeTarget(target);
    this.#writable.delete(target);
  }

  async #isPublished(standing: Mount, view: DeviceView, use: Use, wantsReadOnly: boolean): Promise<boolean> {
    const { mountPoint, options } = standing;
    const shows = use.access === 'block' ? showsDeviceFile : showsFileSystem;
    if (!shows(standing, view)) {
      await requireLeftover(standing, view, this.#devices);
      await unmountLazily(mountPoint);
      return false;
    }
    if (use.access === 'mount' && !(await isUsable(mountPoint))) {
      await unmount(mountPoint);
      return false;
    }
    const isReadOnly = options.includes('ro');
    if (isReadOnly === wantsReadOnly) return true;
    if (isReadOnly || this.#writable.has(mountPoint)) {
      const has = isReadOnly ? 'read-only' : 'for writing';
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `${mountPoint} is published ${has} already: unpublish it first`,
      );
    }
    await remountReadOnly(mountPoint);
    return true;
  }
}

/**
 * The specification's table for a second target: refused, except that several workloads of one node share a
 * SINGLE_NODE_MULTI_WRITER volume. So they do a SINGLE_NODE_WRITER one here: that is what ReadWriteOnce is
 * called by sidecars that do not know the newer modes, and pods on one node do share those.
 */
function requireSoleTarget(
  mounts: readonly Mount[],
  view: DeviceView,
  { mode }: Use,
  except: readonly string[],
): void {
  if (mode === 'SINGLE_NODE_MULTI_WRITER' || mode === 'SINGLE_NODE_WRITER') return;
  const other = mounts.find(
    (mount) =>
      showsDevice(mount, view) &&
      !except.includes(mount.mountPoint) &&
      // kubelet's own bind mounts of parts of a published volume
      !mount.mountPoint.includes('/volume-subpaths/'),
  );
  if (other === undefined) return;
  throw new HoldfastError(
    'CONFLICT',
    `volume ${view.device.volumeId} is published at ${other.mountPoint}, and its access mode ${mode} allows one target`,
  );
}

async function makeTarget(target: string, use: Use): Promise<void> {
  await mkdir(use.access === 'block' ? dirname(target) : target, { recursive: true });
  if (use.access === 'block') await (await open(target, 'a', 0o600)).close();
}

/** Only what makeTarget makes: an empty directory or an empty file. */
async function removeTarget(target: string): Promise<void> {
  try {
    const status = await lstat(target);
    if (status.isDirectory()) await rmdir(target);
    else if (status.isFile() && status.size === 0) await unlink(target);
    else throw notOurs(target);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return;
    if (isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw notOurs(target);
    if (isErrno(error, 'EBUSY')) {
      throw new HoldfastError('BUSY', `${target} is still a mount point for another process; try again`, {
        cause: error,
      });
    }
    throw error;
  }
}

function notOurs(target: string): HoldfastError {
  return new HoldfastError(
    'CONFLICT',
    `nothing is mounted at ${target}, but there are files that are not ours: look at them and remove them`,
  );
}
