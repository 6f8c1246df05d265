import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { inParallel } from '../../src/host/in-parallel.ts';

const NEVER = new Promise<void>(() => {});

test('as many at a time as allowed, and everything in the end', async () => {
  let running = 0;
  let most = 0;
  const done: number[] = [];
  await inParallel([1, 2, 3, 4, 5, 6, 7], { limit: 3, patienceMs: 60_000 }, async (item) => {
    most = Math.max(most, ++running);
    await sleep(5);
    running -= 1;
    done.push(item);
  });
  expect([most, done.length]).toEqual([3, 7]);
});

test('what hangs gives its place to the next, and the whole waits for it', async () => {
  const done: string[] = [];
  const items = ['hangs', 'hangs', 'a', 'b', 'hangs', 'c'];
  const whole = inParallel(items, { limit: 2, patienceMs: 20 }, async (item) => {
    if (item === 'hangs') await NEVER;
    done.push(item);
  });
  await expect.poll(() => done, { timeout: 5000 }).toEqual(['a', 'b', 'c']);
  expect(await Promise.race([whole, sleep(50, 'waits')])).toBe('waits');
});

test('an error comes out, also one that comes late, and keeps nothing from being tried', async () => {
  const tried: number[] = [];
  const whole = inParallel([1, 2, 3], { limit: 1, patienceMs: 5 }, async (item) => {
    tried.push(item);
    if (item === 1) await sleep(50);
    if (item < 3) throw new Error(`no ${item}`);
  });
  await expect(whole).rejects.toThrow('no');
  expect(tried).toEqual([1, 2, 3]);
});
