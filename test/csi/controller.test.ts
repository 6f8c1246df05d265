import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GIB, MIB } from '../../src/core/units.ts';
import { TOPOLOGY_KEY } from '../../src/csi/topology.ts';
import { blockCapability, CsiWorld, mountCapability } from '../support/csi-world.ts';
import { NODE } from '../support/volume-world.ts';

let world: CsiWorld;
beforeEach(async () => {
  world = await CsiWorld.open();
});
afterEach(async () => await world.close());

const UNKNOWN_IDS = ['fake-vol-id', 'none-exist-id', '0'.repeat(32), '../../etc', 'ä'];

describe('identity', () => {
  test('names the driver and its version', async () => {
    const info = await world.call('GetPluginInfo', {});
    expect(info).toMatchObject({ name: 'csi.holdfast.dev', vendor_version: '1.2.3' });
  });

  test('is ready, until there is a reason why not', async () => {
    expect(await world.call('Probe', {})).toEqual({ ready: { value: true } });
    await world.restartServer({ problem: async () => 'the store is away' });
    expect(await world.outcome('Probe', {})).toBe('FAILED_PRECONDITION: the store is away');
  });

  test.each(['9.example.com', 'example.com.', 'x', `a${'b'.repeat(63)}`, 'a_b.example'])(
    'a driver name that Kubernetes refuses (%s) is refused',
    async (driverName) => {
      await expect(world.restartServer({ driverName })).rejects.toMatchObject({ code: 'INVALID' });
      await world.restartServer();
    },
  );
});

describe('CreateVolume', () => {
  const request = (changes: object = {}) => ({
    name: 'data',
    volume_capabilities: [mountCapability()],
    capacity_range: { required_bytes: GIB },
    ...changes,
  });

  test('makes a volume of exactly the size asked, reachable from this node', async () => {
    const { volume } = await world.call('CreateVolume', request());
    expect(volume).toMatchObject({
      capacity_bytes: GIB,
      accessible_topology: [{ segments: { [TOPOLOGY_KEY]: NODE } }],
    });
  });

  test('repeated is the same volume', async () => {
    const first = await world.call('CreateVolume', request());
    expect(await world.call('CreateVolume', request())).toEqual(first);
  });

  test.each([
    ['another size', { capacity_range: { required_bytes: 2 * GIB } }],
    ['another file system', { volume_capabilities: [mountCapability('xfs')] }],
    ['another durability', { parameters: { 'holdfast.dev/durability': 'writethrough' } }],
  ])('with the same name and %s is ALREADY_EXISTS', async (_, changes) => {
    await world.call('CreateVolume', request());
    expect(await world.outcome('CreateVolume', request(changes))).toMatch('ALREADY_EXISTS');
  });

  test.each([
    ['no name', { name: '' }, 'INVALID_ARGUMENT: name'],
    ['a name of 129 bytes', { name: 'ä'.repeat(64) + 'x' }, 'INVALID_ARGUMENT: name'],
    ['no capability', { volume_capabilities: [] }, 'INVALID_ARGUMENT: volume_capabilities'],
    [
      'no access type',
      { volume_capabilities: [{ access_mode: { mode: 'SINGLE_NODE_WRITER' } }] },
      'INVALID_ARGUMENT: access_type',
    ],
    ['no access mode', { volume_capabilities: [{ block: {} }] }, 'INVALID_ARGUMENT: access_mode'],
    [
      'several writing nodes',
      { volume_capabilities: [blockCapability('MULTI_NODE_MULTI_WRITER')] },
      'INVALID_ARGUMENT: access mode',
    ],
    [
      'several reading nodes',
      { volume_capabilities: [mountCapability('', 'MULTI_NODE_READER_ONLY')] },
      'INVALID_ARGUMENT: access mode',
    ],
    [
      'an unknown file system',
      { volume_capabilities: [mountCapability('btrfs')] },
      'INVALID_ARGUMENT: there is no file system',
    ],
    [
      'a capability and a class that disagree',
      { volume_capabilities: [mountCapability('ext4')], parameters: { fsType: 'xfs' } },
      'INVALID_ARGUMENT: capabilities and parameters',
    ],
    ['an unknown parameter', { parameters: { replica: '1' } }, 'INVALID_ARGUMENT: there is no parameter'],
    [
      'replicas',
      { parameters: { 'storageos.com/replicas': '1' } },
      'INVALID_ARGUMENT: storageos.com/replicas=1',
    ],
    [
      'parameters of more than 4 KiB',
      { parameters: { pool: 'x'.repeat(5000) } },
      'INVALID_ARGUMENT: parameters',
    ],
    ['mutable parameters', { mutable_parameters: { a: 'b' } }, 'INVALID_ARGUMENT: volumes have no mutable'],
    [
      'a snapshot to start from',
      { volume_content_source: { snapshot: { snapshot_id: 's' } } },
      'INVALID_ARGUMENT: volumes cannot be made from',
    ],
    ['an unknown pool', { parameters: { pool: 'fats' } }, 'INVALID_ARGUMENT'],
    ['too many bytes', { capacity_range: { required_bytes: 2 ** 60 } }, 'OUT_OF_RANGE'],
    [
      'too few bytes for xfs',
      { volume_capabilities: [mountCapability('xfs')], capacity_range: { required_bytes: 100 * MIB } },
      'OUT_OF_RANGE',
    ],
    ['more than the pool has', { capacity_range: { required_bytes: 500 * GIB } }, 'RESOURCE_EXHAUSTED'],
    [
      'another node',
      { accessibility_requirements: { requisite: [{ segments: { [TOPOLOGY_KEY]: 'node-2' } }] } },
      'RESOURCE_EXHAUSTED',
    ],
  ])('with %s is refused, and leaves nothing', async (_, changes, expected) => {
    expect(await world.outcome('CreateVolume', request(changes))).toMatch(expected);
    expect(await world.volumes.expectSound()).toEqual([]);
  });

  test('takes a name of 128 bytes of any characters', async () => {
    expect(await world.outcome('CreateVolume', request({ name: 'ü/'.repeat(42) + 'ab' }))).toBe('OK');
  });

  test('keeps what the provisioner tells of the claim, and the file system, as labels', async () => {
    const parameters = { fsType: 'xfs', 'csi.storage.k8s.io/pvc/name': 'data-0' };
    const volumeId = await world.createVolume('pvc-1', { parameters });
    const { labels, fileSystem } = await world.volumes.volumes.get(volumeId);
    expect(labels).toEqual({ 'csi.storage.k8s.io/pvc/name': 'data-0', 'holdfast.dev/fs-type': 'xfs' });
    expect(fileSystem).toBeNull();
  });
});

