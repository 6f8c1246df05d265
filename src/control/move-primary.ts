// The planned handover: the primary drains and gives its place to a copy that is in sync, which goes on within
// milliseconds; no request fails. Nothing is forced: who cannot give its place now keeps it.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { requireCluster } from './change-copies.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import { primaryReplica, type VolumeContext } from './volume-context.ts';

const LOOK_INTERVAL_MS = 50;
/** Between two requests to a primary that cannot now, or that took its place back. */
const ASK_INTERVAL_MS = 500;
const TIMEOUT_MS = 15_000;

/** To the copy on `node`. There already: nothing. The caller holds the lock of the volume. */
export async function movePrimary(
  context: VolumeContext,
  volumeId: string,
  node: string,
  timeoutMs = TIMEOUT_MS,
): Promise<VolumeRecord> {
  requireCluster(context, 'a move of the primary');
  const deadlineMs = performance.now() + timeoutMs;
  let askAtMs = 0;
  for (;;) {
    const record = await context.records.ready(volumeId);
    const target = await requireTarget(context, record, node);
    if (record.primary.replicaId === target.id) return record;
    const nowMs = performance.now();
    if (nowMs >= deadlineMs) throw notNow(record, node);
    if (nowMs >= askAtMs) {
      await ask(context, record, target);
      askAtMs = performance.now() + ASK_INTERVAL_MS;
    }
    await sleep(LOOK_INTERVAL_MS);
  }
}

/** CONFLICT unless the copy there could be the primary. */
async function requireTarget(
  context: VolumeContext,
  record: VolumeRecord,
  node: string,
): Promise<ReplicaRecord> {
  const { id, name, replicas, inSync } = record;
  const isInSync = (replica: ReplicaRecord): boolean =>
    inSync.some(({ replicaId }) => replicaId === replica.id);
  const target = replicas.find((replica) => replica.node === node);
  if (target !== undefined && isInSync(target)) return target;
  // Names the nearest where there is none.
  await context.cluster?.nodes.find(node);
  const others = replicas.filter(isInSync).map((replica) => `"${replica.node}"`);
  const problem = target === undefined ? 'has no copy of it' : 'has a copy that is not in sync';
  throw new HoldfastError(
    'CONFLICT',
    `Volume "${name}" cannot move to node "${node}", which ${problem}: its copies in sync are on ${others.join(', ')}. ` +
      (target === undefined
        ? `Add a copy first ("holdfast volume set-replicas ${id} COUNT").`
        : `Wait until it is in sync ("holdfast volume show ${id}").`),
    { details: { volumeId: id, node, inSync: replicas.filter(isInSync).map((replica) => replica.node) } },
  );
}

/** Whether it does is seen in the record. */
async function ask(context: VolumeContext, record: VolumeRecord, target: ReplicaRecord): Promise<void> {
  const { node } = primaryReplica(record);
  try {
    await context.cluster?.calls.call(node, 'handOver', { volumeId: record.id, toReplicaId: target.id });
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    throw new HoldfastError(
      error.code,
      `The primary of volume "${record.name}" on node "${node}" cannot be asked for its place (${errorText(error)}). If its ` +
        `daemon is gone, a copy in sync takes over by itself within seconds: look with "holdfast volume show ${record.id}".`,
      { cause: error, details: { volumeId: record.id, node } },
    );
  }
}

function notNow(record: VolumeRecord, node: string): HoldfastError {
  return new HoldfastError(
    'TIMEOUT',
    `The primary of volume "${record.name}" on node "${primaryReplica(record).node}" did not give its place to node ` +
      `"${node}" in time: "holdfast volume explain ${record.id}" says what is in the way; then repeat this.`,
    { details: { volumeId: record.id, node } },
  );
}
