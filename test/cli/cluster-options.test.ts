import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { resolveConfig } from '../../src/cli/config.ts';
import { type ClusterOptions, readClusterOptions } from '../../src/cli/daemon/cluster-options.ts';
import { createKeyFile } from '../../src/control/cluster-key.ts';

let directory: string;
let clusterKey: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-cluster-'));
  clusterKey = join(directory, 'key');
  await createKeyFile(clusterKey);
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

let warnings: string[];
async function read(flags: Readonly<Record<string, string>>): Promise<ClusterOptions | undefined> {
  warnings = [];
  return await readClusterOptions(resolveConfig({ flags, environment: {} }), (text) => warnings.push(text));
}

test('a daemon that is given none of the options talks with no other', async () => {
  expect(await read({})).toBeUndefined();
});

test('without a host it listens on the machine itself only', async () => {
  for (const listen of [':7400', '7400', '127.0.0.1:7400']) {
    expect((await read({ listen, clusterKey }))?.listen).toEqual({ host: '127.0.0.1', port: 7400 });
  }
});

test('without a key it listens nowhere, and says what is missing', async () => {
  for (const listen of [':7400', '0.0.0.0:7400']) {
    expect(await read({ listen })).toBeUndefined();
    expect(warnings).toEqual([expect.stringMatching(/--cluster-key FILE.*nothing listens.*keygen/)]);
  }
  await read({ listen: ':7400', clusterKey });
  expect(warnings).toEqual([]);
});

test('other halves are refused with what is missing', async () => {
  await expect(read({ clusterKey })).rejects.toThrow(/--cluster-key .* give --listen/);
  await expect(read({ advertise: 'a:1' })).rejects.toThrow(/--advertise .* give --listen/);
  await expect(read({ listen: ':7400', clusterKey: '/nowhere' })).rejects.toThrow(/keygen \/nowhere/);
});

test('all addresses are no address for others: --advertise is demanded', async () => {
  for (const listen of ['0.0.0.0:7400', '[::]:7400']) {
    await expect(read({ listen, clusterKey })).rejects.toThrow(/--advertise HOST:PORT/);
    const options = await read({ listen, clusterKey, advertise: 'node-a.example:7400' });
    expect(options?.advertise).toEqual({ host: 'node-a.example', port: 7400 });
    await expect(read({ listen, clusterKey, advertise: listen })).rejects.toThrow(/cannot reach/);
  }
});
