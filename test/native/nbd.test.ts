// Kernel NBD calls that cannot succeed: without the family in the kernel, or without the right to use it. A
// clear error, and nothing left behind. The commands themselves are tried in a lab guest (test/lab).

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('without nbd, or without the right to it, every call rejects with the reason and leaves nothing', () => {
  const script = fileURLToPath(new URL('children/nbd-absent.ts', import.meta.url));
  // On a machine that has nbd the calls must not reach real devices.
  const powerless =
    process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-all', '--inh-caps=-all'] : ['env'];
  const [program = '', ...args] = [...powerless, process.execPath, script];
  const said = JSON.parse(execFileSync(program, args, { encoding: 'utf8', timeout: 20_000 }));
  const isThere = existsSync('/sys/module/nbd');
  const refusal = isThere
    ? { code: 'EPERM', errno: 1, syscall: 'netlink', message: expect.stringContaining('EPERM') }
    : {
        code: 'ENOENT',
        errno: 2,
        syscall: 'netlink',
        message: expect.stringContaining('the kernel has no nbd; load it with: modprobe nbd max_part=0'),
      };
  expect(said).toMatchObject({
    outcomes: { connect: refusal, reconfigure: refusal, disconnect: refusal },
    left: 0,
    rejected: isThere ? 0 : 64,
  });
});
