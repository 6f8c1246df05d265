// A replica whose disk failed a flush or a log write: remembered in its own directory, so that no later process
// believes it. The kernel forgets such a failure once it has told it, and the next fsync succeeds without the
// bytes that were lost. A person decides: the mark is a file to read and, when the data was found good, to remove.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { createFile, hasErrno, syncDirectory } from './durable-files.ts';

export const FAILURE_FILE_NAME = 'failed';

/** Durable when it resolves. A mark that is there already stays as it is. */
export async function markFailed(replicaDirectory: string, reason: string): Promise<void> {
  try {
    await createFile(join(replicaDirectory, FAILURE_FILE_NAME), new TextEncoder().encode(`${reason}\n`));
  } catch (error) {
    if (!hasErrno(error, 'EEXIST')) throw error;
  }
  await syncDirectory(replicaDirectory);
}

/** What failed, in one line; undefined: nothing is known against this replica. A mark that cannot be read counts. */
export async function failureOf(replicaDirectory: string): Promise<string | undefined> {
  try {
    return (await readFile(join(replicaDirectory, FAILURE_FILE_NAME), 'utf8')).trim();
  } catch (error) {
    return hasErrno(error, 'ENOENT') ? undefined : 'its failure mark cannot be read';
  }
}

export function failureError(volumeId: string, replicaDirectory: string, failure: string): HoldfastError {
  return new HoldfastError(
    'IO',
    `the replica of volume ${volumeId} is not served: ${failure}. Acknowledged writes may be missing: mend the disk, ` +
      `check the data (the files in ${replicaDirectory} may be copied), then remove ${join(replicaDirectory, FAILURE_FILE_NAME)}`,
    { details: { volumeId } },
  );
}
