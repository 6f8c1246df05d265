import { expect, test } from 'vitest';
import { Failovers } from '../../src/control/failovers.ts';
import type { ReplicaEvent } from '../../src/replication/ports.ts';

function world() {
  let nowMs = 1000;
  const failovers = new Failovers(() => nowMs);
  const says = (afterMs: number, event: ReplicaEvent): void => {
    nowMs += afterMs;
    failovers.note({ volumeId: 'v', ...event });
  };
  /** How often each phase was counted, and its time in all. */
  const phases = () =>
    Object.fromEntries(
      failovers.phases.map(({ phase, durations: { buckets, sumMs } }) => [
        phase,
        [buckets.reduce((sum, count) => sum + count, 0), sumMs],
      ]),
    );
  return { failovers, says, phases };
}

const suspected: ReplicaEvent = { type: 'suspected', replicaId: 'r1', silentMs: 1250 };
const leaseOver: ReplicaEvent = { type: 'leaseOver', replicaId: 'r1' };
const serves: ReplicaEvent = { type: 'role', role: 'primary', epoch: 8 };
const reconciled: ReplicaEvent = { type: 'reconciled', epoch: 8, bytes: 0 };

test('a failover is counted once, with the time of each of its phases', () => {
  const { failovers, says, phases } = world();
  says(0, suspected);
  says(1800, leaseOver);
  says(40, serves);
  says(7, reconciled);
  expect([...failovers.counts]).toEqual([['v', 1]]);
  expect(phases()).toEqual({
    suspicion: [1, 1250],
    lease: [1, 1800],
    promotion: [1, 40],
    reconciliation: [1, 7],
  });
});

test('a promotion that is proposed again began with the first', () => {
  const { says, phases } = world();
  says(0, suspected);
  says(1800, leaseOver);
  says(500, leaseOver);
  says(40, serves);
  expect(phases()).toMatchObject({ lease: [1, 1800], promotion: [1, 540], reconciliation: [0, 0] });
});

test('what another copy wins, a handover and the opening of the same primary count for nothing', () => {
  const { failovers, says, phases } = world();
  says(0, suspected);
  says(1800, leaseOver);
  says(700_000, suspected);
  says(20, serves);
  says(20, reconciled);
  says(1000, serves);
  says(20, reconciled);
  expect(failovers.counts.size).toBe(0);
  expect(
    Object.values(phases())
      .flat()
      .every((value) => value === 0),
  ).toBe(true);
});

test('a volume that is gone is forgotten', () => {
  const { failovers, says } = world();
  says(0, suspected);
  says(1800, leaseOver);
  says(40, serves);
  failovers.forget('v');
  expect(failovers.counts.size).toBe(0);
});
