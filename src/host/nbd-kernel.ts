// The kernel's NBD driver as calls that end. A netlink call may last as long as a device hangs, and a read of
// a device forever: each is raced with a deadline, and what comes back late is tidied up then.
//
// The parameters are one decision (see ARCHITECTURE.md, Devices): one connection, no time limit for requests,
// a day for a dead connection to be replaced. With a time limit, or with several connections, the kernel
// itself would declare connections dead while a volume only waits.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { isNativeError, native } from '../dataplane/native.ts';
import {
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../dataplane/nbd/protocol.ts';
import { KERNEL_BLOCK_BYTES } from '../dataplane/node-storage.ts';
import type { NbdSysfs } from './nbd-sysfs.ts';
import { runCommand } from './run-command.ts';

const NETLINK_TIMEOUT_MS = 20_000;
/** A disconnect that has something to wait for waits for ever; one that has not takes milliseconds. */
const DISCONNECT_PATIENCE_MS = 5000;
const MODPROBE_TIMEOUT_MS = 30_000;
const PROBE_TIMEOUT_MS = 15_000;
/** Longer: the read may have to wait for requests that an old connection took with it. */
const RECONNECT_PROBE_TIMEOUT_MS = 30_000;
const OFFER_INTERVAL_MS = 1000;
const DEAD_CONNECTION_TIMEOUT_SECONDS = 86_400;
/**
 * While the size changes. The kernel (from 6.11 on at the latest) waits there for requests in flight with the
 * device locked; if the connection dies in that moment, no new one can be given before this has passed, and
 * the requests fail then. A day of that would be a hung machine.
 */
const RESIZE_DEAD_CONNECTION_TIMEOUT_SECONDS = 60;

const LOAD_REMEDY = 'load it with: modprobe nbd max_part=0';
/** Where the kernel has no such module. */
export const NBD_MODULE_REMEDY =
  "install the kernel's module package (linux-modules-extra, kernel-modules); without it volumes can be exported " +
  '(holdfast volume export), not attached';

export interface ConnectOptions {
  readonly identifier: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly socketFd: number;
}

/** UNSUPPORTED, with the remedy, when the kernel has no nbd and it cannot be loaded. */
export async function ensureModule(sysfs: NbdSysfs): Promise<void> {
  if (sysfs.hasModule()) return;
  try {
    await runCommand('modprobe', ['nbd', 'max_part=0'], { timeoutMs: MODPROBE_TIMEOUT_MS });
  } catch (error) {
    throw new HoldfastError(
      'UNSUPPORTED',
      `this kernel has no network block devices: module nbd cannot be loaded (${errorText(error)}). As root, ` +
        `${LOAD_REMEDY}. Where there is no such module, ${NBD_MODULE_REMEDY}`,
      { cause: error },
    );
  }
}

/** Makes a device of the socket; returns its index. A device that appears after the deadline is removed again. */
export async function connectDevice({
  identifier,
  sizeBytes,
  readOnly,
  socketFd,
}: ConnectOptions): Promise<number> {
  const call = native.nbdConnect({
    index: -1,
    sizeBytes,
    blockSizeBytes: KERNEL_BLOCK_BYTES,
    serverFlags:
      NBD_FLAG_HAS_FLAGS |
      NBD_FLAG_SEND_FLUSH |
      NBD_FLAG_SEND_FUA |
      NBD_FLAG_SEND_TRIM |
      NBD_FLAG_SEND_WRITE_ZEROES |
      (readOnly ? NBD_FLAG_READ_ONLY : 0),
    timeoutSeconds: 0,
    deadConnectionTimeoutSeconds: DEAD_CONNECTION_TIMEOUT_SECONDS,
    backendIdentifier: identifier,
    socketFds: [socketFd],
  });
  return await beforeDeadline(call, `connecting a device for ${identifier}`, NETLINK_TIMEOUT_MS, (index) => {
    native.nbdDisconnect(index).catch(() => undefined); // found and removed by the next daemon, then
  });
}

/**
 * Gives a device a connection in place of a dead one, proven by a read. The kernel says yes, and does nothing,
 * while it has not noticed that the old one is dead; so it is offered until the read is answered, and offering
 * what was taken already changes nothing. Then nobody else may use the socket, also after a failure.
 */
export async function offerConnection(index: number, identifier: string, socketFd: number): Promise<void> {
  await reconfigure(index, identifier, { socketFds: [socketFd] });
  const isAnswered = probeDevice(index, RECONNECT_PROBE_TIMEOUT_MS).then(() => true);
  while (!(await Promise.race([isAnswered, sleep(OFFER_INTERVAL_MS, false)]))) {
    await reconfigure(index, identifier, { socketFds: [socketFd] });
  }
}

/** Only for a device that answers: the caller has just seen a read succeed. */
export async function resizeDevice(index: number, identifier: string, sizeBytes: number): Promise<void> {
  const short = { deadConnectionTimeoutSeconds: RESIZE_DEAD_CONNECTION_TIMEOUT_SECONDS };
  await reconfigure(index, identifier, short);
  try {
    await reconfigure(index, identifier, { ...short, sizeBytes });
  } catch (error) {
    // The reason of the failure goes first. After a deadline this call may wait for the one still running.
    await reconfigure(index, identifier, {}).catch(() => undefined);
    throw error;
  }
  await reconfigure(index, identifier, {});
}

/**
 * Requests in flight fail. A device that is not configured: nothing. The kernel's call could wait for a
 * connection whose other end takes no more: `socketFd`, a copy of it, is shut down then.
 */
export async function disconnectDevice(index: number, socketFd: number | undefined): Promise<void> {
  const doing = `disconnecting /dev/nbd${index}`;
  try {
    await beforeDeadline(native.nbdDisconnect(index), doing, DISCONNECT_PATIENCE_MS);
  } catch (error) {
    if (socketFd === undefined || !isHoldfastError(error, 'TIMEOUT')) throw error;
    native.shutdownSocket(socketFd);
    await beforeDeadline(native.nbdDisconnect(index), doing);
  }
}

/**
 * Reads the first block, past every cache, in a process of its own: only that one hangs if the device does.
 * TIMEOUT: no answer. IO: an error for an answer.
 */
export async function probeDevice(index: number, timeoutMs = PROBE_TIMEOUT_MS): Promise<void> {
  const args = [
    `if=/dev/nbd${index}`,
    'of=/dev/null',
    `bs=${KERNEL_BLOCK_BYTES}`,
    'count=1',
    'iflag=direct',
    'status=none',
  ];
  await runCommand('dd', args, { timeoutMs });
}

interface Change {
  readonly sizeBytes?: number;
  readonly deadConnectionTimeoutSeconds?: number;
  readonly socketFds?: readonly number[];
}

async function reconfigure(index: number, identifier: string, change: Change): Promise<void> {
  const call = native.nbdReconfigure({
    index,
    sizeBytes: 0,
    deadConnectionTimeoutSeconds: DEAD_CONNECTION_TIMEOUT_SECONDS,
    backendIdentifier: identifier,
    socketFds: [],
    ...change,
  });
  await beforeDeadline(call, `reconfiguring /dev/nbd${index}`);
}

/** The call's result. After the deadline: TIMEOUT now, and `late` when the call succeeds after all. */
async function beforeDeadline<T>(
  call: Promise<T>,
  doing: string,
  timeoutMs = NETLINK_TIMEOUT_MS,
  late?: (result: T) => void,
): Promise<T> {
  const expired = Promise.withResolvers<'expired'>();
  const timer = setTimeout(() => expired.resolve('expired'), timeoutMs);
  try {
    const first = await Promise.race([call.then((value) => ({ value })), expired.promise]);
    if (first !== 'expired') return first.value;
    call.then(late, () => undefined); // nobody asks any more
    throw new HoldfastError('TIMEOUT', `the kernel has not finished ${doing} after ${timeoutMs} ms`);
  } catch (error) {
    throw kernelError(error, doing);
  } finally {
    clearTimeout(timer);
  }
}

function kernelError(error: unknown, doing: string): unknown {
  if (isNativeError(error, 'ENOENT')) {
    return new HoldfastError(
      'UNSUPPORTED',
      `this kernel has no network block devices; as root, ${LOAD_REMEDY}. Where there is no such module, ${NBD_MODULE_REMEDY}`,
      {
        cause: error,
      },
    );
  }
  if (isNativeError(error, 'EPERM')) {
    return new HoldfastError('UNSUPPORTED', `${doing} needs CAP_SYS_ADMIN: run the daemon as root`, {
      cause: error,
    });
  }
  if (isNativeError(error)) {
    return new HoldfastError('IO', `${doing} failed: ${error.message}; the kernel log says more`, {
      cause: error,
      details: { errno: error.code },
    });
  }
  return error;
}