describe('DeleteVolume', () => {
  test.each(UNKNOWN_IDS)('of an id that nobody knows (%s) succeeds', async (id) => {
    expect(await world.outcome('DeleteVolume', { volume_id: id })).toBe('OK');
  });

  test('is refused while the volume is published, and may be repeated afterwards', async () => {
    const volume_id = await world.publishedVolume('data');
    expect(await world.outcome('DeleteVolume', { volume_id })).toMatch('FAILED_PRECONDITION');
    await world.call('ControllerUnpublishVolume', { volume_id, node_id: NODE });
    expect(await world.outcome('DeleteVolume', { volume_id })).toBe('OK');
    expect(await world.outcome('DeleteVolume', { volume_id })).toBe('OK');
  });
});

describe('ControllerPublishVolume', () => {
  const publish = (volume_id: string, changes: object = {}) => ({
    volume_id,
    node_id: NODE,
    volume_capability: mountCapability(),
    ...changes,
  });

  test('may be repeated, and shows in the list', async () => {
    const volumeId = await world.createVolume('data');
    const first = await world.call('ControllerPublishVolume', publish(volumeId));
    expect(await world.call('ControllerPublishVolume', publish(volumeId))).toEqual(first);
    const { entries } = await world.call('ListVolumes', {});
    expect(entries).toMatchObject([
      { volume: { volume_id: volumeId }, status: { published_node_ids: [NODE] } },
    ]);
  });

  test('with readonly flipped is ALREADY_EXISTS', async () => {
    const volumeId = await world.publishedVolume('data');
    const outcome = await world.outcome('ControllerPublishVolume', publish(volumeId, { readonly: true }));
    expect(outcome).toMatch('ALREADY_EXISTS');
  });

  test('checks fields, then existence', async () => {
    const volumeId = await world.createVolume('data');
    for (const [changes, expected] of [
      [{ volume_id: '' }, 'INVALID_ARGUMENT: volume_id'],
      [{ node_id: '' }, 'INVALID_ARGUMENT: node_id'],
      [{ volume_capability: null }, 'INVALID_ARGUMENT: volume_capability'],
      [{ node_id: 'fake-node-id' }, 'NOT_FOUND'],
      ...UNKNOWN_IDS.map((id) => [{ volume_id: id }, 'NOT_FOUND'] as const),
    ] as const) {
      expect(await world.outcome('ControllerPublishVolume', publish(volumeId, changes))).toMatch(expected);
    }
  });

  test('of one volume more than the node may have is RESOURCE_EXHAUSTED', async () => {
    for (let count = 0; count < 8; count++) await world.publishedVolume(`data-${count}`);
    const volumeId = await world.createVolume('one-more');
    expect(await world.outcome('ControllerPublishVolume', publish(volumeId))).toMatch('RESOURCE_EXHAUSTED');
  });

  test.each([...UNKNOWN_IDS])('ControllerUnpublishVolume of %s succeeds', async (volume_id) => {
    expect(await world.outcome('ControllerUnpublishVolume', { volume_id, node_id: NODE })).toBe('OK');
  });

  test('is revoked by ControllerUnpublishVolume, from an unknown node never', async () => {
    const volume_id = await world.publishedVolume('data');
    const attachment = async () => (await world.volumes.volumes.get(volume_id)).attachment;
    const published = await attachment();
    expect(await world.outcome('ControllerUnpublishVolume', { volume_id, node_id: 'node-2' })).toBe('OK');
    expect(await attachment()).toEqual(published);
    await world.call('ControllerUnpublishVolume', { volume_id });
    expect(await attachment()).toEqual({
      number: published.number + 1,
      node: null,
      readOnly: false,
      use: 'device',
    });
  });
});

