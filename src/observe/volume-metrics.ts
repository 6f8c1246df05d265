// The metrics of volumes: by layer, and what a primary knows of its copies. Each daemon tells what it sees: the node
// that uses a volume its frontend, one with a copy its backend, the primary's the rest; sums over nodes are the whole.

import type { Durations, Families, Labels, Series } from './families.ts';
import type { Scrape } from './metrics.ts';

/** Counts run since the volume was opened. */
export interface LayerSample {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly flushes: number;
  readonly trims: number;
  readonly errors: number;
  readonly latency: Durations;
}

/** One volume with a copy here, or that is used here. */
export interface VolumeSample {
  readonly volumeId: string;
  readonly name: string;
  /** undefined: no copy of it is here, or its disk does not answer. */
  readonly copy: { readonly sizeBytes: number; readonly allocatedBytes: number } | undefined;
  /** A data-plane thread serves it or its copy. */
  readonly isOpen: boolean;
  readonly frontend: FrontendSample | undefined;
  readonly network: LayerSample | undefined;
  readonly backend: LayerSample | undefined;
  readonly hotExtents: number | undefined;
  /** In a cluster, of an open copy. */
  readonly replica: ReplicaSample | undefined;
}

interface FrontendSample {
  readonly counts: LayerSample;
  readonly inFlight: number;
  readonly sessions: number;
  readonly stalledSeconds: number;
}

interface ReplicaSample {
  readonly state: string;
  readonly hasFailed: boolean;
  readonly degradedSeconds: number;
  /** What only a primary knows. */
  readonly primary: PrimarySample | undefined;
}

interface PrimarySample {
  readonly mayReply: boolean;
  readonly inSyncCount: number;
  readonly replicaCount: number;
  /** The others. */
  readonly replicas: readonly PeerReplicaSample[];
}

interface PeerReplicaSample {
  readonly replicaId: string;
  readonly node: string;
  readonly isConnected: boolean;
  readonly resyncBytesLeft: number;
  readonly resyncBytesSent: number;
  readonly isWaitingForTurn: boolean;
  readonly heldOutSeconds: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly errors: number;
  readonly latency: Durations;
}

const VOLUME_LABELS = ['volume_id', 'volume'];
const REPLICA_LABELS = [...VOLUME_LABELS, 'replica_id', 'replica_node'];

const LAYERS: readonly [
  layer: string,
  what: string,
  read: (sample: VolumeSample) => LayerSample | undefined,
][] = [
  ['frontend', 'by clients on this node', ({ frontend }) => frontend?.counts],
  ['network', 'by this node of a primary on another node', ({ network }) => network],
  ['backend', 'on the data file of the copy on this node', ({ backend }) => backend],
];

const COUNTERS: readonly [name: string, help: string, field: Exclude<keyof LayerSample, 'latency'>][] = [
  ['reads', 'Reads', 'reads'],
  ['read_bytes', 'Bytes read', 'readBytes'],
  ['writes', 'Writes', 'writes'],
  ['write_bytes', 'Bytes written', 'writeBytes'],
  ['flushes', 'Flushes', 'flushes'],
  ['trims', 'Trims and write-zeroes', 'trims'],
  ['errors', 'Operations that ended with an error', 'errors'],
];

type Reading<Sample> = (sample: Sample) => number | undefined;

const GAUGES: readonly [name: string, help: string, value: Reading<VolumeSample>][] = [
  ['holdfast_volume_size_bytes', 'Size of the volume', ({ copy }) => copy?.sizeBytes],
  [
    'holdfast_volume_allocated_bytes',
    'Bytes that its copy takes in the pool',
    ({ copy }) => copy?.allocatedBytes,
  ],
  [
    'holdfast_volume_open',
    '1 while a data-plane thread serves it or its copy',
    ({ isOpen }) => Number(isOpen),
  ],
  ['holdfast_volume_requests_in_flight', 'Requests not yet answered', ({ frontend }) => frontend?.inFlight],
  ['holdfast_volume_sessions', 'Connections that use it', ({ frontend }) => frontend?.sessions],
  ['holdfast_volume_hot_extents', 'Extents marked in the intent log', ({ hotExtents }) => hotExtents],
  [
    'holdfast_volume_in_sync_replicas',
    'Copies that hold every acknowledged write, as the primary here knows',
    ({ replica }) => replica?.primary?.inSyncCount,
  ],
  [
    'holdfast_volume_replicas',
    'Copies that the volume is to have, as the primary here knows',
    ({ replica }) => replica?.primary?.replicaCount,
  ],
  [
    'holdfast_volume_may_reply',
    '1 while the primary here may answer requests, 0 while they wait for a lease, a promise or a copy',
    ({ replica }) => replica?.primary && Number(replica.primary.mayReply),
  ],
  [
    'holdfast_replica_failed',
    '1 once the disk of the copy here failed',
    ({ replica }) => replica && Number(replica.hasFailed),
  ],
];

