// A dead daemon's writes may land after its death. Its successor must not serve before the last of them has,
// or one would overwrite what was written after it.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

const SCRIPT = fileURLToPath(new URL('../lab-guests/late-writes.ts', import.meta.url));
const DELAY_MS = 10_000;
const directory = mkdtempSync('/var/tmp/holdfast-late-');
const image = join(directory, 'disk');

afterAll(() => {
  rmSync(directory, { recursive: true });
});

test('a daemon that starts after a SIGKILL waits for the dead one’s writes, and none of them undoes a newer one', async () => {
  writeFileSync(image, '');
  truncateSync(image, 256 * 1024 * 1024);
  const modules = ['dm-mod', 'dm-delay'];
  await using guest = await Guest.start({
    name: 'late',
    modules,
    disks: [image],
    memoryMib: 768,
    timeoutMs: 180_000,
  });
  const output = await mustRun(guest, [process.execPath, SCRIPT, '/dev/ubda', String(DELAY_MS)], {
    timeoutMs: 150_000,
  });
  const seen = JSON.parse(output) as { servedAfterMs: number; foundAtStart: number; foundAtEnd: number };
  expect(seen.servedAfterMs).toBeGreaterThan(DELAY_MS / 2);
  expect(seen).toMatchObject({ foundAtStart: 2, foundAtEnd: 3 });
}, 200_000);
