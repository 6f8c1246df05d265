// The metrics of a node, in Prometheus' words. The data plane counts; this page reads its counts when it is
// scraped and keeps none of its own. A volume's series end when the volume leaves the node.

import { Counter, collectDefaultMetrics, Gauge, type Metric, Registry } from '@prometheus-io/client';

/** One volume with a replica here. Counts run since the volume was opened. */
export interface VolumeSample {
  readonly volumeId: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly isOpen: boolean;
  readonly counters: VolumeSampleCounters | undefined;
}

interface VolumeSampleCounters {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly flushes: number;
  readonly trims: number;
  readonly errors: number;
  readonly inFlight: number;
  readonly sessions: number;
  readonly hotExtents: number;
  /** Bucket i: completed requests below 8 × 2^i microseconds. */
  readonly latencyBuckets: readonly number[];
}

export interface PoolSample {
  readonly name: string;
  readonly ioMode: string;
  readonly totalBytes: number;
  readonly availableBytes: number;
  readonly reserveBytes: number;
  readonly provisionedBytes: number;
}

/** One data-plane thread; counts run since it started. */
export interface ThreadSample {
  readonly ringEntries: number;
  readonly ringEnters: number;
  readonly sessions: number;
  readonly freeRequests: number;
  readonly collections: number;
}

/** A block device of this node. */
export interface DeviceSample {
  readonly volumeId: string;
  readonly path: string;
  /** undefined: it has a connection. */
  readonly waitingSince: Date | undefined;
}

export interface MetricsSource {
  volumes(): Promise<readonly VolumeSample[]>;
  pools(): Promise<readonly PoolSample[]>;
  closedPools(): readonly { readonly name: string }[];
  threads(): Promise<readonly ThreadSample[]>;
  devices(): readonly DeviceSample[];
}

export interface NodeFacts {
  readonly node: string;
  readonly version: string;
  /** IORING_SETUP_* bits in use. */
  readonly ringSetupFlags: number;
}

const VOLUME_LABELS = ['volume_id', 'volume'] as const;
type VolumeLabels = Record<(typeof VOLUME_LABELS)[number], string>;

type CounterField = Exclude<
  keyof VolumeSampleCounters,
  'latencyBuckets' | 'inFlight' | 'sessions' | 'hotExtents'
>;
const COUNTERS: readonly [name: string, help: string, field: CounterField][] = [
  ['holdfast_volume_reads_total', 'Completed read requests', 'reads'],
  ['holdfast_volume_read_bytes_total', 'Bytes read', 'readBytes'],
  ['holdfast_volume_writes_total', 'Completed write requests', 'writes'],
  ['holdfast_volume_write_bytes_total', 'Bytes written', 'writeBytes'],
  ['holdfast_volume_flushes_total', 'Completed flush requests', 'flushes'],
  ['holdfast_volume_trims_total', 'Completed trim and write-zeroes requests', 'trims'],
  ['holdfast_volume_errors_total', 'Requests that were answered with an error', 'errors'],
];

const GAUGES: readonly [name: string, help: string, value: (sample: VolumeSample) => number][] = [
  ['holdfast_volume_size_bytes', 'Size of the volume', ({ sizeBytes }) => sizeBytes],
  [
    'holdfast_volume_allocated_bytes',
    'Bytes that its replica takes in the pool',
    ({ allocatedBytes }) => allocatedBytes,
  ],
  ['holdfast_volume_open', '1 while a data-plane thread serves it', ({ isOpen }) => Number(isOpen)],
  [
    'holdfast_volume_requests_in_flight',
    'Requests not yet answered',
    ({ counters }) => counters?.inFlight ?? 0,
  ],
  ['holdfast_volume_sessions', 'Connections that use it', ({ counters }) => counters?.sessions ?? 0],
  [
    'holdfast_volume_hot_extents',
    'Extents marked in the intent log',
    ({ counters }) => counters?.hotExtents ?? 0,
  ],
];

const POOL_GAUGES: readonly [
  name: string,
  help: string,
  field: Exclude<keyof PoolSample, 'name' | 'ioMode'>,
][] = [
  ['holdfast_pool_size_bytes', "Size of the pool's file system", 'totalBytes'],
  ['holdfast_pool_available_bytes', 'Room for data', 'availableBytes'],
  ['holdfast_pool_reserve_bytes', 'Room that data never uses', 'reserveBytes'],
  ['holdfast_pool_provisioned_bytes', 'Sum of the sizes of its volumes', 'provisionedBytes'],
];

const DEVICE_GAUGES: readonly [name: string, help: string, value: (sample: DeviceSample) => number][] = [
  [
    'holdfast_device_connected',
    '1 while the daemon serves the device, 0 while its requests wait for a connection',
    ({ waitingSince }) => Number(waitingSince === undefined),
  ],
  [
    'holdfast_device_waiting_seconds',
    'How long the device has had no connection; 0 while it has one',
    ({ waitingSince }) => (waitingSince === undefined ? 0 : (Date.now() - waitingSince.getTime()) / 1000),
  ],
];

const THREAD_COUNTERS: readonly [name: string, help: string, field: keyof ThreadSample][] = [
  ['holdfast_thread_ring_entries_total', 'Operations submitted to its io_uring', 'ringEntries'],
  ['holdfast_thread_ring_enters_total', 'System calls made for them', 'ringEnters'],
  ['holdfast_thread_garbage_collections_total', 'Garbage collections of the thread', 'collections'],
];

