import { expect, test } from 'vitest';
import { handOver } from '../../src/replication/config.ts';
import { WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

const ENOSPC = 28;

test('copies that all refuse a write do not send the place of the primary round and round', () => {
  const world = new ReplicaWorld({
    config: {
      failureMode: 'hard',
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [
        { replicaId: OWN, incarnation: null },
        { replicaId: OTHER, incarnation: null },
      ],
    },
  });
  world.onHello = () => world.welcomeStream();
  world.pass(1000);
  world.isEmpty = true;
  world.ownWrites = ENOSPC;
  world.otherWrites = ENOSPC;
  const left: number[] = [];
  let link: number | undefined;
  for (const startMs = world.nowMilliseconds; world.nowMilliseconds < startMs + 120_000; ) {
    if (world.stored.config.primary.replicaId === OTHER) {
      // The other one has failed to write it as well, and gives the place back at once.
      left.push(world.nowMilliseconds - startMs);
      world.changeStored((config) => handOver(config, OWN, world.replica.offeredOpening, false));
      link = undefined;
    } else if (world.replica.primary?.isServing === true && link === undefined) {
      link = world.openSession(left.length + 1);
      world.request(link, 1, WRITE, 0, 4096);
    }
    world.pass(100);
  }
  expect(left.length).toBeGreaterThanOrEqual(1);
  expect(left.length).toBeLessThanOrEqual(8);

  // There is room on the other one: it takes the write, and the place.
  expect(world.stored.config.primary.replicaId).toBe(OWN);
  world.otherWrites = 0;
  for (let at = 0; at < 650 && world.stored.config.primary.replicaId === OWN; at++) world.pass(100);
  expect(world.stored.config.primary.replicaId).toBe(OTHER);
});
