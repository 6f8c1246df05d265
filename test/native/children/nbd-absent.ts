// Calls every kernel NBD function and prints what they reject with, then how many descriptors were left
// behind. Run where none of them can succeed.

import { readdirSync } from 'node:fs';
import { native } from '../../../src/dataplane/native.ts';

const SETTINGS = {
  deadConnectionTimeoutSeconds: 60,
  backendIdentifier: 'v/1',
  socketFds: [0],
};

async function outcome(call: Promise<unknown>): Promise<unknown> {
  try {
    return { resolved: await call };
  } catch (error) {
    const { message, code, errno, syscall } = error as NodeJS.ErrnoException;
    return { message, code, errno, syscall };
  }
}

const before = readdirSync('/proc/self/fd').length;
const outcomes = {
  connect: await outcome(
    native.nbdConnect({
      index: -1,
      sizeBytes: 4096,
      blockSizeBytes: 4096,
      serverFlags: 1,
      timeoutSeconds: 0,
      ...SETTINGS,
    }),
  ),
  reconfigure: await outcome(native.nbdReconfigure({ index: 0, sizeBytes: 0, ...SETTINGS })),
  disconnect: await outcome(native.nbdDisconnect(0)),
  status: await outcome(native.nbdStatus(-1)),
};
const many = await Promise.allSettled(Array.from({ length: 64 }, () => native.nbdStatus(-1)));
const left = readdirSync('/proc/self/fd').length - before;
console.log(
  JSON.stringify({ outcomes, left, rejected: many.filter(({ status }) => status === 'rejected').length }),
);
