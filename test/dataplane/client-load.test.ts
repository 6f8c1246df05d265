import { expect, test } from 'vitest';
import { SharedClientLoad } from '../../src/dataplane/cluster/client-load.ts';

test('every thread sees the operations of all', () => {
  const memory = SharedClientLoad.allocate(3);
  const [first, last] = [new SharedClientLoad(memory, 0), new SharedClientLoad(memory, 2)];
  first.began();
  first.began();
  last.began();
  last.ended();
  expect([first.openCount, last.openCount]).toEqual([2, 2]);
  expect([first.begunCount, last.begunCount]).toEqual([3, 3]);
  first.ended();
  last.answeredElsewhere();
  expect([last.openCount, last.begunCount]).toEqual([1, 4]);
});

test('what is open is known when the numbers have wrapped around', () => {
  const memory = SharedClientLoad.allocate(2);
  new Int32Array(memory).fill(2 ** 31 - 1);
  const load = new SharedClientLoad(memory, 1);
  load.began();
  load.began();
  load.ended();
  expect(load.openCount).toBe(1);
});
