import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32c } from '../../../src/core/crc32c.ts';
import { InvariantError } from '../../../src/core/invariant.ts';
import { putU32, sealSector } from '../../../src/replication/layout/sector.ts';
import {
  decodeSuperblockSlots,
  encodeSuperblock,
  MAX_IN_SYNC_MEMBERS,
  MAX_WRAPPED_KEY_BYTES,
  SUPERBLOCK_FILE_BYTES,
  SUPERBLOCK_SLOT_BYTES,
  type Superblock,
  superblockSlotOffset,
} from '../../../src/replication/layout/superblock.ts';
import { dump, flipBit } from './bytes.ts';

const SAMPLE: Superblock = {
  volumeId: '00112233445566778899aabbccddeeff',
  volumeName: 'bücher',
  replicaId: 'replica-1',
  sizeBytes: 5 * 2 ** 40 + 4096,
  lineage: 'lineage-1',
  promisedEpoch: 0x01020304,
  incarnation: 'incarnation-1',
  lastInSyncIncarnation: 'incarnation-0',
  earlierIncarnations: [],
  bootId: 'boot-1',
  earlierBootIds: [],
  storedBootId: 'boot-0',
  cleanMark: { epoch: 7 },
  inSync: {
    epoch: 6,
    members: [
      { replicaId: 'replica-1', incarnation: 'incarnation-0', node: 'node-a' },
      { replicaId: 'replica-2', incarnation: null, node: 'node-b' },
    ],
  },
  attachmentNumber: 9,
  durability: 'writethrough',
  failureMode: 'soft',
  wrappedKey: Uint8Array.of(0xde, 0xad),
  fileSystemMade: 'ext4',
};

const id = fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 63 });
const epoch = fc.nat(2 ** 32 - 2);
const orNull = <T>(of: fc.Arbitrary<T>) => fc.option(of, { nil: null });
const superblocks: fc.Arbitrary<Superblock> = fc.record({
  volumeId: id,
  volumeName: fc.string({ unit: 'grapheme', maxLength: 30 }).filter((text) => Buffer.byteLength(text) < 256),
  replicaId: id,
  sizeBytes: fc.maxSafeNat(),
  lineage: id,
  promisedEpoch: epoch,
  incarnation: id,
  lastInSyncIncarnation: orNull(id),
  earlierIncarnations: fc.array(id, { maxLength: 3 }),
  bootId: orNull(id),
  earlierBootIds: fc.array(id, { maxLength: 4 }),
  storedBootId: orNull(id),
  cleanMark: orNull(fc.record({ epoch })),
  inSync: fc.record({
    epoch,
    members: fc.array(fc.record({ replicaId: id, incarnation: orNull(id), node: id }), {
      maxLength: MAX_IN_SYNC_MEMBERS,
    }),
  }),
  attachmentNumber: fc.maxSafeNat(),
  durability: fc.constantFrom('writeback', 'writethrough'),
  failureMode: fc.constantFrom('hard', 'soft', 'alwayson', '3'),
  wrappedKey: orNull(fc.uint8Array({ maxLength: MAX_WRAPPED_KEY_BYTES })),
  fileSystemMade: orNull(fc.constantFrom('ext4', 'xfs')),
});

function fileOf(...slots: (readonly [Superblock, number])[]): Uint8Array {
  const file = new Uint8Array(SUPERBLOCK_FILE_BYTES);
  for (const [superblock, sequence] of slots) {
    file.set(encodeSuperblock(superblock, sequence), superblockSlotOffset(sequence));
  }
  return file;
}

test('a slot has these bytes and no others', () => {
  expect(dump(encodeSuperblock(SAMPLE, 2 ** 32 + 5))).toEqual([
    '0: 89afe5eb484653420200000000000000',
    '16: 05000000010000000010000000050000',
    '32: 09000000000000000403020107000000',
    '48: 06000000010302000000000000000000',
    '64: 20303031313232333334343535363637',
    '80: 37383839396161626263636464656566',
    '96: 66000000000000000000000000000000',
    '128: 097265706c6963612d31000000000000',
    '192: 096c696e656167652d31000000000000',
    '256: 0d696e6361726e6174696f6e2d310000',
    '320: 0d696e6361726e6174696f6e2d300000',
    '384: 06626f6f742d31000000000000000000',
    '448: 0762c3bc636865720000000000000000',
    '704: 04736f66740000000000000000000000',
    '720: 04657874340000000000000000000000',
    '736: 0200dead000000000000000000000000',
    '1280: 097265706c6963612d31000000000000',
    '1344: 0d696e6361726e6174696f6e2d300000',
    '1408: 066e6f64652d61000000000000000000',
    '1664: 097265706c6963612d32000000000000',
    '1792: 066e6f64652d62000000000000000000',
    '3584: 06626f6f742d30000000000000000000',
  ]);
});

