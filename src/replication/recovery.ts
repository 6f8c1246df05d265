// What a copy is worth when a process opens it: whether it is still the incarnation that the store names.

import type { VolumeConfig } from './config.ts';
import { replicaOf } from './config.ts';
import type { Superblock } from './layout/superblock.ts';
import type { BrokenRules } from './rules.ts';

export interface Verdict {
  /** It may have lost acknowledged writes, or may not be the copy that it was: it gets a new incarnation. */
  readonly isRedrawn: boolean;
  /** Nothing but reboots lies between it and what was last in sync. */
  readonly descends: boolean;
}

export function judge(
  found: Superblock,
  config: VolumeConfig,
  replicaId: string,
  bootId: string,
  broken: BrokenRules,
): Verdict {
  const { bootId: recordedBootId } = replicaOf(config, replicaId);
  const isSameBoot = found.bootId === bootId || found.bootId === null;
  // The store knows a later boot than this image: it was put back. (A boot that the store had not learned of yet
  // is no such case: the image then says which one the store knew. Nor is one that a swap of a process before has recorded
  // late: the image names the boots before its own. One that no process has opened yet names none.)
  const isOldImage =
    (found.bootId === null || !isSameBoot) &&
    recordedBootId !== null &&
    found.bootId !== recordedBootId &&
    found.storedBootId !== recordedBootId &&
    !found.earlierBootIds.includes(recordedBootId) &&
    !broken.bootIdChecked;
  const isWeak = found.durability === 'writeback' || config.durability === 'writeback';
  const mayHaveLost =
    !isSameBoot && isWeak && found.cleanMark === null && !broken.incarnationRedrawnAfterReboot;
  return { isRedrawn: isOldImage || mayHaveLost, descends: !isOldImage };
}
