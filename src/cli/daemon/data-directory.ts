// The daemon's own directory, and the lock that keeps a second daemon out of it. The kernel drops the lock
// with its last holder, so a killed daemon leaves nothing to clear away.

import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errorText, HoldfastError } from '../../core/errors.ts';
import { native } from '../../dataplane/native.ts';
import { whyNotEnded } from '../../dataplane/process-state.ts';

/** A daemon that was just killed may still be on its way out. */
const LOCK_WAIT_MS = 10_000;
const LOCK_RETRY_MS = 50;

/** Closing the returned file gives the directory back. CONFLICT when another daemon has it. */
export async function lockDataDirectory(directory: string): Promise<FileHandle> {
  let file: FileHandle;
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    file = await open(join(directory, 'lock'), 'a+', 0o600);
  } catch (error) {
    throw new HoldfastError('IO', `the data directory cannot be used: ${errorText(error)}`, { cause: error });
  }
  try {
    const deadline = performance.now() + LOCK_WAIT_MS;
    while (!native.tryLock(file.fd)) {
      if (performance.now() > deadline) {
        const holder = (await file.readFile('utf8')).trim();
        throw await inUse(directory, holder);
      }
      await delay(LOCK_RETRY_MS);
    }
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function inUse(directory: string, holder: string): Promise<HoldfastError> {
  const details = { processId: Number(holder) };
  const ending = await whyNotEnded(Number(holder));
  if (ending !== undefined) {
    const text = `${directory} is not free yet: ${ending}; do not use another data directory`;
    return new HoldfastError('CONFLICT', text, { details });
  }
  const user = `process ${holder === '' ? '(unknown)' : holder}`;
  const text = `${directory} is in use by ${user}: give this daemon its own --data-dir`;
  return new HoldfastError('CONFLICT', text, { details });
}
