import { readFile } from 'node:fs/promises';
import { afterEach, expect, test } from 'vitest';
import { Health } from '../../src/observe/health.ts';
import { type HttpServer, startHttpServer } from '../../src/observe/http-server.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { createMetrics, type Scrape } from '../../src/observe/metrics.ts';
import type { LayerSample, VolumeSample } from '../../src/observe/volume-metrics.ts';

const LAYER: LayerSample = {
  reads: 7,
  readBytes: 7 * 4096,
  writes: 3,
  writeBytes: 3 * 4096,
  flushes: 1,
  trims: 2,
  errors: 4,
  latency: { buckets: [1, 3, 6], sumMs: 250 },
};
const SAMPLE: VolumeSample = {
  volumeId: 'aa',
  name: 'data',
  copy: { sizeBytes: 1024, allocatedBytes: 512 },
  isOpen: true,
  frontend: { counts: LAYER, inFlight: 5, sessions: 1, stalledSeconds: 2.5 },
  network: undefined,
  backend: { ...LAYER, reads: 70 },
  hotExtents: 6,
  replica: {
    state: 'primary',
    hasFailed: false,
    degradedSeconds: 12,
    primary: {
      mayReply: true,
      inSyncCount: 2,
      replicaCount: 3,
      replicas: [
        {
          replicaId: 'r2',
          node: 'n2',
          isConnected: true,
          resyncBytesLeft: 4096,
          resyncBytesSent: 8192,
          isWaitingForTurn: true,
          heldOutSeconds: 42,
          writes: 11,
          writeBytes: 44,
          errors: 1,
          latency: { buckets: [0, 2, 1], sumMs: 3 },
        },
      ],
    },
  },
};
const POOL = {
  name: 'p',
  status: { ioMode: 'direct', totalBytes: 100, availableBytes: 60, reserveBytes: 5, provisionedBytes: 40 },
};
const THREAD = { ringEntries: 900, ringEnters: 30, sessions: 1, freeRequests: 255, collections: 0 };
const FACTS = { node: 'n1', version: '9.9.9', ringSetupFlags: 0x3288 };

let server: HttpServer | undefined;
afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function serve(volumes: readonly VolumeSample[], health = new Health()): Promise<string> {
  const scrape = async (): Promise<Scrape> => ({
    volumes: [...volumes],
    pools: [POOL, { name: 'hung', status: undefined }],
    closedPools: [{ name: 'gone' }],
    threads: [THREAD, undefined],
    devices: [
      { volumeId: 'aa', path: '/dev/nbd0', waitingSince: undefined },
      { volumeId: 'bb', path: '/dev/nbd1', waitingSince: new Date(Date.now() - 60_000) },
    ],
    failovers: {
      counts: volumes.map(({ volumeId, name }) => ({ volumeId, name, count: 2 })),
      phases: [{ phase: 'promotion', durations: { buckets: [0, 2], sumMs: 40 } }],
    },
  });
  const registry = createMetrics(scrape, FACTS);
  server = await startHttpServer({
    host: '127.0.0.1',
    port: 0,
    health,
    log: silentLogger,
    metrics: async () => ({ contentType: registry.contentType, text: await registry.metrics() }),
  });
  return `http://127.0.0.1:${server.port}`;
}

function series(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line.startsWith('holdfast_'));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]));
}

test("a scrape shows every count of every volume and the pools' room", async () => {
  const base = await serve([SAMPLE]);
  const response = await fetch(`${base}/metrics`);
  expect(response.headers.get('content-type')).toContain('text/plain');
  const found = series(await response.text());
  const labels = '{volume_id="aa",volume="data",node="n1"}';
  expect(found.get(`holdfast_volume_frontend_reads_total${labels}`)).toBe(7);
  expect(found.get(`holdfast_volume_frontend_write_bytes_total${labels}`)).toBe(12_288);
  expect(found.get(`holdfast_volume_frontend_errors_total${labels}`)).toBe(4);
  expect(found.get(`holdfast_volume_backend_reads_total${labels}`)).toBe(70);
  expect(found.has(`holdfast_volume_network_reads_total${labels}`)).toBe(false);
  expect(found.get(`holdfast_volume_requests_in_flight${labels}`)).toBe(5);
  expect(found.get(`holdfast_volume_open${labels}`)).toBe(1);
  expect(found.get('holdfast_thread_ring_entries_total{thread="0",node="n1"}')).toBe(900);
  expect(found.get('holdfast_thread_free_requests{thread="0",node="n1"}')).toBe(255);
  expect(found.get('holdfast_pool_available_bytes{pool="p",io="direct",node="n1"}')).toBe(60);
  expect(found.get('holdfast_pool_up{pool="p",node="n1"}')).toBe(1);
  expect(found.get('holdfast_pool_up{pool="gone",node="n1"}')).toBe(0);
});

