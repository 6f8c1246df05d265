// What the data plane keeps of a request beside what the core knows: whose it is, and where its bytes are.

import { NONE, RequestTable } from '../replication/requests.ts';
import { REQUEST_CAPACITY } from './thread-memory.ts';

export class Slots extends RequestTable {
  /** Index of the session to answer. */
  readonly session = new Int32Array(REQUEST_CAPACITY);
  /** Index of the volume that serves it. */
  readonly volume = new Int32Array(REQUEST_CAPACITY);
  /** When its header was read, CLOCK_BOOTTIME. */
  readonly startedMs = new Float64Array(REQUEST_CAPACITY);
  /** When it was last sent to a primary on another node; 0: it was not. */
  readonly networkMs = new Float64Array(REQUEST_CAPACITY);
  /** When its operation on the data file began. */
  readonly diskMs = new Float64Array(REQUEST_CAPACITY);
  /** NBD_CMD_*: decides the shape of the answer. */
  readonly command = new Uint8Array(REQUEST_CAPACITY);
  /** The buffer, or NONE. It holds whole blocks: the request's first byte is at `data`. */
  readonly buffer = new Int32Array(REQUEST_CAPACITY).fill(NONE);
  readonly data = new Int32Array(REQUEST_CAPACITY);
  /** Of a BLOCK_STATUS reply. */
  readonly replyBytes = new Int32Array(REQUEST_CAPACITY);
  /** Where the disk operation goes on after a short one: file offset, buffer offset, bytes left. */
  readonly ioOffset = new Float64Array(REQUEST_CAPACITY);
  readonly ioBuffer = new Int32Array(REQUEST_CAPACITY);
  readonly ioLeft = new Int32Array(REQUEST_CAPACITY);
  /** Bytes charged to the session for the buffer. */
  readonly charged = new Int32Array(REQUEST_CAPACITY);

  /** Of a read's reply: what left from the page cache already, header included. */
  readonly sentBytes = new Int32Array(REQUEST_CAPACITY);

  constructor() {
    super(REQUEST_CAPACITY);
  }
}
