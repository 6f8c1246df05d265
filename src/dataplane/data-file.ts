// The data file of one replica in its data-plane thread: reads, writes, zeroes and flushes, as the core orders them.
//
// Rules: it is touched by ring entries and by the addon's batch calls of a turn, never by Node's own file functions;
// a short read or write goes on where it stopped; in direct mode whole blocks only, so an unaligned write first reads
// the blocks at its edges (under the core's lock of those blocks); where the file system cannot zero, zeroes are
// written. Space is decided before a write: a pool that is down to its reserve takes writes only where blocks are
// allocated already.

import { invariant } from '../core/invariant.ts';
import { BLOCK_BYTES } from '../core/units.ts';
import { FLAG_NO_HOLE, readsData, UNTOUCHED } from '../replication/requests.ts';
import { LayerCounts } from './layer-counts.ts';
import { native } from './native.ts';
import { isNotBegun, isToRepeat } from './ring.ts';
import { SpaceReport } from './space-report.ts';
import { TAG_DATA, TAG_FLUSH, TAG_MERGE_READ, TAG_ZERO } from './tags.ts';
import type { Thread } from './thread.ts';
import type { WriteBatch } from './write-batch.ts';
import { ZeroWrites } from './zero-writes.ts';

const EIO = 5;
const ENOSPC = 28;
const EOPNOTSUPP = 95;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 16;
/** No kernel knows this one: as a file system that can none of the others. */
const FALLOC_UNKNOWN = 1 << 30;
/** In the `error` of a request: a read at its edges was interrupted. */
const INTERRUPTED = -1;
/** After this much written without a look, the pool's free space is looked up again. */
const SPACE_CHECK_BYTES = 64 * 1024 * 1024;

// How far a zeroing request has come, in its `pending`.
const ZERO_FIRST = 0;
const ZERO_PUNCHED = 1;
const ZERO_ALLOCATING = 2;

/** Who orders the operations. None of these is called from within the call that starts one, unless it fails at once. */
export interface DataFileHost {
  /** A read, write or zeroing has ended; a positive errno, perhaps UNTOUCHED (requests.ts), or 0. */
  requestDone(request: number, errno: number): void;
  flushDone(errno: number): void;
}

export interface DataFileOptions {
  readonly volumeId: string;
  readonly pool: string;
  readonly dataFd: number;
  readonly ioMode: 'direct' | 'buffered';
  readonly reserveBytes: number;
}

export class DataFile {
  readonly fd: number;
  readonly counts: LayerCounts;
  readonly #thread: Thread;
  readonly #index: number;
  readonly #host: DataFileHost;
  readonly #options: DataFileOptions;
  readonly #writes: WriteBatch;
  readonly #zeroWrites: ZeroWrites;
  /** [0]: bytes that may still be written before the free space is looked up. */
  readonly #spaceBudget = new Float64Array(1);
  readonly #spaceReport: SpaceReport;

