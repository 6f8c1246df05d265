// A volume on this node: attached as a device and, unless it is a block volume, mounted once at the staging
// path. Publishing binds from there. Every step looks at what is there first, so that a call cut short
// anywhere can be repeated, and a stage after a reboot or a lost device starts over.
//
// - A device serves exactly one attachment. Without a live device of the current one, a new attachment number
//   is taken by compare-and-swap while the record still names this node: what an older device of ours had in
//   flight can then never land after what the new one writes. The number in a publish context is not read.
// - The caller serialises calls for one volume.

import { mkdir } from 'node:fs/promises';
import { errorText, HoldfastError } from '../core/errors.ts';
import type { VolumeRecord } from '../control/records.ts';
import type { VolumeService } from '../control/volume-service.ts';
import type { AttachedDevice, DeviceService } from '../host/device-service.ts';
import { growFileSystem } from '../host/filesystems.ts';
import { type Mount, mountAt } from '../host/mountinfo.ts';
import { isUsable, mountDevice, readMounts, resolvePath, unmount, unmountLazily } from '../host/mounts.ts';
import type { Use } from './capabilities.ts';
import {
  requireLeftover,
  showsDevice,
  showsDeviceFile,
  showsFileSystem,
  type DeviceView,
  viewDevice,
} from './device-mounts.ts';
import { fileSystemTypeFor, prepareFileSystem } from './volume-file-system.ts';

/** What the node's side needs of volumes. */
export type NodeVolumes = Pick<
  VolumeService,
  'get' | 'renewAttachment' | 'chooseFileSystem' | 'fileSystemMade'
>;

type MountUse = Extract<Use, { access: 'mount' }>;

export class Staging {
  readonly #node: string;
  readonly #volumes: NodeVolumes;
  readonly #devices: DeviceService;

  constructor(node: string, volumes: NodeVolumes, devices: DeviceService) {
    this.#node = node;
    this.#volumes = volumes;
    this.#devices = devices;
  }

  /** CONFLICT unless the publish record names this node. */
  requirePublishedHere(record: VolumeRecord): void {
    const { node } = record.attachment;
    if (node === this.#node) return;
    throw new HoldfastError(
      'CONFLICT',
      `volume '${record.name}' is published ${node === null ? 'nowhere' : `to node '${node}'`}, not to this node '${this.#node}': it must be published here first`,
    );
  }

  /** When it resolves the volume is attached and, for a mount, mounted and working at `stagingPath`. */
  async stage(record: VolumeRecord, use: Use, stagingPath: string): Promise<DeviceView> {
    this.requirePublishedHere(record);
    const path = await resolvePath(stagingPath);
    if (use.access === 'block') await requireBlockStage(record, path);
    const view = await viewDevice(await this.#attach(record));
    if (use.access === 'block') return view;
    try {
      await this.#mount(record, view, use, path);
      return view;
    } catch (error) {
      throw await this.#undo(view, path, error);
    }
  }

  /** Nothing staged is success, also for a volume that is gone. CONFLICT while it is still published. */
  async unstage(volumeId: string, stagingPath: string): Promise<void> {
    const path = await resolvePath(stagingPath);
    const device = this.#devices.find(volumeId);
    if (device !== undefined) {
      const view = await viewDevice(device);
      const other = (await readMounts()).find(
        (mount) => mount.mountPoint !== path && showsDevice(mount, view),
      );
      if (other !== undefined) {
        throw new HoldfastError(
          'CONFLICT',
          `volume ${volumeId} is still mounted at ${other.mountPoint}: unpublish it there first`,
        );
      }
    }
    await unmount(path);
    await this.#devices.detach(volumeId);
  }

  async #attach(record: VolumeRecord): Promise<AttachedDevice> {
    const { id } = record;
    const standing = this.#devices.find(id);
    if (standing?.attachmentNumber === record.attachment.number) {
      return await this.#withFullSize(standing, record.sizeBytes);
    }
    if (standing !== undefined) await this.#removeRevoked(standing);
    const { attachment } = await this.#volumes.renewAttachment(id, this.#node);
    return await this.#devices.attach(id, attachment.number, record.sizeBytes, attachment.readOnly);
  }

  async #withFullSize(device: AttachedDevice, sizeBytes: number): Promise<AttachedDevice> {
    if (device.sizeBytes >= sizeBytes) return device;
    await this.#devices.resize(device.volumeId, sizeBytes);
    return this.#devices.find(device.volumeId) ?? device;
  }

