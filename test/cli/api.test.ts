import { once } from 'node:events';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ApiClient, connectApi } from '../../src/cli/api-client.ts';
import type { ApiHandlers, UnaryName, VolumeView } from '../../src/cli/api-schema.ts';
import { UNARY_NAMES } from '../../src/cli/api-schema.ts';
import { type ApiServer, startApiServer } from '../../src/cli/api-server.ts';
import { type ErrorCode, HoldfastError } from '../../src/core/errors.ts';
import { silentLogger } from '../../src/observe/log.ts';

const VOLUME: VolumeView = {
  id: '0123456789abcdef0123456789abcdef',
  name: 'dätä',
  state: 'ready',
  sizeBytes: 2 ** 46,
  epoch: 3,
  durability: 'writeback',
  failureMode: 'soft',
  fileSystem: { type: 'ext4', made: true },
  attachment: { number: 2, node: '', readOnly: false, use: '' },
  primary: 'a',
  inSync: ['a', 'b'],
  replicas: [
    {
      id: 'r',
      node: 'a',
      pool: 'p',
      role: 'primary',
      state: 'syncing',
      allocatedBytes: 4096,
      resyncBytesLeft: 2 ** 40,
      resyncBytesSent: 2 ** 39,
      problem: '',
    },
  ],
  deviceWaitingSince: '',
  device: '',
  serving: false,
  labels: { app: 'db' },
};

let directory: string;
let path: string;
let server: ApiServer | undefined;
let client: ApiClient;
/** What the export handler saw, in order. */
let exports: string[];

function handlers(overrides: Partial<ApiHandlers> = {}): ApiHandlers {
  const refuse = (name: UnaryName) => (): Promise<never> =>
    Promise.reject(new HoldfastError('NOT_FOUND', `${name} finds nothing`));
  return {
    ...(Object.fromEntries(UNARY_NAMES.map((name) => [name, refuse(name)])) as unknown as ApiHandlers),
    async *ExportVolume({ volume, unixPath }, signal) {
      exports.push(`begin ${volume}`);
      try {
        yield { volumeId: VOLUME.id, exportName: volume, unixPath, sizeBytes: 4096 };
        if (!signal.aborted) await once(signal, 'abort');
      } finally {
        exports.push(`end ${volume}`);
      }
    },
    ...overrides,
  };
}

async function start(overrides: Partial<ApiHandlers> = {}): Promise<ApiServer> {
  server = await startApiServer({ path, handlers: handlers(overrides), log: silentLogger });
  return server;
}

async function waitFor(condition: () => boolean): Promise<void> {
  const end = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error('the condition did not come true within 10 s');
    await delay(10);
  }
}

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-api-'));
  path = join(directory, 'api.sock');
  exports = [];
  client = connectApi(path);
});
afterEach(async () => {
  client.close();
  await server?.close(1000);
  server = undefined;
  await rm(directory, { recursive: true, force: true });
});

test('the socket may be opened by its owner alone, and nothing else is left beside it', async () => {
  await start();
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readdir(directory)).toEqual(['api.sock']);
});

test('every field of a volume crosses the wire, large sizes and other letters included', async () => {
  await start({ GetVolume: async () => VOLUME });
  expect(await client.call('GetVolume', { volume: 'x' })).toEqual(VOLUME);
});

test('what is absent arrives as null', async () => {
  await start({ GetVolume: async () => ({ ...VOLUME, fileSystem: null }) });
  expect((await client.call('GetVolume', { volume: 'x' })).fileSystem).toBeNull();
});

const CODES: ErrorCode[] = [
  'NOT_FOUND',
  'CONFLICT',
  'BUSY',
  'NO_SPACE',
  'LIMIT',
  'UNSUPPORTED',
  'CORRUPT',
  'IO',
  'TIMEOUT',
];
test.each(CODES)('an error with code %s arrives with code, text and details', async (code) => {
  const details = { node: 'ä', epoch: 4 };
  await start({
    DeleteVolume: () => Promise.reject(new HoldfastError(code, 'größer: do this next', { details })),
  });
  await expect(client.call('DeleteVolume', { volume: 'x' })).rejects.toMatchObject({
    code,
    message: 'größer: do this next',
    details,
  });
});