  /** `index`: of the replica in its thread, for the completions. */
  constructor(thread: Thread, index: number, host: DataFileHost, options: DataFileOptions) {
    this.#thread = thread;
    this.#index = index;
    this.#host = host;
    this.#options = options;
    this.fd = options.dataFd;
    this.counts = new LayerCounts(thread);
    this.#writes = thread.writesTo(options.pool);
    this.#spaceReport = new SpaceReport(options.reserveBytes);
    this.#zeroWrites = new ZeroWrites(thread, {
      fd: options.dataFd,
      wholeBlocks: options.ioMode === 'direct',
      writes: this.#writes,
      ended: (request, errno) => host.requestDone(request, errno),
    });
  }

  /** The host was told of the end of this operation. */
  counted(request: number, errno: number): void {
    this.counts.ended(this.#thread.slots.diskMs, request, errno);
  }

  /** Others write to the same pool: what was granted against its free space a while ago is looked up again. */
  tick(): void {
    this.#spaceBudget[0] = 0;
  }

  startRead(request: number): void {
    const slots = this.#thread.slots;
    const offset = slots.offsetBytes[request] as number;
    const length = slots.lengthBytes[request] as number;
    this.counts.beganRead(length);
    slots.diskMs[request] = this.#thread.clockMs[0] as number;
    this.#startWhole(request, offset, length);
    if (this.#options.ioMode !== 'buffered') this.#continueRead(request);
    else if (!this.#thread.mappedReads.add(request)) this.#thread.reads.add(request, this.fd);
  }

  startWrite(request: number): void {
    const slots = this.#thread.slots;
    const offset = slots.offsetBytes[request] as number;
    const length = slots.lengthBytes[request] as number;
    this.counts.beganWrite(length);
    slots.diskMs[request] = this.#thread.clockMs[0] as number;
    if (!this.#hasSpace(request)) {
      this.#host.requestDone(request, ENOSPC | UNTOUCHED);
      return;
    }
    if (this.#options.ioMode === 'buffered') {
      slots.ioOffset[request] = offset;
      slots.ioBuffer[request] = slots.data[request] as number;
      slots.ioLeft[request] = length;
      if (this.#writes.isOpen(this.#thread.clockMs)) this.#writes.add(request, this.fd);
      else this.#continueWrite(request);
      return;
    }
    this.#startWhole(request, offset, length);
    if (offset % BLOCK_BYTES !== 0 || (offset + length) % BLOCK_BYTES !== 0) this.#readEdges(request);
    else this.#continueWrite(request);
  }

  startZero(request: number): void {
    const slots = this.#thread.slots;
    this.counts.beganTrim();
    slots.diskMs[request] = this.#thread.clockMs[0] as number;
    const keepsBlocks = ((slots.flags[request] as number) & FLAG_NO_HOLE) !== 0;
    if (keepsBlocks && !this.#hasSpace(request)) {
      this.#host.requestDone(request, ENOSPC | UNTOUCHED);
      return;
    }
    slots.pending[request] = ZERO_FIRST;
    this.#zero(request);
  }

  startFlush(): void {
    this.counts.beganFlush();
    this.#flush();
  }

  #flush(): void {
    this.#writes.flushes.began(this.#thread.clockMs);
    if (this.#thread.faults.noDataFlush) this.#thread.ring.nop(this.#index, TAG_FLUSH);
    else this.#thread.ring.fdatasync(this.fd, this.#index, TAG_FLUSH);
  }

  // ---- ends of ring entries

  ringDone(request: number, result: number): void {
    if (!readsData(this.#thread.slots.kind[request] as number))
      this.#writes.ringWrites.ended(this.#thread.clockMs);
    this.dataDone(request, result);
  }

  flushDone(result: number): void {
    this.#writes.flushes.ended(this.#thread.clockMs);
    if (isNotBegun(result)) {
      this.#flush();
      return;
    }
    if (result < 0) this.counts.failed();
    this.#host.flushDone(result < 0 ? -result : 0);
  }

  /** Of a ring entry or of a batch. */
  dataDone(request: number, result: number): void {
    const slots = this.#thread.slots;
    const isRead = readsData(slots.kind[request] as number);
    if (isToRepeat(result)) {
      if (isRead) this.#continueRead(request);
      else this.#continueWrite(request);
      return;
    }
    if (result <= 0) {
      // Nothing read inside the volume means that the file is shorter than it should be.
      this.#host.requestDone(request, result === 0 ? EIO : -result);
      return;
    }
    const left = (slots.ioLeft[request] as number) - result;
    slots.ioLeft[request] = left;
    if (left <= 0) {
      this.#host.requestDone(request, 0);
      return;
    }
    slots.ioOffset[request] = (slots.ioOffset[request] as number) + result;
    slots.ioBuffer[request] = (slots.ioBuffer[request] as number) + result;
    if (isRead) this.#continueRead(request);
    else this.#continueWrite(request);
  }

  /** All but the last `leftBytes` of its reply have left from the page cache: those are read now, before the lock goes. */
  replyBegun(request: number, leftBytes: number): void {
    if (leftBytes === 0) {
      this.#host.requestDone(request, 0);
      return;
    }
    const slots = this.#thread.slots;
    const length = slots.lengthBytes[request] as number;
    const sentBytes = Math.max(length - leftBytes, 0);
    slots.ioOffset[request] = (slots.offsetBytes[request] as number) + sentBytes;
    slots.ioBuffer[request] = (slots.data[request] as number) + sentBytes;
    slots.ioLeft[request] = length - sentBytes;
    this.#thread.reads.add(request, this.fd);
  }

  edgeRead(request: number, result: number): void {
    const slots = this.#thread.slots;
    const known = slots.error[request] as number;
    if (isToRepeat(result)) slots.error[request] = known === 0 ? INTERRUPTED : known;
    else if (result !== BLOCK_BYTES && known <= 0) slots.error[request] = result < 0 ? -result : EIO;
    slots.pending[request] = (slots.pending[request] as number) - 1;
    if ((slots.pending[request] as number) > 0) return;
    const errno = slots.error[request] as number;
    if (errno === INTERRUPTED) {
      slots.error[request] = 0;
      this.#readEdges(request);
      return;
    }
    if (errno !== 0) {
      this.#host.requestDone(request, errno);
      return;
    }
    this.#mergeEdges(request);
    this.#continueWrite(request);
  }

  zeroDone(request: number, result: number): void {
    const slots = this.#thread.slots;
    this.#writes.ringWrites.ended(this.#thread.clockMs);
    if (this.#zeroWrites.isUnderWay(request)) this.#zeroWrites.done(request, result);
    else if (isToRepeat(result)) this.#zero(request);
    else if (result === -EOPNOTSUPP) this.#zeroOtherwise(request);
    else if (result === 0 && slots.pending[request] === ZERO_PUNCHED) {
      // It has zeroed the blocks; they are to be kept.
      slots.pending[request] = ZERO_ALLOCATING;
      this.#zero(request);
    } else this.#host.requestDone(request, -result);
  }

  /** No zeroing in place here: the range is punched out, and allocated again where it is to keep its blocks; or written. */
  #zeroOtherwise(request: number): void {
    const slots = this.#thread.slots;
    const flags = slots.flags[request] as number;
    if (slots.pending[request] === ZERO_FIRST && (flags & FLAG_NO_HOLE) !== 0) {
      slots.pending[request] = ZERO_PUNCHED;
      this.#zero(request);
    } else if (this.#hasSpace(request)) this.#zeroWrites.start(request);
    else this.#host.requestDone(request, ENOSPC);
  }

  // ---- steps of data operations

  /** The disk operation covers the whole blocks around the request. */
  #startWhole(request: number, offset: number, length: number): void {
    const slots = this.#thread.slots;
    if (this.#options.ioMode === 'buffered') {
      slots.ioOffset[request] = offset;
      slots.ioBuffer[request] = slots.data[request] as number;
      slots.ioLeft[request] = length;
      return;
    }
    const inBlock = offset % BLOCK_BYTES;
    const data = slots.data[request] as number;
    // Buffers are whole blocks of the thread's memory: so what lies around the bytes is the buffer's, on both sides.
    invariant(
      data % BLOCK_BYTES === inBlock,
      'bytes lie in their buffer as they lie in their blocks on the disk',
    );
    slots.ioOffset[request] = offset - inBlock;
    slots.ioBuffer[request] = data - inBlock;
    slots.ioLeft[request] = Math.ceil((inBlock + length) / BLOCK_BYTES) * BLOCK_BYTES;
  }

  #continueRead(request: number): void {
    const slots = this.#thread.slots;
    this.#thread.ring.read(
      this.fd,
      slots.ioBuffer[request] as number,
      slots.ioLeft[request] as number,
      slots.ioOffset,
      request,
      request,
      TAG_DATA,
    );
  }

  #continueWrite(request: number): void {
    const slots = this.#thread.slots;
    this.#writes.ringWrites.began(this.#thread.clockMs);
    this.#thread.ring.write(
      this.fd,
      slots.ioBuffer[request] as number,
      slots.ioLeft[request] as number,
      slots.ioOffset,
      request,
      request,
      TAG_DATA,
      0,
    );
  }

  /** The two spare blocks at the end of an unaligned request's buffer take the blocks at its edges. */
  #readEdges(request: number): void {
    const slots = this.#thread.slots;
    const wholeBytes = slots.ioLeft[request] as number;
    const start = slots.ioOffset[request] as number;
    const spare = (slots.ioBuffer[request] as number) + wholeBytes;
    const offset = slots.offsetBytes[request] as number;
    const hasHead = offset !== start;
    const hasTail = offset + (slots.lengthBytes[request] as number) !== start + wholeBytes;
    const edges = this.#thread.edgeOffsets;
    edges[0] = start;
    edges[1] = start + wholeBytes - BLOCK_BYTES;
    slots.pending[request] = (hasHead ? 1 : 0) + (hasTail ? 1 : 0);
    const ring = this.#thread.ring;
    if (hasHead) ring.read(this.fd, spare, BLOCK_BYTES, edges, 0, request, TAG_MERGE_READ);
    if (hasTail) ring.read(this.fd, spare + BLOCK_BYTES, BLOCK_BYTES, edges, 1, request, TAG_MERGE_READ);
  }

  #mergeEdges(request: number): void {
    const slots = this.#thread.slots;
    const bytes = this.#thread.memory.bytes;
    const whole = slots.ioBuffer[request] as number;
    const wholeBytes = slots.ioLeft[request] as number;
    const spare = whole + wholeBytes;
    const data = slots.data[request] as number;
    const end = data + (slots.lengthBytes[request] as number);
    if (data !== whole) bytes.copyWithin(whole, spare, spare + (data - whole));
    const tail = whole + wholeBytes - end;
    if (tail > 0) bytes.copyWithin(end, spare + 2 * BLOCK_BYTES - tail, spare + 2 * BLOCK_BYTES);
  }

  /** The step that its `pending` says. */
  #zero(request: number): void {
    const slots = this.#thread.slots;
    const step = slots.pending[request];
    const keepsBlocks = ((slots.flags[request] as number) & FLAG_NO_HOLE) !== 0;
    const isPunch = step === ZERO_PUNCHED || !keepsBlocks;
    const zeroes = isPunch ? FALLOC_PUNCH_HOLE : FALLOC_ZERO_RANGE;
    const mode = this.#thread.faults.noZeroing ? FALLOC_UNKNOWN : step === ZERO_ALLOCATING ? 0 : zeroes;
    this.#writes.ringWrites.began(this.#thread.clockMs);
    this.#thread.ring.fallocate(
      this.fd,
      mode | FALLOC_KEEP_SIZE,
      slots.offsetBytes,
      slots.lengthBytes,
      request,
      request,
      TAG_ZERO,
    );
  }

  // ---- space

  #hasSpace(request: number): boolean {
    const slots = this.#thread.slots;
    const length = slots.lengthBytes[request] as number;
    const left = (this.#spaceBudget[0] as number) - length;
    if (left >= 0) {
      this.#spaceBudget[0] = left;
      return true;
    }
    const free = this.#freeBytes();
    const isFull = free < length;
    if (this.#spaceReport.look(free, isFull, this.#thread.nowMs())) {
      this.#thread.tell({ type: 'poolSpace', volumeId: this.#options.volumeId, isFull });
    }
    // Others write to the same pool: nobody counts on more than a part of what is left.
    this.#spaceBudget[0] = isFull ? 0 : Math.min(SPACE_CHECK_BYTES, free / 16);
    return !isFull || this.#isAllocated(slots.offsetBytes[request] as number, length);
  }

  /** A disk that cannot even say how full it is decides by answering the write itself. */
  #freeBytes(): number {
    try {
      return native.fileSystemSpace(this.fd).availableBytes - this.#options.reserveBytes;
    } catch {
      return Number.MAX_SAFE_INTEGER;
    }
  }

  #isAllocated(offset: number, length: number): boolean {
    try {
      return native.isAllocated(this.fd, offset, length);
    } catch {
      return false;
    }
  }
}
