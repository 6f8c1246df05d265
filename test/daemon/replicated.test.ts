// Replicated volumes as people see them: real daemons that share a real etcd, and real commands.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { ClusterPlace } from './cluster.fixture.ts';
import { type Daemon, until } from './daemon.fixture.ts';

interface Shown {
  readonly id: string;
  readonly epoch: number;
  readonly primary: string;
  readonly inSync: readonly string[];
  readonly replicas: readonly { readonly node: string; readonly role: string; readonly state: string }[];
}

let cluster: ClusterPlace;
let daemons: Daemon[];

beforeEach(async () => {
  cluster = await ClusterPlace.create();
  daemons = await cluster.startAll(['a', 'b', 'c']);
}, 60_000);
afterEach(async () => {
  await cluster.dispose();
});

test('a volume gets copies, moves, loses and regains them, leaves a node that is drained, and goes', async () => {
  const [a, b] = daemons as [Daemon, Daemon, Daemon];
  const show = (): Promise<Shown> => b.json<Shown>('volume', 'show', 'data');
  const shown = async (what: string, isSo: (volume: Shown) => boolean): Promise<Shown> => {
    const look = async (): Promise<Shown | undefined> => {
      const volume = await show();
      return isSo(volume) ? volume : undefined;
    };
    return (await until(what, look, 40_000)) as Shown;
  };

  const labels = ['storageos.com/replicas=2', 'storageos.com/failure-mode=hard', 'app=db'];
  const asked = labels.flatMap((label) => ['--label', label]);
  expect(await a.json('volume', 'create', 'data', '--size', '8MiB', ...asked)).toMatchObject({
    labels: { app: 'db' },
  });
  const made = await shown('the primary has opened it', ({ epoch }) => epoch > 1);
  expect(made).toMatchObject({ primary: 'a', inSync: ['a', 'b', 'c'], failureMode: 'hard' });
  expect(made.replicas.map(({ node, role, state }) => `${node} ${role} ${state}`).sort()).toEqual([
    'a primary inSync',
    'b secondary inSync',
    'c secondary inSync',
  ]);
  expect((await a.run('volume', 'ls')).stdout).toMatch(/\ta\/default,.*\t3 of 3$/m);
  expect(await b.json('volume', 'set-failure-mode', 'data', 'soft')).toMatchObject({ failureMode: 'soft' });

  expect(await b.json('volume', 'move', 'data', 'b')).toMatchObject({ primary: 'b' });
  const { lines } = await a.json<{ lines: { node: string; what: string }[] }>('volume', 'timeline', 'data');
  expect(lines.filter(({ what }) => what === 'role').map(({ node }) => node)).toEqual(['a', 'b']);

  const fewer = await a.run('volume', 'set-replicas', 'data', '1');
  expect(fewer.stdout).toMatch(/has its copies on b \(primary\), [ac]$|on [ac], b \(primary\)$/);
  const more = await b.run('volume', 'set-replicas', 'data', '3');
  expect([more.exitCode, more.stderr]).toEqual([
    73,
    expect.stringMatching(/nodes are needed.*holds a copy already/),
  ]);

  const drained = await a.run('node', 'drain', 'b', '--wait');
  expect([drained.exitCode, drained.stdout]).toEqual([0, expect.stringMatching(/b holds nothing any more$/)]);
  expect(await shown('two copies are in sync', ({ inSync }) => inSync.length === 2)).toMatchObject({
    inSync: ['a', 'c'],
  });
  expect(await a.json('node', 'show', 'b')).toMatchObject({ draining: true, copies: 0, primaries: 0 });
  expect(await a.json('node', 'uncordon', 'b')).toMatchObject({ draining: false, cordoned: false });

  const on = await a.json<{ maintenanceSince: string }>('cluster', 'maintenance', 'on');
  expect(on).toMatchObject({ volumes: 1, volumesDegraded: 0, maintenanceSince: expect.stringMatching(/Z$/) });
  expect(await b.json('cluster', 'maintenance', 'off')).toMatchObject({ maintenanceSince: '' });

  expect(await b.json('volume', 'delete', 'data')).toEqual({ volume: 'data', left: [] });
  expect(await a.json('volume', 'ls')).toEqual({ volumes: [] });
}, 150_000);
