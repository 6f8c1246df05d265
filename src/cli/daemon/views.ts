// Records and their surroundings, as the control API shows them.

import type { NodeView as StoredNode } from '../../control/nodes.ts';
import { replicaState, type VolumeRecord } from '../../control/records.ts';
import { provisionedIn } from '../../control/sizes.ts';
import type { PoolCapacity } from '../../control/volume-service.ts';
import type { ClosedPool, PoolStatus, ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { NodeView, PoolView, VolumeView } from '../api-schema.ts';

/** `local`: this node's copy. `devices`: this node's block devices. `closed`: this node's pools that are not open. */
export function volumeView(
  record: VolumeRecord,
  local: ReplicaStatus | undefined,
  devices: Pick<DeviceService, 'find' | 'waitingSince'>,
  closed: readonly ClosedPool[],
): VolumeView {
  const { attachment } = record;
  return {
    id: record.id,
    name: record.name,
    state: record.state,
    sizeBytes: record.sizeBytes,
    epoch: record.epoch,
    durability: record.durability,
    failureMode: String(record.failureMode),
    fileSystem: record.fileSystem,
    attachment: { number: attachment.number, node: attachment.node ?? '', readOnly: attachment.readOnly },
    replicas: record.replicas.map((replica) => {
      const { id, node, pool } = replica;
      const isHere = local?.superblock === undefined || local.superblock.replicaId === id;
      return {
        id,
        node,
        pool,
        state: replicaState(record, replica),
        allocatedBytes: isHere ? (local?.allocatedBytes ?? 0) : 0,
        problem: isHere ? problemOf(pool, local, closed) : '',
      };
    }),
    device: devices.find(record.id)?.path ?? '',
    deviceWaitingSince: devices.waitingSince(record.id)?.toISOString() ?? '',
    serving: local?.isOpen ?? false,
    labels: { ...record.labels },
  };
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
  };
}
