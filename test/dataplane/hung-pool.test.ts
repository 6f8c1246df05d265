// One pool's disk hangs and another's does not: a frozen ext4 beside a sound directory, both buffered.
// Needs root for losetup, mount and fsfreeze.

import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { FrozenFileSystem } from '../support/frozen-file-system.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { CMD, NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const STUCK_AFTER_MS = 400;
const DEADLINE_MS = 4000;
const VOLUMES = { hung: 'aa'.repeat(16), sound: 'bb'.repeat(16) };
type PoolName = keyof typeof VOLUMES;

let directory = '';
let disk: FrozenFileSystem;
let storage: Storage;
let volumes: LoneVolumes;
const clients: NbdClient[] = [];
let events: string[] = [];

beforeAll(async () => {
  directory = await mkdtemp('/var/tmp/holdfast-hung-pool-');
  disk = await FrozenFileSystem.create(directory);
});

afterAll(async () => {
  await disk.dispose();
  await rm(directory, { recursive: true, force: true });
});

afterEach(async () => {
  await disk.thaw();
  for (const client of clients.splice(0)) client.destroy();
  for (const pool of ['hung', 'sound'] as const) {
    await volumes.close(VOLUMES[pool]);
    await storage.deleteReplica(VOLUMES[pool], pool);
  }
  await storage.close();
});

async function start(threadCount: number, answerDeadlineMs?: number): Promise<void> {
  events = [];
  const directories = { hung: join(disk.directory, 'pool'), sound: join(directory, 'sound') };
  const pool = (name: PoolName) => ({
    name,
    directory: directories[name],
    ioMode: 'buffered' as const,
    reserveBytes: 0,
    overcommitRatio: 10,
  });
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    pools: [pool('hung'), pool('sound')],
    threadCount,
    busyPollMicros: 0,
    stuckAfterMs: STUCK_AFTER_MS,
    answerDeadlineMs,
    testFaults: new Set(),
    onEvent: () => undefined,
    onHungDisk: (pools, isOver) => events.push(`${pools.join()} ${isOver ? 'answers' : 'hangs'}`),
    onDeath: (error) => events.push(error.message),
  });
  volumes = await LoneVolumes.join(storage);
}

