// The primary's daemon stands still for half a minute, as in a machine that is paused, and goes on: at any moment, and
// exactly before and after it looks at its lease. Needs root, for the network.
//
// What its lease is for: its former user, on the same node, reads on while another node overwrites. Once it knows that the
// links to its members are gone another rule keeps it from answering, and links do not outlast half a minute of silence:
// that rule is off where the lease is shown to be enough, and to be needed.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Rule } from '../../src/replication/rules.ts';
import { until } from '../daemon/daemon.fixture.ts';
import type { Place } from './changed-daemon.ts';
import { type ClusterNode, TestCluster } from './cluster.ts';
import { NODES, VolumeUnderLoad } from './volume-under-load.ts';

const MASK: Rule = 'epochKeptBeforeAck';
const STANDSTILL_MS = 30_000;
/** A node's lease, and room. */
const LOST_MS = 120_000;
/** Longer than a primary takes to find that its members are silent. */
const ALONE_MS = 4000;
const READS = { read: 1, write: 0, fua: 0, flush: 0, zeroes: 0 };

describe.skipIf(process.geteuid?.() !== 0)('a primary that stands still for 30 s (needs root)', () => {
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    world = await start();
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await world.settle();
    await world.leave();
  });

  test.each(['before', 'after'] as const)(
    'right %s it looks at its lease costs its client a pause and nothing else',
    async (place) => {
      const { primary, others } = await world.inSync(2);
      await world.begin(world.withoutCopy);
      const goOn = await standStill(primary, place);
      await world.goesOn();
      expect((await world.show()).primary).toBe(others[0]?.name);
      await goOn();
      await world.goesOn();
      await world.inSync(2);
      await world.expectNothingLost();
    },
  );

  test('answers nothing old to its former user, while another node writes', async () => {
    await useElsewhere(world, undefined);
    await world.inSync(2);
    await world.expectNothingLost();
  });
});

describe.skipIf(process.geteuid?.() !== 0)('a primary that has only its lease to go by (needs root)', () => {
  test.each(['before', 'after'] as const)(
    'answers nothing old when it has stood still for 30 s right %s it looked',
    async (place) => {
      await using world = await start(MASK);
      await useElsewhere(world, place);
      await world.inSync(2);
      await world.expectNothingLost();
    },
  );

  test('answers what was overwritten while it stood still when it does not look', async () => {
    await using world = await start(MASK, 'leaseCheckedAtReply');
    await useElsewhere(world, 'before');
    expect(world.history.complaints).not.toEqual([]);
  });
});

async function start(...brokenRules: readonly Rule[]): Promise<VolumeUnderLoad> {
  const cluster = await TestCluster.start({ nodes: NODES, changes: { brokenRules } });
  return await VolumeUnderLoad.of(cluster, '--replicas', '1');
}

/** What is returned lets it go on when it has stood still for long enough. */
async function standStill(primary: ClusterNode, place: Place | undefined): Promise<() => Promise<void>> {
  if (place === undefined) primary.freeze();
  else await primary.freezeAt(place);
  const sinceMs = performance.now();
  return async () => {
    await sleep(Math.max(0, STANDSTILL_MS - (performance.now() - sinceMs)));
    primary.thaw();
  };
}

/**
 * The node that has the primary and the user stands still, and the volume is used on the other one, where a client
 * writes. The former client asks on. Its daemon goes on, and is alone for a while.
 */
async function useElsewhere(world: VolumeUnderLoad, place: Place | undefined): Promise<void> {
  const { primary, others } = await world.inSync(2);
  const [next] = others;
  if (next === undefined) throw new Error('there are two copies');
  await world.begin(primary);
  const [former, formerLoad] = [world.client, world.load];
  const goOn = await standStill(primary, place);
  // At once: what waits in its sockets when it goes on would tell it everything.
  await world.cluster.network.isolate(primary.name);
  // A person says that its user is gone; the store has to find it silent, too.
  const takenBack = async (): Promise<boolean> =>
    (await next.run('volume', 'detach', 'data', '--force')).exitCode === 0;
  await until('the volume is taken back', takenBack, LOST_MS);
  await world.begin(next);
  world.history.writerFenced(former.writer);
  await world.goesOn();
  // They wait in the socket of a daemon that does nothing.
  const readers = former.load({ depth: 8, thinkMs: 5, mix: READS });
  await goOn();
  await sleep(ALONE_MS);
  await world.goesOn();
  await world.cluster.network.heal();
  await world.goesOn();
  // What it asked for fails or never ends. What it is answered all the same is judged with the rest.
  former.abandon();
  await Promise.all([formerLoad, readers].map((load) => load.stop()));
}
