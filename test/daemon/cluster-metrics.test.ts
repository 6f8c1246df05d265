// What Prometheus sees of a replicated volume: the pages of real daemons that share a real etcd.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { ClusterPlace } from './cluster.fixture.ts';
import { type Daemon, until } from './daemon.fixture.ts';

let cluster: ClusterPlace;
beforeEach(async () => {
  cluster = await ClusterPlace.create();
});
afterEach(async () => {
  await cluster.dispose();
});

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
  const names = ['n0', 'n1', 'n2'];
  const daemons = await cluster.startAll(names, () => ['--metrics', '127.0.0.1:0']);
  const at = (name: string): Daemon => daemons[names.indexOf(name)] as Daemon;
  await at('n0').json('volume', 'create', 'data', '--size', '8MiB', '--replicas', '1');
  const { replicas } = await at('n0').json<{ replicas: { node: string }[] }>('volume', 'show', 'data');
  const holders = replicas.map(({ node }) => node);
  const user = ['n0', 'n1', 'n2'].find((name) => !holders.includes(name)) ?? '';
  const { client, command } = await cluster.connect(at(user), 'data');
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
  for (const phase of ['suspicion', 'lease', 'promotion', 'reconciliation'])
    expect(await metric(at(other), 'holdfast_failover_duration_seconds_count', `phase="${phase}"`)).toBe(1);
  const { lines } = await at(user).json<{ lines: { node: string; what: string }[] }>(
    'volume',
    'timeline',
    'data',
  );
  const failover = lines.slice(lines.findLastIndex(({ what }) => what === 'lastIo'));
  expect(failover.map(({ node, what }) => `${node} ${what}`)).toEqual([
    `${user} lastIo`,
    `${other} suspected`,
    `${other} leaseOver`,
    `${other} role`,
    `${other} reconciled`,
    `${user} firstIo`,
  ]);
  expect(await metric(at(other), 'holdfast_volume_in_sync_replicas')).toBe(1);
  expect(await metric(at(other), 'holdfast_volume_replicas')).toBe(2);
  // From the last word of the old primary on: the whole pause is in it.
  expect(await metric(at(other), 'holdfast_volume_degraded_seconds_total')).toBeGreaterThan(2.5);
  expect(await metric(at(user), 'holdfast_volume_stalled_seconds_total')).toBeGreaterThan(1);
  client.destroy();
  await command.end('SIGTERM');
}, 240_000);
