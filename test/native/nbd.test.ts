// Kernel NBD calls where the kernel has no nbd: a clear error and nothing left behind. The family belongs to
// the first network namespace only, so that a new one is such a kernel on every machine. The commands
// themselves are tried in a lab guest (test/lab).

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('without nbd in the kernel every call rejects with the reason and the remedy', () => {
  const script = fileURLToPath(new URL('children/nbd-absent.ts', import.meta.url));
  const namespace = process.getuid?.() === 0 ? ['--net'] : ['--map-root-user', '--net'];
  const said = execFileSync('unshare', [...namespace, process.execPath, script], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  const absent = {
    code: 'ENOENT',
    errno: 2,
    syscall: 'netlink',
    message: expect.stringContaining('the kernel has no nbd; load it with: modprobe nbd max_part=0'),
  };
  expect(JSON.parse(said)).toEqual({
    outcomes: { connect: absent, reconfigure: absent, disconnect: absent, status: absent },
    left: 0,
    rejected: 64,
  });
});
