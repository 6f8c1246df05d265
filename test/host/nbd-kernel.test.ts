// On a loop device of this machine, in place of one of our own. Needs root.

import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import { makeFileSystem } from '../../src/host/filesystems.ts';
import { mountDevice, unmount } from '../../src/host/mounts.ts';
import { isClaimed } from '../../src/host/nbd-kernel.ts';

let directory: string;
let device: string;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-claim-'));
  const image = join(directory, 'image');
  writeFileSync(image, '');
  truncateSync(image, 16 * MIB);
  device = (await execa('losetup', ['--find', '--show', image])).stdout;
});

afterEach(async () => {
  await execa('losetup', ['--detach', device]);
  rmSync(directory, { recursive: true });
});

describe('a device', () => {
  test('is claimed by a file system as long as that is mounted', async () => {
    const target = join(directory, 'target');
    mkdirSync(target);
    await makeFileSystem(device, 'ext4', { fresh: true });
    expect(await isClaimed(device)).toBe(false);
    await mountDevice(device, target, 'ext4', []);
    try {
      expect(await isClaimed(device)).toBe(true);
    } finally {
      await unmount(target);
    }
    expect(await isClaimed(device)).toBe(false);
  });

  test('that is not there is not claimed', async () => {
    expect(await isClaimed(join(directory, 'none'))).toBe(false);
  });
});
