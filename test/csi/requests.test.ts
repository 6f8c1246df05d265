import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isHoldfastError } from '../../src/core/errors.ts';
import { BLOCK_BYTES, GIB, MAX_VOLUME_BYTES, MIB, MIN_VOLUME_BYTES } from '../../src/core/units.ts';
import { requestedSizeBytes } from '../../src/csi/requests.ts';

const range = (requiredBytes: number, limitBytes: number) => ({
  required_bytes: requiredBytes,
  limit_bytes: limitBytes,
});

describe('the size of a capacity range', () => {
  test.each([
    ['exactly what is required', range(10 * GIB, 0), 10 * GIB],
    ['exactly what is required and allowed', range(GIB, GIB), GIB],
    ['rounded up to whole blocks', range(GIB + 1, 0), GIB + BLOCK_BYTES],
    ['at least the least volume', range(1, 0), MIN_VOLUME_BYTES],
    ['the default without a range', null, 3 * GIB],
    ['the default below a high limit', range(0, 5 * GIB), 3 * GIB],
    ['the limit when that is below the default', range(0, 2 * GIB + 1), 2 * GIB],
    ['the largest volume', range(MAX_VOLUME_BYTES, 0), MAX_VOLUME_BYTES],
  ])('is %s', (_, given, expected) => {
    expect(requestedSizeBytes(given, 3 * GIB)).toBe(expected);
  });

  test.each([
    ['nothing but a limit below the least volume', range(0, MIB - 1), 'OUT_OF_RANGE'],
    ['no whole block between required and limit', range(GIB + 1, GIB + 2), 'OUT_OF_RANGE'],
    ['more than the largest volume', range(MAX_VOLUME_BYTES + 1, 0), 'OUT_OF_RANGE'],
    [
      'a number that int64 can hold and a double cannot',
      range(Number('9223372036854775807'), 0),
      'OUT_OF_RANGE',
    ],
    ['a limit below what is required', range(2 * GIB, GIB), 'INVALID'],
    ['a negative size', range(-1, 0), 'INVALID'],
  ])('is refused for %s', (_, given, code) => {
    expect(() => requestedSizeBytes(given, GIB)).toThrow(expect.objectContaining({ code }));
  });

  test('is always a legal size within the range, or refused as out of range', () => {
    const bytes = fc.oneof(fc.nat(4 * MIB), fc.integer({ min: 0, max: 2 * MAX_VOLUME_BYTES }));
    fc.assert(
      fc.property(bytes, bytes, (a, b) => {
        const given = range(Math.min(a, b), Math.max(a, b));
        try {
          const size = requestedSizeBytes(given, GIB);
          expect(size % BLOCK_BYTES).toBe(0);
          expect(size).toBeGreaterThanOrEqual(Math.max(given.required_bytes, MIN_VOLUME_BYTES));
          expect(size).toBeLessThanOrEqual(given.limit_bytes || MAX_VOLUME_BYTES);
        } catch (error) {
          if (!isHoldfastError(error, 'OUT_OF_RANGE')) throw error;
        }
      }),
    );
  });
});
