// Thin volumes on a pool that runs out of room: a small ext4 of its own on a loop device.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes, MemoryConfigs } from '../support/lone-volumes.ts';
import { CMD, CMD_FLAG, ERR, NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const RESERVE = 32 * MIB;
const VOLUME = '0'.repeat(31);
const PIECE = MIB;

let directory = '';
let mountPoint = '';
let device = '';

beforeAll(async () => {
  directory = mkdtempSync('/var/tmp/holdfast-full-');
  mountPoint = join(directory, 'mount');
  mkdirSync(mountPoint);
  const image = join(directory, 'image');
  await execa('truncate', ['-s', String(256 * MIB), image]);
  device = (await execa('losetup', ['--find', '--show', '--sector-size', '4096', image])).stdout;
  await execa('mkfs.ext4', ['-q', '-m', '0', '-O', '^has_journal', device]);
  await execa('mount', [device, mountPoint]);
});

afterAll(async () => {
  await execa('umount', ['--lazy', mountPoint], { reject: false });
  await execa('losetup', ['--detach', device], { reject: false });
  rmSync(directory, { recursive: true, force: true });
});

describe.each(['direct', 'buffered'] as const)('a full pool with %s I/O', (ioMode) => {
  let storage: Storage;
  let configs: MemoryConfigs;
  let volumes: LoneVolumes;
  let client: NbdClient;
  let events: string[] = [];
  const pool = (): string => join(mountPoint, `pool-${ioMode}`);

  const open = async (): Promise<void> => {
    storage = await createNodeStorage({
      nodeName: LONE_NODE,
      pools: [{ name: 'small', directory: pool(), ioMode, reserveBytes: RESERVE, overcommitRatio: 20 }],
      threadCount: 1,
      busyPollMicros: 0,
      testFaults: new Set(),
      onEvent: (event) => events.push(event.type),
      onDeath: (error) => {
        throw error;
      },
    });
    volumes = await LoneVolumes.join(storage, configs);
  };

  beforeEach(async () => {
    events = [];
    configs = new MemoryConfigs();
    rmSync(pool(), { recursive: true, force: true });
    await open();
  });

  const serve = async (index: number): Promise<NbdClient> => {
    const volumeId = VOLUME + String(index);
    await storage.createReplica({
      volumeId,
      volumeName: volumeId,
      replicaId: volumeId,
      pool: 'small',
      sizeBytes: 1024 * MIB,
      lineage: volumeId,
      epoch: 1,
      durability: 'writeback',
      failureMode: 'soft',
    });
    await volumes.open(volumeId);
    const socket = join(directory, `s${index}`);
    await storage.exportUnix(volumeId, 'volume', socket);
    return NbdClient.connect(socket, 'volume');
  };

  const fill = async (): Promise<number> => {
    for (let piece = 0; piece < 1024; piece++) {
      const payload = Buffer.alloc(PIECE, (piece % 250) + 1);
      const reply = await client.request({ type: CMD.write, offset: piece * PIECE, payload });
      if (reply.error === 0) continue;
      expect(reply.error).toBe(ERR.nospc);
      return piece;
    }
    throw new Error('the pool never filled');
  };

  it('answers ENOSPC before the reserve is touched, keeps what was written, takes overwrites, and goes on after a TRIM', async () => {
    client = await serve(1);
    // Zeroes that keep their blocks: preallocated and never written.
    const reserved = 1000 * PIECE;
    expect(
      (
        await client.request({
          type: CMD.writeZeroes,
          flags: CMD_FLAG.noHole,
          offset: reserved,
          length: PIECE,
        })
      ).error,
    ).toBe(0);
    const pieces = await fill();
    expect(pieces).toBeGreaterThan(100);
    await client.flush();
    const { bavail, bsize } = await statfs(mountPoint);
    expect(bavail * bsize).toBeGreaterThan(RESERVE / 2);
    expect(events).toContain('poolSpace');

    // Blocks that are there already can still be written, zeroes that keep blocks included.
    await client.write(0, Buffer.alloc(PIECE, 251));
    for (let piece = 1; piece < pieces; piece += 7) {
      expect((await client.read(piece * PIECE, PIECE)).equals(Buffer.alloc(PIECE, (piece % 250) + 1))).toBe(
        true,
      );
    }
    await client.write(reserved, Buffer.alloc(PIECE, 253));
    expect((await client.read(reserved, PIECE)).equals(Buffer.alloc(PIECE, 253))).toBe(true);
    const hole = (pieces + 50) * PIECE;
    expect(
      (await client.request({ type: CMD.writeZeroes, flags: CMD_FLAG.noHole, offset: hole, length: PIECE }))
        .error,
    ).toBe(ERR.nospc);
    expect((await client.read(hole, 4096)).equals(Buffer.alloc(4096))).toBe(true);

    await client.trim(PIECE, 40 * PIECE);
    await client.flush();
    await client.write(hole, Buffer.alloc(PIECE, 252));
    expect((await client.read(hole, PIECE)).equals(Buffer.alloc(PIECE, 252))).toBe(true);
    expect((await client.read(2 * PIECE, PIECE)).equals(Buffer.alloc(PIECE))).toBe(true);
    await client.disconnect();
    await storage.close();

    // Nothing is lost by closing and opening a full pool again.
    await open();
    client = await serve(1);
    expect((await client.read(0, PIECE)).equals(Buffer.alloc(PIECE, 251))).toBe(true);
    expect(
      (await client.read((pieces - 1) * PIECE, PIECE)).equals(Buffer.alloc(PIECE, ((pieces - 1) % 250) + 1)),
    ).toBe(true);
    await client.disconnect();
    await storage.close();
  }, 60_000);

  it('refuses a volume beyond the overcommit limit and says how much room there is', async () => {
    client = await serve(1);
    await expect(
      storage.createReplica({
        volumeId: `${VOLUME}2`,
        volumeName: 'large',
        replicaId: `${VOLUME}2`,
        pool: 'small',
        sizeBytes: 6000 * MIB,
        lineage: 'x',
        epoch: 1,
        durability: 'writeback',
        failureMode: 'soft',
      }),
    ).rejects.toMatchObject({ code: 'NO_SPACE' });
    await client.disconnect();
    await storage.close();
  }, 30_000);
});
