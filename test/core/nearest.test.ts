import fc from 'fast-check';
import { expect, test } from 'vitest';
import { didYouMean, editDistance, nearest } from '../../src/core/nearest.ts';

const KEYS = ['data-dir', 'node-name', 'pool', 'metrics'];

test('a typing slip finds the word that was meant, whatever its case', () => {
  expect(nearest('data-dri', KEYS)).toBe('data-dir');
  expect(nearest('Pools', KEYS)).toBe('pool');
  expect(nearest('metric', KEYS)).toBe('metrics');
  expect(nearest('FSTYPE', ['fsType', 'pool'])).toBe('fsType');
});

test('a word that resembles nothing finds nothing', () => {
  expect(nearest('zzzzzzzz', KEYS)).toBeUndefined();
  expect(nearest('ab', ['cd'])).toBeUndefined();
  expect(nearest('x', [])).toBeUndefined();
});

test('of several near words the nearest is meant, and the first of equals', () => {
  expect(nearest('volume-1', ['volume-12', 'volume-1x', 'volume1'])).toBe('volume-12');
  expect(nearest('replica', ['replicase', 'replicas'])).toBe('replicas');
});

test('the tail of a message names the word, or is empty', () => {
  expect(didYouMean('node-nam', KEYS)).toBe(' Did you mean "node-name"?');
  expect(didYouMean('zzzzzzzz', KEYS)).toBe('');
});

test('a dropped, added, replaced or swapped letter is one slip', () => {
  expect(editDistance('pool', 'pol')).toBe(1);
  expect(editDistance('pool', 'pooll')).toBe(1);
  expect(editDistance('pool', 'poor')).toBe(1);
  expect(editDistance('pool', 'pool'.replace('po', 'op'))).toBe(1);
  expect(editDistance('', 'pool')).toBe(4);
  expect(editDistance('kitten', 'sitting')).toBe(3);
});

test('the distance is symmetric, zero only for equal words, and at most the longer length', () => {
  const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '-'), maxLength: 8 });
  fc.assert(
    fc.property(word, word, (a, b) => {
      const distance = editDistance(a, b);
      expect(distance).toBe(editDistance(b, a));
      expect(distance === 0).toBe(a === b);
      expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
      expect(distance).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
    }),
  );
});
