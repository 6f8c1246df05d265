// A directory for one run, gone afterwards however the run ends.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** Not below /tmp by default: that may be memory, and then nothing would be measured. */
export async function withScratch<T>(
  use: (directory: string) => Promise<T>,
  parent = '/var/tmp',
): Promise<T> {
  const directory = mkdtempSync(join(parent, 'holdfast-bench-'));
  const remove = (): void => rmSync(directory, { recursive: true, force: true });
  // The servers are in the same group and get the signal as well.
  const interrupted = (): void => {
    remove();
    process.exit(130);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    return await use(directory);
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
    remove();
  }
}
