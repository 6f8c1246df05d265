// Zeroing by writing zeroes, for file systems that cannot do it any other way. Nothing is allocated but a block for each
// partial one, where the disk takes whole blocks only: it is read, zeroed in part and written, under the core's lock.

import { BLOCK_BYTES } from '../core/units.ts';
import { NONE } from '../replication/requests.ts';
import { isToRepeat } from './ring.ts';
import { TAG_ZERO } from './tags.ts';
import type { Thread } from './thread.ts';
import { ZEROES_BYTES } from './thread-memory.ts';
import type { WriteBatch } from './write-batch.ts';

const EIO = 5;
const ENOMEM = 12;

// What is under way of a request, in its `pending`. Above what DataFile has there.
const WRITING = 8;
const READING_PARTIAL = 9;
const WRITING_PARTIAL = 10;

export interface ZeroWritesOptions {
  readonly fd: number;
  readonly wholeBlocks: boolean;
  readonly writes: WriteBatch;
  readonly ended: (request: number, errno: number) => void;
}

export class ZeroWrites {
  readonly #thread: Thread;
  readonly #options: ZeroWritesOptions;

  constructor(thread: Thread, options: ZeroWritesOptions) {
    this.#thread = thread;
    this.#options = options;
  }

  isUnderWay(request: number): boolean {
    return (this.#thread.slots.pending[request] as number) >= WRITING;
  }

  /** The request's range; ends in ended(). */
  start(request: number): void {
    const { slots } = this.#thread;
    slots.ioOffset[request] = slots.offsetBytes[request] as number;
    slots.ioBuffer[request] = NONE;
    this.#next(request);
  }

  /** Of the ring entry. */
  done(request: number, result: number): void {
    const { slots } = this.#thread;
    const state = slots.pending[request] as number;
    if (isToRepeat(result)) this.#submit(request, state);
    else if (result <= 0) this.#end(request, result === 0 ? EIO : -result);
    else if (state === WRITING) {
      slots.ioOffset[request] = (slots.ioOffset[request] as number) + result;
      this.#next(request);
    } else if (result !== BLOCK_BYTES) this.#end(request, EIO);
    else if (state === READING_PARTIAL) {
      this.#zeroPart(request);
      this.#submit(request, WRITING_PARTIAL);
    } else {
      slots.ioOffset[request] = Math.min(this.#endOf(request), this.#blockOf(request) + BLOCK_BYTES);
      this.#next(request);
    }
  }

  #endOf(request: number): number {
    const { slots } = this.#thread;
    return (slots.offsetBytes[request] as number) + (slots.lengthBytes[request] as number);
  }

  /** Where the block begins that comes next. */
  #blockOf(request: number): number {
    const at = this.#thread.slots.ioOffset[request] as number;
    return at - (at % BLOCK_BYTES);
  }

  #next(request: number): void {
    const { slots, memory } = this.#thread;
    const at = slots.ioOffset[request] as number;
    const leftBytes = this.#endOf(request) - at;
    if (leftBytes <= 0) {
      this.#end(request, 0);
      return;
    }
    const isWhole = at % BLOCK_BYTES === 0 && leftBytes >= BLOCK_BYTES;
    if (isWhole || !this.#options.wholeBlocks) {
      this.#submit(request, WRITING);
      return;
    }
    if (slots.ioBuffer[request] === NONE) slots.ioBuffer[request] = memory.allocate(BLOCK_BYTES, 0);
    if (slots.ioBuffer[request] === NONE) this.#end(request, ENOMEM);
    else this.#submit(request, READING_PARTIAL);
  }

  #submit(request: number, state: number): void {
    const { fd, writes } = this.#options;
    const { ring, slots, memory, edgeOffsets } = this.#thread;
    const buffer = slots.ioBuffer[request] as number;
    slots.pending[request] = state;
    writes.ringWrites.began(this.#thread.clockMs);
    edgeOffsets[0] = state === WRITING ? (slots.ioOffset[request] as number) : this.#blockOf(request);
    if (state === READING_PARTIAL) ring.read(fd, buffer, BLOCK_BYTES, edgeOffsets, 0, request, TAG_ZERO);
    else if (state === WRITING_PARTIAL)
      ring.write(fd, buffer, BLOCK_BYTES, edgeOffsets, 0, request, TAG_ZERO, 0);
    else ring.write(fd, memory.zeroesOffset, this.#runOf(request), edgeOffsets, 0, request, TAG_ZERO, 0);
  }

  /** Bytes that are written at once. */
  #runOf(request: number): number {
    const leftBytes = this.#endOf(request) - (this.#thread.slots.ioOffset[request] as number);
    const runBytes = Math.min(leftBytes, ZEROES_BYTES);
    return this.#options.wholeBlocks ? runBytes - (runBytes % BLOCK_BYTES) : runBytes;
  }

  #zeroPart(request: number): void {
    const { slots, memory } = this.#thread;
    const buffer = slots.ioBuffer[request] as number;
    const block = this.#blockOf(request);
    const from = (slots.ioOffset[request] as number) - block;
    const to = Math.min(this.#endOf(request) - block, BLOCK_BYTES);
    memory.bytes.fill(0, buffer + from, buffer + to);
  }

  #end(request: number, errno: number): void {
    const { slots, memory } = this.#thread;
    const buffer = slots.ioBuffer[request] as number;
    slots.ioBuffer[request] = NONE;
    slots.pending[request] = 0;
    if (buffer !== NONE) {
      memory.free(buffer);
      this.#thread.somethingFreed();
    }
    this.#options.ended(request, errno);
  }
}
