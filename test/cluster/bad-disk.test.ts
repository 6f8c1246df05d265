// A volume of two copies under a checked load while the disk of one copy fails it, in each of the ways that disks have:
// full, with errors, a hundred times slower, hung. In `soft` the application sees a pause at most. Needs root, for the
// network and for file systems on loop devices.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import { CMD, NbdClient } from '../support/nbd-client.ts';
import { type ClusterNode, TestCluster } from './cluster.ts';
import { ClusterVolume } from './cluster-volume.ts';
import { PoolDisk } from './pool-disk.ts';
import { NODES, VolumeUnderLoad } from './volume-under-load.ts';

const ENOSPC = 28;
const FIRST = Buffer.alloc(4096, 1);
const SECOND = Buffer.alloc(4096, 2);
/** Of a client that waits for a copy to be dropped: one whose disk hangs has four seconds. */
const SHORT_MS = 15_000;
const SLOW_FOR_MS = 15_000;

describe.skipIf(process.geteuid?.() !== 0)('a volume of two copies (needs root)', () => {
  const disks = new Map<string, PoolDisk>();
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    const prepare = async ({ name, poolDirectory }: ClusterNode): Promise<PoolDisk> => {
      const disk = await PoolDisk.mount(poolDirectory);
      disks.set(name, disk);
      return disk;
    };
    const cluster = await TestCluster.start({ nodes: NODES, args: ['--pool-reserve', '1MiB'], prepare });
    world = await VolumeUnderLoad.of(cluster, '--replicas', '1');
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    await world.begin();
  });
  afterEach(async () => {
    await world.settle();
  });

  test('sees nothing of a copy whose disk is full, which is filled again when there is room', async () => {
    const disk = await diskOfOther();
    await disk.fill();
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    await disk.makeRoom();
    await world.inSync(2);
    await expectShortPauses();
  });

  test('hears that there is no room when every disk is full, loses no copy by that, and goes on when there is', async () => {
    await world.inSync(2);
    // Its own blocks may be there or not: it has to be silent meanwhile.
    await world.load.stop();
    const { user, cluster } = world;
    const fresh = await ClusterVolume.create(user, 'fresh', '--size', '8MiB', '--replicas', '1');
    await fresh.untilInSync(user, 2);
    const { socketPath, exportName } = await fresh.exportAt(user, cluster.path('fresh.sock'));
    const client = await NbdClient.connect(socketPath, exportName, { replyTimeoutMs: SHORT_MS });
    await client.write(0, FIRST);
    const { epoch } = await fresh.show(user);
    await Promise.all([...disks.values()].map((disk) => disk.fill()));
    // What a daemon has looked up of its pool's room holds for a second.
    await sleep(2000);
    const refused = { type: CMD.write, offset: 4 * MIB, payload: SECOND };
    expect(await client.request(refused)).toMatchObject({ error: ENOSPC });
    await client.write(0, SECOND);
    expect(await client.read(4 * MIB, SECOND.length)).toEqual(Buffer.alloc(SECOND.length));
    await Promise.all([...disks.values()].map((disk) => disk.makeRoom()));
    await sleep(2000);
    expect(await client.request(refused)).toMatchObject({ error: 0 });
    expect(await client.read(0, SECOND.length)).toEqual(SECOND);
    expect(await client.read(4 * MIB, SECOND.length)).toEqual(SECOND);
    const after = await fresh.show(user);
    expect(after.epoch).toBe(epoch);
    expect(after.inSync).toHaveLength(2);
    await client.disconnect();
  });

  test('sees nothing of a copy whose disk is a hundred times slower', async () => {
    const disk = await diskOfOther();
    const slow = disk.slowDown();
    const end = performance.now() + SLOW_FOR_MS;
    while (performance.now() < end) await world.goesOn();
    await slow.end();
    await world.inSync(2);
    await expectShortPauses();
  });

  test('sees a pause of a copy whose disk hangs, and goes on without it', async () => {
    const disk = await diskOfOther();
    await disk.freeze();
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    await disk.thaw();
    await world.inSync(2);
    await expectShortPauses();
  });

  // The last one: this disk does not recover.
  test('sees nothing of a copy whose disk answers with errors', async () => {
    const disk = await diskOfOther();
    await disk.breakDown();
    await world.volume.untilInSync(world.user, 1);
    await sleep(2000);
    await world.goesOn();
    await expectShortPauses();
  });

  async function diskOfOther(): Promise<PoolDisk> {
    const { others } = await world.inSync(2);
    const disk = disks.get(others[0]?.name ?? '');
    if (disk === undefined) throw new Error('every node has a disk of its own');
    return disk;
  }

  async function expectShortPauses(): Promise<void> {
    const { longestPause } = await world.expectNothingLost();
    expect(longestPause.ms).toBeLessThan(SHORT_MS);
  }
});
