// A copy that its primary holds out, since it left the in-sync set again and again, is taken up at once: a person has
// looked at what was wrong with it. The primary alone knows whom it holds out; the record does not change.

import { HoldfastError } from '../core/errors.ts';
import { requireCluster } from './change-copies.ts';
import type { VolumeRecord } from './records.ts';
import { primaryReplica, type VolumeContext } from './volume-context.ts';

const TIMEOUT_MS = 3000;

/** CONFLICT when it is not held out. */
export async function readmitCopy(context: VolumeContext, record: VolumeRecord, node: string): Promise<void> {
  const { calls } = requireCluster(context, 'a copy that is held out');
  const replica = record.replicas.find((candidate) => candidate.node === node);
  if (replica === undefined) {
    const nodes = record.replicas.map((one) => `"${one.node}"`).join(', ');
    throw new HoldfastError(
      'NOT_FOUND',
      `Volume "${record.name}" has no copy on node "${node}", but on ${nodes}.`,
    );
  }
  const primary = primaryReplica(record).node;
  const request = { volumeId: record.id, replicaId: replica.id };
  const { wasHeldOut } = await calls.call(primary, 'readmit', request, TIMEOUT_MS);
  if (wasHeldOut) return;
  throw new HoldfastError(
    'CONFLICT',
    `The copy of volume "${record.name}" on node "${node}" is not held out: "holdfast volume explain ${record.id}" says ` +
      'what it lacks.',
    { details: { volumeId: record.id, node } },
  );
}
