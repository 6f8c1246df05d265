// The identity of this boot of the machine's kernel: when it changes, page caches and leases are gone.

import { readFile } from 'node:fs/promises';

export async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'ascii')).trim();
}
