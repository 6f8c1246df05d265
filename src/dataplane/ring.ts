// One io_uring as typed arrays: entries are written as plain integers, completions read the same way.
// Owned by one data-plane thread; nothing here allocates once the ring stands.
//
// `user_data` of an entry is (index, tag): the low half says which request, session or file it is about,
// the high half what kind of operation. Every operation's completion is dispatched by its tag.
// Values that may exceed 31 bits (file offsets) are taken from a Float64Array by index.

import { invariant } from '../core/invariant.ts';
import { type Native, type NativeMemory, type NativeRing, native } from './native.ts';

// linux/io_uring.h
const OP_NOP = 0;
const OP_FSYNC = 3;
const OP_SENDMSG = 9;
const OP_TIMEOUT = 11;
const OP_ACCEPT = 13;
const OP_ASYNC_CANCEL = 14;
const OP_CONNECT = 16;
const OP_FALLOCATE = 17;
const OP_CLOSE = 19;
const OP_READ = 22;
const OP_WRITE = 23;
const OP_SEND = 26;
const OP_RECV = 27;
const FSYNC_DATASYNC = 1;
const RECVSEND_POLL_FIRST = 1;
/** IORING_SETUP_COOP_TASKRUN, TASKRUN_FLAG and DEFER_TASKRUN: kernels that have one of them take POLL_FIRST too (5.19). */
const SETUP_SINCE_5_19 = (1 << 8) | (1 << 9) | (1 << 13);

export const MSG_WAITALL = 0x100;
export const MSG_NOSIGNAL = 0x4000;
export const RWF_DSYNC = 2;
const SOCK_CLOEXEC = 0o2000000;

const ENTRY_WORDS = 16;
const CQE_WORDS = 4;

export const ECANCELED = 125;

/** The operation did nothing and may simply be made again. */
export function isInterruption(result: number): boolean {
  const EINTR = 4;
  const EAGAIN = 11;
  return result === -EINTR || result === -EAGAIN;
}

/** Of an entry of a file: the kernel never began it, and it is to be made again, a flush, too (not-begun.ts). */
export function isNotBegun(result: number): boolean {
  return result === -ECANCELED;
}

/** Of a read, a write or a zeroing of a file: it may be made again. */
export function isToRepeat(result: number): boolean {
  return isInterruption(result) || isNotBegun(result);
}

export class Ring {
  /** Of the completion that next() has just taken. */
  index = 0;
  tag = 0;
  result = 0;
  /** Entries submitted and system calls made, for figures. */
  readonly totals = new Float64Array(2);
  readonly #native: Native = native;
  readonly #ring: NativeRing;
  readonly #sq: Int32Array;
  readonly #memory: Int32Array;
  readonly #cqes: Int32Array;
  readonly #sqMask: number;
  readonly #cqMask: number;
  readonly #sqTailAt: number;
  readonly #cqHeadAt: number;
  readonly #cqTailAt: number;
  #sqTail: number;
  #cqHead: number;
  #queued = 0;
  readonly #canPollFirst: boolean;
  /** Address of the thread's memory. */
  readonly #baseLow: number;
  readonly #baseHigh: number;
  readonly memoryBytes: number;

  /** `memory` is what buffer offsets of the prep functions refer to. */
  constructor(submissionCount: number, completionCount: number, memory: NativeMemory) {
    this.#ring = native.createRing(submissionCount, completionCount);
    const ring = this.#ring;
    this.#sq = new Int32Array(ring.submissionEntries);
    this.#memory = new Int32Array(ring.memory);
    this.#cqes = new Int32Array(ring.memory, ring.offsets.cqes, ring.completionCount * CQE_WORDS);
    this.#sqMask = ring.submissionCount - 1;
    this.#cqMask = ring.completionCount - 1;
    this.#sqTailAt = ring.offsets.sqTail >> 2;
    this.#cqHeadAt = ring.offsets.cqHead >> 2;
    this.#cqTailAt = ring.offsets.cqTail >> 2;
    this.#sqTail = Atomics.load(this.#memory, this.#sqTailAt);
    this.#cqHead = Atomics.load(this.#memory, this.#cqHeadAt);
    this.#baseLow = memory.address >>> 0;
    this.#baseHigh = Math.floor(memory.address / 0x1_0000_0000);
    this.#canPollFirst = (ring.setupFlags & SETUP_SINCE_5_19) !== 0;
    this.memoryBytes = memory.buffer.byteLength;
  }

