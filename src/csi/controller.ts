// The controller service: volumes as the orchestrator sees them. It holds no state and no locks: the server
// serialises calls by volume, VolumeService keeps every operation idempotent. Checks go in the order that
// the specification's error tables imply: fields, then existence, then compatibility.

import { HoldfastError, isHoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, GIB, MAX_VOLUME_BYTES, MIN_VOLUME_BYTES } from '../core/units.ts';
import { isVolumeId } from '../control/names.ts';
import type { VolumeRecord } from '../control/records.ts';
import type { VolumeService } from '../control/volume-service.ts';
import { type FileSystemType, MIN_FILE_SYSTEM_BYTES } from '../host/filesystems.ts';
import { CONTROLLER_CAPABILITIES, isReaderOnly, parseUse, parseUses, type Use } from './capabilities.ts';
import type { ControllerService, CreateVolumeRequest, Sent, Volume } from './messages.ts';
import { type Parameters, parseParameters } from './parameters.ts';
import {
  invalid,
  requestedSizeBytes,
  requireMap,
  requireName,
  requireNodeId,
  requirePresent,
  requireVolumeId,
} from './requests.ts';
import { includesNode, preferredNode, requireReachable, topologyOf } from './topology.ts';
import { DEFAULT_FILE_SYSTEM, FILE_SYSTEM_LABEL } from './volume-file-system.ts';

const DEFAULT_SIZE_BYTES = GIB;
/** Keeps an answer far below gRPC's 4 MiB. */
const MAX_LIST_ENTRIES = 5000;

export interface ControllerOptions {
  readonly node: string;
  readonly volumes: VolumeService;
  /** Several nodes share the store: a volume can be used on any of them, and copies go where there is room. */
  readonly inCluster?: boolean | undefined;
}

type Implemented = Omit<
  ControllerService,
  'ControllerModifyVolume' | 'CreateSnapshot' | 'DeleteSnapshot' | 'ListSnapshots' | 'GetSnapshot'
>;

export function createController({ node, volumes, inCluster = false }: ControllerOptions): Implemented {
  return {
    async ControllerGetCapabilities() {
      return { capabilities: CONTROLLER_CAPABILITIES.map((type) => ({ rpc: { type } })) };
    },

    async CreateVolume(request) {
      requireName(request.name);
      const uses = parseUses(request.volume_capabilities);
      requireMap('parameters', request.parameters);
      const parameters = parseParameters(request.parameters, inCluster);
      requireNothingLater(request);
      const fileSystemType = wantedFileSystem(uses, parameters);
      const sizeBytes = requestedSizeBytes(request.capacity_range, DEFAULT_SIZE_BYTES);
      if (uses.some(({ access }) => access === 'mount'))
        requireRoomFor(fileSystemType ?? DEFAULT_FILE_SYSTEM, sizeBytes);
      if (!inCluster) requireReachable(request.accessibility_requirements, node);
      const record = await volumes.create({
        name: request.name,
        sizeBytes,
        pool: parameters.pool,
        replicaCount: parameters.replicaCount,
        preferredNode: inCluster ? preferredNode(request.accessibility_requirements) : undefined,
        durability: parameters.durability,
        failureMode: parameters.failureMode,
        // Chosen in the record only when the device was seen blank and mkfs is about to start (volume-file-system.ts).
        fileSystemType: null,
        labels: {
          ...parameters.labels,
          ...(fileSystemType === undefined ? {} : { [FILE_SYSTEM_LABEL]: fileSystemType }),
        },
      });
      return { volume: volumeOf(record, inCluster) };
    },

    async DeleteVolume(request) {
      requireVolumeId(request);
      if (isVolumeId(request.volume_id)) await volumes.delete(request.volume_id);
      return {};
    },

    async ControllerPublishVolume(request) {
      requireVolumeId(request);
      requireNodeId(request.node_id);
      const use = parseUse(request.volume_capability);
      requireVolumeShape(request.volume_id);
      const readOnly = request.readonly || isReaderOnly(use);
      const record = await volumes.publish(request.volume_id, request.node_id, readOnly);
      // For people who debug: the node looks the attachment up in the store and never trusts this one.
      return { publish_context: { 'holdfast.dev/attachment': String(record.attachment.number) } };
    },

    async ControllerUnpublishVolume(request) {
      requireVolumeId(request);
      if (request.node_id !== '') requireNodeId(request.node_id);
      if (isVolumeId(request.volume_id)) {
        await volumes.unpublish(request.volume_id, request.node_id === '' ? null : request.node_id);
      }
      return {};
    },

    async ValidateVolumeCapabilities(request) {
      requireVolumeId(request);
      if (request.volume_capabilities.length === 0) throw invalid('volume_capabilities is required');
      requireVolumeShape(request.volume_id);
      const record = await volumes.get(request.volume_id);
      const problem = unsupported(() => {
        const uses = parseUses(request.volume_capabilities);
        const wanted = wantedFileSystem(uses, parseParameters(request.parameters, inCluster));
        const { fileSystem } = record;
        if (wanted !== undefined && fileSystem?.made === true && fileSystem.type !== wanted) {
          throw invalid(`the volume holds a file system of type ${fileSystem.type}, not ${wanted}`);
        }
        if (Object.keys(request.mutable_parameters).length > 0)
          throw invalid('volumes have no mutable parameters');
      });
      if (problem !== undefined) return { message: problem };
      const { volume_context, volume_capabilities, parameters } = request;
      return { confirmed: { volume_context, volume_capabilities, parameters } };
    },

    async ListVolumes({ max_entries: maxEntries, starting_token: startingToken }) {
      if (maxEntries < 0) throw invalid('max_entries cannot be negative');
      // The token is the last id of the page before: it stays good when that volume is deleted. The
      // specification wants ABORTED for any other, and BUSY is what becomes that.
      if (startingToken !== '' && !isVolumeId(startingToken)) {
        throw new HoldfastError(
          'BUSY',
          `'${startingToken}' is no starting_token of this list; begin without one`,
        );
      }
      const rest = (await volumes.list()).filter((record) => record.id > startingToken);
      const page = rest.slice(0, Math.min(maxEntries || MAX_LIST_ENTRIES, MAX_LIST_ENTRIES));
      return {
        entries: page.map((record) => ({ volume: volumeOf(record, inCluster), status: statusOf(record) })),
        next_token: page.length < rest.length ? page.at(-1)?.id : '',
      };
    },

    async ControllerGetVolume(request) {
      requireVolumeId(request);
      requireVolumeShape(request.volume_id);
      const record = await volumes.get(request.volume_id);
      return { volume: volumeOf(record, inCluster), status: statusOf(record) };
    },

    async GetCapacity(request) {
      const { pool } = parseParameters(request.parameters, inCluster);
      const topology = request.accessible_topology ?? { segments: {} };
      const cannot = unsupported(() => request.volume_capabilities.forEach(parseUse));
      if (cannot !== undefined) return capacityOf(0);
      if (inCluster) return capacityOf(await volumes.largestVolumeBytes(pool));
      if (!includesNode(topology, node)) return capacityOf(0);
      // Without a pool a volume goes to the default one, which is the first.
      const [capacity] = await volumes.capacity(pool);
      return capacityOf(capacity?.creatableBytes ?? 0);
    },

    async ControllerExpandVolume(request) {
      requireVolumeId(request);
      const range = requirePresent('capacity_range', request.capacity_range);
      if (request.volume_capability) parseUse(request.volume_capability);
      requireVolumeShape(request.volume_id);
      const record = await volumes.get(request.volume_id);
      const sizeBytes = requestedSizeBytes(range, record.sizeBytes);
      if (range.limit_bytes > 0 && range.limit_bytes < record.sizeBytes) {
        throw new HoldfastError(
          'OUT_OF_RANGE',
          `the volume has ${record.sizeBytes} bytes already, more than limit_bytes (${range.limit_bytes}); volumes never shrink`,
        );
      }
      const grown = sizeBytes > record.sizeBytes ? await volumes.resize(record.id, sizeBytes) : record;
      // Block volumes too: the kernel keeps the size of a device.
      return { capacity_bytes: grown.sizeBytes, node_expansion_required: true };
    },
  };
}

