// The daemon as an I/O flusher (PR_SET_IO_FLUSHER): it writes back the page cache of its own devices' users, so it
// must never wait for memory that only it can free.
//
// The flag belongs to a thread and to those it creates, and Node has created its own before any of our code runs.
// bin/holdfast therefore starts Node by native/build/launch, which sets it. Who starts Node otherwise pays for a second
// start: the flag is set and the process executes itself, before anything else is loaded, since all of it is loaded once
// more; nothing is open yet, and the process id stays.

import { errorText } from '../../core/errors.ts';
import { isNativeError, native } from '../../dataplane/native.ts';

/** Set for a process that is one; never seen by its children. */
const FLUSHER_VARIABLE = 'HOLDFAST_IS_IO_FLUSHER';

let outcome: { readonly problem: string | undefined } | undefined;

/** Returns once the process is one: undefined; or why it cannot be. Any number of times. */
export function becomeIoFlusher(): string | undefined {
  outcome ??= { problem: tryToBecome() };
  return outcome.problem;
}

function tryToBecome(): string | undefined {
  if (process.env[FLUSHER_VARIABLE] !== undefined) {
    delete process.env[FLUSHER_VARIABLE];
    return undefined;
  }
  try {
    native.setIoFlusher(true);
  } catch (error) {
    if (!isNativeError(error)) throw error;
    return errorText(error);
  }
  const args = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  process.execve?.(process.execPath, args, { ...process.env, [FLUSHER_VARIABLE]: '1' });
  return undefined;
}
