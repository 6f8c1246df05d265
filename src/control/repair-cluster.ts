// What a daemon of a cluster does about what its own last process left half done: the creations and deletions that it
// coordinated, the resizes of volumes whose primary is here, its claims of names. Of others it touches nothing: theirs
// to finish, or, when their node is gone, the leader's.
//
// What is unfinished is found before this process begins anything of its own, and finished beside its other work:
// other nodes are asked, and one that is away must not hold up the start.

import { errorText } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';
import type { Logger } from '../observe/log.ts';
import { removeVolume } from './delete-volume.ts';
import { resizeVolume } from './resize-volume.ts';
import { nameLock, primaryReplica, type VolumeContext } from './volume-context.ts';

export interface Unfinished {
  readonly volumeId: string;
  readonly name: string;
  readonly what: 'creation' | 'deletion' | 'resize' | 'claim';
  finish(): Promise<void>;
}

/** Before anything else is done with volumes. */
export async function findUnfinished(context: VolumeContext): Promise<Unfinished[]> {
  const { records, unreadable } = await context.records.listReadable();
  const unfinished: Unfinished[] = [];
  for (const record of records) {
    const { id: volumeId, name, state, coordinator } = record;
    if (state !== 'ready' && coordinator === context.node) {
      const what = state === 'creating' ? 'creation' : 'deletion';
      unfinished.push({ volumeId, name, what, finish: () => remove(context, volumeId, name) });
    }
    const isGrowing = state === 'ready' && record.targetSizeBytes !== record.sizeBytes;
    if (isGrowing && primaryReplica(record).node === context.node) {
      unfinished.push({ volumeId, name, what: 'resize', finish: () => grow(context, volumeId) });
    }
  }
  const known = new Set([...records.map(({ id }) => id), ...unreadable.map(({ volumeId }) => volumeId)]);
  for (const { id: volumeId, name, node } of await context.records.claims()) {
    if (known.has(volumeId) || node !== context.node) continue;
    const free = async () => await context.records.freeName(name, volumeId);
    unfinished.push({ volumeId, name, what: 'claim', finish: free });
  }
  return unfinished;
}

/** Never rejects, but for a broken invariant. What fails is reported, and stays for the next start or a person. */
export async function finishAll(unfinished: readonly Unfinished[], log: Logger): Promise<void> {
  for (const { volumeId, name, what, finish } of unfinished) {
    try {
      await finish();
      log.info({ volumeId, volume: name, what }, 'finished or undid what an earlier daemon left');
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      log.error({ volumeId, volume: name, what, reason: errorText(error) }, 'a volume needs attention');
    }
  }
}

async function remove(context: VolumeContext, volumeId: string, name: string): Promise<void> {
  await context.locks.run(
    volumeId,
    async () =>
      await context.locks.run(nameLock(name), async () => {
        const record = await context.records.read(volumeId);
        if (record !== undefined && record.state !== 'ready') await removeVolume(context, volumeId, name);
      }),
  );
}

async function grow(context: VolumeContext, volumeId: string): Promise<void> {
  await context.locks.run(volumeId, async () => {
    const record = await context.records.read(volumeId);
    if (record?.state !== 'ready') return;
    await resizeVolume(context, volumeId, Math.max(record.sizeBytes, record.targetSizeBytes));
  });
}
