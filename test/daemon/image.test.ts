// The bundle of an image is the same program: it serves, and starts its threads and helper processes.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EtcdServer } from '../control/etcd-server.ts';
import { makeImage } from '../support/image.ts';
import { NbdClient } from '../support/nbd-client.ts';
import { Workplace } from './daemon.fixture.ts';

describe('the program of an image', () => {
  let workplace: Workplace;
  let program: string;

  beforeAll(async () => {
    workplace = await Workplace.create();
    program = makeImage(workplace.directory);
  });
  afterAll(async () => {
    await workplace.dispose();
  });

  /** Its first argument names the program of the sources. */
  const launcher = (): string[] => ['sh', '-c', 'shift; exec "$0" "$@"', program];

  test('serves a volume', async () => {
    const daemon = await workplace.daemon([], {}, 'data', launcher()).serving();
    await daemon.json('volume', 'create', 'data', '--size', '8MiB');
    const socketPath = join(workplace.directory, 'nbd.sock');
    const command = execa(program, ['volume', 'export', 'data', '--unix', socketPath, '--api', daemon.api]);
    const exported = new Promise((resolve) => command.stdout.once('data', resolve));
    // It ends before it has said where: with what it says on its standard error.
    await Promise.race([exported, command]);
    const client = await NbdClient.connect(socketPath, 'data');
    await client.write(4096, Buffer.alloc(4096, 7));
    await client.flush();
    expect(await client.read(4096, 4096)).toEqual(Buffer.alloc(4096, 7));
    await client.disconnect();
    command.kill('SIGINT');
    await command.catch(() => undefined);
    expect(await daemon.end('SIGTERM')).toBe(0);
  });

  test('has everything that a daemon of a cluster loads', async () => {
    const etcd = await EtcdServer.start();
    try {
      const csiPath = workplace.path('csi.sock');
      const args = ['--store', `etcd://${etcd.address}`, '--csi', csiPath, '--metrics', '127.0.0.1:0'];
      const daemon = await workplace.daemon(args, {}, 'of-cluster', launcher()).serving();
      await daemon.json('volume', 'create', 'data', '--size', '8MiB');
      expect(await etcd.etcdctl('get', '/holdfast', '--prefix', '--keys-only')).toContain('volume');
      const port = daemon.log.find(({ msg }) => msg === 'serving metrics')?.['port'];
      const metrics = await fetch(`http://127.0.0.1:${String(port)}/metrics`);
      expect(await metrics.text()).toMatch(/holdfast_volume_size_bytes\{[^}]*volume="data"/);
      const calls = [{ service: 'Identity', method: 'GetPluginInfo', request: {} }];
      const script = join(import.meta.dirname, '../lab/csi-calls.ts');
      const options = { reject: false, timeout: 20_000 } as const;
      expect(await execa(process.execPath, [script, csiPath, JSON.stringify(calls)], options)).toMatchObject({
        exitCode: 0,
        stdout: expect.stringContaining('csi.holdfast.dev'),
      });
      expect(await daemon.end('SIGTERM')).toBe(0);
    } finally {
      await etcd.dispose();
    }
  });

  test('starts its helpers', async () => {
    const directory = join(workplace.directory, 'pool');
    await mkdir(directory);
    const options = { reject: false } as const;
    const preflight = await execa(program, ['preflight', '--dir', directory, '--json'], options);
    expect(preflight.stderr).toBe('');
    expect(preflight.stdout).toContain(`${directory}: fdatasync`);
    const worker = join(program, '../../dist/device-users-worker.js');
    expect(await execa(process.execPath, [worker, '/dev/null', '259'], options)).toMatchObject({
      exitCode: 0,
    });
  });
});
