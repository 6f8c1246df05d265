// The metrics of a node, in Prometheus' words. The data plane counts; this page reads its counts when it is
// scraped and keeps none of its own. A volume's series end when the volume leaves the node.

import { collectDefaultMetrics, Gauge, Registry } from '@prometheus-io/client';
import { type Durations, Families, type Series } from './families.ts';
import { registerVolumes, type VolumeSample } from './volume-metrics.ts';

/** `status` undefined: its disk did not answer in time. */
export interface PoolSample {
  readonly name: string;
  readonly status: PoolStatus | undefined;
}

interface PoolStatus {
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

/** Copies here that became the primary. */
export interface FailoverSample {
  /** By volume. */
  readonly counts: readonly { readonly volumeId: string; readonly name: string; readonly count: number }[];
  /** Of all of them. */
  readonly phases: readonly { readonly phase: string; readonly durations: Durations }[];
}

/** One look at everything. What did not answer in time is left out, and said so. */
export interface Scrape {
  readonly volumes: readonly VolumeSample[];
  /** Those that are open. */
  readonly pools: readonly PoolSample[];
  readonly closedPools: readonly { readonly name: string }[];
  /** By place; undefined: it did not answer in time. */
  readonly threads: readonly (ThreadSample | undefined)[];
  readonly devices: readonly DeviceSample[];
  readonly failovers: FailoverSample;
}

export interface NodeFacts {
  readonly node: string;
  readonly version: string;
  /** IORING_SETUP_* bits in use. */
  readonly ringSetupFlags: number;
}

const POOL_GAUGES: readonly [name: string, help: string, field: Exclude<keyof PoolStatus, 'ioMode'>][] = [
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

function registerPools(families: Families<Scrape>): void {
  for (const [name, help, field] of POOL_GAUGES) {
    families.gauge(name, help, ['pool', 'io'], ({ pools }) =>
      pools.flatMap(({ name: pool, status }) =>
        status === undefined ? [] : [{ labels: { pool, io: status.ioMode }, value: status[field] }],
      ),
    );
  }
  families.gauge(
    'holdfast_pool_up',
    '1 while the pool is open, 0 while it cannot be opened',
    ['pool'],
    ({ pools, closedPools }) => {
      // One whose disk stops to answer may be told as both.
      const up = new Map([
        ...pools.map(({ name }) => [name, 1] as const),
        ...closedPools.map(({ name }) => [name, 0] as const),
      ]);
      return [...up].map(([pool, value]) => ({ labels: { pool }, value }));
    },
  );
  families.gauge(
    'holdfast_pool_answers',
    '1 when the disk of the open pool answered this scrape in time, 0: its space and copies are left out',
    ['pool'],
    ({ pools }) =>
      pools.map(({ name, status }) => ({ labels: { pool: name }, value: Number(status !== undefined) })),
  );
}

function registerThreads(families: Families<Scrape>): void {
  families.gauge(
    'holdfast_thread_answers',
    '1 when the data-plane thread answered this scrape in time, 0: its volumes are left out',
    ['thread'],
    ({ threads }) =>
      threads.map((found, place) => ({
        labels: { thread: String(place) },
        value: Number(found !== undefined),
      })),
  );
  const read =
    (field: keyof ThreadSample) =>
    ({ threads }: Scrape): Series[] =>
      threads.flatMap((found, place) =>
        found === undefined ? [] : [{ labels: { thread: String(place) }, value: found[field] }],
      );
  for (const [name, help, field] of THREAD_COUNTERS) families.counter(name, help, ['thread'], read(field));
  for (const [name, help, field] of THREAD_GAUGES) families.gauge(name, help, ['thread'], read(field));
}

function registerFailovers(families: Families<Scrape>): void {
  families.counter(
    'holdfast_volume_failovers_total',
    'Times that the copy here took over from a silent primary',
    ['volume_id', 'volume'],
    ({ failovers }) =>
      failovers.counts.map(({ volumeId, name, count }) => ({
        labels: { volume_id: volumeId, volume: name },
        value: count,
      })),
  );
  families.durations(
    'holdfast_failover_duration_seconds',
    "How long the phases of those took: suspicion, from the old primary's last word until it was missed; lease, until " +
      'nothing is granted to it any more; promotion, until this copy serves; reconciliation, until the copies are equal',
    ({ failovers }) => failovers.phases.map(({ phase, durations }) => ({ labels: { phase }, durations })),
  );
}

export function createMetrics(scrape: () => Promise<Scrape>, facts: NodeFacts): Registry {
  const registry = new Registry();
  registry.setDefaultLabels({ node: facts.node });
  collectDefaultMetrics({ register: registry });
  const families = new Families(registry, scrape);
  registerVolumes(families);
  registerFailovers(families);
  registerPools(families);
  for (const [name, help, value] of DEVICE_GAUGES) {
    families.gauge(name, help, ['volume_id', 'device'], ({ devices }) =>
      devices.map((sample) => ({
        labels: { volume_id: sample.volumeId, device: sample.path },
        value: value(sample),
      })),
    );
  }
  registerThreads(families);
  new Gauge({
    name: 'holdfast_node_info',
    help: 'Always 1; the facts are in the labels',
    labelNames: ['version', 'node_js', 'ring_setup_flags'],
    registers: [registry],
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