const THREAD_GAUGES: readonly [name: string, help: string, field: keyof ThreadSample][] = [
  ['holdfast_thread_sessions', 'Connections that the thread serves', 'sessions'],
  ['holdfast_thread_free_requests', 'Request slots not in use', 'freeRequests'],
];

function labelsOf(sample: VolumeSample): VolumeLabels {
  return { volume_id: sample.volumeId, volume: sample.name };
}

/** The data plane's counts are a histogram already; the client's class can only count by itself. */
function latencyHistogram(samples: () => Promise<readonly VolumeSample[]>): Metric<string> {
  const name = 'holdfast_volume_request_duration_seconds';
  const get = async (): Promise<unknown> => {
    const values = (await samples()).flatMap((sample) => {
      const { counters } = sample;
      if (counters === undefined) return [];
      const labels = labelsOf(sample);
      const count = counters.latencyBuckets.at(-1) ?? 0;
      return [
        ...counters.latencyBuckets.map((value, i) => ({
          labels: { ...labels, le: (8 * 2 ** i) / 1e6 },
          value,
          metricName: `${name}_bucket`,
        })),
        { labels: { ...labels, le: '+Inf' }, value: count, metricName: `${name}_bucket` },
        { labels, value: count, metricName: `${name}_count` },
      ];
    });
    return { name, help: 'Time from a request to its reply', type: 'histogram', values, aggregator: 'sum' };
  };
  return { name, get, reset: () => {} } as unknown as Metric<string>;
}

export function createMetrics(source: MetricsSource, facts: NodeFacts): Registry {
  const registry = new Registry();
  const registers = [registry];
  registry.setDefaultLabels({ node: facts.node });
  collectDefaultMetrics({ register: registry });

  // One look at the volumes serves all families of one scrape.
  let scrape: Promise<readonly VolumeSample[]> | undefined;
  const samples = (): Promise<readonly VolumeSample[]> => {
    if (scrape === undefined) {
      scrape = source.volumes();
      const forget = (): void => void (scrape = undefined);
      scrape.then(() => setImmediate(forget), forget);
    }
    return scrape;
  };

  for (const [name, help, field] of COUNTERS) {
    new Counter({
      name,
      help,
      labelNames: VOLUME_LABELS,
      registers,
      async collect(): Promise<void> {
        const current = await samples();
        this.reset();
        for (const sample of current) {
          if (sample.counters !== undefined) this.inc(labelsOf(sample), sample.counters[field]);
        }
      },
    });
  }
  for (const [name, help, value] of GAUGES) {
    new Gauge({
      name,
      help,
      labelNames: VOLUME_LABELS,
      registers,
      async collect(): Promise<void> {
        const current = await samples();
        this.reset();
        for (const sample of current) this.set(labelsOf(sample), value(sample));
      },
    });
  }
  for (const [name, help, field] of POOL_GAUGES) {
    new Gauge({
      name,
      help,
      labelNames: ['pool', 'io'],
      registers,
      async collect(): Promise<void> {
        const pools = await source.pools();
        this.reset();
        for (const pool of pools) this.set({ pool: pool.name, io: pool.ioMode }, pool[field]);
      },
    });
  }
  new Gauge({
    name: 'holdfast_pool_up',
    help: '1 while the pool is open, 0 while it cannot be opened',
    labelNames: ['pool'],
    registers,
    async collect(): Promise<void> {
      const pools = await source.pools();
      this.reset();
      for (const pool of source.closedPools()) this.set({ pool: pool.name }, 0);
      for (const pool of pools) this.set({ pool: pool.name }, 1);
    },
  });
  for (const [name, help, value] of DEVICE_GAUGES) {
    new Gauge({
      name,
      help,
      labelNames: ['volume_id', 'device'],
      registers,
      collect(): void {
        this.reset();
        for (const sample of source.devices()) {
          this.set({ volume_id: sample.volumeId, device: sample.path }, value(sample));
        }
      },
    });
  }
  for (const [name, help, field] of THREAD_COUNTERS) {
    new Counter({
      name,
      help,
      labelNames: ['thread'],
      registers,
      async collect(): Promise<void> {
        const threads = await source.threads();
        this.reset();
        for (const [index, thread] of threads.entries()) this.inc({ thread: String(index) }, thread[field]);
      },
    });
  }
  for (const [name, help, field] of THREAD_GAUGES) {
    new Gauge({
      name,
      help,
      labelNames: ['thread'],
      registers,
      async collect(): Promise<void> {
        const threads = await source.threads();
        for (const [index, thread] of threads.entries()) this.set({ thread: String(index) }, thread[field]);
      },
    });
  }
  registry.registerMetric(latencyHistogram(samples));

  new Gauge({
    name: 'holdfast_node_info',
    help: 'Always 1; the facts are in the labels',
    labelNames: ['version', 'node_js', 'ring_setup_flags'],
    registers,
  }).set(
    {
      version: facts.version,
      node_js: process.version,
      ring_setup_flags: `0x${facts.ringSetupFlags.toString(16)}`,
    },
    1,
  );
  return registry;
}
