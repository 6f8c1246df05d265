// Creation: the name is claimed, the record written as 'creating' (which reserves the room), the replica made
// durable, the record set to 'ready'. Cut short anywhere it was never answered, so it is undone, by the next
// creation of that name or at the next start, and made anew under another id.

import { HoldfastError } from '../core/errors.ts';
import type { PoolStatus } from '../dataplane/node-storage.ts';
import { removeVolume } from './delete-volume.ts';
import { checkName, drawId } from './names.ts';
import { failureModeSchema, newReplica, type VolumeRecord } from './records.ts';
import { checkRoom, checkVolumeSize, provisionedIn, sizeText } from './sizes.ts';
import { findPool, poolLock, primaryReplica, type VolumeContext } from './volume-context.ts';
import type { CreateVolume } from './volume-service.ts';

/** The caller holds the lock of the name. */
export async function createVolume(context: VolumeContext, request: CreateVolume): Promise<VolumeRecord> {
  checkRequest(request);
  const standing = await standingVolume(context, request.name);
  if (standing !== undefined) {
    requireSame(request, standing);
    return standing;
  }
  const pool = await findPool(context, request.pool, 'INVALID');
  const id = drawId();
  // A claim without a record is an interrupted attempt's, or a deletion's that is about to free the name.
  const abandoned = await context.records.claim(request.name);
  await context.records.takeName({ version: 1, id, name: request.name, node: context.node }, abandoned);
  try {
    const record = await reserve(context, pool, newRecord(context, request, id, pool));
    await context.storage.createReplica({
      volumeId: id,
      volumeName: record.name,
      replicaId: record.primary.replicaId,
      pool: pool.name,
      sizeBytes: record.sizeBytes,
      lineage: record.lineage,
      epoch: record.epoch,
      durability: record.durability,
      failureMode: String(record.failureMode),
    });
  } catch (error) {
    // What cannot be undone now is undone at the next attempt or start; the reason of the failure goes first.
    await removeVolume(context, id, request.name).catch(() => undefined);
    throw error;
  }
  return await context.records.update(id, (record) => ({ ...record, state: 'ready' }));
}

function checkRequest(request: CreateVolume): void {
  checkName(request.name);
  checkVolumeSize(request.sizeBytes);
  if (request.replicaCount !== 0) {
    throw new HoldfastError(
      'INVALID',
      `${request.replicaCount} replicas were asked for, but this version keeps one copy of a volume: ask for 0.`,
    );
  }
  if (!failureModeSchema.safeParse(request.failureMode).success) {
    throw new HoldfastError(
      'INVALID',
      `The failure mode is hard, soft, alwayson or a number from 0 to 5, not ${JSON.stringify(request.failureMode)}.`,
    );
  }
}

/** The finished volume of that name. What stands half made or half deleted under it is cleared away first. */
async function standingVolume(context: VolumeContext, name: string): Promise<VolumeRecord | undefined> {
  const claim = await context.records.claim(name);
  const record = claim && (await context.records.read(claim.value.id));
  if (record === undefined || record.state === 'ready') return record;
  await removeVolume(context, record.id, name);
  return undefined;
}

/** The record is the reservation: two creations in one pool count each other. */
async function reserve(
  context: VolumeContext,
  pool: PoolStatus,
  record: VolumeRecord,
): Promise<VolumeRecord> {
  return await context.locks.run(poolLock(pool.name), async () => {
    const provisionedBytes = provisionedIn(await context.records.list(), context.node, pool.name);
    checkRoom(pool, provisionedBytes, record.sizeBytes);
    await context.records.insert(record);
    return record;
  });
}

function newRecord(
  context: VolumeContext,
  request: CreateVolume,
  id: string,
  pool: PoolStatus,
): VolumeRecord {
  const replicaId = drawId();
  const { fileSystemType } = request;
  return {
    version: 2,
    id,
    name: request.name,
    state: 'creating',
    coordinator: null,
    sizeBytes: request.sizeBytes,
    targetSizeBytes: request.sizeBytes,
    lineage: drawId(),
    epoch: 1,
    primary: { replicaId, opening: null },
    inSync: [{ replicaId, incarnation: null }],
    replicas: [newReplica(replicaId, context.node, pool.name)],
    attachment: { number: 0, node: null, readOnly: false, use: 'device' },
    durability: request.durability,
    failureMode: request.failureMode,
    fileSystem: fileSystemType === null ? null : { type: fileSystemType, made: false },
    labels: { ...request.labels },
  };
}

/** ALREADY_EXISTS that names every difference. What the request leaves open cannot differ. */
function requireSame(request: CreateVolume, record: VolumeRecord): void {
  const { pool } = primaryReplica(record);
  const differences: string[] = [];
  const compare = (what: string, has: string, asked: string): void => {
    if (has !== asked) differences.push(`its ${what} is ${has}, asked was ${asked}`);
  };
  compare('size', sizeText(record.sizeBytes), sizeText(request.sizeBytes));
  compare('pool', pool, request.pool ?? pool);
  compare('durability', record.durability, request.durability);
  compare('failure mode', String(record.failureMode), String(request.failureMode));
  const fileSystemType = record.fileSystem?.type ?? 'none';
  compare('file system', fileSystemType, request.fileSystemType ?? fileSystemType);
  compare('labels', labelText(record.labels), labelText(request.labels));
  if (differences.length === 0) return;
  throw new HoldfastError(
    'ALREADY_EXISTS',
    `A volume named "${record.name}" exists already, but ${differences.join('; ')}. Choose another name, or ask for the same.`,
    { details: { volumeId: record.id, differences } },
  );
}

function labelText(labels: Readonly<Record<string, string>>): string {
  const sorted = Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(Object.fromEntries(sorted));
}
