import { expect, test } from 'vitest';
import { poolsOf, threadsFor } from '../../src/dataplane/placement.ts';

const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

test('pools share no thread where there are as many threads, and no thread is without a pool', () => {
  for (const poolCount of [1, 2, 3, 5]) {
    for (const threadCount of range(9).filter((count) => count >= poolCount)) {
      const threads = range(poolCount).flatMap((pool) => threadsFor(pool, poolCount, threadCount));
      expect(threads.sort((a, b) => a - b)).toEqual(range(threadCount));
    }
  }
});

test('more pools than threads are spread over all of them', () => {
  for (const threadCount of [1, 2, 3]) {
    const pools = range(threadCount).map((thread) => poolsOf(thread, 7, threadCount));
    expect(pools.flat().sort((a, b) => a - b)).toEqual(range(7));
    for (const some of pools) expect(some.length).toBeGreaterThanOrEqual(Math.floor(7 / threadCount));
  }
});
