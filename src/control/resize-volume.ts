// Resize, upwards only: the target is recorded (which reserves the room), every copy grows, the new size is
// recorded. Cut short anywhere, repeating it or the daemon's next start finishes it.
//
// All copies grow or the volume does not: one whose node is away is named, and the resize is refused.

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { findCopy, growCopy } from './copies.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import { checkRoom, checkVolumeSize, provisionedIn, sizeText } from './sizes.ts';
import { requireSound } from './sound-copy.ts';
import {
  findPool,
  placementLock,
  poolLock,
  primaryReplica,
  requireOwn,
  type VolumeContext,
} from './volume-context.ts';

/** The caller holds the lock of the volume. */
export async function resizeVolume(
  context: VolumeContext,
  volumeId: string,
  sizeBytes: number,
): Promise<VolumeRecord> {
  checkVolumeSize(sizeBytes);
  const record = await context.records.ready(volumeId);
  if (sizeBytes < record.sizeBytes) {
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `Volume "${record.name}" has ${sizeText(record.sizeBytes)} and cannot shrink to ${sizeText(sizeBytes)}: ` +
        'make a smaller volume and copy the data.',
      { details: { volumeId, haveBytes: record.sizeBytes, askedBytes: sizeBytes } },
    );
  }
  if (sizeBytes === record.sizeBytes && record.targetSizeBytes === record.sizeBytes) return record;
  requireOwn(context, record);
  // An earlier attempt may have grown a copy beyond what is asked now, and nothing shrinks.
  const targetSizeBytes = Math.max(sizeBytes, await largestCopy(context, record));
  await reserveGrowth(context, record, targetSizeBytes);
  await onEveryCopy(record, async (replica) => await growCopy(context, volumeId, replica, targetSizeBytes));
  const grown = await context.records.updateReady(volumeId, (current) => {
    requireSameCopies(record, current);
    return { ...current, sizeBytes: targetSizeBytes };
  });
  await context.served.tell(grown);
  return grown;
}

/** In bytes. UNAVAILABLE while one cannot be seen; on one machine CORRUPT while it may not be served. */
async function largestCopy(context: VolumeContext, record: VolumeRecord): Promise<number> {
  if (context.cluster === undefined) {
    const read = async (): Promise<VolumeRecord> => await context.records.ready(record.id);
    const { superblock } = await requireSound(context.storage, read, record.id);
    return superblock.sizeBytes;
  }
  const sizes: number[] = [];
  await onEveryCopy(record, async (replica) => {
    const found = await findCopy(context, record.id, replica);
    if (typeof found?.sizeBytes !== 'number')
      throw new HoldfastError('UNAVAILABLE', 'its copy there cannot be read');
    sizes.push(found.sizeBytes);
  });
  return Math.max(...sizes);
}

/** All at once. The first that fails is told by its node, with what can be done. */
async function onEveryCopy(
  record: VolumeRecord,
  work: (replica: ReplicaRecord) => Promise<void>,
): Promise<void> {
  const outcomes = await Promise.allSettled(record.replicas.map(work));
  outcomes.forEach((outcome, index) => {
    if (outcome.status === 'fulfilled') return;
    const node = record.replicas[index]?.node;
    if (!isHoldfastError(outcome.reason) || record.replicas.length === 1) throw outcome.reason;
    throw new HoldfastError(
      outcome.reason.code,
      `Volume "${record.name}" cannot grow while its copy on node "${node}" does not (${errorText(outcome.reason)}): ` +
        'bring that copy back, or let it be replaced ("holdfast node drain", "holdfast volume set-replicas"), and ' +
        'repeat the resize.',
      { cause: outcome.reason, details: { ...outcome.reason.details, volumeId: record.id, node } },
    );
  });
}

/** A copy that came meanwhile may have been made with the size of before. */
function requireSameCopies(record: VolumeRecord, current: VolumeRecord): void {
  const isKnown = ({ id }: ReplicaRecord): boolean => record.replicas.some((replica) => replica.id === id);
  if (current.replicas.every(isKnown)) return;
  throw new HoldfastError(
    'BUSY',
    `Volume "${record.name}" has got another copy while it was growing: repeat the resize.`,
  );
}

async function reserveGrowth(
  context: VolumeContext,
  record: VolumeRecord,
  targetSizeBytes: number,
): Promise<void> {
  const reserve = async (): Promise<void> => {
    const others = (await context.records.list()).filter((other) => other.id !== record.id);
    await checkRooms(context, record, others, targetSizeBytes);
    await context.records.updateReady(record.id, (current) =>
      current.targetSizeBytes === targetSizeBytes ? current : { ...current, targetSizeBytes },
    );
  };
  if (context.cluster !== undefined) return await context.locks.run(placementLock, reserve);
  await context.locks.run(poolLock(primaryReplica(record).pool), reserve);
}

/** NO_SPACE with all figures of the first pool that has too little. */
async function checkRooms(
  context: VolumeContext,
  record: VolumeRecord,
  others: readonly VolumeRecord[],
  targetSizeBytes: number,
): Promise<void> {
  if (context.cluster === undefined) {
    const pool = await findPool(context, primaryReplica(record).pool, 'NOT_FOUND');
    return checkRoom(pool, provisionedIn(others, context.node, pool.name), targetSizeBytes);
  }
  const nodes = new Map((await context.cluster.nodes.list()).map((node) => [node.name, node]));
  for (const { node, pool: name } of record.replicas) {
    const pool = nodes.get(node)?.pools.find((candidate) => candidate.name === name);
    if (pool === undefined) {
      throw new HoldfastError('UNAVAILABLE', `Node "${node}" says nothing of its pool "${name}": try again.`);
    }
    checkRoom(pool, provisionedIn(others, node, name), targetSizeBytes, node);
  }
}
