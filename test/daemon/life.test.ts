import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Daemon, HOLDFAST, until, Workplace } from './daemon.fixture.ts';

let place: Workplace;
beforeEach(async () => {
  place = await Workplace.create();
});
afterEach(() => place.dispose());

function metricsPort(daemon: Daemon): number {
  return daemon.log.find(({ msg }) => msg === 'serving metrics')?.['port'] as number;
}

test('SIGTERM stops it cleanly: exit code 0, no socket, volumes marked clean', async () => {
  const daemon = await place.serving();
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  expect(await daemon.end('SIGTERM')).toBe(0);
  expect(daemon.log.at(-1)?.msg).toBe('stopped');
  expect(existsSync(daemon.api)).toBe(false);
});

test('what was made is there after a stop and after a kill', async () => {
  const first = await place.serving();
  const created = await first.json('volume', 'create', 'data', '--size', '8MiB');
  await first.end('SIGTERM');
  const second = await place.serving();
  expect(await second.json('volume', 'show', 'data')).toEqual(created);
  await second.end('SIGKILL');
  const third = await place.serving();
  expect(await third.json('volume', 'show', 'data')).toEqual(created);
});

test('nothing listens that was not asked for, except the API socket', async () => {
  const daemon = await place.serving();
  const { stdout } = await execa('ss', ['-H', '-l', '-n', '-p', '-x', '-t', '-u'], { timeout: 10_000 });
  const own = stdout.split('\n').filter((line) => line.includes(`pid=${daemon.process.pid},`));
  expect(own).toHaveLength(1);
  // The kernel knows a socket by the name it was bound under, before it was renamed into place.
  expect(own[0]).toContain(daemon.dataDir);
  expect((await readdir(daemon.dataDir)).sort()).toEqual([
    'api.sock',
    'devices',
    'lock',
    'node-id',
    'node.json',
    'pools',
    'pools.json',
    'store',
  ]);
});

test('several daemons of one machine need only directories of their own', async () => {
  const [a, b] = await Promise.all([place.serving([], {}, 'a'), place.serving([], {}, 'b')]);
  await a.json('volume', 'create', 'same-name', '--size', '8MiB');
  await b.json('volume', 'create', 'same-name', '--size', '16MiB');
  expect((await a.json<{ sizeBytes: number }>('volume', 'show', 'same-name')).sizeBytes).toBe(2 ** 23);
  expect((await b.json<{ sizeBytes: number }>('volume', 'show', 'same-name')).sizeBytes).toBe(2 ** 24);
});

test('a second daemon on the same directory is refused and does no harm', async () => {
  const daemon = await place.serving();
  const second = place.daemon();
  expect(await second.end()).toBe(76);
  expect(second.lines.at(-1)).toContain(`in use by process ${daemon.process.pid}`);
  expect((await daemon.run('status')).exitCode).toBe(0);
});

test('a second daemon on the same API socket or pool is refused', async () => {
  const daemon = await place.serving(['--pool', `p=${place.path('pool')}`]);
  const sameApi = place.daemon(['--api', daemon.api], {}, 'other');
  expect(await sameApi.end()).toBe(76);
  expect(sameApi.lines.at(-1)).toContain('--data-dir or --api');
  expect((await daemon.run('status')).exitCode).toBe(0);
});

test('metrics, health and readiness are served where asked', async () => {
  const daemon = await place.serving(['--metrics', '127.0.0.1:0']);
  const base = `http://127.0.0.1:${metricsPort(daemon)}`;
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  const text = await (await fetch(`${base}/metrics`)).text();
  expect(text).toMatch(/holdfast_volume_size_bytes\{[^}]*volume="data"[^}]*\} 8388608/);
  expect(text).toContain('holdfast_pool_size_bytes{pool="default"');
  expect(text).toContain('holdfast_thread_ring_enters_total{thread="0"');
  expect((await fetch(`${base}/readyz`)).status).toBe(200);
  expect((await fetch(`${base}/healthz`)).status).toBe(200);
});

test.each([
  [['--threads', '0'], 64, '--threads'],
  [['--no-such-flag', 'x'], 64, 'unknown option'],
  [['--pool', 'p=/srv/a', '--pool', 'p=/srv/b'], 64, 'two pools with the same name'],
])('%j is refused with exit code %d', async (args, exitCode, text) => {
  const daemon = place.daemon(args);
  expect(await daemon.end()).toBe(exitCode);
  expect(daemon.lines.join('\n')).toContain(text);
});

test('a metrics address that is taken ends it with the flag to change', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const address = `127.0.0.1:${(other.address() as AddressInfo).port}`;
  const daemon = place.daemon(['--metrics', address]);
  expect(await daemon.end()).toBe(74);
  expect(daemon.lines.at(-1)).toContain(`--metrics ${address}`);
  other.close();
});

test('options come from the file, the environment and flags, in this order of rising weight', async () => {
  const config = place.path('config.json');
  await writeFile(
    config,
    JSON.stringify({ 'node-name': 'from-file', 'max-volumes': 3, pool: [`p=${place.path('p')}`] }),
  );
  const daemon = await place.serving(['--config', config], { HOLDFAST_LOG_LEVEL: 'debug' });
  // The fixture gives --node-name as a flag.
  expect(await daemon.json('status')).toMatchObject({ node: 'test-node' });
  const { pools } = await daemon.json<{ pools: { name: string }[] }>('pool', 'ls');
  expect(pools.map(({ name }) => name)).toEqual(['p']);
});

test('an unknown key in the file ends it with the nearest known one', async () => {
  const config = place.path('config.json');
  await writeFile(config, '{"node-nam": "a"}');
  const daemon = place.daemon(['--config', config]);
  expect(await daemon.end()).toBe(64);
  expect(daemon.lines.at(-1)).toContain('Did you mean "node-name"?');
});

