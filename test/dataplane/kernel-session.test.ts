// The session that a kernel's device has: a socket pair, in transmission phase from the first byte, one at a
// time. A client of ours plays the kernel.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { CMD, ERR, NbdClient, NbdSocket } from '../support/nbd-client.ts';
import { pattern } from './nbd-protocol-suite.ts';

const MIB = 1024 * 1024;
const SIZE_BYTES = 64 * MIB;
const VOLUME = 'c'.repeat(32);
const ATTACHMENT = 3;

describe.each(['direct', 'buffered'] as const)('the kernel session of a volume on a %s pool', (ioMode) => {
  let directory = '';
  let storage: Storage;
  let volumes: LoneVolumes;
  let events: string[] = [];
  let clients: NbdClient[] = [];

  beforeEach(async () => {
    directory = mkdtempSync('/var/tmp/holdfast-kernel-session-');
    mkdirSync(join(directory, 'pool'));
    events = [];
    clients = [];
    storage = await createNodeStorage({
      nodeName: LONE_NODE,
      pools: [
        { name: 'pool', directory: join(directory, 'pool'), ioMode, reserveBytes: 0, overcommitRatio: 1000 },
      ],
      threadCount: 1,
      busyPollMicros: 0,
      testFaults: new Set(),
      onEvent: (event) => events.push(event.type),
      onDeath: (error) => {
        throw error;
      },
    });
    await storage.createReplica({
      volumeId: VOLUME,
      volumeName: 'data',
      replicaId: 'replica',
      pool: 'pool',
      sizeBytes: SIZE_BYTES,
      lineage: 'lineage',
      epoch: 1,
      durability: 'writeback',
      failureMode: 'soft',
    });
    volumes = await LoneVolumes.join(storage);
    await volumes.open(VOLUME, ATTACHMENT);
  });

  afterEach(async () => {
    for (const client of clients) client.destroy();
    await storage.close();
    rmSync(directory, { recursive: true, force: true });
  });

  async function connect(readOnly = false): Promise<NbdClient> {
    const fd = await storage.connectKernel(VOLUME, ATTACHMENT, readOnly);
    const client = NbdClient.afterNegotiation(NbdSocket.onDescriptor(fd), {
      sizeBytes: SIZE_BYTES,
      flags: 0,
    });
    clients.push(client);
    return client;
  }

  test('it is served without a negotiation', async () => {
    const kernel = await connect();
    await kernel.write(8192, pattern(65_536, 1));
    await kernel.flush();
    expect(pattern(65_536, 1).equals(await kernel.read(8192, 65_536))).toBe(true);
  });

  test('an attachment that is not the current one gets no session', async () => {
    for (const number of [ATTACHMENT - 1, ATTACHMENT + 1]) {
      await expect(storage.connectKernel(VOLUME, number, false)).rejects.toMatchObject({ code: 'CONFLICT' });
    }
  });

  test('a read-only session reads and flushes, and whatever would change the volume is refused', async () => {
    const writer = await connect();
    await writer.write(0, pattern(4096, 2));
    const reader = await connect(true);
    const payload = pattern(4096, 3);
    expect((await reader.request({ type: CMD.write, payload })).error).toBe(ERR.perm);
    expect((await reader.request({ type: CMD.trim, length: 4096 })).error).toBe(ERR.perm);
    expect((await reader.request({ type: CMD.writeZeroes, length: 4096 })).error).toBe(ERR.perm);
    await reader.flush();
    expect(pattern(4096, 2).equals(await reader.read(0, 4096))).toBe(true);
  });

  test('a newer session ends the older one, and nothing of the older one lands after the newer is served', async () => {
    const older = await connect();
    const payload = Buffer.alloc(MIB, 0xaa);
    const flood = Array.from({ length: 32 }, (_, index) => ({
      type: CMD.write,
      offset: index * MIB,
      payload,
    }));
    const replies = older.requestAll(flood);
    const newer = await connect();
    const first = await newer.read(0, 32 * MIB);
    await sleep(300);
    expect(first.equals(await newer.read(0, 32 * MIB))).toBe(true);
    // What was answered before the end counts; the rest never is.
    const settled = await Promise.allSettled(replies);
    for (const [index, reply] of settled.entries()) {
      if (reply.status === 'fulfilled') expect(first[index * MIB]).toBe(0xaa);
    }
    expect(await older.socket.readToEnd()).toHaveLength(0);
    await newer.write(0, pattern(4096, 4));
  });

  test('clients of an export are not disturbed by kernel sessions that come and go', async () => {
    const handle = await storage.exportUnix(VOLUME, 'data', join(directory, 'socket'));
    const client = await NbdClient.connect(handle.path, 'data');
    clients.push(client);
    for (let round = 0; round < 3; round += 1) {
      const kernel = await connect();
      await kernel.write(round * 4096, pattern(4096, 10 + round));
      expect(pattern(4096, 10 + round).equals(await client.read(round * 4096, 4096))).toBe(true);
    }
    await storage.disconnectKernel(VOLUME);
    await client.flush();
    await handle.close();
    expect(await client.socket.readToEnd()).toHaveLength(0);
  });

  test('it ends with disconnectKernel, which may be said twice, and the volume goes on', async () => {
    const kernel = await connect();
    await kernel.write(0, pattern(4096, 5));
    await storage.disconnectKernel(VOLUME);
    await storage.disconnectKernel(VOLUME);
    expect(await kernel.socket.readToEnd()).toHaveLength(0);
    expect(volumes.isOpen(VOLUME)).toBe(true);
    expect(pattern(4096, 5).equals(await (await connect()).read(0, 4096))).toBe(true);
  });

  test('it ends when the volume is closed, and what it wrote is there at the next opening', async () => {
    const kernel = await connect();
    await kernel.write(MIB, pattern(100_000, 6));
    await volumes.close(VOLUME);
    expect(await kernel.socket.readToEnd()).toHaveLength(0);
    await volumes.open(VOLUME, ATTACHMENT);
    expect(pattern(100_000, 6).equals(await (await connect()).read(MIB, 100_000))).toBe(true);
  });

  test('a kernel that goes away is told, once', async () => {
    const kernel = await connect();
    await kernel.write(0, pattern(4096, 7));
    kernel.destroy();
    for (let waitedMs = 0; waitedMs < 5000 && !events.includes('kernelSessionEnded'); waitedMs += 10)
      await sleep(10);
    expect(events.filter((type) => type === 'kernelSessionEnded')).toHaveLength(1);
    expect((await storage.counters(VOLUME)).inFlight).toBe(0);
  });

  test('a volume that grows serves its new end on the session it has', async () => {
    const kernel = await connect();
    expect(
      (await kernel.request({ type: CMD.write, offset: SIZE_BYTES, payload: pattern(4096, 8) })).error,
    ).toBe(ERR.nospc);
    await volumes.resize(VOLUME, SIZE_BYTES + 8 * MIB);
    await kernel.write(SIZE_BYTES + 8 * MIB - 4096, pattern(4096, 8));
    const end = await kernel.read(SIZE_BYTES - 4096, 8 * MIB + 4096);
    expect(pattern(4096, 8).equals(end.subarray(-4096))).toBe(true);
    expect(end.subarray(0, -4096).equals(Buffer.alloc(8 * MIB))).toBe(true);
  });
});
