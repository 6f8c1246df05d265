// What `holdfast volume attach` refuses before it touches the kernel. Real attachments: test/lab/attach.test.ts.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { attachVolume } from '../../src/cli/daemon/attach.ts';
import { NbdDevices } from '../../src/host/nbd-devices.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { NODE, request, VolumeWorld } from '../support/volume-world.ts';

let directory: string;
let world: VolumeWorld;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-attach-'));
  world = await VolumeWorld.open(join(directory, 'store'));
});
afterEach(async () => {
  await world.store.close();
  await rm(directory, { recursive: true });
});

function attach(name: string): Promise<unknown> {
  const { storage, volumes } = world;
  const devices = new NbdDevices({ storage, log: silentLogger, recordDirectory: join(directory, 'devices') });
  return attachVolume({ node: NODE, volumes, devices }, name, false);
}

test('a volume whose mkfs was interrupted is not attached by hand, and stays unpublished', async () => {
  const { id } = await world.volumes.create(request('data', { fileSystemType: null }));
  await world.volumes.chooseFileSystem(id, 'xfs');
  await expect(attach('data')).rejects.toMatchObject({
    code: 'CONFLICT',
    message: expect.stringMatching(/type xfs .* let the node stage the volume \(again\), or delete it/),
  });
  expect((await world.volumes.get(id)).attachment).toMatchObject({ number: 0, node: null });
});

test('a volume that is exported is not attached by hand, and stays exported', async () => {
  const { id } = await world.volumes.create(request('data', { fileSystemType: null }));
  await world.volumes.acquireForExport(id);
  await expect(attach('data')).rejects.toMatchObject({
    code: 'CONFLICT',
    message: expect.stringContaining('end the export first'),
  });
  expect((await world.volumes.get(id)).attachment).toMatchObject({ number: 1, use: 'export' });
});
