// A volume's record and its configuration as the replication protocol sees it: the one holds the other, and fields
// that are nothing to the protocol (name, pools, labels, what is being done with the volume). Pure.
//
// Promises: withConfig(record, configOf(record)) is that record, and configOf(withConfig(record, config)) that
// configuration.

import { invariant } from '../core/invariant.ts';
import type { ReplicaConfig, VolumeConfig } from '../replication/config.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';

export function configOf(record: VolumeRecord): VolumeConfig {
  const { sizeBytes, lineage, epoch, primary, inSync, replicas, attachment, durability, failureMode } =
    record;
  return {
    volumeId: record.id,
    sizeBytes,
    lineage,
    epoch,
    primary,
    inSync,
    replicas: replicas.map(withoutPool),
    attachment: { number: attachment.number, node: attachment.node },
    durability,
    failureMode,
  };
}

/** What a replica proposes, in its volume's record. The rest of it stays; replicas come and go by other hands only. */
export function withConfig(record: VolumeRecord, config: VolumeConfig): VolumeRecord {
  invariant(config.volumeId === record.id, 'a configuration belongs to its volume');
  const { volumeId: _, primary, inSync, replicas, attachment, ...rest } = config;
  return {
    ...record,
    ...rest,
    primary: { ...primary },
    inSync: inSync.map((member) => ({ ...member })),
    replicas: replicas.map((replica) => {
      const { pool, leaving } = standingOf(record, replica.id);
      const report = replica.report && { ...replica.report };
      return { ...replica, pool, report, ...(leaving === true ? { leaving } : {}) };
    }),
    attachment: withAttachment(record.attachment, attachment),
  };
}

function withoutPool({ id, node, outSince, needsFullCopy, bootId, report }: ReplicaRecord): ReplicaConfig {
  return { id, node, outSince, needsFullCopy, bootId, report };
}

function standingOf(record: VolumeRecord, replicaId: string): ReplicaRecord {
  const standing = record.replicas.find(({ id }) => id === replicaId);
  invariant(standing !== undefined, 'no proposal adds a replica');
  return standing;
}

/** One on another node is used in another way: how the earlier one was used says nothing of it. */
function withAttachment(
  standing: VolumeRecord['attachment'],
  { number, node }: VolumeConfig['attachment'],
): VolumeRecord['attachment'] {
  if (standing.node === node) return { ...standing, number };
  return { number, node, readOnly: false, use: 'device' };
}
