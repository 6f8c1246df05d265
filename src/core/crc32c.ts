// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) in plain TypeScript, slicing by eight.
// For metadata only: a few hundred bytes at a time, in the pure layers that cannot call the addon.
// Bulk data is summed by the addon, which computes the same function.

const POLYNOMIAL = 0x82f63b78;
const SLICES = 8;

/** tables[slice * 256 + byte]; Int32 so that reading an entry never makes a heap number. */
const tables = new Int32Array(SLICES * 256);
for (let byte = 0; byte < 256; byte++) {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = remainder & 1 ? (remainder >>> 1) ^ POLYNOMIAL : remainder >>> 1;
  }
  tables[byte] = remainder;
}
for (let index = 256; index < tables.length; index++) {
  const previous = tables[index - 256] ?? 0;
  tables[index] = (previous >>> 8) ^ (tables[previous & 0xff] ?? 0);
}

/** The CRC-32C of bytes [start, end), as an unsigned number. */
export function crc32c(bytes: Uint8Array, start: number, end: number): number {
  return crc32cSigned(bytes, start, end) >>> 0;
}

/** The same as a signed number, which is never one on the heap: for paths that allocate nothing. */
export function crc32cSigned(bytes: Uint8Array, start: number, end: number): number {
  let crc = -1;
  let position = start;
  for (; position + SLICES <= end; position += SLICES) {
    crc ^=
      byteAt(bytes, position) |
      (byteAt(bytes, position + 1) << 8) |
      (byteAt(bytes, position + 2) << 16) |
      (byteAt(bytes, position + 3) << 24);
    crc =
      entry(7, crc & 0xff) ^
      entry(6, (crc >>> 8) & 0xff) ^
      entry(5, (crc >>> 16) & 0xff) ^
      entry(4, crc >>> 24) ^
      entry(3, byteAt(bytes, position + 4)) ^
      entry(2, byteAt(bytes, position + 5)) ^
      entry(1, byteAt(bytes, position + 6)) ^
      entry(0, byteAt(bytes, position + 7));
  }
  for (; position < end; position++) crc = (crc >>> 8) ^ entry(0, (crc ^ byteAt(bytes, position)) & 0xff);
  return ~crc;
}

// In range by construction; a `?? 0` would cost a branch for each of sixteen loads.
function entry(slice: number, byte: number): number {
  return tables[slice * 256 + byte] as number;
}

function byteAt(bytes: Uint8Array, position: number): number {
  return bytes[position] as number;
}
