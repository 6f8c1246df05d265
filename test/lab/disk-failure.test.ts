// A disk that cannot flush, under a pool, under a volume, under /dev/nbd: whoever calls fsync is told.

import { afterAll, beforeAll, expect, test } from 'vitest';
import { GIB } from '../../src/core/units.ts';
import { LabDaemon } from './daemon.ts';
import { ForgetfulDisk } from './forgetful-disk.ts';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

const FSYNC = 'dd if=/dev/urandom of=/dev/nbd0 bs=4k count=8 oflag=direct conv=fsync,notrunc';

let disk: ForgetfulDisk;
let guest: Guest;
let daemon: LabDaemon;

beforeAll(async () => {
  disk = await ForgetfulDisk.create(GIB);
  guest = await Guest.start({
    name: 'failing',
    virtioDisks: [disk.socketPath],
    modules: ['nbd max_part=0 nbds_max=4'],
    memoryMib: 768,
    timeoutMs: 300_000,
  });
  await mustRun(guest, 'mkfs.ext4 -q /dev/vda && mkdir /mnt/pool && mount /dev/vda /mnt/pool');
  daemon = await LabDaemon.start(guest, {
    dataDir: '/run/daemon',
    poolDir: '/mnt/pool/replicas',
    apiPath: '/run/api.sock',
  });
  await daemon.cli('volume', 'create', 'data', '--size', '64MiB');
  await daemon.cli('volume', 'attach', 'data');
});

afterAll(async () => {
  await guest?.[Symbol.asyncDispose]();
  await disk?.[Symbol.asyncDispose]();
});

test('an fsync whose disk fails reports the failure, and no later one pretends that all is well', async () => {
  await mustRun(guest, FSYNC);
  disk.failsFlushes = true;
  expect(await guest.run(FSYNC)).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('Input/output error'),
  });

  // What the disk dropped at the failure is gone, however well it flushes now: only a person may say that it is
  // to be trusted again.
  disk.failsFlushes = false;
  expect(await guest.run(FSYNC)).toMatchObject({ exitCode: 1 });
  expect(await daemon.log()).toContain('the disk of a copy failed');
});
