import { setImmediate as soon, setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, expect, test } from 'vitest';
import { CHANGES_AT_A_TIME, DiskGate } from '../../src/dataplane/disk-gate.ts';

const LONG_MS = 60_000;
const SHORT_MS = 50;
const REFUSAL = {
  code: 'UNAVAILABLE',
  message: expect.stringContaining("the disk of pool 'a' (/a) does not answer"),
};

let gate: DiskGate;
let begun: string[];
let endings: (() => void)[];

beforeEach(() => {
  gate = new DiskGate('a', '/a');
  begun = [];
  endings = [];
});

/** An operation that ends when its ending is called. */
function hanging(name: string): () => Promise<string> {
  return async () => {
    begun.push(name);
    await new Promise<void>((end) => endings.push(end));
    return name;
  };
}

test('a few operations run at a time, the others in the order they came', async () => {
  const names = ['1', '2', '3', '4', '5', '6'];
  const all = Promise.all(names.map((name) => gate.run('working', LONG_MS, hanging(name))));
  await soon();
  expect(begun).toEqual(names.slice(0, CHANGES_AT_A_TIME));
  endings[1]?.();
  await soon();
  expect(begun).toEqual(names.slice(0, CHANGES_AT_A_TIME + 1));
  while (endings.length > 0) {
    for (const end of endings.splice(0)) end();
    await soon();
  }
  expect(await all).toEqual(names);
});

test('one that is overdue has the others refused, those that wait as well, until it ends; what must be done waits', async () => {
  const overdue = gate.run('working', SHORT_MS, hanging('overdue'));
  const others = ['2', '3'].map((name) => gate.run('working', LONG_MS, hanging(name)));
  const waiting = gate.run('working', LONG_MS, hanging('waiting'));
  const held = gate.hold(LONG_MS, hanging('held'));
  await Promise.all([
    expect(overdue).rejects.toMatchObject(REFUSAL),
    expect(waiting).rejects.toMatchObject(REFUSAL),
  ]);
  expect(gate.problem).toMatchObject(REFUSAL);
  await expect(gate.run('working', LONG_MS, hanging('new'))).rejects.toMatchObject(REFUSAL);
  expect(() => gate.require('working')).toThrow(expect.objectContaining(REFUSAL));

  endings[0]?.();
  await soon();
  expect(gate.problem).toBeUndefined();
  expect(begun).toEqual(['overdue', '2', '3', 'held']);
  for (const end of endings) end();
  expect(await Promise.all([...others, held])).toEqual(['2', '3', 'held']);
  const again = gate.run('working', LONG_MS, hanging('again'));
  endings.at(-1)?.();
  expect(await again).toBe('again');
});

test('one whose caller left before it began never begins', async () => {
  for (const name of ['1', '2', '3']) void gate.hold(LONG_MS, hanging(name));
  await expect(gate.run('working', SHORT_MS, hanging('late'))).rejects.toMatchObject(REFUSAL);
  for (const end of endings) end();
  await sleep(10);
  expect(begun).toEqual(['1', '2', '3']);
  expect(gate.problem).toBeUndefined();
});

test('a look waits for no change that hangs, and one that hangs itself has changes refused', async () => {
  for (const name of ['1', '2', '3']) void gate.hold(LONG_MS, hanging(name));
  expect(await gate.look('looking', LONG_MS, async () => 'seen')).toBe('seen');
  await expect(gate.look('looking', SHORT_MS, hanging('look'))).rejects.toMatchObject(REFUSAL);
  await expect(gate.run('working', LONG_MS, hanging('new'))).rejects.toMatchObject(REFUSAL);
  for (const end of endings) end();
});

test('a failure is told to its caller and frees the place', async () => {
  for (let count = 0; count < 2 * CHANGES_AT_A_TIME; count += 1) {
    await expect(gate.run('working', LONG_MS, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  }
});
