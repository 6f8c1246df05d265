// The sending half of a session: replies queue up while a send is under way, then all of them leave in one
// sendmsg. Headers stand in the slots' header area, where the cookie has waited since the request came.
//
// Invariant: at most one send is in the ring; a request stays in `#sending`, with its buffer, until the kernel
// has taken its last byte.

import { NONE, RequestQueue } from '../../replication/requests.ts';
import { isInterruption } from '../ring.ts';
import { SendVector } from '../send-vector.ts';
import { TAG_SEND } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { ALLOCATION_CONTEXT_ID } from './handshake.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_READ,
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_SUCCESS,
  SIMPLE_REPLY_BYTES,
  STRUCTURED_REPLY_HEADER_BYTES,
} from './protocol.ts';

export class Replies {
  /** Negotiated: READ and BLOCK_STATUS are answered in chunks. */
  structured = false;
  isSending = false;
  /** [0]: when the send under way last moved, CLOCK_BOOTTIME. */
  readonly movedMs = new Float64Array(1);
  readonly #thread: Thread;
  readonly #fd: number;
  readonly #session: number;
  readonly #vector: SendVector;
  readonly #outbox: RequestQueue;
  readonly #sending: RequestQueue;
  /** A reply that has left in part, before its read was made to the end: nothing else may leave before the rest. */
  #begun = NONE;
  #isBegunReady = false;

  constructor(thread: Thread, session: number, fd: number) {
    this.#thread = thread;
    this.#fd = fd;
    this.#session = session;
    this.#vector = new SendVector(thread, thread.memory.messageOffset(session));
    this.#outbox = new RequestQueue(thread.slots);
    this.#sending = new RequestQueue(thread.slots);
  }

  get hasQueued(): boolean {
    return this.#begun === NONE ? !this.#outbox.isEmpty : this.#isBegunReady;
  }

  /** Nothing is under way and nothing waits. */
  get isFree(): boolean {
    return !this.isSending && this.#begun === NONE && this.#outbox.isEmpty;
  }

  push(request: number): void {
    this.#outbox.push(request);
  }

  /** The connection was free, and has taken a part of this request's reply (slots.sentBytes). */
  begun(request: number): void {
    this.#begun = request;
    this.#isBegunReady = false;
  }

  /** The rest of the reply can leave. False: it is not one that has begun. */
  endBegun(request: number): boolean {
    if (this.#begun !== request) return false;
    this.#isBegunReady = true;
    return true;
  }

  /** The next request that is queued, to be sent or not, or NONE. */
  takeQueued(): number {
    if (this.#begun === NONE || !this.#isBegunReady) return this.#outbox.shift();
    const request = this.#begun;
    this.#begun = NONE;
    return request;
  }

  /** The next request whose reply the kernel is done with, or NONE. */
  takeSent(): number {
    return this.#sending.shift();
  }

  /** Puts everything that is queued, as far as the vector reaches, into one send. Nothing may be under way. */
  send(): void {
    const { memory, sends, slots } = this.#thread;
    const vector = this.#vector;
    const goneBytes = this.#begun === NONE ? 0 : (slots.sentBytes[this.#begun] as number);
    vector.clear();
    while (this.hasQueued && vector.roomCount >= 2) {
      const request = this.takeQueued();
      this.#sending.push(request);
      const header = memory.headerOffset(request);
      vector.add(header, this.writeHeader(request, header));
      const payloadBytes = this.#payloadBytes(request);
      if (payloadBytes > 0) vector.add(slots.data[request] as number, payloadBytes);
    }
    vector.skip(goneBytes);
    this.movedMs[0] = this.#thread.clockMs[0] as number;
    this.isSending = true;
    vector.prepare();
    sends.add(this.#session, this.#fd, vector.at);
  }

  /** True: all of it left, and takeSent() gives what it was. Otherwise the rest is on its way (isSending), or the connection is broken. */
  sent(result: number): boolean {
    this.isSending = false;
    if (result < 0 && !isInterruption(result)) return false;
    const vector = this.#vector;
    if (result > 0) {
      vector.skip(result);
      if (vector.leftBytes === 0) return true;
      this.movedMs[0] = this.#thread.clockMs[0] as number;
    }
    // The socket is full: the ring waits until it is not.
    this.isSending = true;
    vector.prepare();
    this.#thread.ring.sendMessage(this.#fd, vector.at, this.#session, TAG_SEND);
    return false;
  }

  #payloadBytes(request: number): number {
    const slots = this.#thread.slots;
    if (slots.error[request] !== 0) return 0;
    const command = slots.command[request] as number;
    if (command === NBD_CMD_READ) return slots.lengthBytes[request] as number;
    if (command === NBD_CMD_BLOCK_STATUS) return slots.replyBytes[request] as number;
    return 0;
  }

  /** Returns its length. Again, it writes the same. */
  writeHeader(request: number, at: number): number {
    const view = this.#thread.memory.view;
    const slots = this.#thread.slots;
    const errno = wireErrno(slots.error[request] as number);
    const command = slots.command[request] as number;
    if (!this.structured || (command !== NBD_CMD_READ && command !== NBD_CMD_BLOCK_STATUS)) {
      view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
      view.setUint32(at + 4, errno);
      return SIMPLE_REPLY_BYTES;
    }
    view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, NBD_REPLY_FLAG_DONE);
    if (errno !== 0) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_ERROR);
      view.setUint32(at + 16, 6);
      view.setUint32(at + 20, errno);
      view.setUint16(at + 24, 0);
      return STRUCTURED_REPLY_HEADER_BYTES + 6;
    }
    if (command === NBD_CMD_BLOCK_STATUS) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_BLOCK_STATUS);
      view.setUint32(at + 16, 4 + (slots.replyBytes[request] as number));
      view.setUint32(at + 20, ALLOCATION_CONTEXT_ID);
      return STRUCTURED_REPLY_HEADER_BYTES + 4;
    }
    const length = slots.lengthBytes[request] as number;
    if (length === 0) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_NONE);
      view.setUint32(at + 16, 0);
      return STRUCTURED_REPLY_HEADER_BYTES;
    }
    const offset = slots.offsetBytes[request] as number;
    view.setUint16(at + 6, NBD_REPLY_TYPE_OFFSET_DATA);
    view.setUint32(at + 16, 8 + length);
    view.setUint32(at + 20, Math.floor(offset / 0x1_0000_0000));
    view.setUint32(at + 24, offset >>> 0);
    return STRUCTURED_REPLY_HEADER_BYTES + 8;
  }
}

/** The protocol knows a handful of errors, by Linux's numbers; any other is an I/O error to the client. */
function wireErrno(errno: number): number {
  switch (errno) {
    case NBD_SUCCESS:
    case NBD_EPERM:
    case NBD_ENOMEM:
    case NBD_EINVAL:
    case NBD_ENOSPC:
    case NBD_EOVERFLOW:
    case NBD_ENOTSUP:
    case NBD_ESHUTDOWN:
      return errno;
    default:
      return NBD_EIO;
  }
}