test('a device without a connection is told from one that is served, with the time it waits', async () => {
  const found = series(await (await fetch(`${await serve([])}/metrics`)).text());
  const value = (name: string, labels: string) => found.get(`holdfast_device_${name}{${labels},node="n1"}`);
  const [served, waiting] = ['volume_id="aa",device="/dev/nbd0"', 'volume_id="bb",device="/dev/nbd1"'];
  expect([value('connected', served), value('waiting_seconds', served)]).toEqual([1, 0]);
  expect(value('connected', waiting)).toBe(0);
  expect(value('waiting_seconds', waiting)).toBeGreaterThanOrEqual(60);
  expect(value('waiting_seconds', waiting)).toBeLessThan(90);
});

test('latency is a histogram whose buckets are those of the data plane', async () => {
  const text = await (await fetch(`${await serve([SAMPLE])}/metrics`)).text();
  const bucket = (le: string): string =>
    `holdfast_volume_frontend_duration_seconds_bucket{volume_id="aa",volume="data",le="${le}",node="n1"}`;
  const found = series(text);
  expect(text).toContain('# TYPE holdfast_volume_frontend_duration_seconds histogram');
  expect(found.get(bucket('0.000008'))).toBe(1);
  expect(found.get(bucket('0.000016'))).toBe(4);
  expect(found.get(bucket('+Inf'))).toBe(10);
  const rest = '{volume_id="aa",volume="data",node="n1"}';
  expect(found.get(`holdfast_volume_frontend_duration_seconds_count${rest}`)).toBe(10);
  expect(found.get(`holdfast_volume_frontend_duration_seconds_sum${rest}`)).toBe(0.25);
});

test('a primary tells of its set, its other copies, and for how long it was degraded', async () => {
  const found = series(await (await fetch(`${await serve([SAMPLE])}/metrics`)).text());
  const volume = '{volume_id="aa",volume="data",node="n1"}';
  expect(found.get(`holdfast_volume_in_sync_replicas${volume}`)).toBe(2);
  expect(found.get(`holdfast_volume_replicas${volume}`)).toBe(3);
  expect(found.get(`holdfast_volume_may_reply${volume}`)).toBe(1);
  expect(found.get(`holdfast_volume_degraded_seconds_total${volume}`)).toBe(12);
  expect(found.get(`holdfast_volume_stalled_seconds_total${volume}`)).toBe(2.5);
  expect(found.get(`holdfast_volume_failovers_total${volume}`)).toBe(2);
  expect(found.get('holdfast_failover_duration_seconds_count{phase="promotion",node="n1"}')).toBe(2);
  expect(found.get('holdfast_replica_state{volume_id="aa",volume="data",state="primary",node="n1"}')).toBe(1);
  const replica = '{volume_id="aa",volume="data",replica_id="r2",replica_node="n2",node="n1"}';
  expect(found.get(`holdfast_replica_connected${replica}`)).toBe(1);
  expect(found.get(`holdfast_replica_resync_bytes_left${replica}`)).toBe(4096);
  expect(found.get(`holdfast_replica_resync_bytes_total${replica}`)).toBe(8192);
  expect(found.get(`holdfast_replica_writes_total${replica}`)).toBe(11);
  expect(found.get(`holdfast_replica_write_errors_total${replica}`)).toBe(1);
  expect(found.get(`holdfast_replica_write_duration_seconds_count${replica}`)).toBe(3);
});

