// Mounts of this machine, below a directory of their own. Needs root.

import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { AttachmentVerdict } from '../../src/core/attachment-verdict.ts';
import { mountAt } from '../../src/host/mountinfo.ts';
import {
  bindMount,
  deviceNumber,
  isUsable,
  mountDevice,
  readMounts,
  resolvePath,
  unmount,
} from '../../src/host/mounts.ts';
import { repairStaleMounts } from '../../src/host/stale-mounts.ts';
import { silentLogger } from '../../src/observe/log.ts';

let directory: string;
let device: string;
const path = (name: string): string => join(directory, name);

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-mounts-'));
  for (const name of ['a', 'b']) mkdirSync(path(name));
  writeFileSync(path('image'), '');
  await execa('truncate', ['--size=32M', path('image')]);
  await execa('mkfs.ext4', ['-q', '-F', path('image')]);
  device = (await execa('losetup', ['--find', '--show', path('image')])).stdout;
});
afterEach(async () => {
  for (const { mountPoint } of (await readMounts()).reverse()) {
    if (mountPoint.startsWith(directory)) await execa('umount', ['--lazy', mountPoint]);
  }
  await execa('losetup', ['--detach', device], { reject: false });
  rmSync(directory, { recursive: true });
});

describe('mounts', () => {
  test('of a device carry its number and the options asked for', async () => {
    await mountDevice(device, path('a'), 'ext4', ['noatime']);
    const mount = mountAt(await readMounts(), path('a'));
    expect(mount).toMatchObject({ fileSystem: 'ext4', source: device });
    expect(mount?.options).toContain('noatime');
    expect(mount?.device).toBe(await deviceNumber(device));
  });

  test('that fail do not tell their options, which may be secrets', async () => {
    const failing = mountDevice(device, path('a'), 'ext4', ['noatime', 'password=hunter2']);
    const error: unknown = await failing.catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'IO', message: expect.stringContaining(device) });
    expect(String(error)).not.toContain('hunter2');
  });

  test('no device number is known for what is no block device', async () => {
    expect(await deviceNumber(path('image'))).toBeUndefined();
    expect(await deviceNumber(path('nothing'))).toBeUndefined();
  });

  test('of a directory can be read-only while the file system is not', async () => {
    await mountDevice(device, path('a'), 'ext4', []);
    await bindMount(path('a'), path('b'), true);
    writeFileSync(path('a/file'), 'x');
    expect(() => writeFileSync(path('b/file'), 'y')).toThrow('EROFS');
  });

  test('are all taken away, however many lie on each other, and twice does no harm', async () => {
    for (const _ of [1, 2, 3]) await bindMount(path('b'), path('a'), false);
    await unmount(path('a'));
    expect(mountAt(await readMounts(), path('a'))).toBeUndefined();
    await unmount(path('a'));
    await unmount(path('nothing'));
  });

  test('in use are BUSY and stay: a lazy unmount would let their users write on', async () => {
    await mountDevice(device, path('a'), 'ext4', []);
    const user = execa('sleep', ['60'], { cwd: path('a'), reject: false });
    await expect(unmount(path('a'))).rejects.toMatchObject({ code: 'BUSY' });
    expect(mountAt(await readMounts(), path('a'))).toBeDefined();
    user.kill('SIGKILL');
    await user;
    await unmount(path('a'));
  });

  test('that have given up are told from those that work, and go even while in use', async () => {
    await mountDevice(device, path('a'), 'ext4', []);
    expect(await isUsable(path('a'))).toBe(true);
    const user = execa('sleep', ['60'], { cwd: path('a'), reject: false });
    // As when its journal cannot be written.
    await execa('xfs_io', ['-x', '-c', 'shutdown', path('a')]);
    expect(existsSync(path('a/lost+found'))).toBe(true); // memory still answers
    expect(await isUsable(path('a'))).toBe(false);
    await unmount(path('a'));
    expect(mountAt(await readMounts(), path('a'))).toBeUndefined();
    user.kill('SIGKILL');
    await user;
  });

  test('are found by their real path', async () => {
    symlinkSync(directory, path('link'));
    expect(await resolvePath(path('link/a'))).toBe(path('a'));
    expect(await resolvePath('/no/such/directory')).toBe('/no/such/directory');
  });
});

describe('stale mounts', () => {
  const volumeId = 'a'.repeat(32);
  const owner = { volumeId, attachmentNumber: 4 };
  const repair = async (verdict: AttachmentVerdict, volumeIds = new Set([volumeId])) =>
    await repairStaleMounts({
      volumeIds,
      judge: async (id, number) => (id === volumeId && number === 4 ? verdict : 'unknown'),
      ownerOf: (path) => (path === device ? owner : undefined),
      log: silentLogger,
    });

  beforeEach(async () => {
    await mountDevice(device, path('a'), 'ext4', []);
    await bindMount(path('a'), path('b'), false);
    writeFileSync(path('block'), '');
    await bindMount(device, path('block'), false);
  });
  const mounted = async () =>
    (await readMounts()).map(({ mountPoint }) => mountPoint).filter((point) => point.startsWith(directory));

  test('of a volume that is gone are taken away, the device file of a block volume too', async () => {
    expect(await repair('over')).toBe(3);
    expect(await mounted()).toEqual([]);
  });

  test('of a current attachment stay', async () => {
    expect(await repair('current')).toBe(0);
    expect(await mounted()).toHaveLength(3);
  });

  test('of an attachment that cannot be judged stay', async () => {
    expect(await repair('unknown')).toBe(0);
    expect(await mounted()).toHaveLength(3);
  });

  test('that the kernel takes away together are no failure', async () => {
    for (const name of ['shared', 'peer']) mkdirSync(path(name));
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', path('shared')]);
    await execa('mount', ['--make-shared', path('shared')]);
    mkdirSync(path('shared/below'));
    await bindMount(path('shared'), path('peer'), false);
    await mountDevice(device, path('shared/below'), 'ext4', []);
    expect(await mounted()).toHaveLength(7);
    expect(await repair('over')).toBe(4);
    expect((await mounted()).sort()).toEqual([path('peer'), path('shared')]);
  });

  test('that cannot be taken away are reported, what lies on them stays, and the others go', async () => {
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', path('b')]);
    expect(await repair('over')).toBe(2);
    expect((await mounted()).sort()).toEqual([path('b'), path('b')]);
  });

  test('of another daemon stay', async () => {
    expect(await repair('over', new Set())).toBe(0);
    expect(await mounted()).toHaveLength(3);
  });
});
