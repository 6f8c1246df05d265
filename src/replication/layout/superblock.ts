// The superblock: who a replica is and what it has promised. Enough that the store could be rebuilt from
// the superblocks of all disks alone.
//
// The file is two slots of 4096 bytes. A writer raises the sequence by one for every slot it writes and
// takes slot (sequence mod 2), so that a write cut short damages at most the older slot's place.
// Readers take the slot of the higher sequence that passes its checksum.
//
// One slot (prefix: see sector.ts; u64 are below 2^53; a text is one byte of length, then UTF-8;
// what is not named is zero):
//   offset size field                  why
//   0      16   prefix                 checksum, magic 'HFSB', version, features
//   16     8    sequence               which slot is the newer one
//   24     8    sizeBytes              of the volume; the data file has at least this length
//   32     8    attachmentNumber       highest seen: a rebuilt store starts above it
//   40     4    promisedEpoch          messages of a lower epoch are refused for good
//   44     4    cleanMark.epoch        meaningful with flag 1
//   48     4    inSync.epoch           the newest in-sync set this replica knows
//   52     1    durability             0 writeback, 1 writethrough
//   53     1    flags                  1: clean mark set, 2: wrapped key present
//   54     1    inSync members         0 to 6
//   64     64   volumeId               text
//   128    64   replicaId              text
//   192    64   lineage                text; another lineage never gets a delta
//   256    64   incarnation            text; redrawn when acknowledged writes may be lost here
//   320    64   lastInSyncIncarnation  text, empty: never in sync; shows descent by reboots alone
//   384    64   bootId                 text, empty: not served yet; of the machine's last boot that served it
//   448    256  volumeName             text
//   704    16   failureMode            text
//   720    16   fileSystemMade         text, empty: none; mkfs is done once in a volume's life
//   736    512  wrappedKey             u16 length, bytes; only ever wrapped
//   3584   64   storedBootId           text, empty: none; the boot that the store knew when bootId was written
//   3648   192  earlierIncarnations 3 texts of 64, empty: no more
//   3840   256  earlierBootIds     4 texts of 64, empty: no more
//   1280   2304 inSync members         6 × 384: replicaId 64, incarnation 64 (empty: null), node 256; texts

import { HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import { FORMATS } from './formats.ts';
import { getU32, isReadableSector, putU32, sealSector } from './sector.ts';

export type Durability = 'writeback' | 'writethrough';

export interface InSyncMember {
  readonly replicaId: string;
  /** null: not known to the store when the set was recorded. */
  readonly incarnation: string | null;
  readonly node: string;
}

export interface Superblock {
  readonly volumeId: string;
  readonly volumeName: string;
  readonly replicaId: string;
  readonly sizeBytes: number;
  readonly lineage: string;
  /** Never goes back; durable before the first grant or acknowledgement in this epoch. */
  readonly promisedEpoch: number;
  readonly incarnation: string;
  /** The last incarnation that was a member of an in-sync set; null: none was. */
  readonly lastInSyncIncarnation: string | null;
  /**
   * Between the last one in sync and the present one, newest first: those drawn by reboots. A swap of a process that is
   * gone may have named one of them.
   */
  readonly earlierIncarnations: readonly string[];
  /** The boot of the machine in which this replica was last opened; null: never opened. */
  readonly bootId: string | null;
  /** In which it was opened before, newest first: a swap of a process that is gone may have recorded one of them. */
  readonly earlierBootIds: readonly string[];
  /** The boot that the store had recorded for this replica when `bootId` was written. */
  readonly storedBootId: string | null;
  /** Set by a clean stop in this epoch; null while the replica is served and after any other end. */
  readonly cleanMark: { readonly epoch: number } | null;
  /** The newest in-sync set this replica knows. Epoch 0 and no members: none yet. */
  readonly inSync: { readonly epoch: number; readonly members: readonly InSyncMember[] };
  /** Never goes back. */
  readonly attachmentNumber: number;
  readonly durability: Durability;
  /** 'hard', 'soft', 'alwayson' or a number. */
  readonly failureMode: string;
  /** The volume key, wrapped by the cluster key. */
  readonly wrappedKey: Uint8Array | null;
  /** The type of the file system that was made on this volume; null: none was. */
  readonly fileSystemMade: string | null;
}

export const SUPERBLOCK_SLOT_BYTES = 4096;
export const SUPERBLOCK_FILE_BYTES = 2 * SUPERBLOCK_SLOT_BYTES;
export const MAX_IN_SYNC_MEMBERS = 6;
export const MAX_WRAPPED_KEY_BYTES = 510;
export const MAX_EARLIER_INCARNATIONS = 3;
export const MAX_EARLIER_BOOTS = 4;

const FORMAT = FORMATS.superblock;
const FLAG_CLEAN = 1;
const FLAG_WRAPPED_KEY = 2;

const ID_BYTES = 64;
const NAME_BYTES = 256;
const WORD_BYTES = 16;
const OFFSET = {
  sequence: 16,
  sizeBytes: 24,
  attachmentNumber: 32,
  promisedEpoch: 40,
  cleanEpoch: 44,
  inSyncEpoch: 48,
  durability: 52,
  flags: 53,
  memberCount: 54,
  volumeId: 64,
  replicaId: 128,
  lineage: 192,
  incarnation: 256,
  lastInSyncIncarnation: 320,
  bootId: 384,
  volumeName: 448,
  failureMode: 704,
  fileSystemMade: 720,
  wrappedKey: 736,
  members: 1280,
  storedBootId: 3584,
  earlierIncarnations: 3648,
  earlierBootIds: 3840,
} as const;
const MEMBER_BYTES = 2 * ID_BYTES + NAME_BYTES;

/** The place of the slot that carries this sequence. */
export function superblockSlotOffset(sequence: number): number {
  return (sequence % 2) * SUPERBLOCK_SLOT_BYTES;
}

/** One slot. Throws InvariantError for values that do not fit their field. */
export function encodeSuperblock(superblock: Superblock, sequence: number): Uint8Array {
  const slot = new Uint8Array(SUPERBLOCK_SLOT_BYTES);
  const { cleanMark, inSync, wrappedKey } = superblock;
  putU64(slot, OFFSET.sequence, sequence);
  putU64(slot, OFFSET.sizeBytes, superblock.sizeBytes);
  putU64(slot, OFFSET.attachmentNumber, superblock.attachmentNumber);
  putEpoch(slot, OFFSET.promisedEpoch, superblock.promisedEpoch);
  putEpoch(slot, OFFSET.cleanEpoch, cleanMark?.epoch ?? 0);
  putEpoch(slot, OFFSET.inSyncEpoch, inSync.epoch);
  slot[OFFSET.durability] = superblock.durability === 'writethrough' ? 1 : 0;
  slot[OFFSET.flags] = (cleanMark === null ? 0 : FLAG_CLEAN) | (wrappedKey === null ? 0 : FLAG_WRAPPED_KEY);
  putText(slot, OFFSET.volumeId, ID_BYTES, superblock.volumeId);
  putText(slot, OFFSET.replicaId, ID_BYTES, superblock.replicaId);
  putText(slot, OFFSET.lineage, ID_BYTES, superblock.lineage);
  putText(slot, OFFSET.incarnation, ID_BYTES, superblock.incarnation);
  putTextOrNull(slot, OFFSET.lastInSyncIncarnation, ID_BYTES, superblock.lastInSyncIncarnation);
  putTextOrNull(slot, OFFSET.bootId, ID_BYTES, superblock.bootId);
  putTextOrNull(slot, OFFSET.storedBootId, ID_BYTES, superblock.storedBootId);
  putTexts(slot, OFFSET.earlierIncarnations, superblock.earlierIncarnations, MAX_EARLIER_INCARNATIONS);
  putTexts(slot, OFFSET.earlierBootIds, superblock.earlierBootIds, MAX_EARLIER_BOOTS);
  putText(slot, OFFSET.volumeName, NAME_BYTES, superblock.volumeName);
  putText(slot, OFFSET.failureMode, WORD_BYTES, superblock.failureMode);
  putTextOrNull(slot, OFFSET.fileSystemMade, WORD_BYTES, superblock.fileSystemMade);
  if (wrappedKey !== null) {
    invariant(wrappedKey.length <= MAX_WRAPPED_KEY_BYTES, 'a wrapped key fits its field');
    slot[OFFSET.wrappedKey] = wrappedKey.length;
    slot[OFFSET.wrappedKey + 1] = wrappedKey.length >>> 8;
    slot.set(wrappedKey, OFFSET.wrappedKey + 2);
  }
  putMembers(slot, inSync.members);
  sealSector(slot, 0, SUPERBLOCK_SLOT_BYTES, FORMAT);
  return slot;
}

function putTexts(slot: Uint8Array, at: number, texts: readonly string[], limit: number): void {
  invariant(texts.length <= limit, 'a list of the superblock fits its field');
  for (const [index, text] of texts.entries()) putText(slot, at + index * ID_BYTES, ID_BYTES, text);
}

function putMembers(slot: Uint8Array, members: readonly InSyncMember[]): void {
  invariant(members.length <= MAX_IN_SYNC_MEMBERS, 'an in-sync set has at most six members');
  slot[OFFSET.memberCount] = members.length;
  let at: number = OFFSET.members;
  for (const member of members) {
    putText(slot, at, ID_BYTES, member.replicaId);
    putTextOrNull(slot, at + ID_BYTES, ID_BYTES, member.incarnation);
    putText(slot, at + 2 * ID_BYTES, NAME_BYTES, member.node);
    at += MEMBER_BYTES;
  }
}

export interface DecodedSuperblock {
  readonly superblock: Superblock;
  readonly sequence: number;
}

/** The newest readable slot of the whole file's bytes. CORRUPT: no slot is readable, or another version wrote one. */
export function decodeSuperblockSlots(bytes: Uint8Array): DecodedSuperblock {
  const first = decodeSlot(bytes, 0);
  const second = decodeSlot(bytes, 1);
  const newest =
    second === undefined || (first !== undefined && first.sequence > second.sequence) ? first : second;
  if (newest === undefined) {
    throw new HoldfastError(
      'CORRUPT',
      'both slots of the superblock are unreadable: check the disk; if another copy of the volume is in sync, ' +
        'delete this replica and let it be rebuilt; if this is the only copy, keep its directory and restore from a backup',
    );
  }
  return newest;
}

function decodeSlot(bytes: Uint8Array, index: number): DecodedSuperblock | undefined {
  const at = index * SUPERBLOCK_SLOT_BYTES;
  if (!isReadableSector(bytes, at, SUPERBLOCK_SLOT_BYTES, FORMAT)) return undefined;
  const slot = bytes.subarray(at, at + SUPERBLOCK_SLOT_BYTES);
  const sequence = getU64(slot, OFFSET.sequence);
  // A slot in the other's place was not written by us.
  if (superblockSlotOffset(sequence) !== at) return undefined;
  const flags = slot[OFFSET.flags] ?? 0;
  const superblock: Superblock = {
    volumeId: getText(slot, OFFSET.volumeId),
    volumeName: getText(slot, OFFSET.volumeName),
    replicaId: getText(slot, OFFSET.replicaId),
    sizeBytes: getU64(slot, OFFSET.sizeBytes),
    lineage: getText(slot, OFFSET.lineage),
    promisedEpoch: getU32(slot, OFFSET.promisedEpoch),
    incarnation: getText(slot, OFFSET.incarnation),
    lastInSyncIncarnation: getTextOrNull(slot, OFFSET.lastInSyncIncarnation),
    earlierIncarnations: getTexts(slot, OFFSET.earlierIncarnations, MAX_EARLIER_INCARNATIONS),
    bootId: getTextOrNull(slot, OFFSET.bootId),
    earlierBootIds: getTexts(slot, OFFSET.earlierBootIds, MAX_EARLIER_BOOTS),
    storedBootId: getTextOrNull(slot, OFFSET.storedBootId),
    cleanMark: flags & FLAG_CLEAN ? { epoch: getU32(slot, OFFSET.cleanEpoch) } : null,
    inSync: { epoch: getU32(slot, OFFSET.inSyncEpoch), members: getMembers(slot) },
    attachmentNumber: getU64(slot, OFFSET.attachmentNumber),
    durability: slot[OFFSET.durability] === 1 ? 'writethrough' : 'writeback',
    failureMode: getText(slot, OFFSET.failureMode),
    wrappedKey: flags & FLAG_WRAPPED_KEY ? getWrappedKey(slot) : null,
    fileSystemMade: getTextOrNull(slot, OFFSET.fileSystemMade),
  };
  return { superblock, sequence };
}

function getTexts(slot: Uint8Array, at: number, limit: number): string[] {
  const places = Array.from({ length: limit }, (_, index) => at + index * ID_BYTES);
  return places.map((place) => getTextOrNull(slot, place)).filter((text) => text !== null);
}

function getMembers(slot: Uint8Array): InSyncMember[] {
  const members: InSyncMember[] = [];
  for (let index = 0; index < (slot[OFFSET.memberCount] ?? 0); index++) {
    const at = OFFSET.members + index * MEMBER_BYTES;
    members.push({
      replicaId: getText(slot, at),
      incarnation: getTextOrNull(slot, at + ID_BYTES),
      node: getText(slot, at + 2 * ID_BYTES),
    });
  }
  return members;
}

function getWrappedKey(slot: Uint8Array): Uint8Array {
  const at = OFFSET.wrappedKey;
  const byteCount = (slot[at] ?? 0) | ((slot[at + 1] ?? 0) << 8);
  return slot.slice(at + 2, at + 2 + byteCount);
}

function putEpoch(into: Uint8Array, at: number, epoch: number): void {
  invariant(Number.isInteger(epoch) && epoch >= 0 && epoch < 2 ** 32 - 1, 'an epoch fits 32 bits');
  putU32(into, at, epoch);
}

function putU64(into: Uint8Array, at: number, value: number): void {
  invariant(Number.isSafeInteger(value) && value >= 0, 'a number in a superblock is an integer below 2^53');
  putU32(into, at, value);
  putU32(into, at + 4, Math.floor(value / 2 ** 32));
}

function getU64(bytes: Uint8Array, at: number): number {
  return getU32(bytes, at) + getU32(bytes, at + 4) * 2 ** 32;
}

function putText(into: Uint8Array, at: number, fieldBytes: number, text: string): void {
  invariant(text.isWellFormed(), 'a text in a superblock is Unicode');
  const encoded = new TextEncoder().encode(text);
  invariant(encoded.length < fieldBytes, `a text in a superblock fits its field of ${fieldBytes} bytes`);
  into[at] = encoded.length;
  into.set(encoded, at + 1);
}

function putTextOrNull(into: Uint8Array, at: number, fieldBytes: number, text: string | null): void {
  invariant(text !== '', 'a text that may be missing is null or not empty');
  putText(into, at, fieldBytes, text ?? '');
}

function getText(bytes: Uint8Array, at: number): string {
  return new TextDecoder().decode(bytes.subarray(at + 1, at + 1 + (bytes[at] ?? 0)));
}

function getTextOrNull(bytes: Uint8Array, at: number): string | null {
  return getText(bytes, at) || null;
}
