// `holdfast volume attach`, by hand, on a kernel that has nbd. Needs the packages of requirements.ts.

import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HOLDFAST, LabDaemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { mustRun, type RunResult } from './machine.ts';

describe('a volume attached by hand', { timeout: 240_000 }, () => {
  let directory: string;
  let guest: Guest;
  let daemon: LabDaemon;
  let device: string;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-attach-'));
    const disk = join(directory, 'disk');
    await writeFile(disk, '');
    await truncate(disk, 1024 * 1024 * 1024);
    guest = await Guest.start({ modules: ['nbd max_part=0 nbds_max=8'], disks: [disk], timeoutMs: 600_000 });
    await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir /mnt/disk && mount /dev/ubda /mnt/disk');
    daemon = await start();
    await daemon.cli('volume', 'create', 'data', '--size', '64MiB');
  }, 120_000);
  afterAll(async () => {
    await guest.stop();
    await rm(directory, { recursive: true, force: true });
  });

  function start(): Promise<LabDaemon> {
    return LabDaemon.start(guest, {
      dataDir: '/mnt/disk/data',
      poolDir: '/mnt/disk/pool',
      apiPath: '/run/api.sock',
    });
  }

  function holdfast(...args: string[]): Promise<RunResult> {
    return guest.run([HOLDFAST, ...args, '--api', '/run/api.sock']);
  }

  test('attach prints the device, the same one when it is repeated', async () => {
    device = (await mustRun(guest, [HOLDFAST, 'volume', 'attach', 'data', '--api', '/run/api.sock'])).trim();
    expect(device).toMatch(/^\/dev\/nbd\d+$/);
    expect(await daemon.cli('volume', 'attach', 'data')).toEqual({
      device,
      attachmentNumber: expect.any(Number),
    });
    expect(await mustRun(guest, ['blockdev', '--getsize64', device])).toBe(`${2 ** 26}\n`);
    expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({
      device,
      serving: true,
      attachment: { node: 'lab', readOnly: false },
    });
    await mustRun(guest, `mkfs.ext4 -q ${device} && mkdir -p /mnt/fs && mount ${device} /mnt/fs`);
    await mustRun(
      guest,
      'head -c 8M /dev/urandom >/mnt/fs/file && sync && sha256sum </mnt/fs/file >/run/sum',
    );
  });

  test('every thread of the daemon is an I/O flusher, by the flags that its kernel shows', async () => {
    const { processId } = (await daemon.cli('status')) as { processId: number };
    const tasks = await mustRun(guest, `cat /proc/${processId}/task/*/stat`);
    const flags = tasks
      .trimEnd()
      .split('\n')
      .map((line) => Number(line.slice(line.lastIndexOf(')')).split(' ')[7]));
    expect(flags.length).toBeGreaterThan(2);
    // PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
    for (const flag of flags) expect(flag & 0x180000).toBe(0x180000);
  });

  test('what is attached is neither detached while mounted, nor exported, nor deleted', async () => {
    const busy = await holdfast('volume', 'detach', 'data');
    expect(busy.exitCode).toBe(76);
    expect(busy.stderr).toContain('/mnt/fs');
    expect((await holdfast('volume', 'export', 'data', '--unix', '/run/x.sock')).exitCode).toBe(76);
    expect((await holdfast('volume', 'delete', 'data')).exitCode).toBe(76);
  });

  test('it grows under a mounted file system', async () => {
    await daemon.cli('volume', 'resize', 'data', '--size', '128MiB');
    expect(await mustRun(guest, ['blockdev', '--getsize64', device])).toBe(`${2 ** 27}\n`);
    await mustRun(guest, ['resize2fs', device]);
  });

  test('a killed daemon costs its users a pause: the next one has the same device', async () => {
    await daemon.kill();
    const writing = mustRun(
      guest,
      'head -c 4M /dev/urandom >/mnt/fs/more && sync -f /mnt/fs && echo written',
    );
    daemon = await start();
    expect(await writing).toBe('written\n');
    expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device, serving: true });
    expect(await mustRun(guest, 'sysctl -qw vm.drop_caches=3; sha256sum </mnt/fs/file')).toBe(
      await mustRun(guest, 'cat /run/sum'),
    );
  });

  test('a graceful stop leaves the device, and the next daemon serves it', async () => {
    await daemon.stop();
    const reading = mustRun(guest, 'sysctl -qw vm.drop_caches=3; sha256sum </mnt/fs/file');
    daemon = await start();
    expect(await reading).toBe(await mustRun(guest, 'cat /run/sum'));
  });

  test('once unmounted it is detached, checked clean, attached again and deleted', async () => {
    await mustRun(guest, 'umount /mnt/fs');
    await daemon.cli('volume', 'detach', 'data');
    expect(await daemon.cli('volume', 'show', 'data')).toMatchObject({ device: '', serving: false });
    const again = (await daemon.cli('volume', 'attach', 'data', '--read-only')) as { device: string };
    await mustRun(guest, ['e2fsck', '-fn', again.device]);
    expect(
      (await guest.run(['dd', 'if=/dev/zero', `of=${again.device}`, 'bs=4096', 'count=1', 'oflag=direct']))
        .exitCode,
    ).not.toBe(0);
    await daemon.cli('volume', 'detach', 'data');
    await daemon.cli('volume', 'delete', 'data');
    expect(await daemon.cli('volume', 'ls')).toEqual({ volumes: [] });
    expect(await guest.kernelLog()).not.toMatch(/I\/O error.*nbd|Buffer I\/O error/);
  });

  test('a device in use is got rid of by force, and its users get errors', async () => {
    await daemon.cli('volume', 'create', 'stuck', '--size', '64MiB');
    const attached = (await daemon.cli('volume', 'attach', 'stuck')) as { device: string };
    await mustRun(guest, `mkfs.ext4 -q ${attached.device} && mount ${attached.device} /mnt/fs`);
    await daemon.cli('volume', 'detach', 'stuck', '--force');
    expect((await guest.run('head -c 1M /dev/urandom >/mnt/fs/file && sync -f /mnt/fs')).exitCode).not.toBe(
      0,
    );
    await guest.run('umount -l /mnt/fs');
    await daemon.cli('volume', 'delete', 'stuck');
  });
});
