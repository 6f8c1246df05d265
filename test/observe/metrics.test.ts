import { afterEach, expect, test } from 'vitest';
import { Health } from '../../src/observe/health.ts';
import { type HttpServer, startHttpServer } from '../../src/observe/http-server.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { createMetrics, type VolumeSample } from '../../src/observe/metrics.ts';

const SAMPLE: VolumeSample = {
  volumeId: 'aa',
  name: 'data',
  sizeBytes: 1024,
  allocatedBytes: 512,
  isOpen: true,
  counters: {
    reads: 7,
    readBytes: 7 * 4096,
    writes: 3,
    writeBytes: 3 * 4096,
    flushes: 1,
    trims: 2,
    errors: 4,
    inFlight: 5,
    sessions: 1,
    hotExtents: 6,
    latencyBuckets: [1, 4, 10],
  },
};
const POOL = {
  name: 'p',
  ioMode: 'direct',
  totalBytes: 100,
  availableBytes: 60,
  reserveBytes: 5,
  provisionedBytes: 40,
};
const THREAD = { ringEntries: 900, ringEnters: 30, sessions: 1, freeRequests: 255, collections: 0 };
const FACTS = { node: 'n1', version: '9.9.9', ringSetupFlags: 0x3288 };

let server: HttpServer | undefined;
afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function serve(volumes: readonly VolumeSample[], health = new Health()): Promise<string> {
  const registry = createMetrics(
    {
      volumes: async () => volumes,
      pools: async () => [POOL],
      closedPools: () => [{ name: 'gone' }],
      threads: async () => [THREAD],
      devices: () => [
        { volumeId: 'aa', path: '/dev/nbd0', waitingSince: undefined },
        { volumeId: 'bb', path: '/dev/nbd1', waitingSince: new Date(Date.now() - 60_000) },
      ],
    },
    FACTS,
  );
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
  expect(found.get(`holdfast_volume_reads_total${labels}`)).toBe(7);
  expect(found.get(`holdfast_volume_write_bytes_total${labels}`)).toBe(12_288);
  expect(found.get(`holdfast_volume_errors_total${labels}`)).toBe(4);
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
    `holdfast_volume_request_duration_seconds_bucket{volume_id="aa",volume="data",le="${le}",node="n1"}`;
  const found = series(text);
  expect(text).toContain('# TYPE holdfast_volume_request_duration_seconds histogram');
  expect(found.get(bucket('0.000008'))).toBe(1);
  expect(found.get(bucket('0.000016'))).toBe(4);
  expect(found.get(bucket('0.000032'))).toBe(10);
  expect(found.get(bucket('+Inf'))).toBe(10);
});

test('counts are read anew at every scrape and a volume that left is gone', async () => {
  const volumes = [SAMPLE];
  const base = await serve(volumes);
  await fetch(`${base}/metrics`);
  const again = series(await (await fetch(`${base}/metrics`)).text());
  expect(again.get('holdfast_volume_reads_total{volume_id="aa",volume="data",node="n1"}')).toBe(7);
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
