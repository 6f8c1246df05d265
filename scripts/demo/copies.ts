// The copies of a volume as they lie on disk, for a comparison once no daemon runs.

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

export interface CopyDigest {
  readonly path: string;
  /** Of all bytes. */
  readonly digest: string;
}

/** One for each replica below these directories: they hold one volume. */
export async function digestsOfCopies(directories: readonly string[]): Promise<CopyDigest[]> {
  const copies: CopyDigest[] = [];
  for (const directory of directories) {
    for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || entry.name !== 'data') continue;
      const path = join(entry.parentPath, entry.name);
      const hash = createHash('sha256');
      await pipeline(createReadStream(path), hash);
      copies.push({ path, digest: hash.digest('hex') });
    }
  }
  return copies;
}