function create(pool: PoolName, volumeId = VOLUMES[pool]): Promise<void> {
  return storage.createReplica({
    volumeId,
    volumeName: pool,
    replicaId: volumeId,
    pool,
    sizeBytes: 8 * MIB,
    lineage: volumeId,
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
}

const open = (pool: PoolName) => volumes.open(VOLUMES[pool]);

async function serve(pool: PoolName): Promise<NbdClient> {
  const volumeId = VOLUMES[pool];
  await create(pool);
  await open(pool);
  const { path } = await storage.exportUnix(volumeId, pool, join(directory, `${pool}.sock`));
  const client = await NbdClient.connect(path, pool);
  clients.push(client);
  return client;
}

async function until(what: () => boolean): Promise<void> {
  for (let waitedMs = 0; waitedMs < 10_000; waitedMs += 20) {
    if (what()) return;
    await sleep(20);
  }
  throw new Error('it never came true');
}

/** Fails by the test's own limit when it does not answer. */
async function expectAnswers(client: NbdClient, byte: number): Promise<void> {
  await client.write(4096, Buffer.alloc(4096, byte));
  expect((await client.read(4096, 4096)).equals(Buffer.alloc(4096, byte))).toBe(true);
  expect((await client.request({ type: CMD.flush })).error).toBe(0);
}

test('with two threads the volume of a sound pool answers while the thread of the other waits for its disk, and both go on', async () => {
  await start(2);
  const [hung, sound] = [await serve('hung'), await serve('sound')];
  await hung.write(0, Buffer.alloc(MIB, 1));
  await disk.freeze();
  const write = hung.request({ type: CMD.write, payload: Buffer.alloc(4096, 2) });
  await until(() => events.length > 0);
  expect(events).toEqual(['hung hangs']);
  const endsMs = performance.now() + 4 * STUCK_AFTER_MS;
  for (let byte = 1; performance.now() < endsMs; byte = (byte + 1) % 256) {
    await expectAnswers(sound, byte);
    await sleep(20);
  }
  expect(events).toEqual(['hung hangs']);
  await disk.thaw();
  expect((await write).error).toBe(0);
  await until(() => events.length > 1);
  expect(events).toEqual(['hung hangs', 'hung answers']);
  await expectAnswers(hung, 3);
  await expectAnswers(sound, 4);
}, 20_000);

test('a single thread makes no call that waits to a disk that left what is in the ring unanswered', async () => {
  await start(1);
  const [hung, sound] = [await serve('hung'), await serve('sound')];
  await hung.write(0, Buffer.alloc(MIB, 1));
  await disk.freeze();
  const trim = hung.request({ type: CMD.trim, offset: MIB, length: MIB });
  await sleep(300);
  const write = hung.request({ type: CMD.write, payload: Buffer.alloc(4096, 2) });
  await sleep(2 * STUCK_AFTER_MS);
  await expectAnswers(sound, 5);
  expect(events).toEqual([]);
  await disk.thaw();
  expect((await trim).error).toBe(0);
  expect((await write).error).toBe(0);
}, 20_000);

test('the use of a volume whose thread waits for its disk is given up by its caller, and begins when the disk answers', async () => {
  await start(2, DEADLINE_MS);
  const hung = await serve('hung');
  await create('sound');
  const [volumeId, name] = ['cc'.repeat(16), 'second'];
  await create('hung', volumeId);
  await volumes.open(volumeId);
  const { cluster } = storage;
  await cluster.closeFrontend(volumeId);
  await hung.write(0, Buffer.alloc(MIB, 1));
  await disk.freeze();
  const write = hung.request({ type: CMD.write, payload: Buffer.alloc(4096, 2) });
  await until(() => events.length > 0);
  const use = { volumeId, attachmentNumber: 1, sizeBytes: 8 * MIB };
  const refusals = await Promise.allSettled([
    cluster.openFrontend(use),
    cluster.openFrontend(use),
    cluster.growFrontend(volumeId, use.sizeBytes),
    cluster.closeFrontend(volumeId),
  ]);
  for (const refusal of refusals) {
    expect(refusal).toMatchObject({ status: 'rejected', reason: { code: 'UNAVAILABLE' } });
  }
  await disk.thaw();
  expect((await write).error).toBe(0);
  await cluster.openFrontend(use);
  const { path } = await storage.exportUnix(volumeId, name, join(directory, `${name}.sock`));
  const client = await NbdClient.connect(path, name);
  clients.push(client);
  await expectAnswers(client, 6);
  await volumes.close(volumeId);
  await storage.deleteReplica(volumeId, 'hung');
}, 30_000);

test('what a hung disk holds up is refused by name, at first after the deadline and then at once; a sound pool goes on', async () => {
  await start(2, DEADLINE_MS);
  await create('hung');
  await create('sound');
  await disk.freeze();
  const creating = create('hung', 'cc'.repeat(16));
  const refusal = {
    code: 'UNAVAILABLE',
    message: expect.stringMatching(/the disk of pool 'hung' .* does not answer/),
  };
  await expect(creating).rejects.toMatchObject(refusal);

  const began = performance.now();
  const answers = await Promise.allSettled([
    create('hung', 'dd'.repeat(16)),
    open('hung'),
    storage.replica(VOLUMES.hung),
    storage.hasData(VOLUMES.hung),
    storage.deleteReplica(VOLUMES.hung, 'hung'),
    storage.resizeReplica(VOLUMES.hung, 16 * MIB),
  ]);
  for (const answer of answers) {
    expect(answer).toEqual({ status: 'rejected', reason: expect.objectContaining(refusal) });
  }
  expect((await storage.pools()).map(({ name }) => name)).toEqual(['sound']);
  expect(storage.closedPools().map(({ name }) => name)).toEqual(['hung']);
  expect((await storage.replicas()).map(({ pool }) => pool)).toEqual(['sound']);
  await open('sound');
  expect(await storage.hasData(VOLUMES.sound)).toBe(false);
  // Who waited would have waited for so long.
  expect(performance.now() - began).toBeLessThan(DEADLINE_MS);

  await disk.thaw();
  await expect.poll(() => storage.closedPools()).toEqual([]);
  expect((await storage.replicas()).map(({ pool }) => pool).sort()).toEqual(['hung', 'hung', 'sound']);
  await storage.deleteReplica('cc'.repeat(16), 'hung');
}, 20_000);
