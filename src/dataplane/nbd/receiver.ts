// The receiving half of a session: one receive at a time. Headers and small payloads come through the session's
// receive buffer; the rest of a payload is received straight into the request's own buffer.
//
// Invariant: while a receive is in the ring nothing of the buffers it may write to is moved or freed.

import { NONE } from '../../replication/requests.ts';
import { MSG_WAITALL } from '../ring.ts';
import { TAG_RECEIVE } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { RECEIVE_BYTES } from '../thread-memory.ts';
import { REQUEST_HEADER_BYTES } from './protocol.ts';

export class Receiver {
  isReceiving = false;
  /** The last payload was large, so the next header is received alone: what follows it then comes without a copy. */
  isHeaderAlone = false;
  /** [0]: when the header of the payload under way came, CLOCK_BOOTTIME. */
  readonly payloadSinceMs = new Float64Array(1);
  readonly #thread: Thread;
  readonly #session: number;
  readonly #fd: number;
  readonly #bufferAt: number;
  /** Unparsed bytes of the receive buffer. */
  #start = 0;
  #end = 0;
  /** Bytes the receive under way has room for; one that got fewer has emptied the socket. */
  #askedBytes = 0;
  #isDrained = false;
  #payloadRequest = NONE;
  /** Bytes of the payload still to come, and where they go: NONE when they are wanted nowhere. */
  #payloadLeft = 0;
  #payloadAt = NONE;

  constructor(thread: Thread, session: number, fd: number) {
    this.#thread = thread;
    this.#session = session;
    this.#fd = fd;
    this.#bufferAt = thread.memory.receiveOffset(session);
  }

  /** Where the unparsed bytes stand in the thread's memory, and how many they are. */
  get at(): number {
    return this.#bufferAt + this.#start;
  }

  get availableBytes(): number {
    return this.#end - this.#start;
  }

  consume(byteCount: number): void {
    this.#start += byteCount;
  }

  /** Whose payload is under way, or NONE. */
  get payloadRequest(): number {
    return this.#payloadRequest;
  }

  /** The next `byteCount` bytes are this request's payload. `at` NONE: they are discarded. */
  expectPayload(request: number, byteCount: number, at: number): void {
    this.#payloadRequest = request;
    this.#payloadLeft = byteCount;
    this.#payloadAt = at;
    this.payloadSinceMs[0] = this.#thread.clockMs[0] as number;
  }

  /** Takes what the receive buffer has of the payload. True: it is complete. */
  takePayload(): boolean {
    const byteCount = Math.min(this.availableBytes, this.#payloadLeft);
    if (byteCount > 0 && this.#payloadAt !== NONE) {
      this.#thread.memory.bytes.copyWithin(this.#payloadAt, this.at, this.at + byteCount);
      this.#payloadAt += byteCount;
    }
    this.#start += byteCount;
    this.#payloadLeft -= byteCount;
    return this.#payloadLeft === 0;
  }

  /** No payload is under way any more; returns whose it was, or NONE. */
  endPayload(): number {
    const request = this.#payloadRequest;
    this.#payloadRequest = NONE;
    return request;
  }

  /** Puts a receive into the ring. What was received before has been parsed as far as it goes. */
  receive(): void {
    this.isReceiving = true;
    const isDirect = this.#isDirect;
    const keptBytes = this.availableBytes;
    if (keptBytes > 0 && this.#start > 0) {
      this.#thread.memory.bytes.copyWithin(this.#bufferAt, this.at, this.at + keptBytes);
    }
    this.#start = 0;
    this.#end = keptBytes;
    if (isDirect) this.#askedBytes = this.#payloadLeft;
    else if (this.isHeaderAlone && this.#payloadRequest === NONE && keptBytes < REQUEST_HEADER_BYTES)
      this.#askedBytes = REQUEST_HEADER_BYTES - keptBytes;
    else this.#askedBytes = RECEIVE_BYTES - keptBytes;
    this.#thread.ring.receive(
      this.#fd,
      isDirect ? this.#payloadAt : this.#bufferAt + keptBytes,
      this.#askedBytes,
      isDirect ? MSG_WAITALL : 0,
      this.#isDrained,
      this.#session,
      TAG_RECEIVE,
    );
  }

  /** The receive has ended with so many bytes. */
  received(byteCount: number): void {
    this.#isDrained = byteCount < this.#askedBytes;
    if (this.#isDirect) {
      this.#payloadAt += byteCount;
      this.#payloadLeft -= byteCount;
    } else {
      this.#end += byteCount;
    }
  }

  get #isDirect(): boolean {
    return this.#payloadRequest !== NONE && this.#payloadAt !== NONE;
  }
}
