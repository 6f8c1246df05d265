// What people change while everything else goes wrong: each a compare-and-swap of the volume's record on its
// newest state, by the functions that the control plane uses.

import { memberOf, type VolumeConfig } from '../../src/replication/config.ts';
import {
  MAX_REPLICAS as MAX_SECONDARIES,
  removeReplica as remove,
} from '../../src/replication/replica-set.ts';

export { addReplica, changeFailureMode } from '../../src/replication/replica-set.ts';

export const MAX_REPLICAS = MAX_SECONDARIES + 1;

/** Not a new epoch. Every copy has grown before. */
export function growVolume(config: VolumeConfig, sizeBytes: number): VolumeConfig {
  return { ...config, sizeBytes: Math.max(config.sizeBytes, sizeBytes) };
}

/** From writethrough. The way back needs the primary: it must flush before the record may say so. */
export function weakenDurability(config: VolumeConfig): VolumeConfig {
  return { ...config, epoch: config.epoch + 1, durability: 'writeback' };
}

/** undefined: it is the primary, or what the failure mode asks for, or the only one that may be left out is not this one. */
export function removeReplica(config: VolumeConfig, id: string): VolumeConfig | undefined {
  // Nobody is asked whether the others live: what is left must be able to go on without it.
  if (memberOf(config, id) !== undefined && config.inSync.length < 3) return undefined;
  const removal = remove(config, id);
  return 'config' in removal ? removal.config : undefined;
}
