// A struct msghdr with its iovecs in the thread's memory: pieces are added, then sent, perhaps in several steps.

import type { Thread } from './thread.ts';
import { MESSAGE_BYTES } from './thread-memory.ts';

const IOVECS_AT = 64;
const WORDS_PER_IOVEC = 4;
const MSGHDR_WORDS = 14;
const CAPACITY = (MESSAGE_BYTES - IOVECS_AT) / 16;

export class SendVector {
  /** Still to be sent. */
  leftBytes = 0;
  readonly at: number;
  readonly #thread: Thread;
  #first = 0;
  #count = 0;
  /** End of the last piece: one that begins there is joined to it. */
  #endAt = -1;

  /** `at`: MESSAGE_BYTES of the thread's memory. */
  constructor(thread: Thread, at: number) {
    this.#thread = thread;
    this.at = at;
  }

  get roomCount(): number {
    return CAPACITY - this.#count;
  }

  clear(): void {
    this.leftBytes = 0;
    this.#first = 0;
    this.#count = 0;
    this.#endAt = -1;
  }

  add(at: number, byteCount: number): void {
    const { memory, ring } = this.#thread;
    const words = memory.words;
    this.leftBytes += byteCount;
    if (at === this.#endAt) {
      const length = this.#iovec(this.#count - 1) + 2;
      words[length] = (words[length] as number) + byteCount;
    } else {
      const iovec = this.#iovec(this.#count);
      ring.storeAddress(words, iovec, at);
      words[iovec + 2] = byteCount;
      words[iovec + 3] = 0;
      this.#count += 1;
    }
    this.#endAt = at + byteCount;
  }

  /** Writes the message for what is left. */
  prepare(): void {
    const { memory, ring } = this.#thread;
    const message = this.at >> 2;
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    memory.words.fill(0, message, message + MSGHDR_WORDS);
    ring.storeAddress(memory.words, message + 4, this.at + IOVECS_AT + 4 * WORDS_PER_IOVEC * this.#first);
    memory.words[message + 6] = this.#count - this.#first;
  }

  /** So many bytes have left. */
  skip(byteCount: number): void {
    const words = this.#thread.memory.words;
    this.leftBytes -= byteCount;
    if (this.leftBytes === 0) return;
    let left = byteCount;
    while (left > 0) {
      const iovec = this.#iovec(this.#first);
      const length = words[iovec + 2] as number;
      if (left >= length) {
        left -= length;
        this.#first += 1;
        continue;
      }
      const low = ((words[iovec] as number) >>> 0) + left;
      if (low >= 0x1_0000_0000) words[iovec + 1] = (words[iovec + 1] as number) + 1;
      words[iovec] = low;
      words[iovec + 2] = length - left;
      left = 0;
    }
  }

  #iovec(index: number): number {
    return ((this.at + IOVECS_AT) >> 2) + WORDS_PER_IOVEC * index;
  }
}
