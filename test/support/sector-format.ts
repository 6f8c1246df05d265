// What a checking client writes into a sector: who wrote it, in which write, where, and a checksum over all of it, so
// that a read tells what it sees without asking anybody.
//
//   0 magic, u32 · 4 writer, u32 · 8 history, u32 · 12 write id, f64 · 20 sector, f64 · 28 filler · 4092 crc32 of 0..4092

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Shown } from './sector-history.ts';

export const SECTOR_BYTES = 4096;

const MAGIC = 0x48665331;
const FILLER_AT = 28;
const CHECKSUM_AT = SECTOR_BYTES - 4;
const ZEROES = Buffer.alloc(SECTOR_BYTES);
/** Twice as long as a sector: every write takes its filler from another place of it. */
const FILLER = Buffer.concat(
  Array.from({ length: SECTOR_BYTES / 32 }, (_, index) =>
    createHash('sha512').update(String(index)).digest(),
  ),
);

export interface Stamp {
  readonly writer: number;
  /** Tells runs apart that used the same disk one after the other. */
  readonly history: number;
  readonly id: number;
  readonly sector: number;
}

export function stampSector(bytes: Buffer, { writer, history, id, sector }: Stamp): void {
  bytes.writeUInt32LE(MAGIC, 0);
  bytes.writeUInt32LE(writer, 4);
  bytes.writeUInt32LE(history, 8);
  bytes.writeDoubleLE(id, 12);
  bytes.writeDoubleLE(sector, 20);
  const from = (id * 16 + sector) % SECTOR_BYTES;
  FILLER.copy(bytes, FILLER_AT, from, from + CHECKSUM_AT - FILLER_AT);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, CHECKSUM_AT)), CHECKSUM_AT);
}

/** What the sector shows, for the judge. */
export function readSector(bytes: Buffer, history: number, sector: number): Shown {
  if (bytes.equals(ZEROES)) return 'zeroes';
  const id = bytes.readDoubleLE(12);
  if (bytes.readUInt32LE(0) !== MAGIC) return { damage: 'it shows no stamp and is not zeroes' };
  if (bytes.readUInt32LE(CHECKSUM_AT) !== crc32(bytes.subarray(0, CHECKSUM_AT)))
    return { damage: `it is torn: the checksum does not fit its head, which is of write ${id}` };
  if (bytes.readUInt32LE(8) !== history) return { damage: 'it shows a write of another run or volume' };
  const written = bytes.readDoubleLE(20);
  if (written !== sector) return { damage: `it shows what write ${id} wrote to sector ${written}` };
  return id;
}
