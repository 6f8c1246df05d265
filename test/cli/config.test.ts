import { expect, test } from 'vitest';
import { resolveConfig, unknownVariables } from '../../src/cli/config.ts';
import { isHoldfastError } from '../../src/core/errors.ts';

function file(content: unknown): { path: string; text: string } {
  return { path: '/etc/holdfast.json', text: JSON.stringify(content) };
}

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (isHoldfastError(error, 'INVALID')) return error.message;
    throw error;
  }
  throw new Error('nothing was refused');
}

test('a flag wins over the environment, that over the file, that over the default', () => {
  const flags = { nodeName: 'from-flag' };
  const environment = { HOLDFAST_NODE_NAME: 'from-environment', HOLDFAST_STOP_TIMEOUT: '5s' };
  const settings = file({ 'node-name': 'from-file', 'stop-timeout': '6s', 'max-volumes': 7 });
  const config = resolveConfig({ flags, environment, file: settings });
  expect(config.nodeName).toBe('from-flag');
  expect(config.stopTimeout).toBe(5000);
  expect(config.maxVolumes).toBe(7);
  expect(config.overcommit).toBe(10);
  expect(resolveConfig({ flags: {}, environment, file: settings }).nodeName).toBe('from-environment');
  expect(resolveConfig({ flags: {}, environment: {}, file: settings }).nodeName).toBe('from-file');
});

test('without a pool or an API path both are in the data directory', () => {
  const config = resolveConfig({ flags: { dataDir: '/srv/hf' }, environment: {} });
  expect(config.api).toBe('/srv/hf/api.sock');
  expect(config.pool).toEqual([{ name: 'default', directory: '/srv/hf/pools/default', ioMode: undefined }]);
  expect(config.metrics).toBeUndefined();
  expect(config.csi).toBeUndefined();
});

test('a daemon that is given its data directory does not listen where HOLDFAST_API sends commands', () => {
  const environment = { HOLDFAST_API: '/srv/a/api.sock' };
  expect(resolveConfig({ flags: { dataDir: '/srv/b' }, environment }).api).toBe('/srv/b/api.sock');
  expect(resolveConfig({ flags: { dataDir: '/srv/b', api: '/run/b.sock' }, environment }).api).toBe(
    '/run/b.sock',
  );
  const inEnvironment = { ...environment, HOLDFAST_DATA_DIR: '/srv/a' };
  expect(resolveConfig({ flags: {}, environment: inEnvironment }).api).toBe('/srv/a/api.sock');
});

test('pools take a name, a directory and an I/O mode', () => {
  const config = resolveConfig({
    flags: { pool: ['fast=/mnt/a,io=direct', 'slow=/mnt/b,io=buffered', 'c=/mnt/c'] },
    environment: {},
  });
  expect(config.pool).toEqual([
    { name: 'fast', directory: '/mnt/a', ioMode: 'direct' },
    { name: 'slow', directory: '/mnt/b', ioMode: 'buffered' },
    { name: 'c', directory: '/mnt/c', ioMode: undefined },
  ]);
  expect(
    resolveConfig({ flags: {}, environment: { HOLDFAST_POOL: 'a=/a;b=/b,io=direct' } }).pool,
  ).toHaveLength(2);
});

test('the store is the embedded one, or etcd with its servers', () => {
  const storeOf = (flags: Record<string, string>) => resolveConfig({ flags, environment: {} }).store;
  expect(storeOf({})).toEqual({ kind: 'level' });
  expect(storeOf({ store: 'etcd://a.example:2379,[::1]:2379' })).toEqual({
    kind: 'etcd',
    endpoints: ['a.example:2379', '[::1]:2379'],
  });
});

test.each([
  [['fast'], 'must be NAME=DIR'],
  [['Fast=/mnt/a'], 'no pool name'],
  [['a=/mnt/a,oi=direct'], 'Did you mean "io"?'],
  [['a=/mnt/a,io=mmap'], "'direct' or 'buffered'"],
  [['a=/mnt/a', 'a=/mnt/b'], "same name 'a'"],
  [['a=/mnt/a', 'b=/mnt/a'], "same directory '/mnt/a'"],
])('the pools %j are refused: %s', (pool, reason) => {
  expect(refusal(() => resolveConfig({ flags: { pool }, environment: {} }))).toContain(reason);
});

test.each([
  ['stopTimeout', '30', 'like'],
  ['stopTimeout', '1d', 'from 1s to 10m'],
  ['threads', '1.5', 'whole number'],
  ['threads', '0', 'from 1 to 64'],
  ['poolReserve', 'much', '10GiB'],
  ['metrics', '9100', 'HOST:PORT'],
  ['metrics', 'localhost:99999', 'HOST:PORT'],
  ['api', `/tmp/${'x'.repeat(101)}`, 'Unix socket'],
  ['store', 'etcd', 'level'],
  ['store', 'etcd://a:2379,b', 'etcd://HOST:PORT'],
  ['storePrefix', 'holdfast', "begin with '/'"],
  ['csiDriverName', 'csi.holdfast.dev1', 'ends with a letter'],
  ['csiDriverName', '1csi.holdfast.dev', 'begins and ends with a letter'],
] as const)('--%s %s is refused: %s', (key, value, reason) => {
  const message = refusal(() => resolveConfig({ flags: { [key]: value }, environment: {} }));
  expect(message).toContain(reason);
  expect(message).toContain(value);
});

test('a refusal names where the value came from', () => {
  const environment = { HOLDFAST_THREADS: 'many' };
  expect(refusal(() => resolveConfig({ flags: {}, environment }))).toMatch(/^HOLDFAST_THREADS: 'many'/);
  const wrong = file({ threads: 'many' });
  expect(refusal(() => resolveConfig({ flags: {}, environment: {}, file: wrong }))).toMatch(
    /^\/etc\/holdfast.json: threads/,
  );
});

test('an unknown key of the file is an error that names the nearest known one', () => {
  const wrong = file({ 'data-dri': '/srv' });
  expect(refusal(() => resolveConfig({ flags: {}, environment: {}, file: wrong }))).toBe(
    `/etc/holdfast.json: unknown key 'data-dri'. Did you mean "data-dir"?`,
  );
  const broken = { path: '/x.json', text: '{' };
  expect(refusal(() => resolveConfig({ flags: {}, environment: {}, file: broken }))).toContain(
    '/x.json is not JSON',
  );
});

test('an unknown variable is reported, those that Kubernetes sets for a service are not', () => {
  const environment = {
    HOLDFAST_NODE_NAM: 'a',
    HOLDFAST_NODE_NAME: 'a',
    HOLDFAST_API_SERVICE_HOST: '10.0.0.1',
    HOLDFAST_PORT_443_TCP_ADDR: '10.0.0.1',
    HOLDFAST_PORT: 'tcp://10.0.0.1:443',
    PATH: '/bin',
  };
  expect(unknownVariables(environment)).toEqual([
    'unknown variable HOLDFAST_NODE_NAM is ignored. Did you mean "HOLDFAST_NODE_NAME"?',
  ]);
});

test('an IPv6 address is written in brackets', () => {
  expect(resolveConfig({ flags: { metrics: '[::1]:9100' }, environment: {} }).metrics).toEqual({
    host: '::1',
    port: 9100,
  });
});
