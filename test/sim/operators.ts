// What people change while everything else goes wrong: each a compare-and-swap of the volume's record on its
// newest state, as the control plane makes it.

import { dropMembers, type FailureMode, memberOf, type VolumeConfig } from '../../src/replication/config.ts';

export const MAX_REPLICAS = 6;

/** Not a new epoch: no copy changes its part. */
export function changeFailureMode(config: VolumeConfig, failureMode: FailureMode): VolumeConfig {
  return { ...config, failureMode };
}

/** Not a new epoch either. Every copy has grown before. */
export function growVolume(config: VolumeConfig, sizeBytes: number): VolumeConfig {
  return { ...config, sizeBytes: Math.max(config.sizeBytes, sizeBytes) };
}

/** From writethrough. The way back needs the primary: it must flush before the record may say so. */
export function weakenDurability(config: VolumeConfig): VolumeConfig {
  return { ...config, epoch: config.epoch + 1, durability: 'writeback' };
}

export function addReplica(config: VolumeConfig, id: string, node: string): VolumeConfig {
  const replica = { id, node, outSince: null, needsFullCopy: true, bootId: null, report: null };
  return { ...config, replicas: [...config.replicas, replica] };
}

/** undefined: it is the primary, or the only one that may be left out is not this one. */
export function removeReplica(config: VolumeConfig, id: string): VolumeConfig | undefined {
  if (config.primary.replicaId === id) return undefined;
  const isMember = memberOf(config, id) !== undefined;
  // Nobody is asked whether the others live: what is left must be able to go on without it.
  if (isMember && config.inSync.length < 3) return undefined;
  const left = isMember ? dropMembers(config, [id]) : config;
  return { ...left, replicas: left.replicas.filter((replica) => replica.id !== id) };
}
