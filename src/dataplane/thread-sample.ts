// What a data-plane thread counts, all of it at once, for the metrics: one question a thread and scrape, however many
// volumes it has. Plain data: it is cloned on its way to the main thread.

import type { StreamSample } from './cluster/stream-counts.ts';
import type { ReplicaView } from './cluster-storage.ts';
import type { LayerSample } from './layer-counts.ts';
import type { ThreadCounters } from './thread-messages.ts';

/** Where the volume is used here. */
export interface FrontendSample {
  readonly counts: LayerSample;
  /** What of it went to a primary on another node. */
  readonly network: LayerSample | undefined;
  readonly inFlight: number;
  readonly sessions: number;
  readonly stalledMs: number;
}

/** Its copy here, in a cluster. */
export interface ReplicaSample {
  readonly view: ReplicaView;
  readonly backend: LayerSample;
  /** Only a primary knows the three behind it. */
  readonly isPrimary: boolean;
  readonly inSyncCount: number;
  readonly replicaCount: number;
  readonly nodes: readonly { readonly replicaId: string; readonly node: string }[];
  readonly degradedMs: number;
  readonly streams: readonly StreamSample[];
}

export interface VolumeThreadSample {
  readonly volumeId: string;
  readonly frontend: FrontendSample | undefined;
  readonly backend: LayerSample | undefined;
  readonly hotExtents: number | undefined;
  readonly replica: ReplicaSample | undefined;
}

export interface ThreadSample {
  readonly counters: ThreadCounters;
  readonly volumes: readonly VolumeThreadSample[];
}