  get setupFlags(): number {
    return this.#ring.setupFlags;
  }

  get queuedCount(): number {
    return this.#queued;
  }

  // ---- submission

  read(
    fd: number,
    bufferOffset: number,
    length: number,
    offsets: Float64Array,
    at: number,
    index: number,
    tag: number,
  ): void {
    const i = this.#entry(OP_READ, fd, index, tag);
    this.#buffer(i, bufferOffset, length);
    this.#fileOffset(i, offsets, at);
  }

  write(
    fd: number,
    bufferOffset: number,
    length: number,
    offsets: Float64Array,
    at: number,
    index: number,
    tag: number,
    rwFlags: number,
  ): void {
    const i = this.#entry(OP_WRITE, fd, index, tag);
    this.#buffer(i, bufferOffset, length);
    this.#fileOffset(i, offsets, at);
    this.#sq[i + 7] = rwFlags;
  }

  fdatasync(fd: number, index: number, tag: number): void {
    const i = this.#entry(OP_FSYNC, fd, index, tag);
    this.#sq[i + 7] = FSYNC_DATASYNC;
  }

  /** `lengths[at]` bytes from `offsets[at]`. */
  fallocate(
    fd: number,
    mode: number,
    offsets: Float64Array,
    lengths: Uint32Array,
    at: number,
    index: number,
    tag: number,
  ): void {
    const i = this.#entry(OP_FALLOCATE, fd, index, tag);
    this.#fileOffset(i, offsets, at);
    // The kernel takes the length from `addr` and the mode from `len`.
    this.#sq[i + 4] = lengths[at] as number;
    this.#sq[i + 6] = mode;
  }

