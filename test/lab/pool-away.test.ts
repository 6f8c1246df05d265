// A daemon that starts while a pool's disk is not mounted: the devices of that pool's volumes wait for it. Needs
// the packages of requirements.ts.

import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LabDaemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

let directory: string;
let guest: Guest;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-away-'));
  const disks = ['own', 'pool'].map((name) => join(directory, name));
  for (const disk of disks) {
    await writeFile(disk, '');
    await truncate(disk, 512 * 1024 * 1024);
  }
  guest = await Guest.start({ modules: ['nbd max_part=0 nbds_max=8'], disks, timeoutMs: 300_000 });
  await mustRun(
    guest,
    'mkdir /mnt/own /mnt/pool /mnt/fs && mkfs.ext4 -q /dev/ubda && mkfs.ext4 -q /dev/ubdb',
  );
  await mustRun(guest, 'mount /dev/ubda /mnt/own && mount /dev/ubdb /mnt/pool');
}, 120_000);
afterAll(async () => {
  await guest.stop();
  await rm(directory, { recursive: true, force: true });
});

function start(): Promise<LabDaemon> {
  return LabDaemon.start(guest, {
    dataDir: '/mnt/own/data',
    poolDir: '/mnt/pool',
    apiPath: '/run/api.sock',
  });
}

async function problem(daemon: LabDaemon): Promise<string | undefined> {
  const { pools } = (await daemon.cli('pool', 'ls')) as { pools: { problem: string }[] };
  return pools[0]?.problem;
}

test('a mounted file system waits for its pool, and goes on without an error when it is mounted', {
  timeout: 240_000,
}, async () => {
  const first = await start();
  await first.cli('volume', 'create', 'data', '--size', '64MiB');
  const { device } = (await first.cli('volume', 'attach', 'data')) as { device: string };
  await mustRun(guest, `mkfs.ext4 -q ${device} && mount ${device} /mnt/fs`);
  await mustRun(guest, 'head -c 8M /dev/urandom >/mnt/fs/file && sync && sha256sum </mnt/fs/file >/run/sum');
  await first.kill();
  await mustRun(guest, 'until umount /mnt/pool; do sleep 0.1; done');

  const daemon = await start();
  expect(await problem(daemon)).toContain('holds no pool: mount its disk there');
  expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device, serving: false });
  const reading = mustRun(guest, 'sysctl -qw vm.drop_caches=3; sha256sum </mnt/fs/file');
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  reading.then(over, over);
  expect(await mustRun(guest, 'sleep 12; ls -A /mnt/pool')).toBe('');
  expect(isOver).toBe(false);
  expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({
    deviceWaitingSince: expect.stringMatching(/^20/),
  });
  expect(await daemon.cli('volume', 'explain', 'data')).toMatchObject({
    findings: expect.arrayContaining([
      expect.objectContaining({
        level: 'problem',
        text: expect.stringContaining(`${device} has no connection`),
      }),
    ]),
  });

  await mustRun(guest, 'mount /dev/ubdb /mnt/pool');
  expect(await reading).toBe(await mustRun(guest, 'cat /run/sum'));
  expect(await problem(daemon)).toBe('');
  expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ deviceWaitingSince: '' });
  await mustRun(guest, 'head -c 1M /dev/urandom >/mnt/fs/more && sync && umount /mnt/fs');
  await daemon.cli('volume', 'detach', 'data');
  expect(await guest.kernelLog()).not.toMatch(/I\/O error.*nbd|Buffer I\/O error/);
  await daemon.stop();
});
