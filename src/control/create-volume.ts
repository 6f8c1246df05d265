// Creation: the name is claimed, the record written as 'creating' with all copies (which reserves their room), every
// copy made durable, the record set to 'ready'. Cut short anywhere it was never answered, so it is undone, by the next
// creation of that name or at the next start, in a cluster also by whoever does the housekeeping, and made anew under
// another id.
//
// In a cluster placement chooses the nodes; where one fails to make its copy another takes its place, as long as there
// is one.

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import { MAX_REPLICAS } from '../replication/replica-set.ts';
import { type Places, withPlaces } from './choose-places.ts';
import { makeCopy } from './copies.ts';
import { removeVolume } from './delete-volume.ts';
import { checkName, drawId } from './names.ts';
import { failureModeSchema, newReplica, type VolumeRecord } from './records.ts';
import { checkVolumeSize, sizeText } from './sizes.ts';
import { replicaCountOf, requireEnough } from './set-replicas.ts';
import { primaryReplica, type VolumeContext } from './volume-context.ts';
import type { CreateVolume } from './volume-service.ts';

/** Nodes that fail one after the other before the creation does. */
const MAX_ATTEMPTS = 3;

/** The caller holds the lock of the name. */
export async function createVolume(context: VolumeContext, request: CreateVolume): Promise<VolumeRecord> {
  checkRequest(context, request);
  const standing = await standingVolume(context, request.name);
  if (standing !== undefined) {
    requireSame(request, standing);
    return standing;
  }
  /** By node, why it did not make its copy. */
  const failed = new Map<string, string>();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await attemptCreation(context, request, failed);
    } catch (error) {
      if (!(error instanceof CopiesNotMade)) throw error;
      if (context.cluster === undefined || attempt === MAX_ATTEMPTS) throw error.first;
      for (const [node, reason] of error.reasons) failed.set(node, reason);
    }
  }
}

/** Some of the copies could not be made; others elsewhere perhaps can. */
class CopiesNotMade extends Error {
  readonly first: unknown;
  readonly reasons: ReadonlyMap<string, string>;

  constructor(first: unknown, reasons: ReadonlyMap<string, string>) {
    super(errorText(first));
    this.first = first;
    this.reasons = reasons;
  }
}

async function attemptCreation(
  context: VolumeContext,
  request: CreateVolume,
  failed: ReadonlyMap<string, string>,
): Promise<VolumeRecord> {
  const id = drawId();
  await takeName(context, id, request.name);
  let inSync: VolumeRecord['inSync'];
  try {
    const record = await reserve(context, id, request, failed);
    await requireName(context, record);
    inSync = await makeCopies(context, record);
  } catch (error) {
    // What cannot be undone now is undone at the next attempt or start; the reason of the failure goes first.
    await removeVolume(context, id, request.name).catch(() => undefined);
    throw error;
  }
  return await context.records.update(id, (record) => {
    if (record.state === 'deleting') {
      throw new HoldfastError(
        'BUSY',
        `The creation of volume "${record.name}" took so long that it was undone: try again.`,
      );
    }
    return record.state === 'ready' ? record : { ...record, state: 'ready', coordinator: null, inSync };
  });
}

function checkRequest(context: VolumeContext, request: CreateVolume): void {
  const { name, sizeBytes, replicaCount, failureMode } = request;
  checkName(name);
  checkVolumeSize(sizeBytes);
  if (!failureModeSchema.safeParse(failureMode).success) {
    throw new HoldfastError(
      'INVALID',
      `The failure mode is hard, soft, alwayson or a number from 0 to 5, not ${JSON.stringify(failureMode)}.`,
    );
  }
  if (!Number.isInteger(replicaCount) || replicaCount < 0 || replicaCount > MAX_REPLICAS) {
    throw new HoldfastError(
      'INVALID',
      `A volume has from 0 to ${MAX_REPLICAS} replicas beside its primary, not ${replicaCount}.`,
    );
  }
  if (replicaCount > 0 && context.cluster === undefined) {
    throw new HoldfastError(
      'INVALID',
      `${replicaCount} replicas were asked for, but this daemon is alone with its store and keeps one copy of a volume: ` +
        'ask for 0, or start the daemons of several machines with --store etcd://…, --listen and --cluster-key.',
    );
  }
  if (context.cluster !== undefined) requireEnough(failureMode, replicaCount);
}

