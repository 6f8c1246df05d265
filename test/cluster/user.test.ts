// What becomes of a volume whose user goes: cut off and alive, while the volume is used on another node, or killed with
// everybody else. Needs root, for the network.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';
import { VolumeUnderLoad } from './volume-under-load.ts';

/** A node's lease, and room. */
const LOST_MS = 60_000;
const READS = { read: 1, write: 0, fua: 0, flush: 0, zeroes: 0 };

describe.skipIf(process.geteuid?.() !== 0)('a volume of two copies (needs root)', () => {
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    world = await VolumeUnderLoad.start('--replicas', '1');
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await world.settle();
    await world.leave();
  });

  test.each([
    ['the first one is cut off', false],
    ['the first one is cut off, which has the primary', true],
  ])(
    'is used on another node while %s: nothing of the first changes it, and it reads nothing old',
    async (_, withPrimary) => {
      const { primary, others } = await world.inSync(2);
      await world.begin(withPrimary ? primary : world.withoutCopy);
      const former = world.user;
      const [formerClient, formerLoad] = [world.client, world.load];
      await world.cluster.network.isolate(former.name);
      // Those that only read, since the others soon wait for writes.
      const readers = formerClient.load({ depth: 2, thinkMs: 5, mix: READS });
      const next = withPrimary ? others[0] : primary;
      if (next === undefined) throw new Error('there are two copies');
      // A person says that it is gone; the store has to find it silent, too.
      const takenBack = async (): Promise<boolean> =>
        (await next.run('volume', 'detach', 'data', '--force')).exitCode === 0;
      await until('the volume is taken back', takenBack, LOST_MS);
      await world.begin(next);
      world.history.writerFenced(formerClient.writer);
      await world.goesOn();
      await world.cluster.network.heal();
      await world.goesOn();
      // Its requests fail or never end. What it is answered all the same is judged with the rest.
      formerClient.abandon();
      await Promise.all([formerLoad, readers].map((load) => load.stop()));
      await world.inSync(2);
      await world.expectNothingLost();
    },
  );

  test('has everything that was acknowledged when all daemons are killed at once', async () => {
    await world.begin();
    await world.inSync(2);
    await world.goesOn();
    for (const node of world.cluster.nodes) node.daemon.process.kill('SIGKILL');
    const { errors } = await world.load.ended;
    expect(errors).toEqual(new Map());
    await world.leave();
    for (const node of world.cluster.nodes) await node.restart();
    await world.begin();
    await world.inSync(2);
    await world.expectNothingLost();
  });
});
