// The replies of one turn, a message a session, sent by one call that never waits. What a full socket did not
// take goes on as a ring entry (nbd/replies.ts).

import { native } from './native.ts';
import { SESSION_CAPACITY } from './thread-memory.ts';

const NUMBERS_PER_SEND = 2;

export class SendBatch {
  readonly #memory: Uint8Array;
  readonly #entries = new Float64Array(SESSION_CAPACITY * NUMBERS_PER_SEND);
  readonly #sessions = new Int32Array(SESSION_CAPACITY);
  #count = 0;

  constructor(memory: Uint8Array) {
    this.#memory = memory;
  }

  /** `messageOffset`: a struct msghdr in the thread's memory. One a session. */
  add(session: number, fd: number, messageOffset: number): void {
    this.#entries[this.#count * NUMBERS_PER_SEND] = fd;
    this.#entries[this.#count * NUMBERS_PER_SEND + 1] = messageOffset;
    this.#sessions[this.#count] = session;
    this.#count += 1;
  }

  /** Makes all of them. Returns how many; sessions and results are then read by position until the next add(). */
  run(): number {
    const count = this.#count;
    this.#count = 0;
    if (count > 0) native.sendBatch(this.#memory, this.#entries, count);
    return count;
  }

  session(position: number): number {
    return this.#sessions[position] as number;
  }

  /** Bytes sent, or a negative errno. */
  result(position: number): number {
    return this.#entries[position * NUMBERS_PER_SEND] as number;
  }
}
