// The handshake of one connection over the ring: feeds what was received to the state machine, sends what it
// answers. Not hot; its answers leave from buffers of their own, one send at a time.

import { NONE } from '../../replication/requests.ts';
import { isInterruption } from '../ring.ts';
import { TAG_SEND } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { Handshake, type HandshakeHost, type Negotiated } from './handshake.ts';

export class Negotiation {
  readonly #thread: Thread;
  readonly #fd: number;
  readonly #session: number;
  readonly #handshake: Handshake;
  readonly #output: Uint8Array[] = [];
  #buffer = NONE;
  #sentBytes = 0;
  #leftBytes = 0;

  constructor(thread: Thread, session: number, fd: number, host: HandshakeHost) {
    this.#thread = thread;
    this.#fd = fd;
    this.#session = session;
    this.#handshake = new Handshake(host);
  }

  /** A send of the handshake is in the ring. */
  get isSending(): boolean {
    return this.#buffer !== NONE;
  }

  get state(): Handshake['state'] {
    return this.#handshake.state;
  }

  get result(): Negotiated | undefined {
    return this.#handshake.result;
  }

  /** Takes bytes [from, to) of the thread's memory; returns how many it consumed. */
  receive(from: number, to: number): number {
    return this.#handshake.receive(this.#thread.memory.bytes, from, to);
  }

  /** Sends what there is to say, if nothing is under way. False: there is no memory for it now. */
  send(): boolean {
    const answer = this.#handshake.takeOutput();
    if (answer.length > 0) this.#output.push(answer);
    if (this.#buffer !== NONE) return true;
    const next = this.#output.shift();
    if (next === undefined) return true;
    const { memory } = this.#thread;
    this.#buffer = memory.allocate(next.length, 0);
    if (this.#buffer === NONE) return false;
    memory.bytes.set(next, this.#buffer);
    this.#sentBytes = 0;
    this.#leftBytes = next.length;
    this.#submit();
    return true;
  }

  /** The end of a send. False: the connection is broken. */
  sent(result: number): boolean {
    if (result < 0 && !isInterruption(result)) {
      this.#free();
      return false;
    }
    this.#sentBytes += Math.max(result, 0);
    this.#leftBytes -= Math.max(result, 0);
    if (this.#leftBytes > 0) {
      this.#submit();
      return true;
    }
    this.#free();
    return this.send();
  }

  #submit(): void {
    const at = this.#buffer + this.#sentBytes;
    this.#thread.ring.send(this.#fd, at, this.#leftBytes, this.#session, TAG_SEND);
  }

  #free(): void {
    this.#thread.memory.free(this.#buffer);
    this.#buffer = NONE;
  }
}
