// What a request must be before the volume sees it. One place refuses; behind it everything is asserted.

import { FLAG_FUA, FLAG_NO_HOLE, FLUSH, READ, WRITE, ZERO } from '../../replication/requests.ts';
import type { Slots } from '../slots.ts';
import { MAX_PAYLOAD_BYTES } from '../thread-memory.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EOVERFLOW,
  NBD_EPERM,
} from './protocol.ts';

/** What the connection may do: bits. */
export const CLIENT_READ_ONLY = 1;
export const CLIENT_STRUCTURED = 2;
export const CLIENT_ALLOCATION_CONTEXT = 4;

/** A BLOCK_STATUS that wants one descriptor; the core never sees it. */
export const FLAG_ONE_DESCRIPTOR = 8;

/**
 * Fills in kind and flags of the slot, whose command, offset and length are set. Returns 0, or the errno of a
 * request that must not reach the volume. `volumeBytes` below 2^53.
 */
export function checkRequest(
  slots: Slots,
  request: number,
  wireFlags: number,
  client: number,
  volumeBytes: number,
): number {
  const command = slots.command[request] as number;
  const offset = slots.offsetBytes[request] as number;
  const length = slots.lengthBytes[request] as number;
  slots.kind[request] = kindOf(command);
  if ((wireFlags & ~allowedFlags(command, client)) !== 0) return NBD_EINVAL;
  slots.flags[request] = coreFlags(command, wireFlags);
  switch (command) {
    case NBD_CMD_FLUSH:
      slots.offsetBytes[request] = 0;
      slots.lengthBytes[request] = 0;
      return 0;
    case NBD_CMD_READ:
      if (length > MAX_PAYLOAD_BYTES) return NBD_EOVERFLOW;
      return offset + length > volumeBytes ? NBD_EINVAL : 0;
    case NBD_CMD_BLOCK_STATUS:
      if ((client & CLIENT_ALLOCATION_CONTEXT) === 0 || length === 0) return NBD_EINVAL;
      return offset + length > volumeBytes ? NBD_EINVAL : 0;
    case NBD_CMD_CACHE:
      return offset + length > volumeBytes ? NBD_EINVAL : 0;
    case NBD_CMD_WRITE:
    case NBD_CMD_WRITE_ZEROES:
      if ((client & CLIENT_READ_ONLY) !== 0) return NBD_EPERM;
      return offset + length > volumeBytes ? NBD_ENOSPC : 0;
    case NBD_CMD_TRIM:
      if ((client & CLIENT_READ_ONLY) !== 0) return NBD_EPERM;
      return offset + length > volumeBytes ? NBD_EINVAL : 0;
    default:
      return NBD_EINVAL;
  }
}

function kindOf(command: number): number {
  switch (command) {
    case NBD_CMD_WRITE:
      return WRITE;
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES:
      return ZERO;
    case NBD_CMD_FLUSH:
      return FLUSH;
    default:
      return READ;
  }
}

/** FUA is allowed everywhere by the protocol, and means something where something is written. */
function allowedFlags(command: number, client: number): number {
  switch (command) {
    case NBD_CMD_READ:
      return (client & CLIENT_STRUCTURED) !== 0 ? NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF : NBD_CMD_FLAG_FUA;
    case NBD_CMD_WRITE_ZEROES:
      return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE;
    case NBD_CMD_BLOCK_STATUS:
      return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
      return NBD_CMD_FLAG_FUA;
  }
}

function coreFlags(command: number, wireFlags: number): number {
  let flags = (wireFlags & NBD_CMD_FLAG_FUA) !== 0 ? FLAG_FUA : 0;
  if (command === NBD_CMD_WRITE_ZEROES && (wireFlags & NBD_CMD_FLAG_NO_HOLE) !== 0) flags |= FLAG_NO_HOLE;
  if (command === NBD_CMD_BLOCK_STATUS && (wireFlags & NBD_CMD_FLAG_REQ_ONE) !== 0)
    flags |= FLAG_ONE_DESCRIPTOR;
  return flags;
}
