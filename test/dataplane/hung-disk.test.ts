// A disk that stops answering and comes back: a frozen ext4 on a loop device, which makes every write wait.
// Needs root for losetup, mount and fsfreeze.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { CMD, NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const VOLUME = 'de'.repeat(16);
const DEADLINE_MS = 1500;

let directory = '';
let mountPoint = '';
let device = '';
let storage: Storage;
let volumes: LoneVolumes;
const clients: NbdClient[] = [];

beforeAll(async () => {
  directory = mkdtempSync('/var/tmp/holdfast-hung-');
  mountPoint = join(directory, 'mount');
  mkdirSync(mountPoint);
  const image = join(directory, 'image');
  await execa('truncate', ['-s', String(64 * MIB), image]);
  device = (await execa('losetup', ['--find', '--show', image])).stdout;
  await execa('mkfs.ext4', ['-q', device]);
  await execa('mount', [device, mountPoint]);
});

afterAll(async () => {
  await execa('umount', ['--lazy', mountPoint], { reject: false });
  await execa('losetup', ['--detach', device], { reject: false });
  rmSync(directory, { recursive: true, force: true });
});

beforeEach(async () => {
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
    pools: [{ name: 'slow', directory: join(mountPoint, 'pool'), reserveBytes: 0, overcommitRatio: 10 }],
    threadCount: 1,
    busyPollMicros: 0,
    answerDeadlineMs: DEADLINE_MS,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  volumes = await LoneVolumes.join(storage);
  await storage.createReplica({
    volumeId: VOLUME,
    volumeName: 'volume',
    replicaId: VOLUME,
    pool: 'slow',
    sizeBytes: 8 * MIB,
    lineage: VOLUME,
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
});

afterEach(async () => {
  await thaw();
  for (const client of clients.splice(0)) client.destroy();
  await volumes.close(VOLUME);
  await storage.deleteReplica(VOLUME, 'slow');
  await storage.close();
});

const freeze = () => execa('fsfreeze', ['--freeze', mountPoint]);
const thaw = () => execa('fsfreeze', ['--unfreeze', mountPoint], { reject: false });

/** Until the disk has answered what was overdue, its pool's other operations are refused. */
async function until(what: () => Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; waitedMs < 10_000; waitedMs += 20) {
    if (await what().catch(() => false)) return;
    await sleep(20);
  }
  throw new Error('it never came true');
}

async function connect(): Promise<NbdClient> {
  const { path } = await storage.exportUnix(VOLUME, 'volume', join(directory, 'socket'));
  const client = await NbdClient.connect(path, 'volume');
  clients.push(client);
  return client;
}

test('a close that the disk holds up is given up by its caller, refused to others at once, and ends once when the disk answers', async () => {
  await volumes.open(VOLUME);
  const client = await connect();
  await client.write(0, Buffer.alloc(MIB, 7));
  await freeze();
  void client
    .request({ type: CMD.write, offset: MIB, payload: Buffer.alloc(4096, 8) })
    .catch(() => undefined);
  await until(async () => (await storage.counters(VOLUME)).inFlight === 1);

  const closing = volumes.close(VOLUME);
  await expect(closing).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    message: expect.stringMatching(/closing volume .* 1.5 s: the disk of pool 'slow' .* kernel log/),
  });
  const began = performance.now();
  await expect(volumes.close(VOLUME)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await expect(volumes.open(VOLUME)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  expect(performance.now() - began).toBeLessThan(DEADLINE_MS / 2);
  expect(volumes.isOpen(VOLUME)).toBe(true);

  await thaw();
  await until(
    async () => !volumes.isOpen(VOLUME) && (await storage.replica(VOLUME))?.superblock?.cleanMark !== null,
  );
  await until(async () => (await volumes.open(VOLUME)) !== undefined);
  const again = await connect();
  expect((await again.read(0, MIB)).equals(Buffer.alloc(MIB, 7))).toBe(true);
});

test('growth that the disk holds up is given up by its caller and happens when the disk answers; writes only wait', async () => {
  await volumes.open(VOLUME);
  const client = await connect();
  await freeze();
  const write = client.request({ type: CMD.write, payload: Buffer.alloc(4096, 9) });
  await until(async () => (await storage.counters(VOLUME)).inFlight === 1);
  await expect(storage.resizeReplica(VOLUME, 16 * MIB)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  // The thread still answers what needs no disk.
  expect((await storage.counters(VOLUME)).sessions).toBe(1);
  await thaw();
  expect((await write).error).toBe(0);
  await until(async () => (await storage.replica(VOLUME))?.superblock?.sizeBytes === 16 * MIB);
});

test('an opening that nobody waits for any more leaves nothing open', async () => {
  await freeze();
  await expect(volumes.open(VOLUME)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await thaw();
  // Its turn comes when the opening is over.
  await until(async () => (await storage.updateSuperblock(VOLUME, { attachmentNumber: 1 })) === undefined);
  expect(volumes.isOpen(VOLUME)).toBe(false);
  await until(async () => (await volumes.open(VOLUME)) !== undefined);
});
