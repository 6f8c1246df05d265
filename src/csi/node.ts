// The node service: volumes as devices, mounts and bind mounts of this node. The work is in staging.ts and
// publishing.ts; here requests are checked, in the order fields, existence, compatibility.

import { HoldfastError } from '../core/errors.ts';
import { isVolumeId } from '../control/names.ts';
import type { VolumeRecord } from '../control/records.ts';
import type { AttachedDevice, DeviceService } from '../host/device-service.ts';
import {
  FILE_SYSTEM_TYPES,
  type FileSystemType,
  fileSystemStats,
  growFileSystem,
} from '../host/filesystems.ts';
import { type Mount, mountAt } from '../host/mountinfo.ts';
import { readMounts, resolvePath } from '../host/mounts.ts';
import { NODE_CAPABILITIES, parseUse } from './capabilities.ts';
import {
  type DeviceView,
  showsDevice,
  showsDeviceFile,
  showsFileSystem,
  viewDevice,
} from './device-mounts.ts';
import type { NodeService } from './messages.ts';
import { Publishing } from './publishing.ts';
import { requestedSizeBytes, requireAbsolutePath, requirePath, requireVolumeId } from './requests.ts';
import { type NodeVolumes, Staging } from './staging.ts';
import { topologyOf } from './topology.ts';

export interface NodeOptions {
  readonly node: string;
  readonly volumes: NodeVolumes;
  readonly devices: DeviceService;
  readonly maxVolumesPerNode: number;
}

export function createNode({ node, volumes, devices, maxVolumesPerNode }: NodeOptions): NodeService {
  const staging = new Staging(node, volumes, devices);
  const publishing = new Publishing(devices);

  const find = async (volumeId: string): Promise<VolumeRecord> => {
    if (!isVolumeId(volumeId)) throw new HoldfastError('NOT_FOUND', `there is no volume '${volumeId}'`);
    return await volumes.get(volumeId);
  };

  return {
    async NodeGetCapabilities() {
      return { capabilities: NODE_CAPABILITIES.map((type) => ({ rpc: { type } })) };
    },

    async NodeGetInfo() {
      return {
        node_id: node,
        max_volumes_per_node: maxVolumesPerNode,
        accessible_topology: topologyOf(node),
      };
    },

    async NodeStageVolume(request) {
      requireVolumeId(request);
      requireAbsolutePath('staging_target_path', request.staging_target_path);
      const use = parseUse(request.volume_capability);
      await staging.stage(await find(request.volume_id), use, request.staging_target_path);
      return {};
    },

    async NodeUnstageVolume(request) {
      requireVolumeId(request);
      requireAbsolutePath('staging_target_path', request.staging_target_path);
      await staging.unstage(request.volume_id, request.staging_target_path);
      return {};
    },

    async NodePublishVolume(request) {
      requireVolumeId(request);
      requireAbsolutePath('target_path', request.target_path);
      const use = parseUse(request.volume_capability);
      const record = await find(request.volume_id);
      if (request.staging_target_path === '') {
        throw new HoldfastError(
          'CONFLICT',
          'staging_target_path is required: volumes are staged before they are published',
        );
      }
      requireAbsolutePath('staging_target_path', request.staging_target_path);
      // After a reboot or a lost device kubelet may publish without staging again: this stages what is missing.
      const view = await staging.stage(record, use, request.staging_target_path);
      await publishing.publish(view, use, {
        stagingPath: request.staging_target_path,
        targetPath: request.target_path,
        readOnly: request.readonly,
      });
      return {};
    },

    async NodeUnpublishVolume(request) {
      requireVolumeId(request);
      requireAbsolutePath('target_path', request.target_path);
      await publishing.unpublish(request.target_path);
      return {};
    },

    async NodeGetVolumeStats(request) {
      requireVolumeId(request);
      requirePath('volume_path', request.volume_path);
      const record = await find(request.volume_id);
      const { mount, view } = await findMount(devices, record.id, request.volume_path);
      if (showsDeviceFile(mount, view)) return { usage: [{ unit: 'BYTES', total: view.device.sizeBytes }] };
      const { bytes, inodes } = await fileSystemStats(mount.mountPoint);
      return {
        usage: [
          { unit: 'BYTES', ...bytes },
          { unit: 'INODES', ...inodes },
        ],
      };
    },

    async NodeExpandVolume(request) {
      requireVolumeId(request);
      requirePath('volume_path', request.volume_path);
      if (request.volume_capability) parseUse(request.volume_capability);
      const record = await find(request.volume_id);
      const sizeBytes = requestedSizeBytes(request.capacity_range, record.sizeBytes);
      if (sizeBytes > record.sizeBytes) {
        throw new HoldfastError(
          'OUT_OF_RANGE',
          `the volume has ${record.sizeBytes} bytes, not ${sizeBytes}: expand it at the controller first`,
        );
      }
      const { mount, view } = await findMount(devices, record.id, request.volume_path);
      if (view.device.sizeBytes < record.sizeBytes) await devices.resize(record.id, record.sizeBytes);
      if (showsFileSystem(mount, view)) await grow(view, view.device);
      return { capacity_bytes: record.sizeBytes };
    },
  };
}

/** The mount of this volume at `path`, without touching it; NOT_FOUND. */
async function findMount(
  devices: DeviceService,
  volumeId: string,
  path: string,
): Promise<{ mount: Mount; view: DeviceView }> {
  const device = devices.find(volumeId);
  const mount = mountAt(await readMounts(), await resolvePath(path));
  const view = device === undefined ? undefined : await viewDevice(device);
  if (mount === undefined || view === undefined || !showsDevice(mount, view)) {
    throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not mounted at ${path} on this node`);
  }
  return { mount, view };
}

/** Through whichever mount is writable: the one that was asked about may be a pod's read-only one. */
async function grow(view: DeviceView, device: AttachedDevice): Promise<void> {
  const writable = (await readMounts()).find(
    (mount) => showsFileSystem(mount, view) && mount.root === '/' && !mount.options.includes('ro'),
  );
  const type = FILE_SYSTEM_TYPES.find((known): known is FileSystemType => known === writable?.fileSystem);
  if (writable === undefined || type === undefined) {
    throw new HoldfastError(
      'CONFLICT',
      `the file system on ${device.path} cannot grow while it is mounted read-only`,
    );
  }
  await growFileSystem(device.path, writable.mountPoint, type);
}
