// How the layout tests show bytes and damage them.

/** Rows of sixteen bytes that are not all zero: 'offset: hex'. */
export function dump(bytes: Uint8Array): string[] {
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    if (row.some((byte) => byte !== 0)) rows.push(`${at}: ${Buffer.from(row).toString('hex')}`);
  }
  return rows;
}

export function flipBit(bytes: Uint8Array, bit: number): Uint8Array {
  const damaged = bytes.slice();
  damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return damaged;
}
