// A volume of two copies under a checked load from a third node, while other things fail than the node of the primary.
// Needs root, for the network.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ClusterNetwork } from './network.ts';
import { VolumeUnderLoad } from './volume-under-load.ts';

type CutBetween = (network: ClusterNetwork, primary: string, other: string) => Promise<void>;
/** Of a client that waits for a copy to be dropped, on a busy machine. */
const SHORT_MS = 8000;

describe.skipIf(process.geteuid?.() !== 0)('a volume of two copies (needs root)', () => {
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    world = await VolumeUnderLoad.start('--replicas', '1');
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

  test('goes on without its other copy, which is filled again when it is back', async () => {
    const { primary, others } = await world.inSync(2);
    await others[0]?.kill();
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    expect(await world.show()).toMatchObject({ primary: primary.name, inSync: [primary.name] });
    await others[0]?.start();
    await world.inSync(2);
    const { longestPause } = await world.expectNothingLost();
    expect(longestPause.ms).toBeLessThan(SHORT_MS);
  });

  test.each<[string, CutBetween]>([
    ['do not reach each other', (network, one, other) => network.cut(one, other)],
    ['answer each other with resets', (network, one, other) => network.cut(one, other, 'refused')],
    ['hear nothing of its primary', (network, one, other) => network.cutOneWay(one, other)],
    ['are not heard by its primary', (network, one, other) => network.cutOneWay(other, one)],
  ])('goes on when its copies %s, with one of them, and nobody is taken for dead', async (_, cut) => {
    const { primary, others } = await world.inSync(2);
    await cut(world.cluster.network, primary.name, others[0]?.name ?? '');
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    expect(await world.user.alive()).toEqual(['a', 'b', 'c']);
    await world.cluster.network.heal();
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('sees a pause at most when connections between live nodes are reset again and again', async () => {
    const { primary, others } = await world.inSync(2);
    const { network } = world.cluster;
    for (let round = 0; round < 10; round += 1) {
      await network.reset(primary.name, others[0]?.name ?? '');
      await network.reset(primary.name, world.user.name);
      await world.goesOn();
    }
    await world.inSync(2);
    expect((await world.show()).primary).toBe(primary.name);
    expect(await world.user.alive()).toEqual(['a', 'b', 'c']);
    const { longestPause } = await world.expectNothingLost();
    expect(longestPause.ms).toBeLessThan(SHORT_MS);
  });

  test('waits while the user does not reach the primary, and goes on', async () => {
    const { primary } = await world.inSync(2);
    await world.cluster.network.cut(primary.name, world.user.name);
    await world.expectWaiting(3000);
    await world.cluster.network.heal();
    await world.goesOn();
    await world.expectNothingLost();
  });

  test('goes on at the latest when its primary, which reaches the store and nobody else, is reached again', async () => {
    const { primary } = await world.inSync(2);
    for (const { name } of world.cluster.nodes) {
      if (name !== primary.name) await world.cluster.network.cut(name, primary.name);
    }
    await sleep(10_000);
    await world.cluster.network.heal();
    await world.goesOn();
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('waits for its other copy when it is to be on both (hard), and goes on', async () => {
    const { others } = await world.inSync(2);
    await world.user.json('volume', 'set-failure-mode', 'data', 'hard');
    await others[0]?.kill();
    await world.expectWaiting(5000);
    await others[0]?.start();
    await world.goesOn();
    await world.user.json('volume', 'set-failure-mode', 'data', 'soft');
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('sees nothing of a store that stands still, is killed, or is out of reach', async () => {
    const { primary } = await world.inSync(2);
    const { etcd, network } = world.cluster;
    etcd.freeze();
    await sleepUnderLoad(20_000);
    etcd.thaw();
    await etcd.kill();
    await sleepUnderLoad(5000);
    await etcd.start();
    await world.cluster.cutFromStore(primary.name);
    await sleepUnderLoad(20_000);
    await network.heal();
    await world.inSync(2);
    const { longestPause } = await world.expectNothingLost();
    expect((await world.show()).primary).toBe(primary.name);
    expect(longestPause.ms).toBeLessThan(2000);
  });

  test('waits for the store when its primary dies without one, and goes on by itself', async () => {
    const { primary, others } = await world.inSync(2);
    await world.cluster.etcd.kill();
    await primary.kill();
    await world.expectWaiting(10_000);
    await world.cluster.etcd.start();
    await world.goesOn();
    expect((await world.show()).primary).toBe(others[0]?.name);
    await primary.start();
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('waits for the only copy that has everything, and goes on', async () => {
    const { primary, others } = await world.inSync(2);
    await others[0]?.kill();
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    await primary.kill();
    await others[0]?.start();
    await world.expectWaiting(10_000);
    await primary.start();
    await world.goesOn();
    await world.inSync(2);
    await world.expectNothingLost();
  });

  async function sleepUnderLoad(ms: number): Promise<void> {
    const end = performance.now() + ms;
    while (performance.now() < end) await world.goesOn();
  }
});
