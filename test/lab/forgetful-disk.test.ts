// The disk under the power-cut tests, proven on its own: flushed data is there, unflushed data mostly not.

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ForgetfulDisk } from './forgetful-disk.ts';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';
import { Platter } from './platter.ts';
import { seededRandom } from './random.ts';

const SECTOR_BYTES = 512;

describe('the memory of a forgetful disk', () => {
  test('holds after a cut, in every sector, the flushed contents or those of a later write', () => {
    const sectorCount = 16;
    const operation = fc.oneof(
      fc.record({
        kind: fc.constantFrom('write', 'fua', 'zero'),
        at: fc.nat(15),
        count: fc.integer({ min: 1, max: 4 }),
      }),
      fc.record({ kind: fc.constantFrom('flush'), at: fc.constant(0), count: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), fc.nat(), (operations, seed) => {
        const platter = new Platter(sectorCount * SECTOR_BYTES);
        const admissible = Array.from({ length: sectorCount }, () => [0]);
        for (const [index, { kind, at, count }] of operations.entries()) {
          const lengthBytes = Math.min(count, sectorCount - at) * SECTOR_BYTES;
          const value = kind === 'zero' ? 0 : index + 1;
          if (kind === 'flush') platter.flush();
          else if (kind === 'zero') platter.zero(at * SECTOR_BYTES, lengthBytes);
          else platter.write(at * SECTOR_BYTES, Buffer.alloc(lengthBytes, value));
          if (kind === 'fua') platter.flushRange(at * SECTOR_BYTES, lengthBytes);
          for (const [sector, values] of admissible.entries()) {
            const isTouched = sector >= at && sector < at + lengthBytes / SECTOR_BYTES;
            if (kind === 'flush') values.splice(0, values.length - 1);
            else if (isTouched && kind === 'fua') values.splice(0, values.length, value);
            else if (isTouched) values.push(value);
          }
        }
        platter.cut(seededRandom(seed));
        for (const [sector, values] of admissible.entries()) {
          const contents = platter.read(sector * SECTOR_BYTES, SECTOR_BYTES);
          expect(values).toContain(contents[0]);
          expect(contents.every((byte) => byte === contents[0])).toBe(true);
        }
      }),
    );
  });

  test('tears no sector, however large its own are', () => {
    const large = 8 * SECTOR_BYTES;
    for (let seed = 0; seed < 40; seed++) {
      const platter = new Platter(8 * large, large);
      for (const [at, value] of [1, 5, 9, 20].entries())
        platter.write(value * SECTOR_BYTES, Buffer.alloc(3 * large - value * SECTOR_BYTES, at + 1));
      platter.cut(seededRandom(seed));
      const last = platter.read(2 * large + 4 * SECTOR_BYTES, 4 * SECTOR_BYTES);
      expect(new Set(last).size).toBe(1);
    }
  });

  test('loses in some cuts and keeps in others', () => {
    const kept = Array.from({ length: 40 }, (_, seed) => {
      const platter = new Platter(64 * SECTOR_BYTES);
      platter.write(0, Buffer.alloc(64 * SECTOR_BYTES, 7));
      return platter.cut(seededRandom(seed)).keptPieces;
    });
    expect(kept.some((count) => count === 0)).toBe(true);
    expect(kept.some((count) => count === 64)).toBe(true);
    expect(kept.some((count) => count > 0 && count < 64)).toBe(true);
  });
});

describe('a guest on a forgetful disk', { timeout: 120_000 }, () => {
  let disk: ForgetfulDisk;

  beforeAll(async () => {
    disk = await ForgetfulDisk.create(64 * 1024 * 1024);
  });

  afterAll(async () => {
    await disk[Symbol.asyncDispose]();
  });

  test('keeps what was synced and loses what was not, in direct mode too', async () => {
    const random = seededRandom(1);
    let lostBlocks = 0;
    for (let round = 0; round < 3; round++) {
      await using guest = await Guest.start({
        virtioDisks: [disk.socketPath],
        memoryMib: 256,
        timeoutMs: 60_000,
      });
      if (round === 0) await mustRun(guest, 'mkfs.ext4 -q /dev/vda');
      // Sectors are lost one by one: a superblock of which one is missing is mended, as people do.
      const mend = 'e2fsck -y /dev/vda >&2; [ $? -le 2 ] && mount /dev/vda /mnt';
      await mustRun(guest, `mount /dev/vda /mnt || { ${mend}; }`);
      if (round > 0) {
        expect(await mustRun(guest, 'md5sum </mnt/synced')).toBe(await mustRun(guest, 'cat /mnt/synced.md5'));
        const lost = "cmp -l /mnt/unsynced <(tr '\\0' 'x' </dev/zero | head -c 1M) | wc -l";
        lostBlocks += Number(await mustRun(guest, lost));
      }
      await mustRun(
        guest,
        `head -c 1M /dev/urandom >/mnt/synced && md5sum </mnt/synced >/mnt/synced.md5
         head -c 1M /dev/zero >/mnt/unsynced && sync
         tr '\\0' 'x' </dev/zero | dd of=/mnt/unsynced bs=4k count=256 iflag=fullblock oflag=direct conv=notrunc`,
      );
      await guest.cutPower();
      const report = await disk.cut(random);
      expect(report.unflushedWrites).toBeGreaterThan(0);
      await disk.plugIn();
    }
    expect(lostBlocks).toBeGreaterThan(0);
  });

  test('sees a failing disk as a failing fsync', async () => {
    await using guest = await Guest.start({
      virtioDisks: [disk.socketPath],
      memoryMib: 256,
      timeoutMs: 60_000,
    });
    disk.failsFlushes = true;
    const write = 'dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync,notrunc';
    expect(await guest.run(write)).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('Input/output error'),
    });
    disk.failsFlushes = false;
    await mustRun(guest, write);
  });
});
