import { expect, test } from 'vitest';
import { Timelines } from '../../src/control/timeline.ts';

let ms = 0;
const timelines = (): Timelines => new Timelines(() => new Date((ms += 1)));

test('a failover is told in the order in which it was seen, with the copy and the epoch of each step', () => {
  const seen = timelines();
  seen.note({ volumeId: 'v', type: 'suspected', replicaId: 'r1', silentMs: 1200 });
  seen.note({ volumeId: 'v', type: 'leaseOver', replicaId: 'r1' });
  seen.note({ volumeId: 'v', type: 'role', role: 'primary', epoch: 8 });
  seen.note({ volumeId: 'v', type: 'reconciled', epoch: 8, bytes: 4096 });
  seen.note({ volumeId: 'w', type: 'memberSilent', replicaId: 'r2' });
  expect(seen.of('v').map(({ what, text }) => [what, text])).toEqual([
    ['suspected', expect.stringMatching(/primary r1 .*1200 ms/)],
    ['leaseOver', expect.stringMatching(/lease of the primary r1 is over.*takes over/)],
    ['role', expect.stringMatching(/primary .*epoch 8/)],
    ['reconciled', expect.stringMatching(/4096 bytes .*epoch 8/)],
  ]);
  const times = seen.of('v').map(({ at }) => at);
  expect(times).toEqual([...times].sort());
  expect(seen.of('unknown')).toEqual([]);
});

test('of a resync the newest word is kept', () => {
  const seen = timelines();
  for (const bytesLeft of [300, 200, 100])
    seen.note({ volumeId: 'v', type: 'resync', replicaId: 'r2', bytesLeft });
  seen.note({ volumeId: 'v', type: 'memberAdded', replicaId: 'r2', epoch: 9 });
  expect(seen.of('v').map(({ text }) => text)).toEqual([
    expect.stringMatching(/^100 bytes/),
    expect.stringMatching(/joined/),
  ]);
});

test('the newest of each volume are kept, and the volume that was quiet for longest is forgotten first', () => {
  const seen = timelines();
  for (let epoch = 1; epoch <= 500; epoch += 1) {
    seen.note({ volumeId: 'busy', type: 'memberAdded', replicaId: 'r', epoch });
    for (let each = 0; each < 5; each += 1)
      seen.note({ volumeId: `v${epoch}-${each}`, type: 'memberAdded', replicaId: 'r', epoch });
  }
  expect(seen.of('busy')).toHaveLength(200);
  expect(seen.of('busy').at(-1)?.text).toMatch(/epoch 500/);
  expect(seen.of('v1-0')).toEqual([]);
  expect(seen.of('v500-4')).toHaveLength(1);
});

test('the last good answer before a pause stands where it belongs, although it is known only afterwards', () => {
  const seen = new Timelines(() => new Date((ms += 1000)));
  seen.note({ volumeId: 'v', type: 'suspected', replicaId: 'r1', silentMs: 1200 });
  seen.note({ volumeId: 'v', type: 'role', role: 'primary', epoch: 8 });
  seen.note({ volumeId: 'v', type: 'firstIo', fromNode: 'a', toNode: 'b', pauseMs: 2500 });
  expect(seen.of('v').map(({ what, text }) => [what, text])).toEqual([
    ['lastIo', expect.stringMatching(/last good answer .*node "a"/)],
    ['suspected', expect.anything()],
    ['role', expect.anything()],
    ['firstIo', expect.stringMatching(/first good answer .*node "b", 2500 ms after/)],
  ]);
});
