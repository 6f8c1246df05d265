import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { InvariantError } from '../../src/core/invariant.ts';
import { GIB } from '../../src/core/units.ts';
import { createReplica } from '../../src/dataplane/replica-files.ts';
import { readSuperblock, SuperblockFile } from '../../src/dataplane/superblock-file.ts';
import { decodeSuperblockSlots, SUPERBLOCK_SLOT_BYTES } from '../../src/replication/layout/superblock.ts';
import { BOOT, specOf, VOLUME, withPool, openReplica } from './pool-support.ts';

test('updates are applied one after the other, each to what the one before left', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const replica = await openReplica(pool, VOLUME, BOOT);
    const updates = Array.from({ length: 20 }, (_, index) =>
      replica.superblock.update({ promisedEpoch: 2 + index }),
    );
    updates.push(replica.superblock.update({ fileSystemMade: 'ext4' }));
    expect((await Promise.all(updates)).map(({ promisedEpoch }) => promisedEpoch)).toEqual([
      ...Array.from({ length: 20 }, (_, index) => 2 + index),
      21,
    ]);
    // Released while an update is under way: it is finished first.
    const last = replica.superblock.update({ attachmentNumber: 5 });
    await replica.release();
    await last;
    expect(await readSuperblock(replica.directory)).toMatchObject({
      promisedEpoch: 21,
      fileSystemMade: 'ext4',
      attachmentNumber: 5,
    });
  }));

test('a write torn anywhere leaves the state before or the state after', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const path = join(pool.replicaDirectory(VOLUME), 'superblock');
    const file = await open(path, 'r+');
    const read = async (): Promise<Buffer> => {
      const bytes = Buffer.alloc(2 * SUPERBLOCK_SLOT_BYTES);
      await file.read(bytes, 0, bytes.length, 0);
      return bytes;
    };
    const superblock = await SuperblockFile.load(file, path);
    const before = await read();
    await superblock.update({ promisedEpoch: 2, fileSystemMade: 'ext4' });
    const after = await read();
    await file.close();
    // Sequences 1 and 2 were there: 3 goes to the second slot, then 4 to the first.
    for (let sector = 0; sector <= 8; sector++) {
      const cut = SUPERBLOCK_SLOT_BYTES + sector * 512;
      const first = Buffer.concat([
        before.subarray(0, SUPERBLOCK_SLOT_BYTES),
        after.subarray(SUPERBLOCK_SLOT_BYTES, cut),
        before.subarray(cut),
      ]);
      const found = decodeSuperblockSlots(first).superblock;
      // A tear behind the last byte that differs is none.
      expect(sector === 0 ? [1] : sector === 8 ? [2] : [1, 2]).toContain(found.promisedEpoch);
      expect(found.fileSystemMade).toBe(found.promisedEpoch === 2 ? 'ext4' : null);
      const second = Buffer.concat([
        after.subarray(0, sector * 512),
        before.subarray(sector * 512, SUPERBLOCK_SLOT_BYTES),
        after.subarray(SUPERBLOCK_SLOT_BYTES),
      ]);
      expect(decodeSuperblockSlots(second).superblock.promisedEpoch).toBe(2);
    }
  }));

test('promise and attachment never go back, and a size never shrinks', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const replica = await openReplica(pool, VOLUME, BOOT);
    await replica.superblock.update({ promisedEpoch: 5, attachmentNumber: 5 });
    for (const change of [{ promisedEpoch: 4 }, { attachmentNumber: 4 }]) {
      await expect(replica.superblock.update(change)).rejects.toMatchObject({ code: 'CONFLICT' });
    }
    await expect(replica.superblock.update({ sizeBytes: GIB / 2 })).rejects.toThrow(InvariantError);
    // A refused change is not a failure of the disk.
    expect(replica.superblock.failure).toBeUndefined();
    await replica.superblock.update({ promisedEpoch: 6 });
    await replica.release();
  }));

test('after a write failed the superblock is failed for good, and says what it last knew', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const path = join(pool.replicaDirectory(VOLUME), 'superblock');
    const file = await open(path, 'r');
    const superblock = await SuperblockFile.load(file, path);
    const error = await superblock.update({ promisedEpoch: 9 }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'IO', message: expect.stringContaining(path) });
    await expect(superblock.update({})).rejects.toBe(error);
    expect(superblock.failure).toBe(error);
    expect(superblock.current.promisedEpoch).toBe(1);
    await file.close();
  }));

test('a clean mark that was erased does not come back when either slot rots', () =>
  withPool(async (pool) => {
    await createReplica(pool, specOf(VOLUME));
    const replica = await openReplica(pool, VOLUME, BOOT);
    await replica.superblock.update({ cleanMark: { epoch: 1 } });
    await replica.superblock.update({ cleanMark: null });
    await replica.release();
    const path = join(replica.directory, 'superblock');
    const whole = await readFile(path);
    for (const slot of [0, 1]) {
      const rotten = Buffer.from(whole);
      rotten.set([1, 2, 3], slot * SUPERBLOCK_SLOT_BYTES + 60);
      await writeFile(path, rotten);
      expect((await readSuperblock(replica.directory)).cleanMark).toBeNull();
    }
  }));
