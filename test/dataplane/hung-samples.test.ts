// What is sampled while one pool's disk hangs: a frozen ext4 beside a sound directory, both buffered, so that the thread
// of the hung one waits in the kernel. Needs root for losetup, mount and fsfreeze.

import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { scrapeOf } from '../../src/cli/daemon/samples.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { createMetrics } from '../../src/observe/metrics.ts';
import { FrozenFileSystem } from '../support/frozen-file-system.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const DEADLINE_MS = 1000;
const VOLUMES = { hung: 'aa'.repeat(16), sound: 'bb'.repeat(16) };

let directory = '';
let disk: FrozenFileSystem;
let storage: Storage;
let volumes: LoneVolumes;
const events: string[] = [];
const clients: NbdClient[] = [];

beforeAll(async () => {
  directory = await mkdtemp('/var/tmp/holdfast-hung-samples-');
  disk = await FrozenFileSystem.create(directory);
  const directories = { hung: join(disk.directory, 'pool'), sound: join(directory, 'sound') };
  const pool = (name: keyof typeof VOLUMES) => ({
    name,
    directory: directories[name],
    ioMode: 'buffered' as const,
    reserveBytes: 0,
    overcommitRatio: 10,
  });
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    pools: [pool('hung'), pool('sound')],
    threadCount: 2,
    busyPollMicros: 0,
    stuckAfterMs: 400,
    testFaults: new Set(),
    onEvent: () => undefined,
    onHungDisk: (pools, isOver) => events.push(`${pools.join()} ${isOver ? 'answers' : 'hangs'}`),
    onDeath: (error) => events.push(error.message),
  });
  volumes = await LoneVolumes.join(storage);
});

afterAll(async () => {
  await disk.thaw();
  for (const client of clients) client.destroy();
  await storage.close();
  await disk.dispose();
  await rm(directory, { recursive: true, force: true });
});

async function serve(pool: keyof typeof VOLUMES): Promise<NbdClient> {
  const volumeId = VOLUMES[pool];
  await storage.createReplica({
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
  await volumes.open(volumeId);
  const { path } = await storage.exportUnix(volumeId, pool, join(directory, `${pool}.sock`));
  const client = await NbdClient.connect(path, pool);
  clients.push(client);
  return client;
}

test('a scrape waits for no hung thread or disk: what does not answer is left out and told, the rest is there, and it comes back', async () => {
  const [hung, sound] = [await serve('hung'), await serve('sound')];
  const registry = createMetrics(scrapeOf({ storage, names: new Map() }, DEADLINE_MS), {
    node: 'n',
    version: '0',
    ringSetupFlags: 0,
  });
  await hung.write(0, Buffer.alloc(MIB, 1));
  await sound.write(0, Buffer.alloc(4096, 1));
  const before = await registry.metrics();
  expect(before).toContain('holdfast_volume_frontend_writes_total{volume_id="' + VOLUMES.hung);

  await disk.freeze();
  const write = hung.request({ type: 1, payload: Buffer.alloc(4096, 2) });
  await expect.poll(() => events, { timeout: 10_000 }).toEqual(['hung hangs']);
  const began = performance.now();
  const during = await registry.metrics();
  expect(performance.now() - began).toBeLessThan(DEADLINE_MS * 3);
  expect(during.match(/^holdfast_thread_answers\{.*\} 0$/gm)).toHaveLength(1);
  expect(during.match(/^holdfast_thread_answers\{.*\} 1$/gm)).toHaveLength(1);
  expect(during).not.toContain(`holdfast_volume_frontend_writes_total{volume_id="${VOLUMES.hung}`);
  expect(during).toMatch(
    new RegExp(
      `holdfast_volume_frontend_writes_total\\{volume_id="${VOLUMES.sound}",volume="sound",node="n"\\} 1`,
    ),
  );

  await disk.thaw();
  expect((await write).error).toBe(0);
  await expect.poll(() => events, { timeout: 10_000 }).toEqual(['hung hangs', 'hung answers']);
  const after = await registry.metrics();
  expect(after.match(/^holdfast_thread_answers\{.*\} 0$/gm)).toBeNull();
  expect(after).toMatch(
    new RegExp(
      `holdfast_volume_frontend_writes_total\\{volume_id="${VOLUMES.hung}",volume="hung",node="n"\\} 2`,
    ),
  );
}, 40_000);
