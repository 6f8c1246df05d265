// The node service with real file systems on real block devices, and mounts of this machine. Needs root.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GIB, MIB } from '../../src/core/units.ts';
import { TOPOLOGY_KEY } from '../../src/csi/topology.ts';
import type { Sent, VolumeCapability } from '../../src/csi/messages.ts';
import { parseMountInfo } from '../../src/host/mountinfo.ts';
import { blockCapability, CsiWorld, mountCapability } from '../support/csi-world.ts';
import { NODE } from '../support/volume-world.ts';

let world: CsiWorld;
beforeEach(async () => {
  world = await CsiWorld.open();
  mkdirSync(world.path('staging'));
  mkdirSync(world.path('pods'));
});
afterEach(async () => await world.close());

const SIZE = { required_bytes: 512 * MIB };

function mounts() {
  const all = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
  return all.filter(({ mountPoint }) => mountPoint.startsWith(world.directory));
}

function stageRequest(volume_id: string, volume_capability: Sent<VolumeCapability> = mountCapability()) {
  return { volume_id, staging_target_path: world.path('staging'), volume_capability };
}

function publishRequest(
  volume_id: string,
  { target = 'target', capability = mountCapability(), readonly = false } = {},
) {
  return {
    ...stageRequest(volume_id, capability),
    target_path: world.path(`pods/${target}`),
    readonly,
  };
}

async function volume(capability: Sent<VolumeCapability> = mountCapability()): Promise<string> {
  return await world.publishedVolume('data', { volume_capabilities: [capability], capacity_range: SIZE });
}

async function unpublish(volume_id: string, target = 'target'): Promise<string> {
  return await world.outcome('NodeUnpublishVolume', { volume_id, target_path: world.path(`pods/${target}`) });
}

async function unstage(volume_id: string): Promise<string> {
  return await world.outcome('NodeUnstageVolume', { volume_id, staging_target_path: world.path('staging') });
}

/** Attached without anybody's mkfs, as by hand. */
async function attachRaw(volumeId: string): Promise<string> {
  await world.call('NodeStageVolume', stageRequest(volumeId, blockCapability()));
  return world.devices.find(volumeId)?.path ?? '';
}

test('NodeGetInfo gives the node, its limit and its topology', async () => {
  expect(await world.call('NodeGetInfo', {})).toMatchObject({
    node_id: NODE,
    max_volumes_per_node: 8,
    accessible_topology: { segments: { [TOPOLOGY_KEY]: NODE } },
  });
});

