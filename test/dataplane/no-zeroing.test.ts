// File systems that can neither punch holes nor zero ranges: the kernel says EOPNOTSUPP to every fallocate.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LoneVolumes } from '../support/lone-volumes.ts';
import { CMD_FLAG, NbdClient } from '../support/nbd-client.ts';
import { faultyStorage, makeVolume, VOLUME } from './faulty-storage.ts';

const MIB = 1024 * 1024;
const USED = 4 * MIB;

describe.each(['direct', 'buffered'] as const)('where the file system cannot zero, with %s I/O', (ioMode) => {
  let directory: string;
  let storage: Storage;
  let client: NbdClient;

  beforeEach(async () => {
    directory = mkdtempSync('/var/tmp/holdfast-zeroes-');
    storage = await faultyStorage(directory, ioMode, 'no-zeroing');
    await makeVolume(storage, 16 * MIB);
    await (await LoneVolumes.join(storage)).open(VOLUME);
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
});
