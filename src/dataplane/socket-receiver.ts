// The receiving half of a connection: one receive at a time. Headers, messages and small payloads come through its
// receive buffer, as many as there are; of a large payload the rest is received straight into the buffer where it goes.
// (For small ones a copy of some KiB costs a fraction of the receive of their own that it saves.)
//
// Invariant: while a receive is in the ring nothing of the buffers it may write to is moved or freed.

import { NONE } from '../replication/requests.ts';
import { MSG_WAITALL } from './ring.ts';
import type { Thread } from './thread.ts';
import { RECEIVE_BYTES } from './thread-memory.ts';

/** From this size on the next header is received alone, so that the payload behind it comes without a copy. */
export const LARGE_PAYLOAD_BYTES = 16 * 1024;

export class SocketReceiver {
  isReceiving = false;
  /** [0]: when the header of the payload under way came, CLOCK_BOOTTIME. */
  readonly payloadSinceMs = new Float64Array(1);
  readonly #thread: Thread;
  readonly #index: number;
  readonly #fd: number;
  readonly #tag: number;
  readonly #bufferAt: number;
  /** Unparsed bytes of the receive buffer. */
  #start = 0;
  #end = 0;
  /** Bytes the receive under way has room for; one that got fewer has emptied the socket. */
  #askedBytes = 0;
  #isDrained = false;
  #isDirect = false;
  #payloadRequest = NONE;
  /** Bytes of the payload still to come, and where they go: NONE when they are wanted nowhere. */
  #payloadLeft = 0;
  #payloadAt = NONE;

  /** `bufferAt`: RECEIVE_BYTES of the thread's memory. `index` and `tag`: of its receives in the ring. */
  constructor(thread: Thread, fd: number, bufferAt: number, index: number, tag: number) {
    this.#thread = thread;
    this.#fd = fd;
    this.#bufferAt = bufferAt;
    this.#index = index;
    this.#tag = tag;
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

  /**
   * Puts a receive into the ring. What was received before has been parsed as far as it goes. `wantedBytes`: so many
   * and no more, those that are there already included; 0: as many as come.
   */
  receive(wantedBytes: number): void {
    this.isReceiving = true;
    const keptBytes = this.availableBytes;
    const { memory, ring } = this.#thread;
    if (keptBytes > 0 && this.#start > 0) {
      memory.bytes.copyWithin(this.#bufferAt, this.at, this.at + keptBytes);
    }
    this.#start = 0;
    this.#end = keptBytes;
    this.#isDirect = this.#payloadRequest !== NONE && this.#payloadAt !== NONE;
    if (this.#isDirect) this.#askedBytes = this.#payloadLeft;
    else this.#askedBytes = (wantedBytes > keptBytes ? wantedBytes : RECEIVE_BYTES) - keptBytes;
    ring.receive(
      this.#fd,
      this.#isDirect ? this.#payloadAt : this.#bufferAt + keptBytes,
      this.#askedBytes,
      this.#isDirect ? MSG_WAITALL : 0,
      this.#isDrained,
      this.#index,
      this.#tag,
    );
  }

  /** As if it had been received, before the first receive. It fits. */
  put(received: Uint8Array): void {
    this.#thread.memory.bytes.set(received, this.#bufferAt + this.#end);
    this.#end += received.length;
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
}
