// The yardstick of the random tests must itself find what is wrong.

import { expect, test } from 'vitest';
import { CellModel } from './nbd-model.ts';

test('a cell nobody wrote reads zero and nothing else', () => {
  const model = new CellModel(2);
  expect(model.read(0, 2)([0, 0])).toEqual([]);
  expect(model.read(0, 2)([0, 7])).toEqual(['cell 1 reads 7; it may read 0']);
});

test('an answered write must be read; what stood before is gone', () => {
  const model = new CellModel(1);
  model.write(0, 1, 1)();
  model.write(0, 1, 2)();
  expect(model.read(0, 1)([2])).toEqual([]);
  expect(model.read(0, 1)([1])).toHaveLength(1);
  expect(model.read(0, 1)([0])).toHaveLength(1);
});

test('a write under way may be read or not', () => {
  const model = new CellModel(1);
  model.write(0, 1, 1)();
  const ended = model.write(0, 1, 2);
  expect(model.read(0, 1)([1])).toEqual([]);
  expect(model.read(0, 1)([2])).toEqual([]);
  ended();
  expect(model.read(0, 1)([1])).toHaveLength(1);
});

test('a write that is sent and answered while a read is under way may be read by it', () => {
  const model = new CellModel(1);
  model.write(0, 1, 1)();
  const check = model.read(0, 1);
  model.write(0, 1, 2)();
  expect(check([1])).toEqual([]);
  expect(check([2])).toEqual([]);
  expect(check([0])).toHaveLength(1);
});

test('of two overlapping writes either may last', () => {
  const model = new CellModel(1);
  const first = model.write(0, 1, 1);
  const second = model.write(0, 1, 2);
  second();
  first();
  expect(model.read(0, 1)([1])).toEqual([]);
  expect(model.read(0, 1)([2])).toEqual([]);
});

test('a trimmed cell may show zero until it is written, or stay as it was', () => {
  const model = new CellModel(1);
  model.write(0, 1, 1)();
  model.write(0, 1, 0, true)();
  expect(model.read(0, 1)([0])).toEqual([]);
  expect(model.read(0, 1)([1])).toEqual([]);
  model.write(0, 1, 3)();
  expect(model.read(0, 1)([0])).toHaveLength(1);
});