describe('a volume with a file system', () => {
  test.each(['', 'ext4', 'ext3', 'ext2', 'xfs'])(
    'of type "%s" is made, mounted, kept and taken away',
    async (type) => {
      const capability = mountCapability(type, 'SINGLE_NODE_WRITER', ['noatime']);
      const volumeId = await volume(capability);
      for (let round = 0; round < 2; round++) {
        for (let times = 0; times < 3; times++)
          await world.call('NodeStageVolume', stageRequest(volumeId, capability));
        for (let times = 0; times < 3; times++)
          await world.call('NodePublishVolume', publishRequest(volumeId, { capability }));
        expect(mounts()).toMatchObject([
          {
            mountPoint: world.path('staging'),
            fileSystem: type || 'ext4',
            options: expect.arrayContaining(['noatime']),
          },
          { mountPoint: world.path('pods/target') },
        ]);
        if (round === 0) writeFileSync(world.path('pods/target/file'), 'kept');
        expect(readFileSync(world.path('pods/target/file'), 'utf8')).toBe('kept');
        for (let times = 0; times < 2; times++) expect(await unpublish(volumeId)).toBe('OK');
        expect(existsSync(world.path('pods/target'))).toBe(false);
        for (let times = 0; times < 2; times++) expect(await unstage(volumeId)).toBe('OK');
        expect(mounts()).toEqual([]);
        expect(world.devices.list()).toEqual([]);
      }
      await world.call('ControllerUnpublishVolume', { volume_id: volumeId, node_id: NODE });
      await world.call('DeleteVolume', { volume_id: volumeId });
    },
  );

  test('is made as its class said when the claim says nothing', async () => {
    const volumeId = await world.publishedVolume('data', {
      parameters: { fsType: 'xfs' },
      capacity_range: SIZE,
    });
    await world.call('NodeStageVolume', stageRequest(volumeId));
    expect(mounts()).toMatchObject([{ fileSystem: 'xfs', superOptions: expect.arrayContaining(['nouuid']) }]);
  });

  // xfs, because growing a mounted ext4 takes a capability (CAP_SYS_RESOURCE) that many build machines
  // withhold; csi-sanity does it in a guest.
  const xfs = mountCapability('xfs');

  test('grows online when it is expanded, also without a capability in the request', async () => {
    const volumeId = await volume(xfs);
    await world.call('NodePublishVolume', publishRequest(volumeId, { capability: xfs }));
    await world.call('ControllerExpandVolume', {
      volume_id: volumeId,
      capacity_range: { required_bytes: GIB },
    });
    const expand = { volume_id: volumeId, volume_path: world.path('pods/target') };
    for (let times = 0; times < 2; times++) {
      expect(await world.call('NodeExpandVolume', expand)).toEqual({ capacity_bytes: GIB });
    }
    const { usage } = await world.call('NodeGetVolumeStats', expand);
    expect(usage[0]?.total).toBeGreaterThan(900 * MIB);
    const more = { ...expand, capacity_range: { required_bytes: 2 * GIB } };
    expect(await world.outcome('NodeExpandVolume', more)).toMatch('OUT_OF_RANGE');
  });

  test('that grew while it was nowhere mounted fills its device after staging', async () => {
    const volumeId = await volume(xfs);
    await world.call('NodeStageVolume', stageRequest(volumeId, xfs));
    await unstage(volumeId);
    await world.call('ControllerExpandVolume', {
      volume_id: volumeId,
      capacity_range: { required_bytes: GIB },
    });
    await world.call('NodePublishVolume', publishRequest(volumeId, { capability: xfs }));
    const path = { volume_id: volumeId, volume_path: world.path('pods/target') };
    const { usage } = await world.call('NodeGetVolumeStats', path);
    expect(usage.find(({ unit }) => unit === 'BYTES')?.total).toBeGreaterThan(900 * MIB);
  });

  test('has numbers of bytes and inodes that add up', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId));
    const { usage } = await world.call('NodeGetVolumeStats', {
      volume_id: volumeId,
      volume_path: world.path('pods/target'),
    });
    expect(usage.map(({ unit }) => unit)).toEqual(['BYTES', 'INODES']);
    for (const { total = 0, used = 0, available = 0 } of usage) {
      expect(used).toBeGreaterThan(0);
      expect(used + available).toBeLessThanOrEqual(total);
      expect(used + available).toBeGreaterThan(total * 0.95);
    }
  });

  test('published read-only is read-only there, and stays writable elsewhere', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId, { target: 'writer' }));
    await world.call('NodePublishVolume', publishRequest(volumeId, { target: 'reader', readonly: true }));
    writeFileSync(world.path('pods/writer/file'), 'x');
    expect(() => writeFileSync(world.path('pods/reader/file'), 'y')).toThrow('EROFS');
    for (const [target, readonly] of [
      ['writer', true],
      ['reader', false],
    ] as const) {
      expect(
        await world.outcome('NodePublishVolume', publishRequest(volumeId, { target, readonly })),
      ).toMatch('ALREADY_EXISTS');
    }
  });

  test('at a path with a symbolic link and a blank is found again', async () => {
    mkdirSync(world.path('with blank'));
    symlinkSync(world.path('with blank'), world.path('link'));
    const volumeId = await volume();
    const request = { ...publishRequest(volumeId), target_path: world.path('link/a target') };
    for (let times = 0; times < 2; times++) await world.call('NodePublishVolume', request);
    expect(mounts().map(({ mountPoint }) => mountPoint)).toContain(world.path('with blank/a target'));
    const stats = { volume_id: volumeId, volume_path: request.target_path };
    expect(await world.outcome('NodeGetVolumeStats', stats)).toBe('OK');
    expect(
      await world.outcome('NodeUnpublishVolume', { volume_id: volumeId, target_path: request.target_path }),
    ).toBe('OK');
    expect(readdirSync(world.path('with blank'))).toEqual([]);
  });
});

