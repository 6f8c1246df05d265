// Whether this replica may take part at all, and become primary by itself (I4).

import { isMember, memberOf, type VolumeConfig } from './config.ts';
import type { Hub } from './hub.ts';

/** Its files have room for the volume as this configuration has it: a copy that was left out when the volume grew has not. */
export function hasRoomFor({ copy, broken }: Hub, { sizeBytes }: VolumeConfig): boolean {
  return sizeBytes <= copy.sizeBytes || broken.copyCoversVolume;
}

/** A member of the set, in the incarnation that it names, whose disk has not failed. */
export function canPromote(hub: Hub): boolean {
  const { known, replicaId, incarnation, broken, copy, superblock } = hub;
  const { config } = known;
  if (copy.hasFailed || superblock.lineage !== config.lineage) return false;
  if (!hasRoomFor(hub, config)) return false;
  if (config.epoch < superblock.promisedEpoch) return false;
  if (isMember(config, replicaId, incarnation)) return true;
  if (memberOf(config, replicaId) !== undefined) return broken.incarnationCheckedAtPromotion;
  return broken.onlyMembersPromote;
}
