// What Prometheus sees of a replicated volume: the pages of real daemons that share a real etcd.

import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EtcdServer } from '../control/etcd-server.ts';
import { NbdClient } from '../support/nbd-client.ts';
import { type Daemon, holdfast, until, Workplace } from './daemon.fixture.ts';

const SERVES_MS = 60_000;
let place: Workplace;
let etcd: EtcdServer;
let key: string;

beforeEach(async () => {
  place = await Workplace.create();
  etcd = await EtcdServer.start();
  key = join(place.directory, 'key');
  await holdfast('', 'cluster', 'keygen', key);
});
afterEach(async () => {
  await place.dispose();
  await etcd.dispose();
});

async function start(name: string): Promise<Daemon> {
  const own = ['--node-name', name, '--store', `etcd://${etcd.address}`, '--threads', '1'];
  const listen = ['--cluster-key', key, '--listen', '127.0.0.1:0', '--metrics', '127.0.0.1:0'];
  return await place.serving([...own, ...listen], {}, name);
}

/** The value of the only series of that name with these labels; undefined: there is none. */
async function metric(daemon: Daemon, name: string, labels = 'volume="data"'): Promise<number | undefined> {
  const port = daemon.log.find(({ msg }) => msg === 'serving metrics')?.port;
  const text = await (await fetch(`http://127.0.0.1:${String(port)}/metrics`)).text();
  const found = text.split('\n').filter((line) => line.startsWith(`${name}{`) && line.includes(labels));
  expect(found.length).toBeLessThanOrEqual(1);
  return found[0] === undefined ? undefined : Number(found[0].split(' ').at(-1));
}

async function primaryOf(daemon: Daemon): Promise<string> {
  return (await daemon.json<{ primary: string }>('volume', 'show', 'data')).primary;
}

test('the user, the primary and a failover are on the pages of those who see them', async () => {
  const daemons = new Map<string, Daemon>();
  for (const name of ['n0', 'n1', 'n2']) daemons.set(name, await start(name));
  const at = (name: string): Daemon => daemons.get(name) as Daemon;
  await until('all are alive', async () => {
    const { nodes } = await at('n0').json<{ nodes: { alive: boolean }[] }>('node', 'ls');
    return nodes.filter(({ alive }) => alive).length === 3;
  });
  await at('n0').json('volume', 'create', 'data', '--size', '8MiB', '--replicas', '1');
  const { replicas } = await at('n0').json<{ replicas: { node: string }[] }>('volume', 'show', 'data');
  const holders = replicas.map(({ node }) => node);
  const user = ['n0', 'n1', 'n2'].find((name) => !holders.includes(name)) ?? '';
  const path = join(at(user).dataDir, 'data.sock');
  const command = place.child(['volume', 'export', 'data', '--unix', path, '--json', '--api', at(user).api]);
  await until('it is exported', () => command.lines.length > 0, SERVES_MS);
  const client = await NbdClient.connect(path, 'data');
  for (let index = 0; index < 4; index++) await client.write(index * 8192, Buffer.alloc(8192, 1));

  expect(await metric(at(user), 'holdfast_volume_frontend_writes_total')).toBe(4);
  expect(await metric(at(user), 'holdfast_volume_network_write_bytes_total')).toBe(4 * 8192);
  expect(await metric(at(user), 'holdfast_volume_frontend_duration_seconds_count')).toBe(4);
  expect(await metric(at(user), 'holdfast_volume_backend_writes_total')).toBeUndefined();
  const first = await primaryOf(at(user));
  const other = holders.find((name) => name !== first) ?? '';
  expect(await metric(at(first), 'holdfast_volume_backend_writes_total')).toBe(4);
  expect(await metric(at(first), 'holdfast_volume_in_sync_replicas')).toBe(2);
  expect(await metric(at(first), 'holdfast_replica_writes_total', `replica_node="${other}"`)).toBe(4);
  expect(await metric(at(first), 'holdfast_replica_write_duration_seconds_count')).toBe(4);
  expect(await metric(at(other), 'holdfast_volume_in_sync_replicas')).toBeUndefined();
  expect(await metric(at(other), 'holdfast_replica_state', 'state="following"')).toBe(1);

  await at(first).end('SIGKILL');
  await client.write(0, Buffer.alloc(8192, 2));
  await until('the failover is counted', async () => {
    return (await metric(at(other), 'holdfast_volume_failovers_total')) === 1;
  });
  expect(await metric(at(other), 'holdfast_failover_duration_seconds_count', 'phase="promotion"')).toBe(1);
  expect(await metric(at(other), 'holdfast_volume_in_sync_replicas')).toBe(1);
  expect(await metric(at(other), 'holdfast_volume_replicas')).toBe(2);
  await until('it is degraded', async () => {
    return ((await metric(at(other), 'holdfast_volume_degraded_seconds_total')) ?? 0) > 0;
  });
  expect(await metric(at(user), 'holdfast_volume_stalled_seconds_total')).toBeGreaterThan(1);
  client.destroy();
  await command.end('SIGTERM');
}, 240_000);
