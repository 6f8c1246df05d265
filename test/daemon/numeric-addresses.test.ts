import { expect, test } from 'vitest';
import { numericAddresses } from '../../src/cli/daemon/numeric-addresses.ts';
import { createLogger } from '../../src/observe/log.ts';

test('names become numbers, numbers stay, and what means nothing is left out', async () => {
  const log = createLogger({ level: 'error', node: 'a' });
  const addresses = new Map([
    ['a', '10.0.0.1:7000'],
    ['b', 'localhost:7001'],
    ['c', '[fd00::1]:7002'],
    ['d', 'no-such-name.invalid:7003'],
  ]);
  const numeric = await numericAddresses(addresses, log);
  expect(numeric.get('a')).toBe('10.0.0.1:7000');
  expect(numeric.get('b')).toMatch(/^(127\.0\.0\.1|\[::1\]):7001$/);
  expect(numeric.get('c')).toBe('[fd00::1]:7002');
  expect(numeric.has('d')).toBe(false);
});
