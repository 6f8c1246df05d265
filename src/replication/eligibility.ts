// Whether this replica may become primary by itself (I4).

import { isMember, memberOf } from './config.ts';
import type { Hub } from './hub.ts';

/** A member of the set, in the incarnation that it names, whose disk has not failed. */
export function canPromote({ known, replicaId, incarnation, broken, copy, superblock }: Hub): boolean {
  const { config } = known;
  if (copy.hasFailed || superblock.lineage !== config.lineage) return false;
  if (config.epoch < superblock.promisedEpoch) return false;
  if (isMember(config, replicaId, incarnation)) return true;
  if (memberOf(config, replicaId) !== undefined) return broken.incarnationCheckedAtPromotion;
  return broken.onlyMembersPromote;
}
