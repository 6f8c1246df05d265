// The store is lost for good, and the disks are there: real daemons, a real etcd that goes, and another one.

import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LEASE_MS } from '../../src/replication/timing.ts';
import { ClusterPlace } from './cluster.fixture.ts';
import { type Daemon, until } from './daemon.fixture.ts';

const NODES = ['n0', 'n1', 'n2'];
const MIB = 2 ** 20;
const SERVES_MS = 60_000;

interface Shown {
  readonly id: string;
  readonly epoch: number;
  readonly primary: string;
  readonly inSync: readonly string[];
  readonly attachment: { readonly number: number };
}
interface Rebuilt {
  readonly nodes: readonly string[];
  readonly problems: readonly unknown[];
  readonly volumes: readonly {
    readonly name: string;
    readonly verdict: string;
    readonly epoch: number;
    readonly primary: string;
    readonly inSync: readonly string[];
    readonly toFill: readonly string[];
    readonly reason: string;
  }[];
}

let cluster: ClusterPlace;
beforeEach(async () => {
  cluster = await ClusterPlace.create();
});
afterEach(async () => {
  await cluster.dispose();
});

const poolOf = (name: string): string[] => ['--pool', `p=${cluster.place.path(`${name}-p`)}`];

async function start(name: string, ...args: string[]): Promise<Daemon> {
  return await cluster.start(name, ...poolOf(name), ...args);
}

async function startAll(names: readonly string[], ...args: string[]): Promise<Daemon[]> {
  return await cluster.startAll(names, (name) => [...poolOf(name), ...args]);
}

const show = async (daemon: Daemon, name: string): Promise<Shown> =>
  await daemon.json('volume', 'show', name);

async function fill(daemon: Daemon, name: string, byte: number): Promise<void> {
  const { client, command } = await cluster.connect(daemon, name);
  await client.write(0, Buffer.alloc(MIB, byte));
  await client.write(5 * MIB, Buffer.alloc(4096, byte + 1));
  client.destroy();
  await command.end('SIGTERM');
}

async function expectFilled(daemon: Daemon, name: string, byte: number): Promise<void> {
  const { client, command } = await cluster.connect(daemon, name);
  expect((await client.read(0, MIB)).equals(Buffer.alloc(MIB, byte))).toBe(true);
  expect((await client.read(5 * MIB, 4096)).equals(Buffer.alloc(4096, byte + 1))).toBe(true);
  client.destroy();
  await command.end('SIGTERM');
}

async function loseTheStore(daemons: readonly Daemon[], how: NodeJS.Signals): Promise<void> {
  for (const daemon of daemons) await daemon.end(how);
  await cluster.loseStore();
}

const untilInSync = (daemon: Daemon, name: string, count: number): Promise<unknown> =>
  until(
    `${count} copies of ${name} are in sync`,
    async () => (await show(daemon, name)).inSync.length === count,
    SERVES_MS,
  );

