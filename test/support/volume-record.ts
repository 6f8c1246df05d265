// A volume's record for tests that need one and care little what is in it.

import { drawId } from '../../src/control/names.ts';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { MIB } from '../../src/core/units.ts';

/** Its copies r1, r2, … on these nodes, all in sync, the first one the primary's. */
export function recordOn(nodes: readonly string[], changes: Partial<VolumeRecord> = {}): VolumeRecord {
  const replicas = nodes.map((node, index) => newReplica(`r${index + 1}`, node, 'pool'));
  return {
    version: 2,
    id: drawId(),
    name: 'data',
    state: 'ready',
    coordinator: null,
    sizeBytes: 64 * MIB,
    targetSizeBytes: 64 * MIB,
    lineage: drawId(),
    epoch: 7,
    primary: { replicaId: 'r1', opening: null },
    inSync: replicas.map(({ id }) => ({ replicaId: id, incarnation: null })),
    replicas,
    attachment: { number: 3, node: null, readOnly: false, use: 'device' },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: {},
    ...changes,
  };
}