describe('a block volume', () => {
  test('appears as its device, grows, and is taken away', async () => {
    const capability = blockCapability();
    const volumeId = await volume(capability);
    for (let times = 0; times < 3; times++) {
      await world.call('NodeStageVolume', stageRequest(volumeId, capability));
      await world.call('NodePublishVolume', publishRequest(volumeId, { capability }));
    }
    const target = world.path('pods/target');
    expect(statSync(target).isBlockDevice()).toBe(true);
    const path = { volume_id: volumeId, volume_path: target };
    expect((await world.call('NodeGetVolumeStats', path)).usage).toMatchObject([
      { unit: 'BYTES', total: 512 * MIB },
    ]);
    await world.call('ControllerExpandVolume', {
      volume_id: volumeId,
      capacity_range: { required_bytes: GIB },
    });
    await world.call('NodeExpandVolume', path);
    expect((await execa('blockdev', ['--getsize64', target])).stdout).toBe(String(GIB));
    expect(await unstage(volumeId)).toMatch('FAILED_PRECONDITION');
    expect(await unpublish(volumeId)).toBe('OK');
    expect(existsSync(target)).toBe(false);
    expect(await unstage(volumeId)).toBe('OK');
    expect(world.devices.list()).toEqual([]);
  });
});

describe('a file system is made once', () => {
  test('after an interrupted mkfs it is made again, whatever that left', async () => {
    const volumeId = await volume();
    await world.volumes.volumes.chooseFileSystem(volumeId, 'ext4');
    writeFileSync(world.devices.fileOf(volumeId), Buffer.alloc(64 * MIB, 0x5a));
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toBe('OK');
    expect((await world.volumes.volumes.get(volumeId)).fileSystem).toEqual({ type: 'ext4', made: true });
  });

  test('and until it is finished the volume is no block volume, so that nothing can be written that it would destroy', async () => {
    const volumeId = await volume();
    await world.volumes.volumes.chooseFileSystem(volumeId, 'ext4');
    const block = blockCapability();
    for (const outcome of [
      await world.outcome('NodeStageVolume', stageRequest(volumeId, block)),
      await world.outcome('NodePublishVolume', publishRequest(volumeId, { capability: block })),
    ]) {
      expect(outcome).toMatch(/^FAILED_PRECONDITION: .*interrupted.*raw data would be lost/);
    }
    expect(world.devices.list()).toEqual([]);
  });

  test('not while a pod has the volume as a block volume', async () => {
    const volumeId = await volume();
    const capability = blockCapability();
    await world.call('NodePublishVolume', publishRequest(volumeId, { capability }));
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch(
      /^FAILED_PRECONDITION: .*in use as a block volume at .*pods\/target/,
    );
    expect((await world.volumes.volumes.get(volumeId)).fileSystem).toBeNull();
    expect(await unpublish(volumeId)).toBe('OK');
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toBe('OK');
  });

  test('after an interrupted mkfs not over what somebody else put there', async () => {
    const volumeId = await volume();
    await execa('mkfs.xfs', ['-q', await attachRaw(volumeId)]);
    await unstage(volumeId);
    await world.volumes.volumes.chooseFileSystem(volumeId, 'ext4');
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch(
      /^FAILED_PRECONDITION: .*holds xfs data.*not formatted over/,
    );
    expect(
      (await execa('blkid', ['-p', '-o', 'value', '-s', 'TYPE', world.devices.fileOf(volumeId)])).stdout,
    ).toBe('xfs');
  });

  test('and never again, even when the device reads as blank', async () => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    await unstage(volumeId);
    writeFileSync(world.devices.fileOf(volumeId), '');
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).not.toBe('OK');
    const { stdout } = await execa('tr', ['-d', '\\0'], { inputFile: world.devices.fileOf(volumeId) });
    expect(stdout).toBe('');
    expect(world.devices.list()).toEqual([]);
  });

  test.each([
    ['at its start', 0],
    ['at its end', 512 * MIB - 1],
  ])('not on a device that holds other data %s', async (_, offsetBytes) => {
    const volumeId = await volume();
    await attachRaw(volumeId);
    const file = world.devices.fileOf(volumeId);
    await execa('dd', [`of=${file}`, 'bs=1', `seek=${offsetBytes}`, 'conv=notrunc', 'status=none'], {
      input: 'x',
    });
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch(
      /^FAILED_PRECONDITION: .*no file system of ours/,
    );
    expect((await world.volumes.volumes.get(volumeId)).fileSystem).toBeNull();
    expect(mounts()).toEqual([]);
  });

  test('not on a device that is blank where one looks and holds data elsewhere', async () => {
    const volumeId = await volume();
    const copy = world.volumes.disks.replicas.get(volumeId);
    if (copy !== undefined) copy.hasData = true;
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch(
      /^FAILED_PRECONDITION: .*holds data and no file system that is known.*blkdiscard/,
    );
    expect((await world.volumes.volumes.get(volumeId)).fileSystem).toBeNull();
    expect(world.devices.list()).toEqual([]);
    if (copy !== undefined) copy.hasData = false;
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toBe('OK');
  });

  test('not where a read comes short: that is not blank', async () => {
    const volumeId = await volume();
    await attachRaw(volumeId);
    await execa('losetup', ['--detach', world.devices.find(volumeId)?.path ?? '']);
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).not.toBe('OK');
    expect((await world.volumes.volumes.get(volumeId)).fileSystem).toBeNull();
  });

  test('one that somebody made on the attached device is mounted and left as it is', async () => {
    const volumeId = await volume();
    await execa('mkfs.xfs', ['-q', await attachRaw(volumeId)]);
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch('FAILED_PRECONDITION');
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId, mountCapability('xfs')))).toBe('OK');
  });

  test('of another type than asked is FAILED_PRECONDITION, and the device goes', async () => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId, mountCapability('xfs')))).toMatch(
      'FAILED_PRECONDITION',
    );
    await unstage(volumeId);
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId, mountCapability('xfs')))).toMatch(
      'FAILED_PRECONDITION',
    );
    expect(world.devices.list()).toEqual([]);
  });

  test('an unclean one is repaired before it is mounted', async () => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    await unstage(volumeId);
    const file = world.devices.fileOf(volumeId);
    await execa('debugfs', ['-w', '-R', 'set_super_value free_blocks_count 1', file]);
    await execa('debugfs', ['-w', '-R', 'set_super_value state 0', file]);
    await world.call('NodeStageVolume', stageRequest(volumeId));
    await unstage(volumeId);
    expect((await execa('e2fsck', ['-fn', file])).exitCode).toBe(0);
  });
});

