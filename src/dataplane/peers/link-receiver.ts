// The receiving half of a link: one receive at a time. Headers, control messages and small payloads come through the
// link's receive buffer, as many as there are; of large payloads the rest is received straight into the slot's buffer.
// (For small ones a copy of some KiB costs a fraction of the receive of their own that it saves.)
//
// Invariant: while a receive is in the ring nothing of the buffers it may write to is moved or freed.

import { NONE } from '../../replication/requests.ts';
import { MSG_WAITALL } from '../ring.ts';
import { TAG_LINK_RECEIVE } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { LINK_RECEIVE_AT, LINK_RECEIVE_BYTES } from './link-memory.ts';

export class LinkReceiver {
  isReceiving = false;
  /** The slot whose payload is under way, or NONE. */
  request = NONE;
  readonly #thread: Thread;
  readonly #index: number;
  readonly #fd: number;
  readonly #bufferAt: number;
  /** Unparsed bytes of the receive buffer. */
  #start = 0;
  #end = 0;
  /** Bytes the receive under way has room for; one that got fewer has emptied the socket. */
  #askedBytes = 0;
  #isDrained = false;
  #isDirect = false;
  /** Bytes of the payload or message still to come, and where they go. */
  #leftBytes = 0;
  #payloadAt = 0;
  #message: Uint8Array | undefined;

  constructor(thread: Thread, index: number, fd: number) {
    this.#thread = thread;
    this.#index = index;
    this.#fd = fd;
    this.#bufferAt = thread.memory.linkOffset(index) + LINK_RECEIVE_AT;
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

  /** The next bytes are this slot's payload. */
  expectPayload(request: number, byteCount: number): void {
    this.request = request;
    this.#payloadAt = this.#thread.slots.data[request] as number;
    this.#leftBytes = byteCount;
  }

  /** Takes what the receive buffer has of the payload. True: it is complete. */
  takePayload(): boolean {
    const byteCount = Math.min(this.availableBytes, this.#leftBytes);
    if (byteCount > 0) {
      this.#thread.memory.bytes.copyWithin(this.#payloadAt, this.at, this.at + byteCount);
      this.#payloadAt += byteCount;
      this.#start += byteCount;
      this.#leftBytes -= byteCount;
    }
    return this.#leftBytes === 0;
  }

  /** No payload is under way any more; returns whose it was, or NONE. */
  endPayload(): number {
    const request = this.request;
    this.request = NONE;
    return request;
  }

  /** The next bytes fill `message`. */
  expectMessage(message: Uint8Array): void {
    this.#message = message;
    this.#leftBytes = message.length;
  }

  /** What the receive buffer has of the message; undefined while it is not whole. */
  takeMessage(): Uint8Array | undefined {
    const message = this.#message;
    if (message === undefined) return undefined;
    const byteCount = Math.min(this.availableBytes, this.#leftBytes);
    const { bytes } = this.#thread.memory;
    message.set(bytes.subarray(this.at, this.at + byteCount), message.length - this.#leftBytes);
    this.#start += byteCount;
    this.#leftBytes -= byteCount;
    if (this.#leftBytes > 0) return undefined;
    this.#message = undefined;
    return message;
  }

  /**
   * Puts a receive into the ring. What was received before has been parsed as far as it goes. `wantedBytes`: so many
   * and no more, those that are there already included; 0: as many as come.
   */
  receive(wantedBytes: number): void {
    this.isReceiving = true;
    const keptBytes = this.availableBytes;
    const { memory, ring } = this.#thread;
    if (keptBytes > 0 && this.#start > 0)
      memory.bytes.copyWithin(this.#bufferAt, this.at, this.at + keptBytes);
    this.#start = 0;
    this.#end = keptBytes;
    this.#isDirect = this.request !== NONE;
    if (this.#isDirect) this.#askedBytes = this.#leftBytes;
    else this.#askedBytes = (wantedBytes > 0 ? wantedBytes : LINK_RECEIVE_BYTES) - keptBytes;
    ring.receive(
      this.#fd,
      this.#isDirect ? this.#payloadAt : this.#bufferAt + keptBytes,
      this.#askedBytes,
      this.#isDirect ? MSG_WAITALL : 0,
      this.#isDrained,
      this.#index,
      TAG_LINK_RECEIVE,
    );
  }

  /** Of the message under way that fits the receive buffer. */
  get messageLeftBytes(): number {
    return Math.min(this.#leftBytes, LINK_RECEIVE_BYTES);
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
      this.#leftBytes -= byteCount;
    } else {
      this.#end += byteCount;
    }
  }
}
