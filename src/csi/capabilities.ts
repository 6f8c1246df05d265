// What this driver says it can do, and what of a requested volume capability it can. The declared set is what
// csi-sanity knows and runs: an entry it does not know fails it, an entry left out makes it skip tests.

import { FILE_SYSTEM_TYPES, type FileSystemType } from '../host/filesystems.ts';
import type {
  ControllerServiceCapabilityRPCType,
  NodeServiceCapabilityRPCType,
  PluginCapability,
  Sent,
  VolumeCapability,
  VolumeCapabilityAccessModeMode,
} from './messages.ts';
import { invalid, requirePresent } from './requests.ts';

export const PLUGIN_CAPABILITIES: readonly Sent<PluginCapability>[] = [
  { service: { type: 'CONTROLLER_SERVICE' } },
  { service: { type: 'VOLUME_ACCESSIBILITY_CONSTRAINTS' } },
  { volume_expansion: { type: 'ONLINE' } },
  { volume_expansion: { type: 'OFFLINE' } },
];

export const CONTROLLER_CAPABILITIES: readonly ControllerServiceCapabilityRPCType[] = [
  'CREATE_DELETE_VOLUME',
  'PUBLISH_UNPUBLISH_VOLUME',
  'LIST_VOLUMES',
  'GET_CAPACITY',
  'PUBLISH_READONLY',
  'EXPAND_VOLUME',
  'LIST_VOLUMES_PUBLISHED_NODES',
  'GET_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
];

export const NODE_CAPABILITIES: readonly NodeServiceCapabilityRPCType[] = [
  'STAGE_UNSTAGE_VOLUME',
  'GET_VOLUME_STATS',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
];

export type AccessMode = Extract<
  VolumeCapabilityAccessModeMode,
  'SINGLE_NODE_WRITER' | 'SINGLE_NODE_READER_ONLY' | 'SINGLE_NODE_SINGLE_WRITER' | 'SINGLE_NODE_MULTI_WRITER'
>;
const ACCESS_MODES: readonly AccessMode[] = [
  'SINGLE_NODE_WRITER',
  'SINGLE_NODE_READER_ONLY',
  'SINGLE_NODE_SINGLE_WRITER',
  'SINGLE_NODE_MULTI_WRITER',
];

/** A capability that was checked. `fileSystemType` undefined: not said; the volume or the default decides. */
export type Use =
  | { readonly access: 'block'; readonly mode: AccessMode }
  | {
      readonly access: 'mount';
      readonly mode: AccessMode;
      readonly fileSystemType: FileSystemType | undefined;
      readonly mountFlags: readonly string[];
    };

export function isReaderOnly(use: Use): boolean {
  return use.mode === 'SINGLE_NODE_READER_ONLY';
}

/** INVALID unless this driver can serve a volume like this. */
export function parseUse(capability: VolumeCapability | null | undefined): Use {
  const { block, mount, access_mode: accessMode } = requirePresent('volume_capability', capability);
  const mode = parseMode(accessMode?.mode ?? 'UNKNOWN');
  if (mount !== null && mount !== undefined) {
    if (mount.volume_mount_group !== '') {
      throw invalid(
        'volume_mount_group is not supported: the file systems of this driver keep owners and modes',
      );
    }
    const fileSystemType = mount.fs_type === '' ? undefined : parseFileSystemType(mount.fs_type);
    return { access: 'mount', mode, fileSystemType, mountFlags: mount.mount_flags };
  }
  requirePresent('access_type (block or mount) of volume_capability', block);
  return { access: 'block', mode };
}

/** At least one, all of them servable by one volume. */
export function parseUses(capabilities: readonly VolumeCapability[]): Use[] {
  if (capabilities.length === 0) throw invalid('volume_capabilities is required');
  return capabilities.map(parseUse);
}

export function parseFileSystemType(text: string): FileSystemType {
  const type = FILE_SYSTEM_TYPES.find((known) => known === text);
  if (type === undefined) {
    throw invalid(`there is no file system '${text}' here; choose one of ${FILE_SYSTEM_TYPES.join(', ')}`);
  }
  return type;
}

function parseMode(mode: VolumeCapabilityAccessModeMode | 'UNKNOWN'): AccessMode {
  const known = ACCESS_MODES.find((candidate) => candidate === mode);
  if (known !== undefined) return known;
  if (mode === 'UNKNOWN') throw invalid('access_mode of volume_capability is required');
  throw invalid(
    `access mode ${String(mode)} is not supported: a volume is used by one node at a time (ReadWriteOnce, ReadWriteOncePod)`,
  );
}
