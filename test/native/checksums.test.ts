// crc32c against an independent implementation, by the CPU's instruction and by table.

import { crc32c as oracle } from '@node-rs/crc32';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';

// Exported beside the interface so that machines with the instruction can try the other way.
const { crc32cPortable } = native as typeof native & { crc32cPortable: typeof native.crc32c };

describe.each([
  ['crc32c', native.crc32c],
  ['crc32c by table', crc32cPortable],
])('%s', (_, crc32c) => {
  test('has the check value of the standard', () => {
    expect(crc32c(Buffer.from('123456789'), 0, 9, 0)).toBe(0xe3069283);
  });

  test('has the values of RFC 3720 appendix B.4', () => {
    expect(crc32c(new Uint8Array(32), 0, 32, 0)).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff), 0, 32, 0)).toBe(0x62a8ab43);
    expect(
      crc32c(
        Uint8Array.from({ length: 32 }, (_, i) => i),
        0,
        32,
        0,
      ),
    ).toBe(0x46dd794e);
  });

  test('agrees with another implementation for any length, alignment and seed', () => {
    const source = Buffer.from(
      Uint8Array.from({ length: 16_384 }, (_, i) => (i * 167 + (i >> 8) * 31) & 0xff),
    );
    const length = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 16_000 }));
    fc.assert(
      fc.property(
        fc.nat(384),
        length,
        fc.integer({ min: 0, max: 0xffffffff }),
        fc.uint8Array(),
        (offset, size, seed, noise) => {
          source.set(noise, 100);
          expect(crc32c(source, offset, size, seed)).toBe(
            oracle(source.subarray(offset, offset + size), seed),
          );
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('agrees at every length around its stripes', () => {
    const source = Buffer.alloc(3300, 'stripe');
    for (let size = 0; size <= source.length; size++) {
      if (crc32c(source, 0, size, 0) !== oracle(source.subarray(0, size))) expect(size).toBe('agreed');
    }
  });

  test('continues from a seed as if the parts were one', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 5000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (bytes, share) => {
          const cut = Math.floor(bytes.length * share);
          const first = crc32c(bytes, 0, cut, 0);
          expect(crc32c(bytes, cut, bytes.length - cut, first)).toBe(crc32c(bytes, 0, bytes.length, 0));
        },
      ),
    );
  });

  test('sees a view and not the memory around it', () => {
    const whole = new Uint8Array(64).fill(1);
    expect(crc32c(whole.subarray(8, 16), 0, 8, 0)).toBe(crc32c(whole, 8, 8, 0));
    expect(() => crc32c(whole.subarray(8, 16), 0, 9, 0)).toThrow(RangeError);
    expect(() => crc32c(whole, 60, 5, 0)).toThrow(RangeError);
    expect(() => crc32c(whole, -1, 5, 0)).toThrow(RangeError);
    expect(() => crc32c(whole, 0, Number.NaN, 0)).toThrow(RangeError);
    expect(() => crc32c(whole, 0, 1, 2 ** 32)).toThrow(RangeError);
    expect(crc32c(new Uint8Array(0), 0, 0, 5)).toBe(5);
  });
});