describe('attachments', () => {
  const attachment = async (volumeId: string) => (await world.volumes.volumes.get(volumeId)).attachment;

  test('a volume that is not published to this node is not staged', async () => {
    const volumeId = await world.createVolume('data', { capacity_range: SIZE });
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId))).toMatch('FAILED_PRECONDITION');
    expect(await world.outcome('NodePublishVolume', publishRequest(volumeId))).toMatch('FAILED_PRECONDITION');
    expect(world.devices.list()).toEqual([]);
  });

  test('staging takes a new number unless the device of the current one lives, whatever the context says', async () => {
    const volumeId = await volume();
    const { number } = await attachment(volumeId);
    const request = { ...stageRequest(volumeId), publish_context: { 'holdfast.dev/attachment': '999' } };
    await world.call('NodeStageVolume', request);
    expect(await attachment(volumeId)).toMatchObject({ number: number + 1, node: NODE });
    await world.call('NodeStageVolume', request);
    expect(world.devices.find(volumeId)?.attachmentNumber).toBe(number + 1);
    expect(await attachment(volumeId)).toMatchObject({ number: number + 1 });
  });

  test('a device of a revoked attachment goes, mounts and all, when the volume is published anew', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId));
    writeFileSync(world.path('pods/target/file'), 'kept');
    await execa('sync', ['--file-system', world.path('staging')]);
    const old = world.devices.find(volumeId);
    await world.call('ControllerUnpublishVolume', { volume_id: volumeId, node_id: NODE });
    await world.call('ControllerPublishVolume', {
      volume_id: volumeId,
      node_id: NODE,
      volume_capability: mountCapability(),
    });
    await world.call('NodePublishVolume', publishRequest(volumeId));
    expect(world.devices.find(volumeId)?.attachmentNumber).toBeGreaterThan(
      old?.attachmentNumber ?? Number.NaN,
    );
    expect(mounts()).toHaveLength(2);
    expect(readFileSync(world.path('pods/target/file'), 'utf8')).toBe('kept');
  });

  test('a read-only attachment gives a read-only device', async () => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    await unstage(volumeId);
    await world.call('ControllerUnpublishVolume', { volume_id: volumeId, node_id: NODE });
    const reader = mountCapability('', 'SINGLE_NODE_READER_ONLY');
    await world.call('ControllerPublishVolume', {
      volume_id: volumeId,
      node_id: NODE,
      volume_capability: reader,
    });
    for (let times = 0; times < 2; times++) {
      await world.call('NodePublishVolume', publishRequest(volumeId, { capability: reader }));
    }
    expect(world.devices.find(volumeId)?.readOnly).toBe(true);
    expect(() => writeFileSync(world.path('pods/target/file'), 'y')).toThrow('EROFS');
  });

  test('a read-only attachment of a volume without a file system is refused, and leaves no device', async () => {
    const reader = mountCapability('', 'SINGLE_NODE_READER_ONLY');
    const volumeId = await volume(reader);
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId, reader))).toMatch(
      /^FAILED_PRECONDITION: .*publish it for writing once/,
    );
    expect(world.devices.list()).toEqual([]);
  });
});

