// A volume of two copies under a checked load from a third node, while everything happens to the node that has the
// primary: the client waits for a while and sees nothing else. Needs root, for the network.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ClusterNode, TestCluster } from './cluster.ts';
import { VolumeUnderLoad } from './volume-under-load.ts';

/** What happens to the node of the primary, and how it is undone. */
interface Fault {
  readonly name: string;
  strike(cluster: TestCluster, primary: ClusterNode): Promise<void> | void;
  repair(cluster: TestCluster, primary: ClusterNode): Promise<void> | void;
}

const FAULTS: readonly Fault[] = [
  { name: 'is killed', strike: (_, primary) => primary.kill(), repair: (_, primary) => primary.start() },
  { name: 'stands still', strike: (_, primary) => primary.freeze(), repair: (_, primary) => primary.thaw() },
  {
    name: 'is cut off from everybody',
    strike: ({ network }, primary) => network.isolate(primary.name),
    repair: ({ network }) => network.heal(),
  },
  {
    name: 'is cut off from everybody, with resets',
    strike: ({ network }, primary) => network.isolate(primary.name, 'refused'),
    repair: ({ network }) => network.heal(),
  },
  {
    name: 'hears nothing any more',
    strike: ({ network }, primary) => network.deafen(primary.name),
    repair: ({ network }) => network.heal(),
  },
  {
    name: 'is not heard any more',
    strike: ({ network }, primary) => network.mute(primary.name),
    repair: ({ network }) => network.heal(),
  },
];

describe.skipIf(process.geteuid?.() !== 0)(
  'a volume of two copies (needs root)',
  { timeout: 240_000 },
  () => {
    let world: VolumeUnderLoad;

    beforeAll(async () => {
      world = await VolumeUnderLoad.start('--replicas', '1');
    }, 120_000);
    afterAll(async () => {
      await world[Symbol.asyncDispose]();
    }, 60_000);
    beforeEach(async () => {
      await world.begin();
    });
    afterEach(async () => {
      await world.settle();
    });

    test.each(FAULTS)('outlives that the node of its primary $name', async ({ strike, repair }) => {
      const { primary, others } = await world.inSync(2);
      await strike(world.cluster, primary);
      await world.goesOn();
      expect((await world.show()).primary).toBe(others[0]?.name);
      await repair(world.cluster, primary);
      await world.goesOn();
      await world.inSync(2);
      await world.expectNothingLost();
    });

    test('outlives one after the other, as often as it happens', async () => {
      for (let round = 0; round < 4; round += 1) {
        const { primary } = await world.inSync(2);
        await primary.kill();
        await world.goesOn();
        await primary.start();
      }
      await world.inSync(2);
      await world.expectNothingLost();
    });
  },
);
