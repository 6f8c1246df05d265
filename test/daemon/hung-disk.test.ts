// A stop while the disk of an open volume hangs: a frozen ext4 on a loop device.
// Needs root for losetup, mount and fsfreeze.

import { mkdir } from 'node:fs/promises';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { NbdClient } from '../support/nbd-client.ts';
import { until, Workplace } from './daemon.fixture.ts';

let place: Workplace;
let mountPoint = '';
let device = '';

beforeEach(async () => {
  place = await Workplace.create();
  mountPoint = place.path('mount');
  await mkdir(mountPoint);
  await execa('truncate', ['-s', '64M', place.path('image')]);
  device = (await execa('losetup', ['--find', '--show', place.path('image')])).stdout;
  await execa('mkfs.ext4', ['-q', device]);
  await execa('mount', [device, mountPoint]);
});

afterEach(async () => {
  await execa('fsfreeze', ['--unfreeze', mountPoint], { reject: false });
  await execa('umount', ['--lazy', mountPoint], { reject: false });
  await execa('losetup', ['--detach', device], { reject: false });
  await place.dispose();
});

test('a stop gives a hung disk its time and no more, and the next daemon serves', async () => {
  const pools = ['--pool', `hung=${mountPoint}/pool`, '--pool', `sound=${place.path('sound')}`];
  const daemon = await place.serving([...pools, '--stop-timeout', '2s']);
  for (const pool of ['hung', 'sound']) {
    await daemon.json('volume', 'create', pool, '--size', '8MiB', '--pool', pool);
    const socket = place.path(`${pool}.sock`);
    const command = place.child(['volume', 'export', pool, '--unix', socket, '--api', daemon.api]);
    await until('the export is ready', () => command.lines.length > 0);
    const client = await NbdClient.connect(socket, pool);
    await client.write(0, Buffer.alloc(4096, 3));
    await client.disconnect();
  }
  await execa('fsfreeze', ['--freeze', mountPoint]);
  daemon.process.kill('SIGTERM');
  const began = performance.now();
  await until('the stop gives up', () =>
    daemon.log.some(({ msg }) => msg.startsWith('the stop took too long')),
  );
  expect(performance.now() - began).toBeLessThan(5000);
  // Only now can the kernel end a process that waits for this disk.
  await execa('fsfreeze', ['--unfreeze', mountPoint]);
  expect(await daemon.end()).toBe(1);
  const next = await place.serving(pools);
  expect((await next.run('volume', 'show', 'hung')).exitCode).toBe(0);
});
