import { expect, test } from 'vitest';
import { didYouMean, nearest } from '../../src/core/nearest.ts';

const KEYS = ['data-dir', 'node-name', 'pool', 'metrics'];

test('a typing slip finds the word that was meant', () => {
  expect(nearest('data-dri', KEYS)).toBe('data-dir');
  expect(nearest('Pools', KEYS)).toBe('pool');
  expect(nearest('metric', KEYS)).toBe('metrics');
});

test('a word that resembles nothing finds nothing', () => {
  expect(nearest('zzzzzzzz', KEYS)).toBeUndefined();
  expect(nearest('x', [])).toBeUndefined();
  expect(didYouMean('zzzzzzzz', KEYS)).toBe('');
});

test('the message names the word', () => {
  expect(didYouMean('node-nam', KEYS)).toBe("; did you mean 'node-name'?");
});