  /** `pollFirst`: nothing can be there yet, do not try before waiting. */
  receive(
    fd: number,
    bufferOffset: number,
    length: number,
    flags: number,
    pollFirst: boolean,
    index: number,
    tag: number,
  ): void {
    const i = this.#entry(OP_RECV, fd, index, tag);
    this.#buffer(i, bufferOffset, length);
    this.#sq[i + 7] = flags;
    if (pollFirst && this.#canPollFirst) this.#sq[i] = (this.#sq[i] as number) | (RECVSEND_POLL_FIRST << 16);
  }

  send(fd: number, bufferOffset: number, length: number, index: number, tag: number): void {
    const i = this.#entry(OP_SEND, fd, index, tag);
    this.#buffer(i, bufferOffset, length);
    this.#sq[i + 7] = MSG_NOSIGNAL | MSG_WAITALL;
  }

  /** `messageOffset`: a struct msghdr in the thread's memory. */
  sendMessage(fd: number, messageOffset: number, index: number, tag: number): void {
    const i = this.#entry(OP_SENDMSG, fd, index, tag);
    this.#buffer(i, messageOffset, 1);
    this.#sq[i + 7] = MSG_NOSIGNAL | MSG_WAITALL;
  }

  accept(fd: number, index: number, tag: number): void {
    const i = this.#entry(OP_ACCEPT, fd, index, tag);
    this.#sq[i + 7] = SOCK_CLOEXEC;
  }

  /** `addressOffset`: a struct sockaddr of `addressBytes` in the thread's memory. */
  connect(fd: number, addressOffset: number, addressBytes: number, index: number, tag: number): void {
    const i = this.#entry(OP_CONNECT, fd, index, tag);
    this.#buffer(i, addressOffset, 0);
    this.#sq[i + 2] = addressBytes;
  }

  /** Ends the operation of that index and tag, which completes by itself. Completes as (index, tag) too. */
  cancel(ofIndex: number, ofTag: number, index: number, tag: number): void {
    const i = this.#entry(OP_ASYNC_CANCEL, -1, index, tag);
    this.#sq[i + 4] = ofIndex;
    this.#sq[i + 5] = ofTag;
  }

  /** Completes with -ETIME after the time in the struct __kernel_timespec at `timespecOffset`. */
  timeout(timespecOffset: number, index: number, tag: number): void {
    const i = this.#entry(OP_TIMEOUT, -1, index, tag);
    this.#buffer(i, timespecOffset, 1);
  }

  /** Completes at once. */
  nop(index: number, tag: number): void {
    this.#entry(OP_NOP, 0, index, tag);
  }

  close(fd: number, index: number, tag: number): void {
    this.#entry(OP_CLOSE, fd, index, tag);
  }

  /** Reads the 8 bytes of an eventfd. */
  readEvent(fd: number, bufferOffset: number, index: number, tag: number): void {
    const i = this.#entry(OP_READ, fd, index, tag);
    this.#buffer(i, bufferOffset, 8);
    this.#sq[i + 2] = -1;
    this.#sq[i + 3] = -1;
  }

  /** Writes the 64-bit address of a buffer into the thread's memory (for iovecs). */
  storeAddress(words: Int32Array, atWord: number, bufferOffset: number): void {
    const low = this.#baseLow + bufferOffset;
    words[atWord] = low;
    words[atWord + 1] = this.#baseHigh + (low >= 0x1_0000_0000 ? 1 : 0);
  }

  // ---- completion

  /** Completions that next() can take. */
  get readyCount(): number {
    return (Atomics.load(this.#memory, this.#cqTailAt) - this.#cqHead) | 0;
  }

  /** Takes the next completion into index, tag and result; false when there is none. */
  next(): boolean {
    const head = this.#cqHead;
    if (head === Atomics.load(this.#memory, this.#cqTailAt)) return false;
    const at = (head & this.#cqMask) * CQE_WORDS;
    this.index = this.#cqes[at] as number;
    this.tag = this.#cqes[at + 1] as number;
    this.result = this.#cqes[at + 2] as number;
    this.#cqHead = (head + 1) | 0;
    Atomics.store(this.#memory, this.#cqHeadAt, this.#cqHead);
    return true;
  }

  /** Submits what is queued and waits for at least `waitCount` completions. Interrupted or out of time is no error. */
  enter(waitCount: number, spinMicros: number, timeoutMicros: number): void {
    const queued = this.#queued;
    Atomics.store(this.#memory, this.#sqTailAt, this.#sqTail);
    const submitted = this.#native.enter(this.#ring, queued, waitCount, spinMicros, timeoutMicros);
    this.totals[1] = (this.totals[1] as number) + 1;
    if (submitted >= 0) {
      this.#queued = queued - submitted;
      this.totals[0] = (this.totals[0] as number) + submitted;
      return;
    }
    this.#interrupted(submitted);
  }

  dispose(): void {
    native.closeRing(this.#ring);
  }

  #interrupted(negativeErrno: number): void {
    const errno = -negativeErrno;
    // EINTR, ETIME: ordinary. EAGAIN, EBUSY: the kernel is short of memory or of completion space for the
    // moment; what is queued stays queued.
    const EINTR = 4;
    const EAGAIN = 11;
    const EBUSY = 16;
    const ETIME = 62;
    invariant(
      errno === EINTR || errno === ETIME || errno === EAGAIN || errno === EBUSY,
      `io_uring_enter: errno ${errno}`,
    );
    if (errno === EINTR || errno === ETIME) this.#resync();
  }

  /** How much the kernel took is read from its head: an interrupted call may have submitted everything. */
  #resync(): void {
    const head = Atomics.load(this.#memory, this.#ring.offsets.sqHead >> 2);
    this.#queued = (this.#sqTail - head) | 0;
  }

  #entry(opcode: number, fd: number, index: number, tag: number): number {
    if (this.#queued > this.#sqMask) this.#submitSome();
    const i = (this.#sqTail & this.#sqMask) * ENTRY_WORDS;
    const sq = this.#sq;
    sq[i] = opcode;
    sq[i + 1] = fd;
    sq[i + 2] = 0;
    sq[i + 3] = 0;
    sq[i + 4] = 0;
    sq[i + 5] = 0;
    sq[i + 6] = 0;
    sq[i + 7] = 0;
    sq[i + 8] = index;
    sq[i + 9] = tag;
    sq[i + 10] = 0;
    sq[i + 11] = 0;
    this.#sqTail = (this.#sqTail + 1) | 0;
    this.#queued += 1;
    return i;
  }

  #submitSome(): void {
    this.enter(0, 0, -1);
    invariant(this.#queued <= this.#sqMask, 'the kernel takes entries of a full submission queue');
  }

  #buffer(i: number, bufferOffset: number, length: number): void {
    const low = this.#baseLow + bufferOffset;
    this.#sq[i + 4] = low;
    this.#sq[i + 5] = this.#baseHigh + (low >= 0x1_0000_0000 ? 1 : 0);
    this.#sq[i + 6] = length;
  }

  #fileOffset(i: number, offsets: Float64Array, at: number): void {
    const offset = offsets[at] as number;
    this.#sq[i + 2] = offset;
    this.#sq[i + 3] = offset / 0x1_0000_0000;
  }
}
