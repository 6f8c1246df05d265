// What the metrics page reads from the storage and the devices of this node at each scrape. Nothing there is waited for
// longer than the deadline: what does not answer is left out and told.

import type { Failovers } from '../../control/failovers.ts';
import type { LayerSample } from '../../dataplane/layer-counts.ts';
import type { ReplicaStatus } from '../../dataplane/node-storage.ts';
import type { Storage } from '../../dataplane/storage.ts';
import type { ReplicaSample, VolumeThreadSample } from '../../dataplane/thread-sample.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { FailoverSample, Scrape } from '../../observe/metrics.ts';
import type { VolumeSample } from '../../observe/volume-metrics.ts';

/** Whoever scrapes waits ten seconds, usually. */
const DEADLINE_MS = 2000;

/** What is there so far: a scrape during the start shows that. */
export interface Sampled {
  storage?: Pick<Storage, 'sampleThreads' | 'samplePools' | 'closedPools'>;
  devices?: Pick<DeviceService, 'list' | 'waitingSince'>;
  failovers?: Pick<Failovers, 'counts' | 'phases' | 'forget'>;
  /** By volume id: as the records say. A volume without a copy here has its name from nowhere else. */
  readonly names: Map<string, string>;
}

export function scrapeOf(sampled: Readonly<Sampled>, deadlineMs = DEADLINE_MS): () => Promise<Scrape> {
  /** As the superblocks say that were read last: a disk that hangs does not change a volume's labels. */
  let known: ReadonlyMap<string, string> = new Map();
  const nameOf = (volumeId: string): string => known.get(volumeId) ?? sampled.names.get(volumeId) ?? '';

  return async () => {
    const { storage, devices } = sampled;
    const [threads = [], pools = []] = await Promise.all([
      storage?.sampleThreads(deadlineMs),
      storage?.samplePools(deadlineMs),
    ]);
    const copies = pools.flatMap(({ replicas }) => replicas ?? []);
    const counted = threads.flatMap((found) => found?.volumes ?? []);
    known = new Map([...stillThere(known, counted), ...namesOf(copies)]);
    return {
      volumes: join(copies, counted, nameOf),
      pools,
      closedPools: storage?.closedPools() ?? [],
      threads: threads.map((found) => found?.counters),
      devices: (devices?.list() ?? []).map(({ volumeId, path }) => ({
        volumeId,
        path,
        waitingSince: devices?.waitingSince(volumeId),
      })),
      failovers: failoversOf(sampled.failovers, nameOf),
    };
  };
}

function stillThere(
  names: ReadonlyMap<string, string>,
  counted: readonly VolumeThreadSample[],
): [string, string][] {
  const ids = new Set(counted.map(({ volumeId }) => volumeId));
  return [...names].filter(([volumeId]) => ids.has(volumeId));
}

function namesOf(copies: readonly ReplicaStatus[]): [string, string][] {
  return copies.flatMap(({ volumeId, superblock }) =>
    superblock === undefined ? [] : [[volumeId, superblock.volumeName]],
  );
}

/** A volume's copy and its frontend may be on different threads. */
function join(
  copies: readonly ReplicaStatus[],
  counted: readonly VolumeThreadSample[],
  nameOf: (volumeId: string) => string,
): VolumeSample[] {
  const copyOf = new Map(copies.map((copy) => [copy.volumeId, copy]));
  const partsOf = Map.groupBy(counted, ({ volumeId }) => volumeId);
  return [...new Set([...copyOf.keys(), ...partsOf.keys()])].map((volumeId) => {
    const copy = copyOf.get(volumeId);
    const parts = partsOf.get(volumeId) ?? [];
    const first = <T>(read: (part: VolumeThreadSample) => T | undefined): T | undefined =>
      parts.map(read).find((found) => found !== undefined);
    const frontend = first((part) => part.frontend);
    const replica = first((part) => part.replica);
    return {
      volumeId,
      name: nameOf(volumeId),
      copy: copy?.superblock && {
        sizeBytes: copy.superblock.sizeBytes,
        allocatedBytes: copy.allocatedBytes,
      },
      isOpen: parts.length > 0,
      frontend: frontend && { ...frontend, stalledSeconds: frontend.stalledMs / 1000 },
      network: frontend?.network,
      backend: first((part) => part.backend),
      hotExtents: first((part) => part.hotExtents),
      replica: replica && replicaOf(replica),
    };
  });
}

function replicaOf(sample: ReplicaSample): VolumeSample['replica'] {
  const { view, isPrimary, inSyncCount, replicaCount, degradedMs } = sample;
  return {
    state: view.state,
    hasFailed: view.hasFailed,
    degradedSeconds: degradedMs / 1000,
    primary: isPrimary
      ? { mayReply: view.mayReply, inSyncCount, replicaCount, replicas: othersOf(sample) }
      : undefined,
  };
}

function othersOf({ view, nodes, streams }: ReplicaSample) {
  return view.others.map(({ replicaId, isConnected, resyncBytesLeft = 0, heldOutMs, ...other }) => ({
    replicaId,
    node: nodes.find((one) => one.replicaId === replicaId)?.node ?? '',
    isConnected,
    resyncBytesLeft,
    resyncBytesSent: other.resyncBytesSent,
    isWaitingForTurn: other.isWaitingForTurn,
    heldOutSeconds: heldOutMs / 1000,
    ...(streams.find((one) => one.replicaId === replicaId) ?? NOTHING_SENT),
  }));
}

const NOTHING_SENT: Pick<LayerSample, 'writes' | 'writeBytes' | 'errors' | 'latency'> = {
  writes: 0,
  writeBytes: 0,
  errors: 0,
  latency: { buckets: new Float64Array(24), sumMs: 0 },
};

function failoversOf(failovers: Sampled['failovers'], nameOf: (volumeId: string) => string): FailoverSample {
  const counts = [...(failovers?.counts ?? [])].map(([volumeId, count]) => ({
    volumeId,
    name: nameOf(volumeId),
    count,
  }));
  return { counts, phases: failovers?.phases ?? [] };
}
