import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/cli/values.ts';

test.each([
  ['10GiB', 10 * 2 ** 30],
  ['10Gi', 10 * 2 ** 30],
  ['10 GiB', 10 * 2 ** 30],
  ['1.5GiB', 1.5 * 2 ** 30],
  ['1GB', 1e9],
  ['1G', 1e9],
  ['4096', 4096],
  ['4096B', 4096],
])('%s is %d bytes', (text, sizeBytes) => {
  expect(parseSize(text)).toBe(sizeBytes);
});

test.each(['', 'GiB', '-1GiB', '10 apples', '1e9', '10GiBx', '0x10'])('%j is no size', (text) => {
  expect(parseSize(text)).toBeUndefined();
});

test.each(['9000TiB', '9000000000TiB'])('%s is more than can be told exactly', (text) => {
  expect(parseSize(text)).toBe(Number.POSITIVE_INFINITY);
});

test('a printed size is read back to within its rounding', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 50 }), (sizeBytes) => {
      const back = parseSize(formatSize(sizeBytes));
      expect(back).toBeDefined();
      expect(Math.abs((back ?? 0) - sizeBytes)).toBeLessThanOrEqual(Math.max(0.06 * sizeBytes, 1));
    }),
  );
});

test('a time needs a unit', () => {
  expect(parseDuration('50us')).toBe(0.05);
  expect(parseDuration('250ms')).toBe(250);
  expect(parseDuration('1.5s')).toBe(1500);
  expect(parseDuration('24h')).toBe(86_400_000);
  expect(parseDuration('10')).toBeUndefined();
  expect(parseDuration('s')).toBeUndefined();
  expect(parseDuration('-5s')).toBeUndefined();
});

test('a printed time is read back exactly', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (durationMs) => {
      expect(parseDuration(formatDuration(durationMs))).toBe(durationMs);
    }),
  );
});
