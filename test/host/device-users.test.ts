// Who uses a device, on a loop device of this machine in place of one of our own. Needs root.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import { hiddenUsers } from '../../src/host/device-users.ts';
import { makeFileSystem } from '../../src/host/filesystems.ts';
import { parseMountInfo, showsDevice } from '../../src/host/mountinfo.ts';
import { deviceNumber, mountDevice, unmount } from '../../src/host/mounts.ts';

let directory: string;
let device: string;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-users-'));
  const image = join(directory, 'image');
  writeFileSync(image, '');
  truncateSync(image, 16 * MIB);
  device = (await execa('losetup', ['--find', '--show', image])).stdout;
});

afterEach(async () => {
  await execa('losetup', ['--detach', device]);
  rmSync(directory, { recursive: true });
});

async function users(): Promise<string[]> {
  return await hiddenUsers(device, (await deviceNumber(device)) ?? '');
}

/** Resolves when the command has said that it is ready. */
async function waiting(command: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  return child;
}

describe('a device is used', () => {
  test('by a file system as long as that is mounted', async () => {
    const target = join(directory, 'target');
    mkdirSync(target);
    await makeFileSystem(device, 'ext4', { fresh: true });
    expect(await users()).toEqual([]);
    await mountDevice(device, target, 'ext4', []);
    try {
      expect(await users()).toContainEqual(expect.stringContaining(`mounted at ${target}`));
    } finally {
      await unmount(target);
    }
    expect(await users()).toEqual([]);
  });

  test('by a process that has it open under another name', async () => {
    const node = join(directory, 'node');
    await execa('cp', ['-a', device, node]);
    const fd = openSync(node, 'r');
    try {
      expect(await users()).toEqual([
        expect.stringMatching(new RegExp(`^open in process ${process.pid} \\(`)),
      ]);
    } finally {
      closeSync(fd);
    }
  });

  test('by a pod that has it as a file, in a mount namespace of its own', async () => {
    const file = join(directory, 'file');
    writeFileSync(file, '');
    const script = `mount --bind ${device} ${file} && echo bound && exec sleep 60`;
    const pod = await waiting('unshare', '--mount', 'sh', '-c', script);
    try {
      expect(await users()).toEqual([
        `mounted at ${file} in the mount namespace of process ${pod.pid} (sleep)`,
      ]);
    } finally {
      pod.kill('SIGKILL');
    }
  });

  test('by nobody when it is not there', async () => {
    expect(await hiddenUsers(join(directory, 'none'), '7:99')).toEqual([]);
  });
});

test('a mount shows a device when it is of its file system, or of the file of the device itself', () => {
  const shows = (line: string): boolean =>
    parseMountInfo(line).some((mount) => showsDevice(mount, '/dev/nbd1', '43:1'));
  expect(shows('36 35 43:1 /sub /mnt rw - ext4 /dev/nbd1 rw')).toBe(true);
  expect(shows('36 35 0:5 /nbd1 /pods/a rw - devtmpfs udev rw')).toBe(true);
  expect(shows('36 35 0:5 /nbd10 /pods/a rw - devtmpfs udev rw')).toBe(false);
  expect(shows('36 35 0:5 / /dev rw - devtmpfs udev rw')).toBe(false);
  expect(shows('36 35 8:1 /nbd1 /pods/a rw - ext4 /dev/sda1 rw')).toBe(false);
});
