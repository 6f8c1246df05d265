// The model that judges what clients read: an unanswered write may happen or not, but only once, and never after
// something newer was read.

import { expect, test } from 'vitest';
import { History, type Operation } from './history.ts';

const BLOCK = 7;

function model(): { history: History; write: (id: number, issuedMs: number) => Operation } {
  const history = new History(false, () => 0);
  const write = (id: number, issuedMs: number): Operation => {
    const operation = { id, issuedMs, endedMs: Number.POSITIVE_INFINITY, attachment: 1 };
    history.issued(operation, [BLOCK], id);
    return operation;
  };
  return { history, write };
}

test('an unanswered write may be there or not until it was read', () => {
  const { history, write } = model();
  write(1, 10);
  expect(history.read(BLOCK, 0, 20, 21)).toBeUndefined();
  expect(history.read(BLOCK, 1, 30, 31)).toBeUndefined();
  expect(history.read(BLOCK, 0, 40, 41)).toContain('it may hold 1');
});

test('an unanswered write that was read and is gone does not come back', () => {
  const { history, write } = model();
  write(1, 10);
  expect(history.read(BLOCK, 1, 20, 21)).toBeUndefined();
  write(2, 30);
  expect(history.read(BLOCK, 2, 40, 41)).toBeUndefined();
  expect(history.read(BLOCK, 1, 50, 51)).toContain('it may hold 2');
});

test('an unanswered write that was read does not happen again after a newer one was acknowledged', () => {
  const { history, write } = model();
  write(1, 10);
  expect(history.read(BLOCK, 1, 20, 21)).toBeUndefined();
  history.acknowledged(write(2, 30), [BLOCK], 40, false);
  expect(history.read(BLOCK, 1, 50, 51)).toContain('it may hold 2');
});

test('reads that run side by side may show a write before and after it happened', () => {
  const { history, write } = model();
  write(1, 10);
  expect(history.read(BLOCK, 1, 20, 25)).toBeUndefined();
  expect(history.read(BLOCK, 0, 22, 26)).toBeUndefined();
  expect(history.read(BLOCK, 0, 30, 31)).toBeDefined();
});

test('after the loss of everything unflushed an older write may stand there again', () => {
  const { history, write } = model();
  write(1, 10);
  expect(history.read(BLOCK, 1, 20, 21)).toBeUndefined();
  history.allLost(100);
  expect(history.read(BLOCK, 0, 30, 31)).toBeUndefined();
});
