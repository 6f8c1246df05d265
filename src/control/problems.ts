// What is wrong between a volume's record and its copy on this node, in words, each with its next step. Pure:
// `explain`, the repair at start and the opening of a volume judge by the same list.

import type { ClosedPool, ReplicaStatus } from '../dataplane/node-storage.ts';
import type { VolumeRecord } from './records.ts';

export interface Problem {
  readonly problem: string;
  readonly nextStep: string;
}

/** What forbids serving this copy under this record; empty when nothing does. `closed`: pools that are not open. */
export function problemsOf(
  record: VolumeRecord,
  replica: ReplicaStatus | undefined,
  closed: readonly ClosedPool[],
): Problem[] {
  const expected = record.replicas.find((candidate) => candidate.id === record.primary.replicaId);
  const place = `pool "${expected?.pool ?? '?'}" of node "${expected?.node ?? '?'}"`;
  const closedPool = closed.find(({ name }) => name === expected?.pool);
  if (replica === undefined && closedPool !== undefined) {
    return [
      {
        problem: `Its pool "${closedPool.name}" is not open: ${closedPool.problem}.`,
        nextStep:
          'Nothing is lost by that: as soon as the cause is mended the pool is opened, and the volume served.',
      },
    ];
  }
  if (replica === undefined) {
    return [
      {
        problem: `Its only copy is missing from ${place}.`,
        nextStep:
          "Bring the pool's disk or directory back and restart the daemon. If the copy is lost for good, " +
          `so is the data: delete the volume with "holdfast volume delete ${record.id}".`,
      },
    ];
  }
  const { superblock } = replica;
  if (superblock === undefined) {
    return [
      {
        problem: `The superblock of its copy in ${place} cannot be read: ${replica.problem ?? 'no reason given'}.`,
        nextStep:
          'Check the pool\'s disk. If the copy stays unreadable, make a new volume and copy the file "data" of the copy\'s ' +
          'directory into it.',
      },
    ];
  }
  const problems: Problem[] = [];
  if (replica.problem !== undefined) {
    problems.push({
      problem: `The disk of its copy in ${place} failed: ${replica.problem}. Acknowledged writes may be missing.`,
      nextStep: "Mend the disk, check the data, then remove the file 'failed' in the copy's directory.",
    });
  }
  if (superblock.replicaId !== record.primary.replicaId || superblock.lineage !== record.lineage) {
    problems.push({
      problem: `The copy in ${place} is not the one that the store names.`,
      nextStep:
        'Put back the copy, or the store, that belongs with the other one; the copy that is there is left untouched.',
    });
  }
  if (superblock.promisedEpoch > record.epoch || superblock.attachmentNumber > record.attachment.number) {
    problems.push({
      problem:
        `Its copy has promised epoch ${superblock.promisedEpoch} and attachment ${superblock.attachmentNumber}, but the ` +
        `store knows only epoch ${record.epoch} and attachment ${record.attachment.number}: the store is older than the ` +
        'copy, probably restored from a backup.',
      nextStep:
        'It is not served until a person decides: put back the newer store if there is one. Otherwise make sure that ' +
        'nothing else uses the volume, keep a copy of its directory in the pool, and take its data from there.',
    });
  }
  const knownBoot = expected?.bootId ?? null;
  const knownToCopy = [superblock.bootId, superblock.storedBootId, ...superblock.earlierBootIds];
  if (knownBoot !== null && !knownToCopy.includes(knownBoot)) {
    problems.push({
      problem:
        'Its copy is an older one than the store knows, probably restored from a backup: the copy was in use on this ' +
        'machine after a later start than that copy has seen.',
      nextStep:
        'It is not served: put the newer copy back. If that is lost, make a new volume and copy the file "data" of ' +
        "the copy's directory into it.",
    });
  }
  if (superblock.sizeBytes < record.sizeBytes) {
    problems.push({
      problem: `Its copy has ${superblock.sizeBytes} bytes, the volume ${record.sizeBytes}.`,
      nextStep: 'The copy was replaced by an older one: put the newer one back.',
    });
  }
  return problems;
}

/** What was begun with this volume and not finished. */
export function unfinishedOf(record: VolumeRecord): Problem[] {
  const restart = 'Restart the daemon: it finishes this at start, or its log says why it cannot.';
  const problems: Problem[] = [];
  if (record.state === 'creating')
    problems.push({ problem: 'Its creation was interrupted.', nextStep: restart });
  if (record.state === 'deleting')
    problems.push({ problem: 'Its deletion was interrupted.', nextStep: restart });
  if (record.targetSizeBytes !== record.sizeBytes) {
    problems.push({
      problem: `A resize from ${record.sizeBytes} to ${record.targetSizeBytes} bytes was interrupted.`,
      nextStep: `Repeat it: "holdfast volume resize ${record.id} --size ${record.targetSizeBytes}".`,
    });
  }
  return problems;
}
