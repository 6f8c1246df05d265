import { execa } from 'execa';
import { expect, test } from 'vitest';

/** Locks, fills an arena, then makes V8 give heap pages back, which it does with madvise. */
const SCRIPT = `
  import { readFileSync } from 'node:fs';
  import { native } from './src/dataplane/native.ts';
  native.lockMemory();
  new Uint8Array(native.createMemory(8 << 20).buffer).fill(1);
  for (let round = 0; round < 10; round++) {
    Array.from({ length: 50 }, (_, i) => new Array(50_000).fill(i));
  }
  console.log(/VmLck:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
`;

test('locked memory holds the code and the arenas, and V8 still returns its heap', async () => {
  const result = await execa('node', ['--input-type=module-typescript', '-e', SCRIPT], {
    timeout: 20_000,
    preferLocal: true,
  });
  // All of the arena, and at least some of the code.
  expect(Number(result.stdout)).toBeGreaterThan(8 * 1024);
});

test('where locking is forbidden it is refused with the reason', async () => {
  const script = `import { native } from './src/dataplane/native.ts';
    try { native.lockMemory(); } catch (error) { console.log(error.code, error.syscall); }`;
  const asNobody = ['--reuid=65534', '--clear-groups', '--inh-caps=-all', '--bounding-set=-all'];
  const node = process.execPath;
  const result = await execa(
    'prlimit',
    ['--memlock=65536:65536', 'setpriv', ...asNobody, node, '--input-type=module-typescript', '-e', script],
    { timeout: 20_000 },
  );
  expect(result.stdout).toMatch(/^(ENOMEM|EPERM|EAGAIN) mlock2$/);
});