  /** A device of an attachment that was revoked: its requests fail, whoever still has it open. */
  async #removeRevoked(device: AttachedDevice): Promise<void> {
    const view = await viewDevice(device);
    for (const mount of (await readMounts()).reverse()) {
      if (showsDevice(mount, view)) await unmountLazily(mount.mountPoint);
    }
    await this.#devices.detach(device.volumeId, { force: true });
  }

  async #mount(record: VolumeRecord, view: DeviceView, use: MountUse, path: string): Promise<void> {
    const { device } = view;
    const type = fileSystemTypeFor(record, use.fileSystemType);
    const standing = mountAt(await readMounts(), path);
    if (standing === undefined || !(await this.#isStaged(standing, view, type))) {
      const mounts = await readMounts();
      if (record.fileSystem?.made !== true) requireNoBlockUse(record, mounts, view);
      const isMountedElsewhere = mounts.some((mount) => showsFileSystem(mount, view));
      if (!isMountedElsewhere) await prepareFileSystem(this.#volumes, record, device, type);
      await mkdir(path, { recursive: true });
      await mountDevice(device.path, path, type, [
        // A clone or restored snapshot on the same node has the UUID of its source.
        ...(type === 'xfs' ? ['nouuid'] : []),
        ...(device.readOnly ? ['ro'] : []),
        ...use.mountFlags,
      ]);
      if (isMountedElsewhere && !(await isUsable(path))) {
        await unmount(path);
        throw new HoldfastError(
          'UNAVAILABLE',
          `the file system of volume '${record.name}' shut down after an error and pods still use it: delete them, so that it is mounted anew`,
        );
      }
    }
    // The volume may have grown while it was not mounted; kubelet asks for no expansion then.
    if (!device.readOnly && !use.mountFlags.includes('ro')) await growFileSystem(device.path, path, type);
  }

  /** Whether this volume is mounted and works; what a dead device of ours left is taken away. */
  async #isStaged(standing: Mount, view: DeviceView, type: string): Promise<boolean> {
    const { mountPoint, fileSystem } = standing;
    if (!showsFileSystem(standing, view)) {
      await requireLeftover(standing, view, this.#devices);
      await unmountLazily(mountPoint);
      return false;
    }
    if (fileSystem !== type) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `${mountPoint} is staged as ${fileSystem} already, not as ${type}`,
      );
    }
    if (await isUsable(mountPoint)) return true;
    await unmount(mountPoint);
    return false;
  }

  /** After a failure: unless pods use it, mount and device go again; the error stays final only if they did. */
  async #undo(view: DeviceView, path: string, error: unknown): Promise<unknown> {
    try {
      const shown = (await readMounts()).filter((mount) => showsDevice(mount, view));
      if (shown.some((mount) => mount.mountPoint !== path)) return error;
      if (shown.length > 0) await unmount(path);
      await this.#devices.detach(view.device.volumeId);
      return error;
    } catch (undoError) {
      return new HoldfastError(
        'UNAVAILABLE',
        `${errorText(error)}; and ${view.device.path} could not be taken away again: ${errorText(undoError)}`,
        { cause: error },
      );
    }
  }
}

/** CONFLICT while a pod has it as a block volume: what it writes would be formatted over, now or after an interruption. */
function requireNoBlockUse(record: VolumeRecord, mounts: readonly Mount[], view: DeviceView): void {
  const raw = mounts.find((mount) => showsDeviceFile(mount, view));
  if (raw === undefined) return;
  throw new HoldfastError(
    'CONFLICT',
    `volume '${record.name}' has no file system and is in use as a block volume at ${raw.mountPoint}: unpublish it there first`,
  );
}

async function requireBlockStage(record: VolumeRecord, path: string): Promise<void> {
  const standing = mountAt(await readMounts(), path);
  if (standing !== undefined) {
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `${path} has ${standing.source} mounted, so it is not staged as a block volume`,
    );
  }
  if (record.fileSystem?.made === false) {
    throw new HoldfastError(
      'CONFLICT',
      `making a file system on volume '${record.name}' was interrupted, and the next mount makes it again: raw data would be lost`,
    );
  }
}