describe('publishing again', () => {
  test('a lost staging mount and a lost device come back with NodePublishVolume', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId));
    writeFileSync(world.path('pods/target/file'), 'kept');
    await unpublish(volumeId);
    await execa('umount', [world.path('staging')]);
    await world.call('NodePublishVolume', publishRequest(volumeId));
    expect(readFileSync(world.path('pods/target/file'), 'utf8')).toBe('kept');
    await unpublish(volumeId);
    await execa('umount', [world.path('staging')]);
    await world.devices.lose(volumeId);
    await world.call('NodePublishVolume', publishRequest(volumeId));
    expect(readFileSync(world.path('pods/target/file'), 'utf8')).toBe('kept');
    await unpublish(volumeId);
    expect(await unstage(volumeId)).toBe('OK');
  });

  test('a staging mount that was lost under a published volume comes back beside it', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId, { target: 'first' }));
    await execa('umount', [world.path('staging')]);
    await world.call('NodePublishVolume', publishRequest(volumeId, { target: 'second' }));
    writeFileSync(world.path('pods/first/file'), 'shared');
    expect(readFileSync(world.path('pods/second/file'), 'utf8')).toBe('shared');
  });

  test('finishes a read-only publication that a dead process left writable, and only that', async () => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    mkdirSync(world.path('pods/target'));
    await execa('mount', ['--bind', world.path('staging'), world.path('pods/target')]);
    await world.call('NodePublishVolume', publishRequest(volumeId, { readonly: true }));
    expect(() => writeFileSync(world.path('pods/target/file'), 'y')).toThrow('EROFS');
  });

  test.each([
    ['SINGLE_NODE_SINGLE_WRITER', 'FAILED_PRECONDITION'],
    ['SINGLE_NODE_READER_ONLY', 'FAILED_PRECONDITION'],
    ['SINGLE_NODE_MULTI_WRITER', 'OK'],
    ['SINGLE_NODE_WRITER', 'OK'],
  ] as const)('%s at a second target is %s', async (mode, expected) => {
    const volumeId = await volume();
    await world.call('NodeStageVolume', stageRequest(volumeId));
    const capability = mountCapability('', mode);
    for (let times = 0; times < 2; times++) {
      expect(
        await world.outcome('NodePublishVolume', publishRequest(volumeId, { target: 'first', capability })),
      ).toBe('OK');
    }
    expect(
      await world.outcome('NodePublishVolume', publishRequest(volumeId, { target: 'second', capability })),
    ).toMatch(expected);
  });

  test('something else at the target or the staging path is ALREADY_EXISTS and stays', async () => {
    const volumeId = await volume();
    const other = await world.publishedVolume('other', { capacity_range: SIZE });
    mkdirSync(world.path('pods/target'));
    await execa('mount', ['-t', 'tmpfs', 'tmpfs', world.path('pods/target')]);
    await world.call('NodeStageVolume', stageRequest(volumeId));
    expect(await world.outcome('NodePublishVolume', publishRequest(volumeId))).toMatch('ALREADY_EXISTS');
    expect(await world.outcome('NodeStageVolume', stageRequest(other))).toMatch('ALREADY_EXISTS');
    expect(await world.outcome('NodeStageVolume', stageRequest(volumeId, blockCapability()))).toMatch(
      'ALREADY_EXISTS',
    );
    expect(
      mounts()
        .map(({ fileSystem }) => fileSystem)
        .sort(),
    ).toEqual(['ext4', 'tmpfs']);
    expect(world.devices.list()).toHaveLength(1);
  });
});