test('with all disks there the volumes are back, with their data, above every epoch and attachment; a store that has volumes is refused', async () => {
  const before = await startAll(NODES);
  const [a] = before as [Daemon];
  await a.json('volume', 'create', 'three', '--size', '8MiB', '--replicas', '2', '--failure-mode', 'hard');
  await a.json('volume', 'create', 'one', '--size', '8MiB');
  await fill(a, 'three', 1);
  await fill(a, 'one', 3);
  await untilInSync(a, 'three', 3);
  const old = await show(a, 'three');
  await loseTheStore(before, 'SIGKILL');

  const after = await startAll(NODES, '--accept-store', 'any');
  const [first, second] = after as [Daemon, Daemon];
  const dry = await first.json<Rebuilt>('cluster', 'rebuild-catalog', '--dry-run');
  expect(dry).toMatchObject({ nodes: NODES, problems: [] });
  const verdicts = new Map(dry.volumes.map(({ name, verdict }) => [name, verdict]));
  expect(verdicts).toEqual(
    new Map([
      ['one', 'inSync'],
      ['three', 'inSync'],
    ]),
  );
  expect(await first.json('volume', 'ls')).toEqual({ volumes: [] });
  const tooFew = await first.run('cluster', 'rebuild-catalog', '--nodes', '4');
  expect(tooFew).toMatchObject({ exitCode: 76, stderr: expect.stringContaining('3 of 4 nodes') });
  expect(await first.json('volume', 'ls')).toEqual({ volumes: [] });

  const done = await first.json<Rebuilt>('cluster', 'rebuild-catalog', '--nodes', '3');
  expect(done.volumes).toHaveLength(2);
  const three = await show(second, 'three');
  expect(three.id).toBe(old.id);
  expect(three.epoch).toBeGreaterThan(old.epoch);
  expect(three.attachment.number).toBeGreaterThan(old.attachment.number);
  await expectFilled(second, 'three', 1);
  await expectFilled(first, 'one', 3);
  await untilInSync(first, 'three', 3);

  const again = await first.run('cluster', 'rebuild-catalog');
  expect(again).toMatchObject({ exitCode: 76, stderr: expect.stringContaining('has 2 volumes') });
}, 300_000);

test('a volume whose newest copy is on a node that is away waits for it, and is back with that node', async () => {
  const before = await startAll(['n0', 'n1']);
  const [a, b] = before as [Daemon, Daemon];
  await a.json('volume', 'create', 'two', '--size', '8MiB', '--replicas', '1', '--failure-mode', 'soft');
  await fill(a, 'two', 1);
  const { primary } = await show(a, 'two');
  const [stays, goes] = primary === 'n0' ? [a, b] : [b, a];
  await goes.end('SIGKILL');
  await untilInSync(stays, 'two', 1);
  await fill(stays, 'two', 7);
  await loseTheStore([stays], 'SIGTERM');

  // The stale one comes first.
  const [stale, newest] = primary === 'n0' ? ['n1', 'n0'] : ['n0', 'n1'];
  const other = await start(stale, '--accept-store', 'any');
  const { volumes } = await other.json<Rebuilt>('cluster', 'rebuild-catalog');
  expect(volumes).toMatchObject([
    { name: 'two', verdict: 'waitsForNode', primary: newest, inSync: [], toFill: [stale] },
  ]);
  expect(volumes[0]?.reason).toContain(`node "${newest}"`);

  await start(newest, '--accept-store', 'any');
  const next = await other.json<Rebuilt>('cluster', 'rebuild-catalog', '--nodes', '2');
  expect(next.volumes).toMatchObject([{ name: 'two', verdict: 'inSync', inSync: [newest], toFill: [stale] }]);
  await expectFilled(other, 'two', 7);
  await untilInSync(other, 'two', 2);
  const again = await other.run('cluster', 'rebuild-catalog');
  expect(again).toMatchObject({ exitCode: 76, stderr: expect.stringContaining('has 1 volumes') });
}, 300_000);

test('where the disks cannot tell which copy holds everything nobody serves before a person has decided', async () => {
  const before = await startAll(NODES);
  const [a] = before as [Daemon];
  await a.json('volume', 'create', 'three', '--size', '8MiB', '--replicas', '2');
  await fill(a, 'three', 1);
  await untilInSync(a, 'three', 3);
  await loseTheStore(before, 'SIGKILL');

  const left = await start('n0', '--accept-store', 'any');
  const { volumes } = await left.json<Rebuilt>('cluster', 'rebuild-catalog');
  expect(volumes).toMatchObject([{ name: 'three', verdict: 'waitsForPerson', inSync: [] }]);
  expect(volumes[0]?.reason).toContain('2 copies of the newest in-sync set were not found');
  await delay(LEASE_MS + 1000);
  const { stdout } = await left.run('volume', 'explain', 'three');
  expect(stdout).toContain('do not tell which copy holds everything');

  await left.json('volume', 'promote', 'three', 'n0', '--lose-writes');
  await expectFilled(left, 'three', 1);
}, 300_000);
