// The program that starts the daemon's Node.js (native/launch): what it executes, and what it leaves as it is.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { isNativeError, native } from '../../src/dataplane/native.ts';

const LAUNCH = fileURLToPath(new URL('../../native/build/launch', import.meta.url));
const run = promisify(execFile);

/** Whether this process may make I/O flushers; it is none afterwards. */
function mayFlush(): boolean {
  try {
    native.setIoFlusher(true);
    native.setIoFlusher(false);
    return true;
  } catch (error) {
    if (!isNativeError(error)) throw error;
    return false;
  }
}

describe('launch', () => {
  test('executes the program with its arguments, and says that it is an I/O flusher only where it is one', async () => {
    const script = 'echo "$0|$1|$HOLDFAST_IS_IO_FLUSHER"';
    const { stdout } = await run(LAUNCH, ['/bin/sh', '-c', script, 'a b', "c'd"]);
    expect(stdout).toBe(`a b|c'd|${mayFlush() ? '1' : ''}\n`);
  });

  test.each([
    ['without a program', [], 2, /^usage: launch PROGRAM/],
    ['for a program that is not there', ['/nowhere/node'], 126, /^\/nowhere\/node: No such file/],
  ])('fails %s', async (_, words, code, message) => {
    await expect(run(LAUNCH, words)).rejects.toMatchObject({
      code,
      stderr: expect.stringMatching(message) as string,
    });
  });
});
