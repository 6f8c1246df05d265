// What the metrics page reads from the storage of this node at each scrape.

import { isHoldfastError } from '../../core/errors.ts';
import type { ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { Storage } from '../../dataplane/storage.ts';
import type { MetricsSource, VolumeSample } from '../../observe/metrics.ts';

/** `storage` answers undefined until it is open: a scrape during the start shows what there is. */
export function metricsSource(storage: () => Storage | undefined): MetricsSource {
  const sample = async (current: Storage, replica: ReplicaStatus): Promise<VolumeSample | undefined> => {
    const { volumeId } = replica;
    if (replica.superblock === undefined) return undefined;
    // It may be closed at any moment between the question and the answer.
    const counters = replica.isOpen
      ? await current.counters(volumeId).catch((error: unknown) => {
          if (isHoldfastError(error)) return undefined;
          throw error;
        })
      : undefined;
    return {
      volumeId,
      name: replica.superblock.volumeName,
      sizeBytes: replica.superblock.sizeBytes,
      allocatedBytes: replica.allocatedBytes,
      isOpen: replica.isOpen,
      counters,
    };
  };

  return {
    async volumes() {
      const current = storage();
      if (current === undefined) return [];
      const replicas = await current.replicas();
      const samples = await Promise.all(replicas.map((replica) => sample(current, replica)));
      return samples.filter((found) => found !== undefined);
    },
    pools: async () => (await storage()?.pools()) ?? [],
    closedPools: () => storage()?.closedPools() ?? [],
    threads: async () => (await storage()?.threadCounters()) ?? [],
  };
}
