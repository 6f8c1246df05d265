import { expect, test } from 'vitest';
import { FRAME_HELLO, FRAME_REFUSED } from '../../src/replication/frames.ts';
import { FAILED_RETRY_MS, TICK_MS } from '../../src/replication/timing.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

test('a copy that stays busy is asked at every tick for a while, then less and less often, and at once again after a Welcome', () => {
  const world = new ReplicaWorld({
    config: {
      failureMode: 'hard',
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      inSync: [OWN, OTHER].map((replicaId) => ({ replicaId, incarnation: null })),
    },
  });
  const asked = (): number => world.sent.filter(({ type }) => type === FRAME_HELLO).length;
  const askedWithin = (milliseconds: number): number => {
    const before = asked();
    world.pass(milliseconds);
    return asked() - before;
  };
  const isBusy = (link: number): void =>
    world.replica.control(link, FRAME_REFUSED, { reason: 'busy', epoch: 0 });
  world.onHello = isBusy;
  expect(askedWithin(5 * TICK_MS)).toBeGreaterThanOrEqual(4);
  world.pass(30_000);
  expect(askedWithin(60_000)).toBeLessThanOrEqual(60_000 / FAILED_RETRY_MS);
  world.onHello = () => world.welcomeStream();
  world.pass(2 * FAILED_RETRY_MS);
  world.onHello = isBusy;
  world.breakLink(world.linkTo(OTHER));
  expect(askedWithin(5 * TICK_MS)).toBeGreaterThanOrEqual(4);
});
