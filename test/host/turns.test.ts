// Operations that take turns.

import { expect, test } from 'vitest';
import { Turns } from '../../src/host/turns.ts';

test('operations of one key run one after the other, in order, past a failure; other keys do not wait', async () => {
  const turns = new Turns();
  const events: string[] = [];
  const gate = Promise.withResolvers<void>();
  const first = turns.run('a', async () => {
    events.push('first begins');
    await gate.promise;
    events.push('first fails');
    throw new Error('first');
  });
  const second = turns.run('a', async () => events.push('second'));
  await turns.run('b', async () => events.push('other key'));
  expect(events).toEqual(['first begins', 'other key']);
  expect([turns.isBusy('a'), turns.isBusy('b')]).toEqual([true, false]);
  gate.resolve();
  await expect(first).rejects.toThrow('first');
  await second;
  await turns.idle();
  expect(events).toEqual(['first begins', 'other key', 'first fails', 'second']);
  expect(turns.isBusy('a')).toBe(false);
});