/** The finished volume of that name. What stands half made or half deleted under it is cleared away first. */
async function standingVolume(context: VolumeContext, name: string): Promise<VolumeRecord | undefined> {
  const claim = await context.records.claim(name);
  const record = claim && (await context.records.read(claim.value.id));
  if (record === undefined || record.state === 'ready') return record;
  if (record.state === 'creating') await requireAbandoned(context, record);
  await removeVolume(context, record.id, name);
  return undefined;
}

/** BUSY while another daemon is at it. */
async function requireAbandoned({ cluster, node }: VolumeContext, record: VolumeRecord): Promise<void> {
  const { name, coordinator } = record;
  if (cluster === undefined || coordinator === null || coordinator === node) return;
  const maker = (await cluster.nodes.list()).find((found) => found.name === coordinator);
  if (maker?.isAlive !== true) return;
  throw new HoldfastError(
    'BUSY',
    `Node "${coordinator}" is making volume "${name}": try again in a moment, or ask its daemon.`,
    { details: { volumeId: record.id, node: coordinator } },
  );
}

/** A claim without a record is an interrupted attempt's, or a deletion's that is about to free the name. */
async function takeName({ records, node }: VolumeContext, id: string, name: string): Promise<void> {
  const abandoned = await records.claim(name);
  await records.takeName({ version: 1, id, name, node }, abandoned);
  if (abandoned === undefined || (await records.read(abandoned.value.id)) === undefined) return;
  // Another daemon was about to write its record: it has the name.
  await records.takeName(abandoned.value, await records.claim(name));
  throw new HoldfastError('BUSY', `Another daemon is making volume "${name}": try again in a moment.`);
}

/** BUSY when another daemon took the claim for abandoned before it saw our record. */
async function requireName({ records }: VolumeContext, { id, name }: VolumeRecord): Promise<void> {
  if ((await records.claim(name))?.value.id === id) return;
  throw new HoldfastError('BUSY', `Another daemon is making volume "${name}": try again in a moment.`);
}

/** The record is the reservation: two creations by this daemon count each other. */
async function reserve(
  context: VolumeContext,
  id: string,
  request: CreateVolume,
  failed: ReadonlyMap<string, string>,
): Promise<VolumeRecord> {
  return await withPlaces(context, request, failed, async (places) => {
    const record = newRecord(context, request, id, places);
    await context.records.insert(record);
    return record;
  });
}

/** The in-sync set names every copy as it was made: one that lost its disk since is not taken for it. */
async function makeCopies(context: VolumeContext, record: VolumeRecord): Promise<VolumeRecord['inSync']> {
  const outcomes = await Promise.allSettled(
    record.replicas.map(async (replica) => await makeCopy(context, record, replica)),
  );
  const reasons = new Map<string, string>();
  const inSync: VolumeRecord['inSync'] = [];
  let first: unknown;
  record.replicas.forEach(({ id: replicaId, node }, index) => {
    const outcome = outcomes[index];
    if (outcome?.status === 'fulfilled') {
      inSync.push({ replicaId, incarnation: outcome.value });
      return;
    }
    if (!isHoldfastError(outcome?.reason)) throw outcome?.reason;
    first ??= outcome.reason;
    reasons.set(node, outcome.reason.message);
  });
  if (first !== undefined) throw new CopiesNotMade(first, reasons);
  return inSync;
}

/** `places`: the first is the primary's. */
function newRecord(context: VolumeContext, request: CreateVolume, id: string, places: Places): VolumeRecord {
  const replicas = places.map(({ node, pool }) => newReplica(drawId(), node, pool));
  const [primary] = replicas;
  invariant(primary !== undefined, 'a volume has a copy');
  const { fileSystemType } = request;
  return {
    version: 2,
    id,
    name: request.name,
    state: 'creating',
    coordinator: context.node,
    sizeBytes: request.sizeBytes,
    targetSizeBytes: request.sizeBytes,
    lineage: drawId(),
    epoch: 1,
    primary: { replicaId: primary.id, opening: null },
    inSync: replicas.map(({ id: replicaId }) => ({ replicaId, incarnation: null })),
    replicas,
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
  compare('number of replicas', String(replicaCountOf(record)), String(request.replicaCount));
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
