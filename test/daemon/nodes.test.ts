// Nodes as people see them: real daemons that share a real etcd.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { EtcdServer } from '../control/etcd-server.ts';
import { type Daemon, until, Workplace } from './daemon.fixture.ts';

interface Listed {
  nodes: { name: string; alive: boolean; cordoned: boolean; zone: string; pools: { name: string }[] }[];
}

let place: Workplace;
let etcd: EtcdServer;
let store: string[];

beforeEach(async () => {
  place = await Workplace.create();
  etcd = await EtcdServer.start();
  store = ['--store', `etcd://${etcd.address}`];
});
afterEach(async () => {
  await place.dispose();
  await etcd.dispose();
});

async function node(name: string, ...args: string[]): Promise<Daemon> {
  return await place.serving([...store, '--node-name', name, ...args], {}, name);
}

async function alive(daemon: Daemon): Promise<string[]> {
  const { nodes } = await daemon.json<Listed>('node', 'ls');
  return nodes.filter((found) => found.alive).map(({ name }) => name);
}

test('every daemon lists all nodes, cordons any of them, and sees when one has stopped', async () => {
  const a = await node('a', '--zone', 'rack1', '--node-label', 'disk=ssd');
  const b = await node('b');
  await until('both are alive', async () => (await alive(b)).join() === 'a,b');
  await until('the pools are told', async () => (await b.json<Listed>('node', 'ls')).nodes[0]?.pools.length);
  expect(await b.json('node', 'show', 'a')).toEqual({
    name: 'a',
    id: expect.stringMatching(/^[0-9a-f]{32}$/),
    address: '',
    zone: 'rack1',
    labels: { disk: 'ssd' },
    pools: [
      {
        name: 'default',
        totalBytes: expect.any(Number),
        availableBytes: expect.any(Number),
        reserveBytes: expect.any(Number),
        overcommitRatio: 10,
        provisionedBytes: 0,
        problem: '',
      },
    ],
    version: expect.stringMatching(/^\d/),
    controlWire: { min: 1, max: 1 },
    peerWire: { min: expect.any(Number), max: expect.any(Number) },
    bootId: expect.stringMatching(/-/),
    process: expect.stringMatching(/^[0-9a-f]{32}$/),
    startedAt: expect.stringMatching(/Z$/),
    alive: true,
    lostAt: '',
    cordoned: false,
    draining: false,
    problem: '',
    copies: 0,
    primaries: 0,
  });
  expect(await b.json('node', 'cordon', 'a')).toMatchObject({ name: 'a', cordoned: true });
  expect((await a.run('node', 'ls')).stdout).toMatch(/^a\talive, cordoned\track1\t/m);
  expect(await a.json('cluster', 'status')).toMatchObject({ nodes: 2, nodesAlive: 2, nodesCordoned: 1 });
  expect((await a.run('node', 'uncordon', 'a')).stdout).toMatch(/a takes new copies/);
  expect((await a.run('node', 'show', 'c')).exitCode).toBe(66);
  await a.end('SIGTERM');
  expect(await alive(b)).toEqual(['b']);
});

test('when the daemon that does the housekeeping is killed, another does it and records the loss', async () => {
  const daemons = new Map([
    ['a', await node('a')],
    ['b', await node('b')],
  ]);
  const [a] = daemons.values();
  const leader = await until('one leads', async () => {
    const found = await a?.json<{ leader: string }>('cluster', 'status');
    return found?.leader ?? '';
  });
  const [other, survivor] = [...daemons].find(([name]) => name !== leader) ?? [];
  await until('both are alive', async () => survivor && (await alive(survivor)).join() === 'a,b');
  await daemons.get(leader)?.end('SIGKILL');
  const status = async () => survivor?.json('cluster', 'status');
  await expect.poll(status, { timeout: 30_000 }).toMatchObject({ leader: other, nodesAlive: 1 });
  await expect
    .poll(async () => survivor?.json('node', 'show', leader), { timeout: 15_000 })
    .toMatchObject({ alive: false, lostAt: expect.stringMatching(/Z$/) });
}, 60_000);

test('daemons with one key reach each other where they say; another key is refused, named and logged', async () => {
  const [key, otherKey] = [place.path('key'), place.path('other-key')];
  for (const path of [key, otherKey]) expect(await place.child(['cluster', 'keygen', path]).end()).toBe(0);
  const a = await node('a', '--listen', ':0', '--cluster-key', key);
  const b = await node('b', '--listen', ':0', '--cluster-key', key);
  await node('c', '--listen', '127.0.0.1:0', '--cluster-key', otherKey, '--advertise', '127.0.0.1:1');
  await node('d');
  const seen = async (daemon: Daemon, name: string) => {
    await until(`${name} is alive`, async () => (await alive(daemon)).includes(name));
    return await daemon.json<{ address: string; problem: string }>('node', 'show', name);
  };
  const shown = await seen(a, 'b');
  expect(shown).toMatchObject({ address: expect.stringMatching(/^127\.0\.0\.1:\d+$/), problem: '' });
  expect((await seen(a, 'c')).problem).toMatch(/"c" at 127\.0\.0\.1:1 cannot be reached/);
  expect((await seen(a, 'd')).problem).toMatch(/--listen and --cluster-key/);
  const e = await node('e', '--listen', ':0', '--cluster-key', otherKey);
  for (let i = 0; i < 2; i += 1) expect((await seen(e, 'b')).problem).toMatch(/same cluster key/);
  expect(b.log.filter(({ msg }) => msg.includes('does not hold the cluster key'))).toHaveLength(1);
  await a.end('SIGTERM');
}, 60_000);

test('a second daemon with the name of another is refused', async () => {
  await node('a');
  const second = place.daemon([...store, '--node-name', 'a'], {}, 'other');
  expect(await second.end()).toBe(76);
  expect(second.lines.at(-1)).toMatch(/node "a" (runs already|belongs to another).*--node-name/);
});

test('a single machine is a cluster of one, alive without asking anyone', async () => {
  const daemon = await place.serving();
  expect(await alive(daemon)).toEqual(['test-node']);
  const status = async () => (await daemon.run('cluster', 'status')).stdout;
  await expect
    .poll(status, { timeout: 10_000 })
    .toMatch(/^1 of 1 nodes are alive; 0 volumes\nhousekeeping: the daemon of node test-node\n/);
});