test('where io_uring is refused it says so, names the remedy and exits with 78', async () => {
  const addon = await plantedAddon(
    'native.probeRing = () => ({ errno: 1, features: 0, setupFlags: 0, opcodes: new Uint8Array() });',
  );
  const daemon = place.daemon([], { HOLDFAST_ADDON: addon });
  expect(await daemon.end()).toBe(78);
  expect(daemon.lines.at(-1)).toMatch(/io_uring is refused here .*(seccomp|io_uring_disabled)/);
});

/** An addon that is the real one but for what `body` changes in `native`. */
async function plantedAddon(body: string): Promise<string> {
  const path = place.path('planted.cjs');
  const real = fileURLToPath(new URL('../../native/build/holdfast.node', import.meta.url));
  await writeFile(
    path,
    `const native = { ...require(${JSON.stringify(real)}) };
     const { isMainThread } = require('node:worker_threads');
     const { existsSync } = require('node:fs');
     ${body}
     module.exports = native;`,
  );
  return path;
}

test.each([
  [
    'an unexpected error',
    'if (isMainThread) setInterval(() => { if (existsSync(FLAG)) throw new Error("planted"); }, 20);',
  ],
  [
    'the death of a data-plane thread',
    'const { enter } = native; native.enter = (...args) => { if (existsSync(FLAG)) throw new Error("planted"); return enter(...args); };',
  ],
])('%s stops the process at once with 70, and the next daemon serves', async (_, body) => {
  const flag = place.path('flag');
  const addon = await plantedAddon(body.replace('FLAG', JSON.stringify(flag)));
  const daemon = await place.serving(['--metrics', '127.0.0.1:0'], { HOLDFAST_ADDON: addon });
  const created = await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  await writeFile(flag, '');
  // A thread notices at its next turn; a scrape asks each for its counts.
  await fetch(`http://127.0.0.1:${metricsPort(daemon)}/metrics`).catch(() => undefined);
  expect(await daemon.end()).toBe(70);
  expect(daemon.log.at(-1)).toMatchObject({
    level: 'fatal',
    error: { message: expect.stringContaining('planted') },
  });
  const next = await place.serving();
  expect(await next.json('volume', 'show', 'data')).toEqual(created);
});

test('a data-plane thread that is stuck stops the process at once with 70; one that only waits does not', async () => {
  const env = { HOLDFAST_TEST: '1', HOLDFAST_TEST_FAULTS: 'stuck-thread' };
  const daemon = await place.serving(['--threads', '2', '--stuck-after', '400ms'], env);
  await daemon.json('volume', 'create', 'data', '--size', '8MiB');
  await delay(1000);
  const opening = daemon.run('volume', 'export', 'data', '--unix', place.path('socket'));
  expect(await daemon.end()).toBe(70);
  expect(daemon.log.at(-1)).toMatchObject({
    level: 'fatal',
    error: { message: expect.stringContaining('in one turn of its loop') },
  });
  await opening;
  const next = await place.serving();
  expect((await next.run('volume', 'show', 'data')).exitCode).toBe(0);
});

test('test faults need the test switch, and are said aloud', async () => {
  const ignored = await place.serving([], {
    HOLDFAST_TEST_FAULTS: 'no-data-flush',
    HOLDFAST_TEST: undefined,
  });
  expect(ignored.log.map(({ msg }) => msg)).toContain(
    'HOLDFAST_TEST_FAULTS is ignored without HOLDFAST_TEST=1',
  );
  await ignored.end('SIGTERM');
  const env = { HOLDFAST_TEST: '1', HOLDFAST_TEST_FAULTS: 'no-data-flush,no-store-sync' };
  const loud = await place.serving([], env);
  expect(loud.log).toContainEqual(
    expect.objectContaining({ level: 'error', faults: ['no-data-flush', 'no-store-sync'] }),
  );
  await loud.end('SIGTERM');
  const wrong = place.daemon([], { HOLDFAST_TEST: '1', HOLDFAST_TEST_FAULTS: 'no-such' });
  expect(await wrong.end()).toBe(64);
});

test('a kill at any moment of the start leaves a directory that the next daemon opens', async () => {
  const first = await place.serving();
  const created = await first.json('volume', 'create', 'data', '--size', '8MiB');
  await first.end('SIGKILL');
  for (let waitMs = 100; waitMs <= 800; waitMs += 100) {
    const daemon = place.daemon();
    await delay(waitMs);
    await daemon.end('SIGKILL');
  }
  const last = await place.serving();
  expect(await last.json('volume', 'show', 'data')).toEqual(created);
});

test('a signal during the start ends it without harm', async () => {
  for (let waitMs = 150; waitMs <= 600; waitMs += 150) {
    const daemon = place.daemon();
    await delay(waitMs);
    const exitCode = await daemon.end('SIGTERM');
    // Before its handlers stand, the signal itself ends it.
    expect([0, null]).toContain(exitCode);
  }
  await place.serving();
});

test('a reader that has seen enough is no error', async () => {
  const daemon = await place.serving();
  const many = Array.from({ length: 3 }, (_, i) =>
    daemon.json('volume', 'create', `v${i}`, '--size', '8MiB'),
  );
  await Promise.all(many);
  const { exitCode, stderr } = await execa(
    'sh',
    ['-c', `"${HOLDFAST}" volume ls --api "${daemon.api}" | head -n 0`],
    { reject: false, timeout: 20_000 },
  );
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  await until('it still serves', async () => (await daemon.run('status')).exitCode === 0);
});
