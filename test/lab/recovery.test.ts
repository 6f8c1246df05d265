// Devices that a daemon finds and cannot serve at once: the store is not the one that made them, or their volume
// cannot be opened yet. Nothing is taken away; when the cause is mended the application goes on where it was.

import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HOLDFAST, LabDaemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { type Job, mustRun } from './machine.ts';

const STORE = '/mnt/disk/data/store';
const WRITE = 'head -c 1M /dev/urandom >/mnt/fs/file && sync -f /mnt/fs && echo written';

let directory: string;
let guest: Guest;
let daemon: LabDaemon;
let volumeId: string;
let device: string;
let writing: Job;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-recovery-'));
  const disk = join(directory, 'disk');
  await writeFile(disk, '');
  await truncate(disk, 1024 * 1024 * 1024);
  guest = await Guest.start({
    name: 'recovery',
    modules: ['nbd max_part=0 nbds_max=8'],
    memoryMib: 768,
    disks: [disk],
    timeoutMs: 500_000,
  });
  await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir /mnt/disk /mnt/fs && mount /dev/ubda /mnt/disk');
  daemon = await start();
  await daemon.stop();
  await mustRun(guest, `cp -a ${STORE} ${STORE}.empty`);
  daemon = await start();
  volumeId = ((await daemon.cli('volume', 'create', 'data', '--size', '64MiB')) as { id: string }).id;
  await daemon.stop();
  await mustRun(guest, `cp -a ${STORE} ${STORE}.unattached`);
  daemon = await start();
  ({ device } = (await daemon.cli('volume', 'attach', 'data')) as { device: string });
  await mustRun(guest, `mkfs.ext4 -q ${device} && mount ${device} /mnt/fs`);
}, 180_000);
afterAll(async () => {
  await guest?.[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

function start(...flags: string[]): Promise<LabDaemon> {
  return LabDaemon.start(guest, {
    dataDir: '/mnt/disk/data',
    poolDir: '/mnt/disk/pool',
    apiPath: '/run/api.sock',
    flags,
  });
}

/** The daemon dies under a writer, and the next one is started with another store. */
async function killAndReplaceStore(copy: string): Promise<void> {
  await daemon.kill();
  writing = guest.start(WRITE, { timeoutMs: 300_000 });
  await mustRun(guest, `mv ${STORE} ${STORE}.good && cp -a ${STORE}.${copy} ${STORE}`);
  daemon = await start('--accept-store', 'any');
}

async function putStoreBack(): Promise<void> {
  await daemon.kill();
  await mustRun(guest, `rm -r ${STORE} && mv ${STORE}.good ${STORE}`);
  daemon = await start();
}

async function expectUntouched(): Promise<void> {
  const backend = await mustRun(guest, ['cat', `/sys/block/${device.slice('/dev/'.length)}/backend`]);
  expect(backend).toMatch(new RegExp(`^${volumeId}/\\d+$`, 'm'));
  expect(await mustRun(guest, ['findmnt', '-no', 'SOURCE,OPTIONS', '/mnt/fs'])).toMatch(
    new RegExp(`^${device} rw`),
  );
  expect(await guest.kernelLog()).not.toMatch(/I\/O error/);
}

async function expectGoesOn(): Promise<void> {
  expect(await writing.ended).toMatchObject({ exitCode: 0, stdout: 'written\n' });
  expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device, serving: true });
  expect(await guest.kernelLog()).not.toMatch(/I\/O error/);
}

describe('a daemon started over a live device', { timeout: 180_000 }, () => {
  test.each([
    ['from before the volume', 'empty'],
    ['from before the attachment', 'unattached'],
  ])('with a store %s leaves device and mount alone, and goes on when the store is back', async (_, copy) => {
    await killAndReplaceStore(copy);
    await expectUntouched();
    expect(await daemon.log()).toContain('device of an unknown volume');
    expect(JSON.stringify(await daemon.cli('volume', 'explain', volumeId))).toContain(
      `${device} is a device of this volume whose attachment the store does not know`,
    );
    const refused = await guest.run([HOLDFAST, 'volume', 'detach', volumeId, '--api', '/run/api.sock']);
    expect(refused).toMatchObject({ exitCode: 76, stderr: expect.stringContaining('--force') });
    await putStoreBack();
    await expectGoesOn();
  });

  test('under another node name leaves device and mount alone, and goes on under its own', async () => {
    await daemon.kill();
    writing = guest.start(WRITE, { timeoutMs: 300_000 });
    await expect(start('--node-name', 'other')).rejects.toThrow('did not start');
    await expectUntouched();
    daemon = await start();
    await expectGoesOn();
  });

  test('whose volume cannot be opened lets its requests wait, and serves them as soon as it can', async () => {
    await daemon.kill();
    writing = guest.start(WRITE, { timeoutMs: 300_000 });
    const [superblock] = (await mustRun(guest, `find /mnt/disk/pool -name superblock -path '*${volumeId}*'`))
      .trim()
      .split('\n');
    const lock = guest.start(['flock', superblock ?? '', 'sleep', '300'], { timeoutMs: 300_000 });
    daemon = await start();
    expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device, serving: false });
    // The start does not wait for it: a dead daemon's last request may take half a minute to land.
    await expect
      .poll(() => daemon.log(), { timeout: 60_000, interval: 1000 })
      .toContain('the volume of a device cannot be opened; its requests wait');
    expect(await writing.stdout()).toBe('');
    lock.kill('KILL');
    await expectGoesOn();
  });

  test('with a store that does not know it is rid of it by force, and its users get errors', async () => {
    await killAndReplaceStore('empty');
    await daemon.cli('volume', 'detach', volumeId, '--force');
    expect((await writing.ended).exitCode).not.toBe(0);
    // The kernel keeps the name of a device for as long as it is mounted.
    await mustRun(guest, ['umount', '-l', '/mnt/fs']);
    expect(
      (await guest.run(['cat', `/sys/block/${device.slice('/dev/'.length)}/backend`])).exitCode,
    ).not.toBe(0);
    await putStoreBack();
    expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device: '' });
  });
});
