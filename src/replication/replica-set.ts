// Which copies a volume has, as people and the housekeeping change it: from one configuration to the next one, pure,
// made by compare-and-swap like every other change (config.ts).
//
// Invariants: a copy that comes is not in sync, and one that goes when it is not in sync changes no epoch: no copy
// changes its part by that. The primary never goes: it hands over first. A member that goes raises the epoch as one
// that is dropped does; who asks for it has made sure that what is left can go on without it.

import { invariant } from '../core/invariant.ts';
import { dropMembers, type FailureMode, memberOf, minimumInSync, type VolumeConfig } from './config.ts';

/** Copies beside the primary. */
export const MAX_REPLICAS = 5;

/** It is filled by the primary, and joins the in-sync set then. */
export function addReplica(config: VolumeConfig, id: string, node: string): VolumeConfig {
  invariant(
    config.replicas.every((replica) => replica.id !== id && replica.node !== node),
    'a node has one copy of a volume',
  );
  const replica = { id, node, outSince: null, needsFullCopy: true, bootId: null, report: null };
  return { ...config, replicas: [...config.replicas, replica] };
}

export type Removal = { readonly config: VolumeConfig } | { readonly refused: 'primary' | 'minimum' };

/** 'minimum': what is left would be less than the failure mode asks for. */
export function removeReplica(config: VolumeConfig, id: string): Removal {
  if (config.primary.replicaId === id) return { refused: 'primary' };
  const isMember = memberOf(config, id) !== undefined;
  const left = isMember ? dropMembers(config, [id]) : config;
  const changed = { ...left, replicas: left.replicas.filter((replica) => replica.id !== id) };
  const isBelow = isMember && changed.inSync.length < minimumInSync(changed);
  return isBelow ? { refused: 'minimum' } : { config: changed };
}

/**
 * The copies that can be done without, the least useful first: those out of sync (the longest out before the others),
 * then members that the primary does not reach, then the others.
 */
export function leastUseful(config: VolumeConfig, unreached: readonly string[] = []): string[] {
  const rank = ({ id, needsFullCopy, outSince }: VolumeConfig['replicas'][number]): number => {
    if (memberOf(config, id) !== undefined) return unreached.includes(id) ? MEMBER_AWAY : MEMBER;
    // What needs a full copy has nothing to lose.
    return needsFullCopy ? -1 : (outSince ?? -1);
  };
  return config.replicas
    .filter(({ id }) => id !== config.primary.replicaId)
    .sort((a, b) => rank(a) - rank(b))
    .map(({ id }) => id);
}

/** Above every epoch. */
const MEMBER_AWAY = 2 ** 53;
const MEMBER = 2 ** 54;

/** Not a new epoch: no copy changes its part. */
export function changeFailureMode(config: VolumeConfig, failureMode: FailureMode): VolumeConfig {
  return { ...config, failureMode };
}
