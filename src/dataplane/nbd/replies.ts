// The sending half of a session: replies queue up while a send is under way, then all of them leave in one
// sendmsg. Headers stand in the slots' header area, where the cookie has waited since the request came.
//
// Invariant: at most one send is in the ring; a request stays in `#sending`, with its buffer, until the kernel
// has taken its last byte.

import { NONE, RequestQueue } from '../../replication/requests.ts';
import { isInterruption } from '../ring.ts';
import { TAG_SEND } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { IOVEC_AT, IOVEC_CAPACITY } from '../thread-memory.ts';
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

const WORDS_PER_IOVEC = 4;
const MSGHDR_WORDS = 14;

export class Replies {
  /** Negotiated: READ and BLOCK_STATUS are answered in chunks. */
  structured = false;
  isSending = false;
  /** [0]: when the send under way last moved, CLOCK_BOOTTIME. */
  readonly movedMs = new Float64Array(1);
  readonly #thread: Thread;
  readonly #fd: number;
  readonly #session: number;
  readonly #messageAt: number;
  readonly #outbox: RequestQueue;
  readonly #sending: RequestQueue;
  /** A reply that has left in part, before its read was made to the end: nothing else may leave before the rest. */
  #begun = NONE;
  #isBegunReady = false;
  #leftBytes = 0;
  #iovFirst = 0;
  #iovCount = 0;

  constructor(thread: Thread, session: number, fd: number) {
    this.#thread = thread;
    this.#fd = fd;
    this.#session = session;
    this.#messageAt = thread.memory.messageOffset(session);
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
    const { memory, ring, slots } = this.#thread;
    const words = memory.words;
    const iovecs = (this.#messageAt + IOVEC_AT) >> 2;
    let count = 0;
    let total = 0;
    const goneBytes = this.#begun === NONE ? 0 : (slots.sentBytes[this.#begun] as number);
    while (this.hasQueued && count + 2 <= IOVEC_CAPACITY) {
      const request = this.takeQueued();
      this.#sending.push(request);
      const header = memory.headerOffset(request);
      const headerBytes = this.writeHeader(request, header);
      ring.storeAddress(words, iovecs + WORDS_PER_IOVEC * count, header);
      words[iovecs + WORDS_PER_IOVEC * count + 2] = headerBytes;
      words[iovecs + WORDS_PER_IOVEC * count + 3] = 0;
      count += 1;
      total += headerBytes;
      const payloadBytes = this.#payloadBytes(request);
      if (payloadBytes === 0) continue;
      ring.storeAddress(words, iovecs + WORDS_PER_IOVEC * count, slots.data[request] as number);
      words[iovecs + WORDS_PER_IOVEC * count + 2] = payloadBytes;
      words[iovecs + WORDS_PER_IOVEC * count + 3] = 0;
      count += 1;
      total += payloadBytes;
    }
    this.#iovFirst = 0;
    this.#iovCount = count;
    this.#leftBytes = total - goneBytes;
    this.#skip(goneBytes);
    this.movedMs[0] = this.#thread.clockMs[0] as number;
    this.#writeMessage();
    this.#thread.sends.add(this.#session, this.#fd, this.#messageAt);
  }

  /** True: all of it left, and takeSent() gives what it was. Otherwise the rest is on its way (isSending), or the connection is broken. */
  sent(result: number): boolean {
    this.isSending = false;
    if (result < 0 && !isInterruption(result)) return false;
    if (result > 0) {
      this.#leftBytes -= result;
      if (this.#leftBytes === 0) return true;
      this.movedMs[0] = this.#thread.clockMs[0] as number;
      this.#skip(result);
    }
    // The socket is full: the ring waits until it is not.
    this.#writeMessage();
    this.#thread.ring.sendMessage(this.#fd, this.#messageAt, this.#session, TAG_SEND);
    return false;
  }

  #writeMessage(): void {
    const { memory, ring } = this.#thread;
    this.isSending = true;
    const words = memory.words;
    const message = this.#messageAt >> 2;
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    words.fill(0, message, message + MSGHDR_WORDS);
    ring.storeAddress(words, message + 4, this.#messageAt + IOVEC_AT + 4 * WORDS_PER_IOVEC * this.#iovFirst);
    words[message + 6] = this.#iovCount - this.#iovFirst;
  }

  /** A send took only `byteCount` bytes: the message starts after them now. */
  #skip(byteCount: number): void {
    const words = this.#thread.memory.words;
    let left = byteCount;
    while (left > 0) {
      const iovec = ((this.#messageAt + IOVEC_AT) >> 2) + WORDS_PER_IOVEC * this.#iovFirst;
      const length = words[iovec + 2] as number;
      if (left >= length) {
        left -= length;
        this.#iovFirst += 1;
        continue;
      }
      const low = ((words[iovec] as number) >>> 0) + left;
      if (low >= 0x1_0000_0000) words[iovec + 1] = (words[iovec + 1] as number) + 1;
      words[iovec] = low;
      words[iovec + 2] = length - left;
      left = 0;
    }
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