describe('ValidateVolumeCapabilities', () => {
  test('confirms what was asked, or says what is not supported', async () => {
    const volume_id = await world.createVolume('data');
    const volume_capabilities = [mountCapability('ext4'), blockCapability()];
    const parameters = { 'holdfast.dev/replicas': '0' };
    const { confirmed } = await world.call('ValidateVolumeCapabilities', {
      volume_id,
      volume_capabilities,
      parameters,
    });
    expect(confirmed).toMatchObject({
      parameters,
      volume_capabilities: [{ mount: { fs_type: 'ext4' } }, { block: {} }],
    });
    for (const [request, text] of [
      [{ volume_capabilities: [blockCapability('MULTI_NODE_MULTI_WRITER')] }, 'access mode'],
      [{ volume_capabilities, parameters: { nonsense: '1' } }, 'no parameter'],
    ] as const) {
      const reply = await world.call('ValidateVolumeCapabilities', { volume_id, ...request });
      expect(reply).toMatchObject({ confirmed: null, message: expect.stringContaining(text) });
    }
    expect(await world.outcome('ValidateVolumeCapabilities', { volume_id })).toMatch('INVALID_ARGUMENT');
    expect(
      await world.outcome('ValidateVolumeCapabilities', { volume_id: 'none', volume_capabilities }),
    ).toMatch('NOT_FOUND');
  });
});

describe('ListVolumes', () => {
  test('pages, and a page may be continued when its last volume is gone', async () => {
    const ids: string[] = [];
    for (let count = 0; count < 5; count++) ids.push(await world.createVolume(`data-${count}`));
    ids.sort();
    const list = async (starting_token: string) => {
      const { entries, next_token } = await world.call('ListVolumes', { max_entries: 2, starting_token });
      return { page: entries.map(({ volume }) => volume?.volume_id), next_token };
    };
    const first = await list('');
    expect(first.page).toEqual(ids.slice(0, 2));
    await world.call('DeleteVolume', { volume_id: ids[1] });
    const second = await list(first.next_token);
    expect(second.page).toEqual(ids.slice(2, 4));
    expect(await list(second.next_token)).toEqual({ page: ids.slice(4), next_token: '' });
  });

  test('with a token that it never gave is ABORTED, with a negative count INVALID_ARGUMENT', async () => {
    expect(await world.outcome('ListVolumes', { starting_token: 'invalid-token' })).toMatch('ABORTED');
    expect(await world.outcome('ListVolumes', { max_entries: -1 })).toMatch('INVALID_ARGUMENT');
  });
});

