// The node service on real /dev/nbdN, for what loop devices and csi-sanity do not show: a mounted ext4 that
// grows, an attachment that is revoked under a mounted volume, a daemon that dies under one.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GIB, MIB } from '../../src/core/units.ts';
import { type CsiCall, csiCalls } from './csi-calls.ts';
import { LabDaemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

const CSI = '/run/csi.sock';
const STAGING = '/run/staging';
const TARGET = '/run/target';
const capability = { mount: { fs_type: 'ext4' }, access_mode: { mode: 'SINGLE_NODE_WRITER' } };

let guest: Guest;
let daemon: LabDaemon;

beforeAll(async () => {
  guest = await Guest.start({
    name: 'csinode',
    memoryMib: 512,
    modules: ['nbd max_part=0'],
    timeoutMs: 400_000,
  });
  // In memory: nothing here outlives the guest.
  await mustRun(guest, `mkdir -p ${STAGING} /mnt/pool && mount -t tmpfs -o size=300M tmpfs /mnt/pool`);
  daemon = await startDaemon();
});
afterAll(async () => await guest?.[Symbol.asyncDispose]());

async function startDaemon(): Promise<LabDaemon> {
  return await LabDaemon.start(guest, {
    dataDir: '/run/daemon',
    poolDir: '/mnt/pool/replicas',
    apiPath: '/run/api.sock',
    csiPath: CSI,
  });
}

const call = (service: CsiCall['service'], method: string, request: CsiCall['request']): CsiCall => ({
  service,
  method,
  request,
});
const publishCall = (volume_id: string): CsiCall =>
  call('Controller', 'ControllerPublishVolume', { volume_id, node_id: 'lab', volume_capability: capability });
const nodePublishCall = (volume_id: string): CsiCall =>
  call('Node', 'NodePublishVolume', {
    volume_id,
    staging_target_path: STAGING,
    target_path: TARGET,
    volume_capability: capability,
  });
const takeAwayCalls = (volume_id: string): CsiCall[] => [
  call('Node', 'NodeUnpublishVolume', { volume_id, target_path: TARGET }),
  call('Node', 'NodeUnstageVolume', { volume_id, staging_target_path: STAGING }),
];
const unpublishCall = (volume_id: string): CsiCall =>
  call('Controller', 'ControllerUnpublishVolume', { volume_id, node_id: 'lab' });
const deleteCall = (volume_id: string): CsiCall => call('Controller', 'DeleteVolume', { volume_id });

/** Created, published and mounted at the target, with a file on it that is on stable storage. */
async function mountedVolume(name: string): Promise<string> {
  const create = { name, volume_capabilities: [capability], capacity_range: { required_bytes: 64 * MIB } };
  const [reply] = await csiCalls(guest, CSI, [call('Controller', 'CreateVolume', create)]);
  const { volume_id } = (reply ?? {})['volume'] as { volume_id: string };
  await csiCalls(guest, CSI, [publishCall(volume_id), nodePublishCall(volume_id)]);
  await mustRun(guest, `echo kept > ${TARGET}/file && sync ${TARGET}/file`);
  return volume_id;
}

async function expectNothingLeft(): Promise<void> {
  expect(
    await mustRun(guest, "grep -c '^/dev/nbd' /proc/mounts; cat /sys/block/nbd*/pid 2>/dev/null; true"),
  ).toBe('0\n');
  expect(await daemon.cli('volume', 'ls')).toEqual({ volumes: [] });
}

describe('a volume mounted through CSI', { timeout: 180_000 }, () => {
  test('grows while it is mounted, ext4 included', async () => {
    const volume_id = await mountedVolume('grows');
    const capacity_range = { required_bytes: GIB };
    await csiCalls(guest, CSI, [
      call('Controller', 'ControllerExpandVolume', { volume_id, capacity_range }),
      call('Node', 'NodeExpandVolume', { volume_id, volume_path: TARGET }),
    ]);
    const sizeKib = Number(await mustRun(guest, `df --output=size ${TARGET} | tail -n 1`));
    expect(sizeKib).toBeGreaterThan(900 * 1024);
    await csiCalls(guest, CSI, [
      ...takeAwayCalls(volume_id),
      unpublishCall(volume_id),
      deleteCall(volume_id),
    ]);
    await expectNothingLeft();
  });

  test('loses nothing and finds its device again when the daemon dies', async () => {
    const volume_id = await mountedVolume('dies');
    await daemon.kill();
    daemon = await startDaemon();
    await csiCalls(guest, CSI, [nodePublishCall(volume_id)]);
    expect(await mustRun(guest, `echo more >> ${TARGET}/file; sync ${TARGET}/file; cat ${TARGET}/file`)).toBe(
      'kept\nmore\n',
    );
    await csiCalls(guest, CSI, [
      ...takeAwayCalls(volume_id),
      unpublishCall(volume_id),
      deleteCall(volume_id),
    ]);
    await expectNothingLeft();
  });

  test('takes no write after its attachment was revoked, and is mounted anew when it is published again', async () => {
    const volume_id = await mountedVolume('revoked');
    // As when the orchestrator gives a node up: nobody unstages.
    await csiCalls(guest, CSI, [unpublishCall(volume_id)]);
    const { exitCode } = await guest.run(`dd if=/dev/zero of=${TARGET}/late bs=1M count=1 conv=fsync`, {
      timeoutMs: 60_000,
    });
    expect(exitCode).not.toBe(0);
    await csiCalls(guest, CSI, [publishCall(volume_id), nodePublishCall(volume_id)]);
    expect(await mustRun(guest, `cat ${TARGET}/file; ls ${TARGET}`)).toBe('kept\nfile\nlost+found\n');
    await csiCalls(guest, CSI, [
      ...takeAwayCalls(volume_id),
      unpublishCall(volume_id),
      deleteCall(volume_id),
    ]);
    await expectNothingLeft();
  });

  test('whose attachment was revoked can be taken away and deleted without being published again', async () => {
    const volume_id = await mountedVolume('given up');
    await csiCalls(guest, CSI, [unpublishCall(volume_id), ...takeAwayCalls(volume_id)]);
    await csiCalls(guest, CSI, [deleteCall(volume_id)]);
    await expectNothingLeft();
  });
});