function requireNothingLater(request: CreateVolumeRequest): void {
  if (request.volume_content_source) {
    throw invalid(
      'volumes cannot be made from snapshots or other volumes in this version: leave the data source out',
    );
  }
  if (Object.keys(request.mutable_parameters).length > 0) {
    throw invalid('volumes have no mutable parameters in this version: leave the VolumeAttributesClass out');
  }
}

/** What the capabilities and the parameters say together; undefined when neither says anything. */
function wantedFileSystem(uses: readonly Use[], { fileSystemType }: Parameters): FileSystemType | undefined {
  const said = new Set(
    uses.flatMap((use) =>
      use.access === 'mount' && use.fileSystemType !== undefined ? [use.fileSystemType] : [],
    ),
  );
  if (fileSystemType !== undefined) said.add(fileSystemType);
  if (said.size > 1)
    throw invalid(`capabilities and parameters ask for several file systems: ${[...said].join(', ')}`);
  return said.values().next().value;
}

function requireRoomFor(type: FileSystemType, sizeBytes: number): void {
  const leastBytes = MIN_FILE_SYSTEM_BYTES[type];
  if (sizeBytes >= leastBytes) return;
  throw new HoldfastError(
    'OUT_OF_RANGE',
    `a volume for ${type} needs at least ${leastBytes} bytes, not ${sizeBytes}`,
  );
}

/** An identifier that we never drew names no volume. */
function requireVolumeShape(volumeId: string): void {
  if (!isVolumeId(volumeId)) throw new HoldfastError('NOT_FOUND', `there is no volume '${volumeId}'`);
}

/** The text of INVALID, if that is what `check` throws. */
function unsupported(check: () => void): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (isHoldfastError(error, 'INVALID')) return error.message;
    throw error;
  }
}

function volumeOf(record: VolumeRecord, inCluster: boolean): Sent<Volume> {
  return {
    volume_id: record.id,
    capacity_bytes: record.sizeBytes,
    // In a cluster it is used on any node, wherever its copies are.
    accessible_topology: inCluster ? [] : record.replicas.map((replica) => topologyOf(replica.node)),
  };
}

function statusOf({ attachment }: VolumeRecord): { published_node_ids: string[] } {
  return { published_node_ids: attachment.node === null ? [] : [attachment.node] };
}

function capacityOf(bytes: number): Awaited<ReturnType<ControllerService['GetCapacity']>> {
  const largestBytes = Math.min(bytes, MAX_VOLUME_BYTES);
  const wholeBytes = Math.floor(largestBytes / BLOCK_BYTES) * BLOCK_BYTES;
  return {
    available_capacity: bytes,
    maximum_volume_size: { value: wholeBytes },
    minimum_volume_size: { value: MIN_VOLUME_BYTES },
  };
}