describe('taking away', () => {
  test('never removes files that somebody else put at the target', async () => {
    mkdirSync(world.path('pods/target'));
    writeFileSync(world.path('pods/target/precious'), 'x');
    expect(await unpublish('0'.repeat(32))).toMatch('FAILED_PRECONDITION');
    expect(readFileSync(world.path('pods/target/precious'), 'utf8')).toBe('x');
  });

  test('of a volume that was never there, or is gone, succeeds', async () => {
    for (const id of ['fake-vol-id', '0'.repeat(32)]) {
      expect(await unpublish(id)).toBe('OK');
      expect(await unstage(id)).toBe('OK');
    }
  });

  test('of a staged volume that is still published is FAILED_PRECONDITION and takes nothing', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId));
    expect(await unstage(volumeId)).toMatch('FAILED_PRECONDITION');
    expect(mounts()).toHaveLength(2);
  });

  test('of a target in use is ABORTED, and succeeds when the user is gone', async () => {
    const volumeId = await volume();
    await world.call('NodePublishVolume', publishRequest(volumeId));
    const user = execa('sleep', ['60'], { cwd: world.path('pods/target'), reject: false });
    expect(await unpublish(volumeId)).toMatch('ABORTED');
    user.kill('SIGKILL');
    await user;
    expect(await unpublish(volumeId)).toBe('OK');
  });
});

test('fields are checked before existence, and existence before anything else', async () => {
  const volume_id = 'fake-vol-id';
  const [staging_target_path, target_path] = [world.path('staging'), world.path('pods/target')];
  const volume_capability = mountCapability();
  const stage = { volume_id, staging_target_path, volume_capability };
  const publish = { ...stage, target_path };
  const outcomes: [Promise<string>, string][] = [
    [world.outcome('NodeStageVolume', { ...stage, volume_id: '' }), 'INVALID_ARGUMENT: volume_id'],
    [world.outcome('NodeStageVolume', { ...stage, staging_target_path: '' }), 'INVALID_ARGUMENT: staging'],
    [world.outcome('NodeStageVolume', { ...stage, volume_capability: null }), 'INVALID_ARGUMENT: volume_cap'],
    [world.outcome('NodeStageVolume', stage), 'NOT_FOUND'],
    [world.outcome('NodePublishVolume', { ...publish, target_path: '' }), 'INVALID_ARGUMENT: target'],
    [world.outcome('NodePublishVolume', { ...publish, target_path: 'relative' }), 'INVALID_ARGUMENT: target'],
    [world.outcome('NodePublishVolume', publish), 'NOT_FOUND'],
    [world.outcome('NodeUnstageVolume', { volume_id }), 'INVALID_ARGUMENT: staging'],
    [world.outcome('NodeUnpublishVolume', { volume_id }), 'INVALID_ARGUMENT: target'],
    [world.outcome('NodeGetVolumeStats', { volume_id }), 'INVALID_ARGUMENT: volume_path'],
    [world.outcome('NodeGetVolumeStats', { volume_id, volume_path: target_path }), 'NOT_FOUND'],
    [world.outcome('NodeExpandVolume', { volume_id }), 'INVALID_ARGUMENT: volume_path'],
    [world.outcome('NodeExpandVolume', { volume_id, volume_path: target_path }), 'NOT_FOUND'],
  ];
  for (const [outcome, expected] of outcomes) expect(await outcome).toMatch(expected);
  const known = await volume();
  expect(
    await world.outcome('NodePublishVolume', { ...publishRequest(known), staging_target_path: '' }),
  ).toMatch('FAILED_PRECONDITION');
  expect(await world.outcome('NodeGetVolumeStats', { volume_id: known, volume_path: 'some/path' })).toMatch(
    'NOT_FOUND',
  );
});
