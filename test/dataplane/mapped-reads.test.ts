// Large reads of buffered pools, which leave straight from the page cache: that the client cannot tell, whatever it
// does with its replies and whoever writes meanwhile. That the mapping was used is seen in the process's own map.

import { readFileSync } from 'node:fs';
import { mkdtemp, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import { WINDOW_BYTES } from '../../src/dataplane/file-windows.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { DataPlanes } from './cluster-support.ts';
import { LoneVolumes } from '../support/lone-volumes.ts';
import {
  CMD,
  ERR,
  NbdClient,
  NbdSocket,
  negotiate,
  type Reply,
  requestBytes,
} from '../support/nbd-client.ts';
import { specOf, VOLUME } from './pool-support.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE_BYTES = 2 * WINDOW_BYTES + 8 * MIB;
const READ_BYTES = 128 * KIB;
const clients: NbdClient[] = [];
let directory = '';
let storage: Storage;
let volumes: LoneVolumes;
let dataPath = '';
let socketPath = '';

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-mapped-'));
  storage = await createNodeStorage({
    nodeName: 'alone',
    runDirectory: join(directory, 'run'),
    pools: [
      {
        name: 'fast',
        directory: join(directory, 'pool'),
        ioMode: 'buffered',
        reserveBytes: 0,
        overcommitRatio: 10,
      },
    ],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  await storage.createReplica(specOf(VOLUME, SIZE_BYTES));
  volumes = await LoneVolumes.join(storage);
  await volumes.open(VOLUME);
  socketPath = (await storage.exportUnix(VOLUME, 'volume', join(directory, 'socket'))).path;
  dataPath = join(directory, 'pool', VOLUME, 'data');
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await storage.close();
  await rm(directory, { recursive: true });
});

async function connect(structuredReplies = false): Promise<NbdClient> {
  const client = await NbdClient.connect(socketPath, 'volume', { structuredReplies });
  clients.push(client);
  return client;
}

function mappedCount(): number {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return lines.filter((line) => line.includes(dataPath) && line.includes('r--s')).length;
}

const readOf = (offset: number, length = READ_BYTES) => ({ type: CMD.read, offset, length });

/** Every 8 bytes say where they are, so that bytes from elsewhere are seen. */
const PERIOD = 8 * MIB - 512;
const NUMBERS = Buffer.from(
  BigUint64Array.from({ length: (PERIOD + 4 * MIB) / 8 }, (_, i) => BigInt(i)).buffer,
);
function pattern(offset: number, length: number): Buffer {
  const at = offset % PERIOD;
  return NUMBERS.subarray(at, at + length);
}

async function fillFirst(client: NbdClient, byteCount: number): Promise<void> {
  for (let at = 0; at < byteCount; at += MIB) await client.write(at, pattern(at, MIB));
}

test.each([
  ['simple', false],
  ['structured', true],
])('many large reads at once are answered with their bytes in %s replies', async (_, isStructured) => {
  const client = await connect(isStructured);
  await fillFirst(client, 8 * MIB);
  // Sizes beside and beyond what a socket takes at once, and places that begin inside a page.
  const requests = Array.from({ length: 75 }, (_, i) => {
    const length = [64, 128, 72, 256, 512, 1024, 4][i % 7] as number;
    return readOf(((i * 333) % 6000) * KIB + (i % 3) * 512, length * KIB);
  });
  for (let round = 0; round < 3; round++) {
    const replies = await Promise.all(client.requestAll(requests));
    for (const [i, { error, data }] of replies.entries()) {
      const { offset, length } = requests[i] as { offset: number; length: number };
      expect([error, data.equals(pattern(offset, length))]).toEqual([0, true]);
    }
  }
  expect(mappedCount()).toBe(1);
});

test('small and large reads, writes and flushes on one connection are all answered', async () => {
  const client = await connect();
  await fillFirst(client, 4 * MIB);
  const requests = Array.from({ length: 120 }, (_, i) => [
    readOf((i % 20) * READ_BYTES),
    readOf(i * 4 * KIB, 4 * KIB),
    { type: CMD.write, offset: 5 * MIB + i * 4 * KIB, payload: pattern(i, 4 * KIB) },
    { type: CMD.flush },
  ]).flat();
  const replies = await Promise.all(client.requestAll(requests));
  expect(replies.every(({ error }) => error === 0)).toBe(true);
  for (let i = 0; i < 120; i++) {
    expect((replies[4 * i] as Reply).data.equals(pattern((i % 20) * READ_BYTES, READ_BYTES))).toBe(true);
    expect((replies[4 * i + 1] as Reply).data.equals(pattern(i * 4 * KIB, 4 * KIB))).toBe(true);
  }
  expect(mappedCount()).toBe(1);
});

test('a read across the edge of two windows, and holes behind data, give what is there', async () => {
  const client = await connect();
  const start = WINDOW_BYTES - MIB;
  const written = pattern(0, 2 * MIB);
  await client.write(start, written);
  const places = [0, MIB, MIB - READ_BYTES / 2, 2 * MIB - READ_BYTES / 2];
  const expected = Buffer.concat([written, Buffer.alloc(READ_BYTES)]);
  for (let round = 0; round < 3; round++) {
    const replies = await Promise.all(client.requestAll(places.map((place) => readOf(start + place))));
    for (const [i, place] of places.entries()) {
      expect(replies[i]?.data.equals(expected.subarray(place, place + READ_BYTES))).toBe(true);
    }
  }
});

test('a client that does not take its replies keeps no writer waiting, and none of its replies is of two times', async () => {
  const writer = await connect();
  await writer.write(0, Buffer.alloc(MIB, 1));
  const reader = await NbdSocket.connect(socketPath);
  await negotiate(reader, 'volume');
  const readAll = async (count: number): Promise<number[]> => {
    const seen: number[] = [];
    for (let i = 0; i < count; i++) {
      const reply = await reader.read(16 + READ_BYTES);
      const first = reply[16] as number;
      expect(reply.subarray(16).equals(Buffer.alloc(READ_BYTES, first))).toBe(true);
      seen.push(first);
    }
    return seen;
  };
  const ask = (count: number): void => {
    const requests = Array.from({ length: count }, (_, i) =>
      requestBytes(readOf((i % 8) * READ_BYTES), BigInt(i)),
    );
    reader.push(Buffer.concat(requests));
  };
  try {
    ask(3);
    await readAll(3);
    expect(mappedCount()).toBe(1);
    for (let value = 1; value < 20; value++) {
      ask(24);
      // Now and then the server has time to fill the socket: a reply is left in part inside it.
      if (value % 3 > 0) for (let i = 0; i < 3; i++) await writer.read(0, 512);
      await writer.write(0, Buffer.alloc(MIB, value + 1));
      const seen = await readAll(24);
      expect(seen.every((each) => each === value || each === value + 1)).toBe(true);
      // Once the new bytes were read no later read shows the old ones.
      expect(seen).toEqual(seen.toSorted((a, b) => a - b));
      // Made after the write was answered.
      if (value % 3 > 0) expect(seen).toContain(value + 1);
    }
  } finally {
    reader.destroy();
  }
});

test('a connection that ends in the middle of a large reply leaves the volume to the others', async () => {
  const other = await connect();
  await fillFirst(other, MIB);
  for (let round = 0; round < 10; round++) {
    const client = await connect();
    for (let i = 0; i < 3; i++) await client.read(0, READ_BYTES);
    for (const reply of client.requestAll(Array.from({ length: 16 }, () => readOf(0))))
      reply.catch(() => undefined);
    await other.read(0, 512);
    client.destroy();
  }
  await other.write(0, pattern(MIB, MIB));
  expect((await other.read(0, READ_BYTES)).equals(pattern(MIB, READ_BYTES))).toBe(true);
});

test('where the data file was cut off a large read fails with an I/O error and the connection lives', async () => {
  const client = await connect();
  await fillFirst(client, 2 * MIB);
  for (let i = 0; i < 3; i++) await client.read(0, READ_BYTES);
  expect(mappedCount()).toBe(1);
  await truncate(dataPath, MIB);
  expect((await client.request(readOf(MIB))).error).toBe(ERR.io);
  expect((await client.request(readOf(MIB - READ_BYTES / 2))).error).toBe(ERR.io);
  expect((await client.read(0, READ_BYTES)).equals(pattern(0, READ_BYTES))).toBe(true);
  await truncate(dataPath, SIZE_BYTES);
});

test('a window is unmapped when nobody reads through it any more', { timeout: 20_000 }, async () => {
  const client = await connect();
  await fillFirst(client, MIB);
  for (let i = 0; i < 3; i++) await client.read(0, READ_BYTES);
  expect(mappedCount()).toBe(1);
  const deadlineMs = performance.now() + 15_000;
  while (mappedCount() > 0 && performance.now() < deadlineMs) await sleep(100);
  expect(mappedCount()).toBe(0);
  expect((await client.read(0, READ_BYTES)).equals(pattern(0, READ_BYTES))).toBe(true);
});

test('a closed volume is mapped nowhere', async () => {
  const client = await connect();
  await fillFirst(client, MIB);
  for (let i = 0; i < 3; i++) await client.read(0, READ_BYTES);
  expect(mappedCount()).toBe(1);
  await volumes.close(VOLUME);
  expect(mappedCount()).toBe(0);
});

test('while a primary may not answer, nothing of a large read leaves', { timeout: 30_000 }, async () => {
  await using planes = await DataPlanes.start(join(directory, 'planes'), 2, 'buffered');
  const record = await planes.createVolume([0, 1], 0, { failureMode: 'hard' });
  const path = await planes.export(record, 0);
  const client = await NbdClient.connect(path, record.name);
  clients.push(client);
  await client.write(0, pattern(0, MIB));
  expect((await client.request(readOf(0))).data.equals(pattern(0, READ_BYTES))).toBe(true);
  // The other copy is to be there (hard) and is not: the primary waits for it.
  await planes.node(1).storage.cluster.closeReplica(record.id);
  await planes.until('the primary may not answer', async () => {
    const view = await planes.node(0).storage.cluster.replicaView(record.id);
    return view?.mayReply === false;
  });
  let isAnswered = false;
  const waiting = client.request(readOf(0)).then((reply) => {
    isAnswered = true;
    return reply;
  });
  await sleep(1000);
  expect(isAnswered).toBe(false);
  await planes.node(1).storage.cluster.openReplica(record.id);
  const { error, data } = await waiting;
  expect([error, data.equals(pattern(0, READ_BYTES))]).toEqual([0, true]);
});
