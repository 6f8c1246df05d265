// `volume explain`: the state of a volume in sentences, what is wrong with it, and what to do next.

import { isVolumeId } from '../../control/names.ts';
import type { Volumes } from '../../control/volumes.ts';
import { isHoldfastError } from '../../core/errors.ts';
import type { NodeStorage, PoolStatus, ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { Finding, VolumeView } from '../api-schema.ts';
import { formatSize } from '../values.ts';
import type { Exports } from './exports.ts';
import { volumeView } from './views.ts';

export interface ExplainContext {
  readonly node: string;
  readonly volumes: Volumes;
  readonly storage: NodeStorage;
  readonly devices: DeviceService;
  readonly exports: Exports;
}

const ok = (text: string): Finding => ({ level: 'ok', text, nextStep: '' });

export async function explainVolume(context: ExplainContext, nameOrId: string): Promise<Finding[]> {
  const { volumes, storage, devices } = context;
  const record = await volumes.find(nameOrId).catch((error: unknown) => {
    // Half-made and half-deleted volumes have no name any more, but an id.
    if (isHoldfastError(error, 'NOT_FOUND') && isVolumeId(nameOrId)) return undefined;
    throw error;
  });
  const volumeId = record?.id ?? nameOrId;
  const leftovers = devices.unjudged(volumeId).map((path) => leftover(path, volumeId));
  const found = await volumes.explain(volumeId).catch((error: unknown) => {
    if (isHoldfastError(error, 'NOT_FOUND') && leftovers.length > 0) return [];
    throw error;
  });
  const problems = [
    ...leftovers,
    ...found.map(({ problem, nextStep }): Finding => ({ level: 'problem', text: problem, nextStep })),
  ];
  if (record === undefined) return problems;
  const local = await storage.replica(volumeId);
  const isUsed = (id: string): boolean => volumes.isUsedHere(id);
  const here = { node: context.node, devices, closed: storage.closedPools(), isUsed };
  const view = volumeView(record, local, here, await volumes.lookAtCopies(record));
  const pool = (await storage.pools()).find(({ name }) => name === local?.pool);
  return [
    ok(describe(view)),
    ...useOf(view, context.exports.countOf(volumeId), context.node),
    ...problems,
    ...roomOf(pool, local),
  ];
}

function leftover(path: string, volumeId: string): Finding {
  return {
    level: 'problem',
    text:
      `${path} is a device of this volume whose attachment the store does not know; it was left as it is, ` +
      'its requests waiting: the store may be lost, or an older copy.',
    nextStep:
      'Put back the store that knows it and restart the daemon; or, if what waits may be given up, ' +
      `"holdfast volume detach ${volumeId} --force".`,
  };
}

function describe(view: VolumeView): string {
  const copies = view.replicas.map(({ node, pool, state }) => `${node}/${pool} (${state})`).join(', ');
  const fileSystem = view.fileSystem === null ? 'no file system' : view.fileSystem.type;
  return `${view.name} has ${formatSize(view.sizeBytes)}, ${fileSystem}, ${view.durability}, copies: ${copies}.`;
}

function useOf(view: VolumeView, exportCount: number, here: string): Finding[] {
  const { node, number, readOnly, use } = view.attachment;
  const findings: Finding[] = [];
  if (exportCount > 0)
    findings.push(ok(`It is exported on ${exportCount} socket${exportCount > 1 ? 's' : ''}.`));
  if (node === '' && exportCount === 0) findings.push(ok('Nobody uses it.'));
  if (node !== '' && view.device !== '') {
    findings.push(
      ok(`It is ${view.device} on node ${node}${readOnly ? ', read-only' : ''} (attachment ${number}).`),
    );
  }
  if (view.deviceWaitingSince !== '') {
    findings.push({
      level: 'problem',
      text:
        `${view.device} has no connection since ${view.deviceWaitingSince}: its requests wait, without an error. ` +
        'The daemon tries again every few seconds; its log says what is in the way.',
      nextStep:
        'Mend what is wrong with its pool or copy (below, and in "holdfast pool ls"); or, if what waits may fail, ' +
        `"holdfast volume detach ${view.id} --force".`,
    });
  }
  if (node !== here && node !== '' && use === 'export')
    findings.push(ok(`It is exported on node ${node} (attachment ${number}).`));
  if (node !== here && node !== '' && use === 'device')
    findings.push(ok(`It is attached to node ${node} (attachment ${number}).`));
  if (node === here && use === 'device' && view.device === '') {
    findings.push({
      level: 'warning',
      text: `It is published to node ${node} (attachment ${number}), but no block device of this daemon serves it.`,
      nextStep: `Normal until its pod starts there; by hand: "holdfast volume attach ${view.id}" or "detach".`,
    });
  }
  return findings;
}

function roomOf(pool: PoolStatus | undefined, local: ReplicaStatus | undefined): Finding[] {
  const { superblock } = local ?? {};
  if (pool === undefined || local === undefined || superblock === undefined) return [];
  const unwrittenBytes = superblock.sizeBytes - local.allocatedBytes;
  if (pool.availableBytes >= unwrittenBytes) return [];
  const isFull = pool.availableBytes === 0;
  return [
    {
      level: isFull ? 'problem' : 'warning',
      text: isFull
        ? `Pool "${pool.name}" is full: writes to unwritten parts fail with "no space left", nothing written is lost.`
        : `Pool "${pool.name}" has ${formatSize(pool.availableBytes)} left, and this volume may still take ${formatSize(unwrittenBytes)}.`,
      nextStep: `Free space in ${pool.directory}: delete volumes, trim file systems (fstrim), or enlarge its file system.`,
    },
  ];
}
