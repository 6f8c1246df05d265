// Staging cut short at every call that it makes to the volume service, before and after the call's effect, by
// an error and by the death of the process: repeating it finishes, and data once written is never formatted.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import { CsiWorld, mountCapability } from '../support/csi-world.ts';
import { FAULT_KINDS, Faults } from '../support/faults.ts';

let world: CsiWorld;
beforeEach(async () => {
  world = await CsiWorld.open();
  mkdirSync(world.path('staging'));
});
afterEach(async () => await world.close());

const STEPS = ['get', 'renewAttachment', 'chooseFileSystem', 'fileSystemMade'] as const;
const cases = STEPS.flatMap((step) => FAULT_KINDS.map((kind) => [kind, step] as const));

test.each(cases)('NodeStageVolume after %s of %s is finished by repeating it', async (kind, step) => {
  const faults = new Faults(kind, 1, step);
  await world.restartServer({ volumes: faults.around(world.volumes.volumes, STEPS) });
  const volume_id = await world.publishedVolume('data', { capacity_range: { required_bytes: 64 * MIB } });
  const request = {
    volume_id,
    staging_target_path: world.path('staging'),
    volume_capability: mountCapability(),
  };
  expect(await world.outcome('NodeStageVolume', request)).toMatch(/^(UNAVAILABLE|ABORTED)/);
  expect(faults.struckAt).toBe(step);

  await world.restartServer();
  expect(await world.outcome('NodeStageVolume', request)).toBe('OK');
  writeFileSync(world.path('staging/file'), 'kept');
  expect((await world.volumes.volumes.get(volume_id)).fileSystem).toEqual({ type: 'ext4', made: true });

  await world.call('NodeUnstageVolume', { volume_id, staging_target_path: world.path('staging') });
  await world.call('NodeStageVolume', request);
  expect(readFileSync(world.path('staging/file'), 'utf8')).toBe('kept');
});

test('NodeStageVolume after a mkfs that was killed half-way makes the file system again', async () => {
  const volume_id = await world.publishedVolume('data', { capacity_range: { required_bytes: 64 * MIB } });
  const request = {
    volume_id,
    staging_target_path: world.path('staging'),
    volume_capability: mountCapability(),
  };
  // What the dead process did: the choice is recorded, and half of the file system is there.
  await world.volumes.volumes.chooseFileSystem(volume_id, 'ext4');
  const file = world.devices.fileOf(volume_id);
  await execa('mkfs.ext4', ['-F', '-q', file, '64M']);
  await execa('dd', ['if=/dev/urandom', `of=${file}`, 'bs=4K', 'count=300', 'conv=notrunc', 'status=none']);
  expect(await world.outcome('NodeStageVolume', request)).toBe('OK');
  await world.call('NodeUnstageVolume', { volume_id, staging_target_path: world.path('staging') });
  expect((await execa('e2fsck', ['-fn', file])).exitCode).toBe(0);
});
