// File systems that can neither punch holes nor zero ranges: the kernel says EOPNOTSUPP to every fallocate.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { CMD, CMD_FLAG, ERR, NbdClient } from '../support/nbd-client.ts';

const MIB = 1024 * 1024;
const VOLUME = '0'.repeat(32);
const USED = 4 * MIB;

describe.each(['direct', 'buffered'] as const)('where the file system cannot zero, with %s I/O', (ioMode) => {
  let directory: string;
  let storage: Storage;
  let client: NbdClient;

  beforeEach(async () => {
    directory = mkdtempSync('/var/tmp/holdfast-zeroes-');
    storage = await createNodeStorage({
      nodeName: 'node',
      pools: [
        { name: 'p', directory: join(directory, 'pool'), ioMode, reserveBytes: 0, overcommitRatio: 1000 },
      ],
      threadCount: 1,
      busyPollMicros: 0,
      testFaults: new Set(['no-zeroing']),
      onEvent: () => undefined,
      onDeath: (error) => {
        throw error;
      },
    });
    await storage.createReplica({
      volumeId: VOLUME,
      volumeName: 'volume',
      replicaId: 'replica',
      pool: 'p',
      sizeBytes: 16 * MIB,
      lineage: 'lineage',
      epoch: 1,
      durability: 'writeback',
      failureMode: 'soft',
    });
    const opening = 'ab'.repeat(16);
    await storage.openVolume({ volumeId: VOLUME, epoch: 2, opening, attachmentNumber: 0 });
    await storage.exportUnix(VOLUME, 'volume', join(directory, 'socket'));
    client = await NbdClient.connect(join(directory, 'socket'), 'volume');
  });

  afterEach(async () => {
    await client.disconnect();
    await storage.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it('trims and zeroes write zeroes, of any alignment, and touch nothing else', async () => {
    const expected = Buffer.alloc(USED, 0xa5);
    await client.write(0, expected);
    const ranges: [offset: number, length: number][] = [
      [0, 4096],
      [8192, 1],
      [12_288 + 100, 300],
      [20_480 - 5, 10],
      [100_000, 60_000],
      [MIB + 1, 2 * MIB + 4096],
      [USED - 1, 1],
    ];
    for (const [at, [offset, length]] of ranges.entries()) {
      if (at % 3 === 0) await client.trim(offset, length);
      else await client.writeZeroes(offset, length, at % 3 === 1 ? CMD_FLAG.noHole : 0);
      expected.fill(0, offset, offset + length);
      expect((await client.read(0, USED)).equals(expected), `after ${offset}+${length}`).toBe(true);
    }
  });

  it('overlapping ones beside writes end as if one after the other', async () => {
    await client.write(0, Buffer.alloc(USED, 0xa5));
    const zeroes = Array.from({ length: 32 }, (_, at) => client.trim(at * 5000 + 7, 9000));
    const write = client.write(USED / 2, Buffer.alloc(4096, 1));
    await Promise.all([...zeroes, write]);
    const bytes = await client.read(0, USED);
    expect(bytes.subarray(7, 31 * 5000 + 9007).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(31 * 5000 + 9007, USED / 2).every((byte) => byte === 0xa5)).toBe(true);
    expect(bytes[USED / 2]).toBe(1);
  });

  it('zeroing that is to be fast is refused, as it is not', async () => {
    const flags = CMD_FLAG.fastZero;
    const reply = await client.request({ type: CMD.writeZeroes, flags, offset: 0, length: MIB });
    expect(reply.error).toBe(ERR.notsup);
  });
});
