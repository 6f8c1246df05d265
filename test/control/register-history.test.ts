import { describe, expect, test } from 'vitest';
import { type Read, type Swap, violations } from './register-history.ts';

const swap = (value: string, from: number, time: [number, number], revision?: number): Swap => ({
  type: 'swap',
  calledAt: time[0],
  returnedAt: time[1],
  expectedRevision: from,
  value,
  ...(revision === undefined ? { outcome: 'unknown' } : { outcome: 'committed', revision }),
});
const refused = (value: string, from: number, time: [number, number]): Swap => ({
  ...swap(value, from, time),
  outcome: 'refused',
});
const read = (value: string | undefined, revision: number, time: [number, number]): Read => ({
  type: 'read',
  calledAt: time[0],
  returnedAt: time[1],
  value,
  revision,
});
const never = Number.POSITIVE_INFINITY;

describe('the check of a history', () => {
  test('accepts a chain of swaps, reads between them, and unknown ones that happened or not', () => {
    const history = [
      swap('a', 0, [0, 1], 5),
      read('a', 5, [2, 3]),
      swap('b', 5, [4, never]),
      refused('c', 5, [4, 9]),
      read('b', 7, [8, 9]),
      swap('d', 7, [10, never]),
      swap('e', 7, [11, 12], 9),
    ];
    expect(violations(history)).toEqual([]);
  });

  test.each<[string, (Swap | Read)[]]>([
    ['a lost swap', [swap('a', 0, [0, 1], 5), swap('b', 5, [2, 3], 6), swap('c', 5, [4, 5], 7)]],
    ['a swap that happened twice', [swap('a', 0, [0, never]), read('a', 5, [1, 2]), read('a', 6, [3, 4])]],
    ['a stale read', [swap('a', 0, [0, 1], 5), swap('b', 5, [2, 3], 6), read('a', 5, [4, 5])]],
    ['a refused swap that is read', [swap('a', 0, [0, 1], 5), refused('b', 5, [2, 3]), read('b', 6, [4, 5])]],
    ['a swap refused for no reason', [swap('a', 0, [0, 1], 5), refused('b', 5, [2, 3])]],
    ['a swap told that it lost against itself', [refused('a', 0, [0, 1]), read('a', 5, [2, 3])]],
    ['a value out of nowhere', [read('x', 3, [0, 1])]],
    ['a key that vanishes', [swap('a', 0, [0, 1], 5), read(undefined, 0, [2, 3])]],
  ])('finds %s', (_, history) => {
    expect(violations(history)).not.toEqual([]);
  });
});
