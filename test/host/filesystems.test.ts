// The tools on loop devices of this machine. Needs root.

import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import {
  checkFileSystem,
  detectFileSystem,
  FILE_SYSTEM_TYPES,
  fileSystemStats,
  growFileSystem,
  isBlank,
  makeFileSystem,
  MIN_FILE_SYSTEM_BYTES,
} from '../../src/host/filesystems.ts';
import { mountDevice, unmount } from '../../src/host/mounts.ts';

let directory: string;
let image: string;
let device: string;

/** With blocks of 4 KiB, as our own devices have. */
async function attach(sizeBytes: number): Promise<void> {
  writeFileSync(image, '');
  truncateSync(image, sizeBytes);
  device = (await execa('losetup', ['--find', '--show', '--sector-size', '4096', image])).stdout;
}
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-fs-'));
  image = join(directory, 'image');
  mkdirSync(join(directory, 'mnt'));
});
afterEach(async () => {
  await unmount(join(directory, 'mnt'));
  await execa('losetup', ['--detach', device], { reject: false });
  rmSync(directory, { recursive: true });
});

function writeByte(offsetBytes: number): void {
  const file = openSync(image, 'r+');
  writeSync(file, Buffer.from([1]), 0, 1, offsetBytes);
  closeSync(file);
}

describe('a blank device', () => {
  const sizeBytes = 5 * MIB + 4096;

  test.each([
    ['the first byte', 0, false],
    ['the last byte of the first MiB', MIB - 1, false],
    ['the first byte of the last MiB', sizeBytes - MIB, false],
    ['the last byte', sizeBytes - 1, false],
    ['a byte between the two', 3 * MIB, true],
  ])('with %s written is blank or not by what is looked at', async (_, offsetBytes, expected) => {
    await attach(sizeBytes);
    expect(await isBlank(device, sizeBytes)).toBe(true);
    writeByte(offsetBytes);
    expect(await isBlank(device, sizeBytes)).toBe(expected);
  });

  test('may be as small as the least volume', async () => {
    await attach(MIB);
    expect(await isBlank(device, MIB)).toBe(true);
  });

  test('is not one that is shorter than it should be, nor one that cannot be read', async () => {
    await attach(4 * MIB);
    await expect(isBlank(device, 8 * MIB)).rejects.toMatchObject({ code: 'IO' });
    await expect(isBlank('/dev/holdfast-no-such-device', 8 * MIB)).rejects.toMatchObject({ code: 'IO' });
    await execa('losetup', ['--detach', device]);
    await expect(isBlank(device, 4 * MIB)).rejects.toMatchObject({ code: 'IO' });
  });

  test('is read past the page cache', async () => {
    await attach(4 * MIB);
    await execa('dd', [`if=${device}`, 'of=/dev/null', 'status=none']); // the cache knows zeroes now
    writeByte(0);
    expect(await isBlank(device, 4 * MIB)).toBe(false);
  });
});

describe.each([...FILE_SYSTEM_TYPES])('%s', (type) => {
  test('is made on the least device, found, checked, mounted and measured', async () => {
    const sizeBytes = MIN_FILE_SYSTEM_BYTES[type];
    await attach(sizeBytes);
    expect(await detectFileSystem(device)).toBeUndefined();
    for (const fresh of [true, false]) {
      await makeFileSystem(device, type, { fresh });
      expect(await detectFileSystem(device)).toBe(type);
    }
    await checkFileSystem(device, type);
    await mountDevice(device, join(directory, 'mnt'), type, []);
    const { bytes, inodes } = await fileSystemStats(join(directory, 'mnt'));
    expect(bytes.total).toBeGreaterThan(sizeBytes * 0.4);
    expect(bytes.total).toBeLessThanOrEqual(sizeBytes);
    expect(bytes.used + bytes.available).toBeLessThanOrEqual(bytes.total);
    expect(inodes.available).toBeGreaterThan(0);
    await growFileSystem(device, join(directory, 'mnt'), type); // already full
  });
});

test('a small volume costs little of the pool when its file system is made', async () => {
  await attach(1024 * MIB);
  await makeFileSystem(device, 'ext4', { fresh: true });
  const { stdout } = await execa('du', ['--block-size=1', image]);
  expect(Number.parseInt(stdout, 10)).toBeLessThan(8 * MIB);
});

test('a damage that e2fsck does not repair unasked is CONFLICT', async () => {
  await attach(64 * MIB);
  await makeFileSystem(device, 'ext4', { fresh: true });
  await mountDevice(device, join(directory, 'mnt'), 'ext4', []);
  mkdirSync(join(directory, 'mnt/directory'));
  writeFileSync(join(directory, 'mnt/directory/file'), 'x');
  await unmount(join(directory, 'mnt'));
  await execa('debugfs', ['-w', '-R', 'clri directory', device]);
  await execa('debugfs', ['-w', '-R', 'set_super_value state 2', device]);
  await expect(checkFileSystem(device, 'ext4')).rejects.toMatchObject({
    code: 'CONFLICT',
    message: expect.stringContaining('e2fsck -f'),
  });
});