test('ControllerGetVolume shows one volume, or NOT_FOUND', async () => {
  const volume_id = await world.publishedVolume('data');
  expect(await world.call('ControllerGetVolume', { volume_id })).toMatchObject({
    volume: { volume_id, capacity_bytes: GIB },
    status: { published_node_ids: [NODE] },
  });
  for (const id of UNKNOWN_IDS)
    expect(await world.outcome('ControllerGetVolume', { volume_id: id })).toMatch('NOT_FOUND');
});

describe('GetCapacity', () => {
  test('is what can still be made, exactly', async () => {
    await world.createVolume('data');
    const { available_capacity, maximum_volume_size } = await world.call('GetCapacity', {});
    expect(available_capacity).toBe(199 * GIB); // 100 GiB, overcommitted twice, less one volume
    expect(maximum_volume_size?.value).toBe(199 * GIB);
    const largest = { required_bytes: maximum_volume_size?.value ?? 0 };
    expect(await world.createVolume('largest', { capacity_range: largest })).not.toBe('');
  });

  test('is nothing elsewhere, and for what is not supported', async () => {
    for (const request of [
      { accessible_topology: { segments: { [TOPOLOGY_KEY]: 'node-2' } } },
      { accessible_topology: { segments: { 'topology.kubernetes.io/zone': 'a' } } },
      { volume_capabilities: [mountCapability('', 'MULTI_NODE_MULTI_WRITER')] },
    ]) {
      expect(await world.call('GetCapacity', request)).toMatchObject({ available_capacity: 0 });
    }
    const here = { accessible_topology: { segments: { [TOPOLOGY_KEY]: NODE } } };
    expect((await world.call('GetCapacity', here)).available_capacity).toBeGreaterThan(0);
  });
});

describe('ControllerExpandVolume', () => {
  test('grows to exactly the size asked, and never shrinks', async () => {
    const volume_id = await world.createVolume('data');
    const expand = (required_bytes: number, limit_bytes = 0) => ({
      volume_id,
      capacity_range: { required_bytes, limit_bytes },
    });
    const grown = { capacity_bytes: 2 * GIB, node_expansion_required: true };
    expect(await world.call('ControllerExpandVolume', expand(2 * GIB))).toEqual(grown);
    expect(await world.call('ControllerExpandVolume', expand(2 * GIB))).toEqual(grown);
    expect(await world.call('ControllerExpandVolume', expand(GIB))).toEqual(grown);
    expect(await world.outcome('ControllerExpandVolume', expand(GIB, GIB))).toMatch('OUT_OF_RANGE');
    expect(await world.outcome('ControllerExpandVolume', expand(500 * GIB))).toMatch('RESOURCE_EXHAUSTED');
  });

  test('checks fields, then existence', async () => {
    const capacity_range = { required_bytes: GIB };
    expect(await world.outcome('ControllerExpandVolume', { capacity_range })).toMatch(
      'INVALID_ARGUMENT: volume_id',
    );
    expect(await world.outcome('ControllerExpandVolume', { volume_id: 'x' })).toMatch(
      'INVALID_ARGUMENT: capacity_range',
    );
    expect(await world.outcome('ControllerExpandVolume', { volume_id: 'x', capacity_range })).toMatch(
      'NOT_FOUND',
    );
  });
});

test('calls that come with later versions are UNIMPLEMENTED', async () => {
  for (const method of [
    'CreateSnapshot',
    'ControllerModifyVolume',
    'GetSnapshot',
    'ListSnapshots',
  ] as const) {
    await expect(world.call(method, {})).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
  }
});

test('capabilities that csi-sanity does not know are not declared', async () => {
  const { capabilities } = await world.call('ControllerGetCapabilities', {});
  expect(capabilities?.map(({ rpc }) => rpc?.type)).toContain('PUBLISH_READONLY');
  expect(capabilities?.map(({ rpc }) => rpc?.type)).not.toContain('UNKNOWN');
});
