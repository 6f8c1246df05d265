// What a daemon does at its start, before it serves anything: what an earlier one left half done is finished
// or undone, and what only a person can decide is reported.
//
// It never removes a copy that no record asks to be removed: a replica without a record may be the only copy.
// A failure with one volume is reported and does not keep the others from being repaired.

import { errorText } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';
import type { ReplicaStatus } from '../dataplane/node-storage.ts';
import { removeVolume } from './delete-volume.ts';
import { endUncounted, isLeftoverExport } from './export-volume.ts';
import { type Problem, problemsOf } from './problems.ts';
import { resizeVolume } from './resize-volume.ts';
import { primaryReplica, type VolumeContext } from './volume-context.ts';

export type RepairAction =
  | 'creationUndone'
  | 'deletionFinished'
  | 'resizeFinished'
  | 'exportEnded'
  | 'nameFreed'
  | 'nameClaimed';

export interface RepairReport {
  readonly done: readonly {
    readonly volumeId: string;
    readonly name: string;
    readonly action: RepairAction;
  }[];
  /** Volumes that need a person. They stay as they are; `explain` says the same again. */
  readonly problems: readonly (Problem & { readonly volumeId: string })[];
  /** Copies in this node's pools that no record knows. They stay. */
  readonly orphans: readonly (Problem & { readonly volumeId: string; readonly pool: string })[];
}

export async function repair(context: VolumeContext): Promise<RepairReport> {
  const done: { volumeId: string; name: string; action: RepairAction }[] = [];
  const problems: (Problem & { volumeId: string })[] = [];

  const attempt = async (
    volumeId: string,
    name: string,
    action: RepairAction,
    run: () => Promise<unknown>,
  ) => {
    try {
      await run();
      done.push({ volumeId, name, action });
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      const nextStep = 'Remove the cause and restart the daemon: it tries again at every start.';
      problems.push({ volumeId, problem: `${UNFINISHED[action]} (${errorText(error)})`, nextStep });
    }
  };

  const { records, unreadable } = await context.records.listReadable();
  for (const { volumeId, error } of unreadable) {
    problems.push({
      volumeId,
      problem: error.message,
      nextStep: 'Until then no volume can be made or listed.',
    });
  }
  const own = records.filter((record) => primaryReplica(record).node === context.node);
  for (const record of own) {
    const { id, name } = record;
    switch (record.state) {
      case 'creating':
        await attempt(id, name, 'creationUndone', async () => await removeVolume(context, id, name));
        break;
      case 'deleting':
        await attempt(id, name, 'deletionFinished', async () => await removeVolume(context, id, name));
        break;
      case 'ready':
        if (isLeftoverExport(context, record))
          await attempt(id, name, 'exportEnded', async () => await endUncounted(context, id));
        if (record.targetSizeBytes === record.sizeBytes) break;
        await attempt(id, name, 'resizeFinished', async () => {
          await resizeVolume(context, id, record.targetSizeBytes);
        });
    }
  }
  await repairClaims(context, attempt);

  // Before and after: neither a pool that opens meanwhile nor one that goes makes its copies 'missing'.
  const closedBefore = context.storage.closedPools();
  const replicas = new Map((await context.storage.replicas()).map((replica) => [replica.volumeId, replica]));
  const closed = [...closedBefore, ...context.storage.closedPools()];
  for (const record of await context.records.listReadable().then((lists) => lists.records)) {
    if (record.state !== 'ready' || primaryReplica(record).node !== context.node) continue;
    const found = problemsOf(record, replicas.get(record.id), closed);
    problems.push(...found.map((problem) => ({ volumeId: record.id, ...problem })));
  }
  const known = new Set([
    ...records.map((record) => record.id),
    ...unreadable.map((entry) => entry.volumeId),
  ]);
  const orphans = [...replicas.values()].filter((replica) => !known.has(replica.volumeId)).map(orphanOf);
  return { done, problems, orphans };
}

const UNFINISHED: Readonly<Record<RepairAction, string>> = {
  creationUndone: 'Its creation was interrupted and could not be undone',
  deletionFinished: 'Its deletion was interrupted and could not be finished',
  exportEnded: 'It was exported by a daemon that is gone, and could not be freed of that',
  resizeFinished: 'Its resize was interrupted and could not be finished',
  nameFreed: 'The name that an interrupted creation took could not be freed',
  nameClaimed: 'Its name could not be claimed',
};

/** Nothing of this node's is in flight now: a claim of its own without a record is a leftover. */
async function repairClaims(
  context: VolumeContext,
  attempt: (
    volumeId: string,
    name: string,
    action: RepairAction,
    run: () => Promise<unknown>,
  ) => Promise<void>,
): Promise<void> {
  const { records, unreadable } = await context.records.listReadable();
  const claims = await context.records.claims();
  const known = new Set([
    ...records.map((record) => record.id),
    ...unreadable.map((entry) => entry.volumeId),
  ]);
  for (const { id, name, node } of claims) {
    if (known.has(id) || node !== context.node) continue;
    await attempt(id, name, 'nameFreed', async () => await context.records.freeName(name, id));
  }
  const claimed = new Set(claims.map((claim) => claim.id));
  for (const record of records) {
    if (record.state !== 'ready' || claimed.has(record.id) || primaryReplica(record).node !== context.node)
      continue;
    const claim = { version: 1, id: record.id, name: record.name, node: context.node } as const;
    await attempt(
      record.id,
      record.name,
      'nameClaimed',
      async () => await context.records.takeName(claim, undefined),
    );
  }
}

function orphanOf(replica: ReplicaStatus): RepairReport['orphans'][number] {
  const name = replica.superblock === undefined ? '' : ` (of volume "${replica.superblock.volumeName}")`;
  return {
    volumeId: replica.volumeId,
    pool: replica.pool,
    problem: `Pool "${replica.pool}" holds a copy of ${replica.volumeId}${name} that the store does not know.`,
    nextStep:
      'It may be the only one, so it stays: put back the store that knows it, or remove its directory from the pool ' +
      'by hand once you are sure.',
  };
}
