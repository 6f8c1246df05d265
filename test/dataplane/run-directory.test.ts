// Where windows may live: only in memory when it was asked for, with a warning where there is none.

import { execFileSync } from 'node:child_process';
import { chown, mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findRunDirectory } from '../../src/dataplane/run-directory.ts';

let onDisk: string;
let inMemory: string;

beforeEach(async () => {
  onDisk = await mkdtemp('/var/tmp/holdfast-run-');
  inMemory = await mkdtemp('/dev/shm/holdfast-run-');
});

afterEach(async () => {
  for (const path of [onDisk, inMemory]) await rm(path, { recursive: true });
});

test('a directory that is asked for is made, and its windows are for its user only', async () => {
  const path = join(inMemory, 'made', 'here');
  expect(await findRunDirectory(path)).toEqual({ path, warning: undefined });
  expect((await stat(join(path, 'window'))).mode & 0o777).toBe(0o700);
});

test('a directory that is asked for and is on a disk, or cannot be made, is refused with what to do', async () => {
  await expect(findRunDirectory(onDisk)).rejects.toMatchObject({
    code: 'INVALID',
    message: expect.stringMatching(/no tmpfs.*below \/run/),
  });
  await expect(findRunDirectory('/etc/passwd/run')).rejects.toMatchObject({ code: 'INVALID' });
});

test('without a word the first usual place in memory is taken, and nothing stays behind in the others', async () => {
  const path = join(inMemory, 'b');
  const found = await findRunDirectory(undefined, [join(onDisk, 'a'), path, join(inMemory, 'c')]);
  expect(found).toEqual({ path, warning: undefined });
  expect([await readdir(onDisk), await readdir(inMemory)]).toEqual([[], ['b']]);
});

test('where nothing is in memory a disk will do, with a warning', async () => {
  const path = join(onDisk, 'a');
  const { path: found, warning } = await findRunDirectory(undefined, [path, join(onDisk, 'b')]);
  expect(found).toBe(path);
  expect(warning).toMatch(/no tmpfs.*--run-dir/);
});

test("another user's directory or a link in a place where anybody may make one is not used", async () => {
  const theirs = join(inMemory, 'theirs');
  const link = join(inMemory, 'link');
  await mkdir(theirs);
  await chown(theirs, 12345, 12345);
  await symlink(onDisk, link);
  const own = join(inMemory, 'own');
  for (const place of [theirs, link])
    expect(await findRunDirectory(undefined, [place, own])).toEqual({ path: own, warning: undefined });
  await expect(findRunDirectory(undefined, [theirs])).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  await expect(findRunDirectory(theirs)).rejects.toMatchObject({ code: 'INVALID' });
  expect(await readdir(theirs)).toEqual([]);
  expect(await readdir(onDisk)).toEqual([]);
});

test('a mounted tmpfs counts by what it is, not by its name', async () => {
  const mounted = join(onDisk, 'mounted');
  await mkdir(mounted);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=400k', 'holdfast-test', mounted]);
  try {
    expect(await findRunDirectory(mounted)).toEqual({ path: mounted, warning: undefined });
  } finally {
    execFileSync('umount', ['--lazy', mounted]);
  }
});
