// Four devices on one thread, each with as many requests of 1 MiB as fill a quarter of the thread's memory: together
// they want all of it, and every one goes on. Starvation is counted in answers, not in seconds, so that a loaded
// machine changes nothing: on an idle one the answers allowed here take a fraction of a second.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { CMD, NbdClient, NbdSocket } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const SIZE_BYTES = 32 * MIB;
const DEPTH = 32;
const RUN_MS = 2500;
/** Between two answers of one session, answers to the others: two rounds of all that can be in flight. */
const LONGEST_WAIT = 2 * 4 * DEPTH;
const volumeIds = ['1', '2', '3', '4'].map((digit) => digit.repeat(32));

let directory = '';
let storage: Storage;
let volumes: LoneVolumes;
const clients: NbdClient[] = [];

beforeEach(async () => {
  // In memory: what is measured is the thread's memory and not a disk.
  directory = mkdtempSync('/dev/shm/holdfast-fairness-');
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    runDirectory: join(directory, 'run'),
    pools: [{ name: 'pool', directory: join(directory, 'pool'), reserveBytes: 0, overcommitRatio: 10 }],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  volumes = await LoneVolumes.join(storage);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await storage.close();
  rmSync(directory, { recursive: true });
});

async function connect(volumeId: string): Promise<NbdClient> {
  await storage.createReplica({
    volumeId,
    volumeName: volumeId,
    replicaId: volumeId,
    pool: 'pool',
    sizeBytes: SIZE_BYTES,
    lineage: volumeId,
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
  await volumes.open(volumeId);
  const socket = NbdSocket.onDescriptor(await storage.connectKernel(volumeId, 1, false));
  const client = NbdClient.afterNegotiation(socket, { sizeBytes: SIZE_BYTES, flags: 0 });
  clients.push(client);
  // The first request waits until the copy serves: that is no part of what is counted.
  await client.write(0, Buffer.alloc(4096, 5));
  return client;
}

interface Progress {
  answers: number;
  /** Answers to everybody when this session had its last one. */
  last: number;
  longestWait: number;
}

/** Keeps DEPTH requests in flight until `endMs`. */
async function load(client: NbdClient, type: number, endMs: number, all: Progress[]): Promise<void> {
  const progress: Progress = { answers: 0, last: 0, longestWait: 0 };
  all.push(progress);
  const payload = Buffer.alloc(MIB, 5);
  const lane = async (index: number): Promise<void> => {
    while (performance.now() < endMs) {
      const request = { type, offset: index * MIB, length: MIB, ...(type === CMD.write ? { payload } : {}) };
      expect((await client.request(request)).error).toBe(0);
      progress.answers += 1;
      const total = sum(all.map(({ answers }) => answers));
      progress.longestWait = Math.max(progress.longestWait, total - progress.last - 1);
      progress.last = total;
    }
  };
  await Promise.all(Array.from({ length: DEPTH }, (_, index) => lane(index)));
}

const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

test.each([
  ['all write', [CMD.write, CMD.write, CMD.write, CMD.write]],
  ['two write and two read', [CMD.write, CMD.write, CMD.read, CMD.read]],
])('when %s, no session is passed over for long', async (_name, types) => {
  const sessions: NbdClient[] = [];
  for (const volumeId of volumeIds) sessions.push(await connect(volumeId));
  const all: Progress[] = [];
  const endMs = performance.now() + RUN_MS;
  await Promise.all(sessions.map((client, index) => load(client, types[index] as number, endMs, all)));
  for (const { answers, longestWait } of all) {
    expect(longestWait).toBeLessThan(LONGEST_WAIT);
    expect(answers).toBeGreaterThanOrEqual(DEPTH);
  }
});