const TIMES: readonly [name: string, help: string, value: Reading<VolumeSample>][] = [
  [
    'holdfast_volume_stalled_seconds_total',
    'Time in which a request on this node had waited for longer than a second: no primary may reply, or a disk hangs',
    ({ frontend }) => frontend?.stalledSeconds,
  ],
  [
    'holdfast_volume_degraded_seconds_total',
    'Time in which the primary here had fewer copies in sync, or reached fewer of them, than the volume is to have',
    ({ replica }) => replica?.degradedSeconds,
  ],
];

const REPLICA_GAUGES: readonly [name: string, help: string, value: (sample: PeerReplicaSample) => number][] =
  [
    [
      'holdfast_replica_connected',
      '1 while the primary here has a stream to this copy',
      ({ isConnected }) => Number(isConnected),
    ],
    [
      'holdfast_replica_resync_bytes_left',
      'Bytes of the volume that are still to be looked at or copied for this copy; 0: it is not being filled',
      ({ resyncBytesLeft }) => resyncBytesLeft,
    ],
    [
      'holdfast_replica_resync_waiting',
      '1 while this copy could be filled and others of the node of the primary here are before it',
      ({ isWaitingForTurn }) => Number(isWaitingForTurn),
    ],
    [
      'holdfast_replica_held_out_seconds',
      'How long this copy is still held out, since it left the in-sync set again and again; 0: it is not',
      ({ heldOutSeconds }) => heldOutSeconds,
    ],
  ];

const REPLICA_COUNTERS: readonly [
  name: string,
  help: string,
  value: (sample: PeerReplicaSample) => number,
][] = [
  [
    'holdfast_replica_resync_bytes_total',
    'Bytes copied to this copy by resyncs',
    ({ resyncBytesSent }) => resyncBytesSent,
  ],
  ['holdfast_replica_writes_total', 'Writes and zeroings sent to this copy', ({ writes }) => writes],
  [
    'holdfast_replica_write_bytes_total',
    'Bytes of the writes sent to this copy',
    ({ writeBytes }) => writeBytes,
  ],
  ['holdfast_replica_write_errors_total', 'Writes that this copy could not make', ({ errors }) => errors],
];

export function registerVolumes(families: Families<Scrape>): void {
  for (const [layer, what, read] of LAYERS) registerLayer(families, layer, what, read);
  for (const [name, help, value] of GAUGES) families.gauge(name, help, VOLUME_LABELS, ofVolumes(value));
  for (const [name, help, value] of TIMES) families.counter(name, help, VOLUME_LABELS, ofVolumes(value));
  families.gauge(
    'holdfast_replica_state',
    'Always 1; what the copy here does now is in the label',
    [...VOLUME_LABELS, 'state'],
    ({ volumes }) =>
      volumes.flatMap((sample) =>
        sample.replica === undefined
          ? []
          : [{ labels: { ...labelsOf(sample), state: sample.replica.state }, value: 1 }],
      ),
  );
  for (const [name, help, value] of REPLICA_GAUGES)
    families.gauge(name, help, REPLICA_LABELS, ofReplicas(value));
  for (const [name, help, value] of REPLICA_COUNTERS)
    families.counter(name, help, REPLICA_LABELS, ofReplicas(value));
  families.durations(
    'holdfast_replica_write_duration_seconds',
    'Time from the sending of a write to this copy until its answer',
    ({ volumes }) =>
      volumes.flatMap((sample) =>
        peersOf(sample).map((peer) => ({ labels: peerLabels(sample, peer), durations: peer.latency })),
      ),
  );
}

function registerLayer(
  families: Families<Scrape>,
  layer: string,
  what: string,
  read: (sample: VolumeSample) => LayerSample | undefined,
): void {
  const prefix = `holdfast_volume_${layer}`;
  for (const [name, help, field] of COUNTERS) {
    const value = (sample: VolumeSample): number | undefined => read(sample)?.[field];
    families.counter(`${prefix}_${name}_total`, `${help}, ${what}`, VOLUME_LABELS, ofVolumes(value));
  }
  families.durations(`${prefix}_duration_seconds`, `Time of an operation, ${what}`, ({ volumes }) =>
    volumes.flatMap((sample) => {
      const counts = read(sample);
      return counts === undefined ? [] : [{ labels: labelsOf(sample), durations: counts.latency }];
    }),
  );
}

function labelsOf({ volumeId, name }: VolumeSample): Labels {
  return { volume_id: volumeId, volume: name };
}

/** Of the volumes of which there is something to be told. */
function ofVolumes(value: Reading<VolumeSample>): (scrape: Scrape) => Series[] {
  return ({ volumes }) =>
    volumes.flatMap((sample) => {
      const found = value(sample);
      return found === undefined ? [] : [{ labels: labelsOf(sample), value: found }];
    });
}

function peersOf({ replica }: VolumeSample): readonly PeerReplicaSample[] {
  return replica?.primary?.replicas ?? [];
}

function peerLabels(sample: VolumeSample, { replicaId, node }: PeerReplicaSample): Labels {
  return { ...labelsOf(sample), replica_id: replicaId, replica_node: node };
}

function ofReplicas(value: (sample: PeerReplicaSample) => number): (scrape: Scrape) => Series[] {
  return ({ volumes }) =>
    volumes.flatMap((sample) =>
      peersOf(sample).map((peer) => ({ labels: peerLabels(sample, peer), value: value(peer) })),
    );
}