test('a copy that is not the primary says nothing of the set', async () => {
  const secondary: VolumeSample = {
    ...SAMPLE,
    replica: { state: 'following', hasFailed: false, degradedSeconds: 0, primary: undefined },
  };
  const text = await (await fetch(`${await serve([secondary])}/metrics`)).text();
  expect(text).toContain('state="following"');
  expect(text).not.toMatch(/^holdfast_volume_(in_sync_replicas|replicas|may_reply)\{/m);
});

test('a thread and a pool that do not answer in time are left out, and told', async () => {
  const text = await (await fetch(`${await serve([])}/metrics`)).text();
  const found = series(text);
  expect(found.get('holdfast_thread_answers{thread="0",node="n1"}')).toBe(1);
  expect(found.get('holdfast_thread_answers{thread="1",node="n1"}')).toBe(0);
  expect(found.get('holdfast_pool_answers{pool="p",node="n1"}')).toBe(1);
  expect(found.get('holdfast_pool_answers{pool="hung",node="n1"}')).toBe(0);
  expect(text).not.toContain('holdfast_thread_sessions{thread="1"');
  expect(text).not.toContain('holdfast_pool_size_bytes{pool="hung"');
});

test('counts are read anew at every scrape and a volume that left is gone', async () => {
  const volumes = [SAMPLE];
  const base = await serve(volumes);
  await fetch(`${base}/metrics`);
  const again = series(await (await fetch(`${base}/metrics`)).text());
  expect(again.get('holdfast_volume_frontend_reads_total{volume_id="aa",volume="data",node="n1"}')).toBe(7);
  volumes.length = 0;
  expect(await (await fetch(`${base}/metrics`)).text()).not.toContain('volume="data"');
});

test('the page tells version, ring flags and garbage collections of the main thread', async () => {
  const text = await (await fetch(`${await serve([])}/metrics`)).text();
  expect(text).toMatch(
    /holdfast_node_info\{version="9.9.9",node_js="v24[^"]*",ring_setup_flags="0x3288",node="n1"\} 1/,
  );
  expect(text).toContain('# TYPE nodejs_gc_duration_seconds histogram');
});

test('every family of ours is explained in the docs, and no other', async () => {
  const text = await (await fetch(`${await serve([SAMPLE])}/metrics`)).text();
  const docs = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  const served = [...text.matchAll(/^# TYPE (holdfast_\w+) /gm)].map(([, name]) => name);
  const explained = [...docs.matchAll(/\bholdfast_[a-z_]*[a-z]\b/g)].map(([name]) => name);
  expect(served.length).toBeGreaterThan(50);
  expect(new Set(explained.filter((name) => !name.endsWith('_bucket')))).toEqual(new Set(served));
});

test('readiness follows the phase of the daemon, health a failure', async () => {
  const health = new Health();
  const base = await serve([], health);
  const status = async (path: string): Promise<number> => (await fetch(base + path)).status;
  expect([await status('/healthz'), await status('/readyz')]).toEqual([200, 503]);
  health.enter('serving');
  expect([await status('/healthz'), await status('/readyz')]).toEqual([200, 200]);
  health.enter('stopping');
  expect([await status('/healthz'), await status('/readyz')]).toEqual([200, 503]);
  health.enter('serving');
  health.fail('the store is gone');
  expect([await status('/healthz'), await status('/readyz')]).toEqual([503, 503]);
  expect(await (await fetch(`${base}/healthz`)).json()).toMatchObject({ failure: 'the store is gone' });
});

test('other paths and methods are refused', async () => {
  const base = await serve([]);
  expect((await fetch(`${base}/`)).status).toBe(404);
  expect((await fetch(`${base}/metrics`, { method: 'POST' })).status).toBe(405);
  expect(await (await fetch(`${base}/healthz`, { method: 'HEAD' })).text()).toBe('');
});

test('an address that is taken is an error that names the flag', async () => {
  await serve([]);
  const port = server?.port ?? 0;
  const options = { host: '127.0.0.1', port, health: new Health(), log: silentLogger };
  await expect(
    startHttpServer({ ...options, metrics: () => Promise.reject(new Error()) }),
  ).rejects.toMatchObject({
    code: 'IO',
    message: expect.stringContaining(`--metrics 127.0.0.1:${port}`),
  });
});
