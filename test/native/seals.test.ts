// SipHash-2-4 against the vectors that its authors publish, and what a seal covers.

import { expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';

const key = Uint8Array.from({ length: 16 }, (_, index) => index);

/** Of the message 00 01 02 … of that length, from the reference implementation's vectors. */
const VECTORS: readonly [length: number, sum: string][] = [
  [0, '310e0edd47db6f72'],
  [1, 'fd67dc93c539f874'],
  [7, '37d1018bf50002ab'],
  [8, '6224939a79f5f593'],
  [15, 'e545be4961ca29a1'],
];

test.each(VECTORS)('a piece of %i bytes has the seal that the authors of SipHash give', (length, sum) => {
  const bytes = new Uint8Array(length + 8);
  for (let i = 0; i < length; i++) bytes[i] = i;
  native.seal(key, bytes, 0, length, 1);
  expect(Buffer.from(bytes.subarray(length)).toString('hex')).toBe(sum);
  expect(native.isSealed(key, bytes, 0, length)).toBe(true);
});

test('pieces that follow each other are sealed by one call, each with its own seal', () => {
  const bytes = Uint8Array.from({ length: 3 * 72 + 5 }, (_, index) => index);
  native.seal(key, bytes, 5, 64, 3);
  for (const at of [5, 77, 149]) expect(native.isSealed(key, bytes, at, 64)).toBe(true);
});

test('a seal breaks with any bit of the piece, of the seal and of the key', () => {
  const bytes = Uint8Array.from({ length: 72 }, (_, index) => 3 * index);
  native.seal(key, bytes, 0, 64, 1);
  for (let bit = 0; bit < 8 * 72; bit++) {
    const changed = Uint8Array.from(bytes);
    changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7));
    expect(native.isSealed(key, changed, 0, 64)).toBe(false);
  }
  for (let bit = 0; bit < 128; bit++) {
    const other = Uint8Array.from(key);
    other[bit >> 3] = (other[bit >> 3] as number) ^ (1 << (bit & 7));
    expect(native.isSealed(other, bytes, 0, 64)).toBe(false);
  }
});
