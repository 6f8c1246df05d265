// What every TCP socket of a link is set to.

import { native } from '../native.ts';

/** A dead machine is noticed within a dozen seconds even where nothing is sent; the core's leases are quicker. */
const KEEP_ALIVE_IDLE_SECONDS = 5;
const KEEP_ALIVE_INTERVAL_SECONDS = 2;
const KEEP_ALIVE_PROBES = 3;
const USER_TIMEOUT_MS = 10_000;

/** `bufferBytes` undefined: the kernel tunes them. */
export function setUpPeerSocket(fd: number, bufferBytes: number | undefined): void {
  try {
    native.setPeerOptions(
      fd,
      KEEP_ALIVE_IDLE_SECONDS,
      KEEP_ALIVE_INTERVAL_SECONDS,
      KEEP_ALIVE_PROBES,
      USER_TIMEOUT_MS,
    );
    if (bufferBytes !== undefined) native.setSocketBuffers(fd, bufferBytes);
  } catch {
    // The other end has gone already: the receive says so.
  }
}
