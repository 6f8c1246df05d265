// Records and their surroundings, as the control API shows them.

import type { CopyLook } from '../../control/look-at-copies.ts';
import type { NodeView as StoredNode } from '../../control/nodes.ts';
import type { RebuildReport } from '../../control/rebuild-catalog.ts';
import { type ReplicaRecord, replicaState, UNDECIDED, type VolumeRecord } from '../../control/records.ts';
import { provisionedIn } from '../../control/sizes.ts';
import { primaryReplica } from '../../control/volume-context.ts';
import type { PoolCapacity } from '../../control/volume-service.ts';
import type { ClosedPool, PoolStatus, ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { NodeView, PoolView, Response, VolumeView } from '../api-schema.ts';

/** The daemon that shows it. */
export interface Here {
  readonly node: string;
  /** Its block devices. */
  readonly devices: Pick<DeviceService, 'find' | 'waitingSince'>;
  /** Its pools that are not open. */
  readonly closed: readonly ClosedPool[];
  /** A device or an export of it uses the volume. */
  readonly isUsed: (volumeId: string) => boolean;
}

type OneLook = Omit<CopyLook, 'replicaId'>;

/** `local`: the copy here. `looks`: what was seen of all copies just now, if anybody looked. */
export function volumeView(
  record: VolumeRecord,
  local: ReplicaStatus | undefined,
  here: Here,
  looks: readonly CopyLook[] = [],
): VolumeView {
  const { attachment, primary, inSync, replicas } = record;
  const nodeOf = (id: string): string => replicas.find((replica) => replica.id === id)?.node ?? '';
  return {
    id: record.id,
    name: record.name,
    state: record.state,
    sizeBytes: record.sizeBytes,
    epoch: record.epoch,
    durability: record.durability,
    failureMode: String(record.failureMode),
    fileSystem: record.fileSystem,
    attachment: attachmentView(attachment),
    primary: nodeOf(primary.replicaId),
    inSync: inSync
      .filter(({ incarnation }) => incarnation !== UNDECIDED)
      .map(({ replicaId }) => nodeOf(replicaId))
      .sort(),
    replicas: replicas.map((replica) => {
      const look = looks.find(({ replicaId }) => replicaId === replica.id);
      return replicaView(record, replica, look ?? lookFromHere(record, replica, local, here));
    }),
    device: here.devices.find(record.id)?.path ?? '',
    deviceWaitingSince: here.devices.waitingSince(record.id)?.toISOString() ?? '',
    serving: here.isUsed(record.id) || (local?.isOpen ?? false),
    labels: { ...record.labels },
  };
}

function attachmentView({
  number,
  node,
  readOnly,
  use,
}: VolumeRecord['attachment']): VolumeView['attachment'] {
  return { number, node: node ?? '', readOnly, use: node === null ? '' : use };
}

function replicaView(
  { primary }: VolumeRecord,
  { id, node, pool }: ReplicaRecord,
  { state, allocatedBytes, problem, resyncBytesLeft = 0, resyncBytesSent = 0 }: OneLook,
): VolumeView['replicas'][number] {
  const role = id === primary.replicaId ? 'primary' : 'secondary';
  return { id, node, pool, role, state, allocatedBytes, resyncBytesLeft, resyncBytesSent, problem };
}

/** What its own daemon knows of a copy; of others only what the store says. */
function lookFromHere(
  record: VolumeRecord,
  replica: ReplicaRecord,
  local: ReplicaStatus | undefined,
  { node, closed }: Here,
): OneLook {
  const state = replicaState(record, replica);
  const notTold = { resyncBytesLeft: undefined, resyncBytesSent: undefined };
  const isOther = local?.superblock !== undefined && local.superblock.replicaId !== replica.id;
  if (replica.node !== node || isOther) return { state, allocatedBytes: 0, problem: '', ...notTold };
  const problem = problemOf(replica.pool, local, closed);
  return { state, allocatedBytes: local?.allocatedBytes ?? 0, problem, ...notTold };
}

function problemOf(pool: string, local: ReplicaStatus | undefined, closed: readonly ClosedPool[]): string {
  if (local !== undefined) return local.problem ?? '';
  const found = closed.find(({ name }) => name === pool);
  return found === undefined ? '' : `its pool is not open: ${found.problem}`;
}

export function poolView(
  capacity: PoolCapacity,
  status: PoolStatus | undefined,
  closed: ClosedPool | undefined,
): PoolView {
  return {
    name: capacity.pool,
    node: capacity.node,
    directory: status?.directory ?? closed?.directory ?? '',
    ioMode: status?.ioMode ?? '',
    totalBytes: capacity.totalBytes,
    availableBytes: capacity.availableBytes,
    provisionedBytes: capacity.provisionedBytes,
    creatableBytes: capacity.creatableBytes,
    reserveBytes: status?.reserveBytes ?? 0,
    problem: capacity.problem ?? '',
  };
}

/** `problem`: why the node cannot be reached; '': it can, or nobody has tried. */
export function nodeView(node: StoredNode, volumes: readonly VolumeRecord[], problem = ''): NodeView {
  const copies = volumes.flatMap((record) =>
    record.replicas.filter((replica) => replica.node === node.name).map(({ id }) => ({ id, record })),
  );
  const isPrimary = ({ id, record }: (typeof copies)[number]): boolean => record.primary.replicaId === id;
  return {
    name: node.name,
    id: node.id,
    address: node.address ?? '',
    zone: node.zone ?? '',
    labels: { ...node.labels },
    pools: node.pools.map(({ name, totalBytes, availableBytes, reserveBytes, overcommitRatio, problem }) => ({
      name,
      totalBytes,
      availableBytes,
      reserveBytes,
      overcommitRatio,
      provisionedBytes: provisionedIn(volumes, node.name, name),
      problem: problem ?? '',
    })),
    version: node.softwareVersion,
    controlWire: { ...node.wire.control },
    peerWire: { ...node.wire.peer },
    bootId: node.bootId,
    process: node.process,
    startedAt: node.startedAt,
    alive: node.isAlive,
    lostAt: node.isAlive ? '' : (node.lostAt ?? ''),
    cordoned: node.cordoned,
    draining: node.draining,
    problem,
    copies: copies.length,
    primaries: copies.filter(isPrimary).length,
  };
}

export function rebuildView({ nodes, problems, volumes }: RebuildReport): Response<'RebuildCatalog'> {
  return {
    nodes: [...nodes],
    problems: problems.map((one) => ({ ...one })),
    volumes: volumes.map(({ record, verdict, reason, notes }) => {
      const isIn = ({ id }: VolumeRecord['replicas'][number]): boolean =>
        record.inSync.some(({ replicaId }) => replicaId === id);
      return {
        id: record.id,
        name: record.name,
        sizeBytes: record.sizeBytes,
        verdict,
        epoch: record.epoch,
        attachmentNumber: record.attachment.number,
        primary: primaryReplica(record).node,
        inSync: verdict === 'inSync' ? record.replicas.filter(isIn).map(({ node }) => node) : [],
        toFill: record.replicas.filter((replica) => !isIn(replica)).map(({ node }) => node),
        reason,
        notes: [...notes],
      };
    }),
  };
}