test('what was encoded is decoded, in either slot', () => {
  fc.assert(
    fc.property(superblocks, fc.maxSafeNat(), (superblock, sequence) => {
      expect(decodeSuperblockSlots(fileOf([superblock, sequence]))).toEqual({ superblock, sequence });
    }),
  );
});

test('the slot with the higher sequence wins', () => {
  const newer = { ...SAMPLE, promisedEpoch: SAMPLE.promisedEpoch + 1 };
  expect(decodeSuperblockSlots(fileOf([SAMPLE, 3], [newer, 4])).superblock).toEqual(newer);
  expect(decodeSuperblockSlots(fileOf([newer, 5], [SAMPLE, 4])).superblock).toEqual(newer);
});

test('any flipped bit makes its slot unreadable and leaves the other slot in force', () => {
  const newer = { ...SAMPLE, promisedEpoch: SAMPLE.promisedEpoch + 1 };
  const file = fileOf([SAMPLE, 4], [newer, 5]);
  for (let bit = 0; bit < SUPERBLOCK_FILE_BYTES * 8; bit++) {
    const isInOlder = bit < SUPERBLOCK_SLOT_BYTES * 8;
    expect(decodeSuperblockSlots(flipBit(file, bit)).sequence).toBe(isInOlder ? 5 : 4);
  }
});

test('with both slots damaged the superblock is corrupt, and the text says what to do', () => {
  const file = fileOf([SAMPLE, 4], [SAMPLE, 5]);
  const bits = fc.nat(SUPERBLOCK_SLOT_BYTES * 8 - 1);
  fc.assert(
    fc.property(bits, bits, (first, second) => {
      const damaged = flipBit(flipBit(file, first), SUPERBLOCK_SLOT_BYTES * 8 + second);
      expect(() => decodeSuperblockSlots(damaged)).toThrow(
        expect.objectContaining({
          code: 'CORRUPT',
          message: expect.stringMatching(/delete this replica.*backup/),
        }),
      );
    }),
  );
});

test('a file cut off anywhere gives a whole slot or is corrupt', () => {
  const file = fileOf([SAMPLE, 4], [SAMPLE, 5]);
  expect(decodeSuperblockSlots(file.subarray(0, SUPERBLOCK_FILE_BYTES - 1)).sequence).toBe(4);
  expect(decodeSuperblockSlots(file.subarray(0, SUPERBLOCK_SLOT_BYTES)).sequence).toBe(4);
  for (const byteCount of [0, 1, SUPERBLOCK_SLOT_BYTES - 1]) {
    expect(() => decodeSuperblockSlots(file.subarray(0, byteCount))).toThrow(
      expect.objectContaining({ code: 'CORRUPT' }),
    );
  }
});

test('a slot that was written in the place of the other one is not believed', () => {
  const file = fileOf([SAMPLE, 4]);
  file.set(encodeSuperblock(SAMPLE, 6), superblockSlotOffset(5));
  expect(decodeSuperblockSlots(file).sequence).toBe(4);
});

test('a slot of another version or with unknown features is refused even beside a good one', () => {
  for (const [field, message] of [
    [8, /version 3 and this Holdfast reads version 2/],
    [12, /features 0x1 \(block checksums\)/],
  ] as const) {
    const file = fileOf([SAMPLE, 4], [SAMPLE, 5]);
    const newerSlot = file.subarray(SUPERBLOCK_SLOT_BYTES);
    resealWith(newerSlot, field, field === 8 ? 3 : 1);
    expect(() => decodeSuperblockSlots(file)).toThrow(
      expect.objectContaining({ code: 'CORRUPT', message: expect.stringMatching(message) }),
    );
  }
});

test('values that do not fit their field are refused before anything is written', () => {
  for (const wrong of [
    { promisedEpoch: 2 ** 32 },
    { promisedEpoch: -1 },
    { sizeBytes: 0.5 },
    { volumeId: 'x'.repeat(64) },
    { volumeName: 'ü'.repeat(128) },
    { volumeName: '\ud800' },
    { bootId: '' },
    { wrappedKey: new Uint8Array(MAX_WRAPPED_KEY_BYTES + 1) },
    {
      inSync: {
        epoch: 1,
        members: Array.from({ length: 7 }, () => ({ replicaId: 'r', incarnation: null, node: 'n' })),
      },
    },
  ]) {
    expect(() => encodeSuperblock({ ...SAMPLE, ...wrong }, 1)).toThrow(InvariantError);
  }
});

/** Changes one word of the prefix and makes the checksum right again. */
function resealWith(slot: Uint8Array, field: number, value: number): void {
  const magic = new DataView(slot.buffer, slot.byteOffset).getUint32(4, true);
  const version = field === 8 ? value : 2;
  sealSector(slot, 0, slot.length, { magic, version });
  if (field === 12) {
    putU32(slot, 12, value);
    putU32(slot, 0, crc32c(slot, 4, slot.length));
  }
}
