// One case freezes a file system of its own. Needs root.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { directoryFindings, nbdDriver, nbdModule } from '../../src/cli/preflight-checks.ts';
import { NbdSysfs } from '../../src/host/nbd-sysfs.ts';
import { FrozenFileSystem } from '../support/frozen-file-system.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-preflight-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

test.each([
  ['0', 'ok', ''],
  ['16', 'warning', 'modprobe nbd max_part=0'],
])('nbd loaded with max_part=%s is %s', (maxPart, level, remedy) => {
  mkdirSync(join(directory, 'module/nbd/parameters'), { recursive: true });
  writeFileSync(join(directory, 'module/nbd/parameters/max_part'), `${maxPart}\n`);
  const found = nbdModule(new NbdSysfs(directory));
  expect(found.level).toBe(level);
  expect(found.remedy).toContain(remedy);
});

test('kernels before 6.14 get a word about the defect of their nbd driver', () => {
  for (const version of ['5.15.0-91-generic', '6.1.0-17-amd64', '6.13.9']) {
    expect(nbdDriver(version)).toMatchObject({
      level: 'warning',
      found: expect.stringContaining('Double reply'),
    });
  }
  for (const version of ['6.14.0', '6.17.3-arch1-1', '7.0.1']) expect(nbdDriver(version).level).toBe('ok');
});

test('a directory is measured; one that hangs is a problem with its remedy, and ends the look in time', async () => {
  const disk = await FrozenFileSystem.create(directory);
  try {
    const { flushes, room } = await directoryFindings(disk.directory);
    expect(flushes.found).toMatch(/fdatasync p50/);
    expect(room.found).toContain('free of');
    await disk.freeze();
    const began = performance.now();
    const hung = await directoryFindings(disk.directory, 1500);
    expect(performance.now() - began).toBeLessThan(10_000);
    expect(hung.flushes).toMatchObject({ level: 'problem', remedy: expect.stringContaining('--dir') });
  } finally {
    await disk.thaw();
    await disk.dispose();
  }
});
