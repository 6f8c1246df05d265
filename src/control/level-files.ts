// The directory of an embedded store: made whole, opened by one process at a time, and refused with the
// next step when it cannot be trusted.
//
// A new database is built beside its place and moved there by one rename, so what stands at `directory`
// is never half made; an existing directory whose database lost its CURRENT file is therefore damage, and
// must not be taken for a new store.

import { mkdir, mkdtemp, open, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Level } from 'level';
import { errorText, HoldfastError } from '../core/errors.ts';

export type Database = Level<string, string>;

/** Opens the database in `directory`; a missing or empty directory is first filled by `initialise`. */
export async function openDatabase(
  directory: string,
  initialise: (fresh: Database) => Promise<void>,
): Promise<Database> {
  if (await isMissingOrEmpty(directory)) await createDatabase(directory, initialise);
  const database = await openLevel(directory, false);
  // This process now owns the store: what an interrupted creation left behind is nobody's.
  await removeLeftovers(directory);
  return database;
}

/** Whether openDatabase would find one there. */
export async function storeExists(directory: string): Promise<boolean> {
  return !(await isMissingOrEmpty(directory));
}

async function createDatabase(
  directory: string,
  initialise: (fresh: Database) => Promise<void>,
): Promise<void> {
  await mkdir(dirname(directory), { recursive: true });
  const draft = await mkdtemp(`${directory}.new-`);
  const fresh = await openLevel(draft, true);
  try {
    await initialise(fresh);
  } finally {
    await fresh.close();
  }
  await syncDirectory(draft);
  try {
    await rename(draft, directory);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    // Another daemon was faster; opening its store tells the rest.
    if (!hasCode(error, 'ENOTEMPTY') && !hasCode(error, 'EEXIST')) throw openFailure(directory, error);
  }
  await syncDirectory(dirname(directory));
}

async function openLevel(directory: string, createIfMissing: boolean): Promise<Database> {
  const database = new Level<string, string>(directory, { createIfMissing, valueEncoding: 'utf8' });
  try {
    await database.open();
    return database;
  } catch (error) {
    throw openFailure(directory, error);
  }
}

function openFailure(directory: string, error: unknown): HoldfastError {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  if (hasCode(cause, 'LEVEL_LOCKED')) {
    return new HoldfastError(
      'BUSY',
      `The store in ${directory} is in use by another daemon: stop that one, or give this one another data directory.`,
      { cause },
    );
  }
  // Without CURRENT the database "does not exist" although its directory does; leveldb gives that no code.
  if (hasCode(cause, 'LEVEL_CORRUPTION') || errorText(cause).startsWith('Invalid argument')) {
    return storeCorrupt(directory, errorText(cause), cause);
  }
  return new HoldfastError(
    'IO',
    `The store in ${directory} cannot be opened (${errorText(cause)}): check the directory's permissions and its disk, then start again.`,
    { cause },
  );
}

/** What every kind of damage ends in. The volumes' data lies elsewhere, which is the first thing to say. */
export function storeCorrupt(directory: string, reason: string, cause?: unknown): HoldfastError {
  return new HoldfastError(
    'CORRUPT',
    `The store in ${directory} is damaged (${reason}). The volumes' data lies elsewhere and is untouched. ` +
      'Keep a copy of the directory, check the disk under it, and put back the last backup of the directory.',
    { cause },
  );
}

async function isMissingOrEmpty(directory: string): Promise<boolean> {
  try {
    return (await readdir(directory)).length === 0;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return true;
    throw openFailure(directory, error);
  }
}

async function removeLeftovers(directory: string): Promise<void> {
  const prefix = `${basename(directory)}.new-`;
  for (const name of await readdir(dirname(directory))) {
    if (name.startsWith(prefix)) await rm(join(dirname(directory), name), { recursive: true, force: true });
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
