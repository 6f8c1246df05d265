// What the data plane counts for the metrics, in clusters of real storages.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { LatencyCounts } from '../../src/dataplane/latency.ts';
import type { VolumeThreadSample } from '../../src/dataplane/thread-sample.ts';
import { Failovers } from '../../src/control/failovers.ts';
import { CMD, NbdClient } from '../support/nbd-client.ts';
import { DataPlanes } from './cluster-support.ts';

const DEADLINE_MS = 5000;
let directory: string;
let planes: DataPlanes;
const clients: NbdClient[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-samples-'));
  planes = await DataPlanes.start(directory, 3, 'buffered');
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await planes[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

async function sample(node: number, volumeId: string): Promise<VolumeThreadSample | undefined> {
  const threads = await planes.node(node).storage.sampleThreads(DEADLINE_MS);
  return threads.flatMap((thread) => thread?.volumes ?? []).find((volume) => volume.volumeId === volumeId);
}

function countOf({ buckets }: LatencyCounts): number {
  return buckets.reduce((sum, count) => sum + count, 0);
}

async function connect(path: string, name: string): Promise<NbdClient> {
  const client = await NbdClient.connect(path, name);
  clients.push(client);
  return client;
}

test('each layer counts what went through it: the user, the way to the primary, every data file, every copy', async () => {
  const record = await planes.createVolume([0, 1], 2);
  const client = await connect(await planes.export(record, 2), record.name);
  for (let at = 0; at < 5; at++) await client.write(at * 4096, Buffer.alloc(4096, 1));
  for (let at = 0; at < 3; at++) await client.read(at * 4096, 4096);
  expect((await client.request({ type: CMD.flush })).error).toBe(0);

  const used = await sample(2, record.id);
  const asked = { reads: 3, readBytes: 3 * 4096, writes: 5, writeBytes: 5 * 4096, flushes: 1, errors: 0 };
  expect(used?.frontend?.counts).toMatchObject(asked);
  expect(used?.frontend?.network).toMatchObject(asked);
  expect(used?.frontend?.stalledMs).toBe(0);
  expect(countOf(used?.frontend?.counts.latency ?? never())).toBe(9);
  expect(countOf(used?.frontend?.network?.latency ?? never())).toBe(9);
  expect(used?.backend).toBeUndefined();

  const primary = await sample(0, record.id);
  expect(primary?.frontend).toBeUndefined();
  expect(primary?.backend).toMatchObject({ reads: 3, writes: 5, writeBytes: 5 * 4096, errors: 0 });
  expect(primary?.replica).toMatchObject({ isPrimary: true, inSyncCount: 2, replicaCount: 2 });
  const [stream] = primary?.replica?.streams ?? [];
  expect(stream).toMatchObject({
    replicaId: planes.replicaId(1),
    writes: 5,
    writeBytes: 5 * 4096,
    errors: 0,
  });
  expect(countOf(stream?.latency ?? never())).toBe(5);
  expect(stream?.latency.sumMs).toBeGreaterThanOrEqual(0);

  const secondary = await sample(1, record.id);
  expect(secondary?.backend).toMatchObject({ reads: 0, writes: 5, writeBytes: 5 * 4096 });
  expect(secondary?.replica).toMatchObject({ isPrimary: false, streams: [], degradedMs: 0 });
}, 30_000);

test('a primary on the same node is reached without the network', async () => {
  const record = await planes.createVolume([0, 1], 0);
  const client = await connect(await planes.export(record, 0), record.name);
  await client.write(0, Buffer.alloc(8192, 1));
  const found = await sample(0, record.id);
  expect(found?.frontend?.counts).toMatchObject({ writes: 1, writeBytes: 8192 });
  expect(found?.frontend?.network).toMatchObject({ writes: 0, writeBytes: 0 });
}, 30_000);

test('the time without a copy is degraded time, and what brings it back is counted as resync', async () => {
  const record = await planes.createVolume([0, 1], 0);
  const client = await connect(await planes.export(record, 0), record.name);
  await client.write(0, Buffer.alloc(4096, 1));
  const { cluster } = planes.node(1).storage;
  await cluster.closeReplica(record.id);
  await planes.untilInSync(record.id, [0]);
  await client.write(2 ** 20, Buffer.alloc(128 * 1024, 2));
  await sleep(500);
  const alone = (await sample(0, record.id))?.replica;
  expect(alone).toMatchObject({ inSyncCount: 1, replicaCount: 2 });
  expect(alone?.degradedMs).toBeGreaterThanOrEqual(400);

  await cluster.openReplica(record.id);
  await planes.untilInSync(record.id, [0, 1]);
  await planes.until('the primary knows that both are in sync', async () => {
    return (await sample(0, record.id))?.replica?.inSyncCount === 2;
  });
  const whole = (await sample(0, record.id))?.replica;
  expect(whole?.view.others[0]?.resyncBytesSent).toBeGreaterThanOrEqual(128 * 1024);
  await sleep(300);
  expect((await sample(0, record.id))?.replica?.degradedMs).toBe(whole?.degradedMs);
}, 30_000);

test('requests that no primary may answer are stalled time, and the takeover is a failover with its phases', async () => {
  const record = await planes.createVolume([0, 1], 2);
  const client = await connect(await planes.export(record, 2), record.name);
  await client.write(0, Buffer.alloc(4096, 1));
  // From here on nobody answers for node 0, whose daemon cannot tell anybody that it goes.
  const { listener } = planes.node(0);
  listener.close();
  await planes.node(0).storage.cluster.closeReplica(record.id);
  await client.write(0, Buffer.alloc(4096, 2));
  const found = await sample(2, record.id);
  expect(found?.frontend?.counts).toMatchObject({ writes: 2, errors: 0 });
  expect(found?.frontend?.stalledMs).toBeGreaterThan(1000);
  expect(countOf(found?.frontend?.counts.latency ?? never())).toBe(2);
  expect(found?.frontend?.counts.latency.sumMs).toBeGreaterThan(1000);

  await planes.until('the new primary has made the copies equal', async () =>
    planes.events.some(({ type, node }) => type === 'reconciled' && node === 'n1'),
  );
  const failovers = new Failovers();
  for (const event of planes.events.filter(({ node }) => node === 'n1')) failovers.note(event);
  expect([...failovers.counts]).toEqual([[record.id, 1]]);
  const ended = failovers.phases.map(({ durations }) => durations.buckets.reduce((sum, n) => sum + n, 0));
  expect(ended).toEqual([1, 1, 1, 1]);
  const story = planes.events.filter(({ type, node }) => node === 'n1' || type === 'firstIo');
  const steps = ['suspected', 'leaseOver', 'role', 'reconciled', 'firstIo'];
  expect(story.map(({ type }) => type).filter((type) => steps.includes(type))).toEqual(steps);
  expect(story.find(({ type }) => type === 'firstIo')).toMatchObject({
    node: 'n2',
    fromNode: 'n0',
    toNode: 'n1',
  });
  // From the last word of the old primary on, which is before anybody missed it.
  expect((await sample(1, record.id))?.replica?.degradedMs).toBeGreaterThan(1000);
}, 30_000);

function never(): never {
  throw new Error('it was not sampled');
}
