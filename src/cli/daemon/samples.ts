// What the metrics page reads from the storage and the devices of this node at each scrape.

import { isHoldfastError } from '../../core/errors.ts';
import type { ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { Storage } from '../../dataplane/storage.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { MetricsSource, VolumeSample } from '../../observe/metrics.ts';

/** What is there so far: a scrape during the start shows that. */
export interface Sampled {
  storage?: Storage;
  devices?: Pick<DeviceService, 'list' | 'waitingSince'>;
}

export function metricsSource(sampled: Readonly<Sampled>): MetricsSource {
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
      const current = sampled.storage;
      if (current === undefined) return [];
      const replicas = await current.replicas();
      const samples = await Promise.all(replicas.map((replica) => sample(current, replica)));
      return samples.filter((found) => found !== undefined);
    },
    pools: async () => (await sampled.storage?.pools()) ?? [],
    closedPools: () => sampled.storage?.closedPools() ?? [],
    devices: () =>
      (sampled.devices?.list() ?? []).map(({ volumeId, path }) => ({
        volumeId,
        path,
        waitingSince: sampled.devices?.waitingSince(volumeId),
      })),
    threads: async () => (await sampled.storage?.threadCounters()) ?? [],
  };
}