test('an unexpected error is INTERNAL and says that the log has more', async () => {
  await start({ DeleteVolume: () => Promise.reject(new TypeError('x is not a function')) });
  await expect(client.call('DeleteVolume', { volume: 'x' })).rejects.toMatchObject({
    code: 'INTERNAL',
    message: expect.stringContaining("the daemon's log has more"),
  });
});

test.each([
  [{ volume: '' }, '1 to 128 bytes'],
  [{ volume: 'a\nb' }, 'control characters'],
  [{ volume: 'ü'.repeat(65) }, '1 to 128 bytes'],
])('a request with a wrong field is refused before it reaches a handler: %j', async (request, reason) => {
  let calls = 0;
  await start({
    GetVolume: async () => {
      calls++;
      return VOLUME;
    },
  });
  await expect(client.call('GetVolume', request)).rejects.toMatchObject({
    code: 'INVALID',
    message: expect.stringContaining(reason),
  });
  expect(calls).toBe(0);
});

test('without a daemon the caller is told how to start or name one', async () => {
  await expect(client.call('ListVolumes', {})).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringMatching(/no daemon answers at .*api.sock; start one/),
  });
});

test('the socket of a dead daemon is replaced', async () => {
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await execa(process.execPath, ['-e', script], { reject: false });
  expect((await stat(path)).isSocket()).toBe(true);
  await start({ GetVolume: async () => VOLUME });
  expect((await client.call('GetVolume', { volume: 'x' })).id).toBe(VOLUME.id);
});

test('the socket of a live daemon and a file that is no socket are refused', async () => {
  const other = createServer().listen(path);
  await once(other, 'listening');
  await expect(start()).rejects.toMatchObject({
    code: 'CONFLICT',
    message: expect.stringContaining('--data-dir or --api'),
  });
  other.close();
  await once(other, 'close');
  await writeFile(path, 'precious');
  await expect(start()).rejects.toMatchObject({
    code: 'CONFLICT',
    message: expect.stringContaining('is no socket'),
  });
});

test('closing removes the socket, lets a running call finish and refuses the next', async () => {
  let release = (): void => {};
  const started = new Promise<void>((resolve) => (release = resolve));
  const running = await start({
    GetVolume: async () => {
      release();
      await delay(200);
      return VOLUME;
    },
  });
  const call = client.call('GetVolume', { volume: 'x' });
  await started;
  await running.close(5000);
  expect((await call).id).toBe(VOLUME.id);
  expect(await readdir(directory)).toEqual([]);
  await running.close(5000);
});

test('an export lasts until its caller ends it', async () => {
  await start();
  const abort = new AbortController();
  const events = client
    .exportVolume({ volume: 'data', unixPath: '/tmp/x.sock' }, abort.signal)
    [Symbol.asyncIterator]();
  expect((await events.next()).value).toEqual({
    volumeId: VOLUME.id,
    exportName: 'data',
    unixPath: '/tmp/x.sock',
    sizeBytes: 4096,
  });
  await delay(100);
  expect(exports).toEqual(['begin data']);
  abort.abort();
  expect((await events.next()).done).toBe(true);
  await waitFor(() => exports.length === 2);
  expect(exports).toEqual(['begin data', 'end data']);
});

test('closing the server ends every export and tells its caller why', async () => {
  await start();
  const events = client.exportVolume(
    { volume: 'data', unixPath: '/tmp/x.sock' },
    new AbortController().signal,
  );
  const iterator = events[Symbol.asyncIterator]();
  await iterator.next();
  const [rest] = await Promise.allSettled([iterator.next(), server?.close(1000)]);
  expect(rest).toMatchObject({
    status: 'rejected',
    reason: { code: 'UNAVAILABLE', message: expect.stringContaining('was stopped') },
  });
  expect(exports).toEqual(['begin data', 'end data']);
});

test('an export that the daemon refuses says why', async () => {
  await start({
    async *ExportVolume() {
      yield await Promise.reject(new HoldfastError('CONFLICT', 'published to node b; unpublish it first'));
    },
  });
  const events = client.exportVolume(
    { volume: 'data', unixPath: '/tmp/x.sock' },
    new AbortController().signal,
  );
  await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'CONFLICT' });
});
