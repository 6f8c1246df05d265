import { crc32c as oracle } from '@node-rs/crc32';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32c } from '../../src/core/crc32c.ts';

test('the check value of the polynomial is the published one', () => {
  expect(crc32c(new TextEncoder().encode('123456789'), 0, 9)).toBe(0xe3069283);
});

test('any part of any bytes has the sum that an independent implementation computes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(600), fc.nat(600), (bytes, a, b) => {
      const start = Math.min(a, b, bytes.length);
      const end = Math.min(Math.max(a, b), bytes.length);
      expect(crc32c(bytes, start, end)).toBe(oracle(Buffer.from(bytes.subarray(start, end))));
    }),
  );
});
