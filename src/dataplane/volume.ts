// One open volume in its data-plane thread: carries out what the core decides, on the replica's files.
//
// Rules: the data file is touched by ring entries and by the addon's batch calls of a turn, never by Node's own file
// functions; a short read or write goes on where it stopped; in direct mode whole blocks only, so an unaligned write
// first reads the blocks at its edges (under the core's lock of those blocks). Space is decided before a write: a pool
// that is down to its reserve takes writes only where blocks are allocated already.

import { invariant } from '../core/invariant.ts';
import { BLOCK_BYTES } from '../core/units.ts';
import { WINDOW_ENTRY_COUNT, WINDOW_FILE_BYTES, WindowFile } from '../replication/layout/window.ts';
import { FLAG_FAST_ZERO, FLAG_NO_HOLE, READ } from '../replication/requests.ts';
import { VolumeCore, type VolumePorts } from '../replication/volume-core.ts';
import { type NativeMemory, native } from './native.ts';
import type { Session } from './nbd/session.ts';
import { isInterruption } from './ring.ts';
import { SpaceReport } from './space-report.ts';
import { TAG_DATA, TAG_FLUSH, TAG_MERGE_READ, TAG_ZERO } from './tags.ts';
import type { Thread } from './thread.ts';
import type { OpenVolumeMessage } from './thread-messages.ts';
import { VolumeLogs } from './volume-logs.ts';
import type { WriteBatch } from './write-batch.ts';

const EIO = 5;
const ENOSPC = 28;
const EOPNOTSUPP = 95;
const FALLOC_KEEP_SIZE = 1;
const FALLOC_PUNCH_HOLE = 2;
const FALLOC_ZERO_RANGE = 16;
/** After this much written without a look, the pool's free space is looked up again. */
const SPACE_CHECK_BYTES = 64 * 1024 * 1024;

// How far a zeroing request has come, in its `pending`.
const ZERO_FIRST = 0;
const ZERO_PUNCHED = 1;
const ZERO_ALLOCATING = 2;

export class Volume implements VolumePorts {
  readonly index: number;
  readonly volumeId: string;
  readonly core: VolumeCore;
  readonly logs: VolumeLogs;
  readonly dataFd: number;
  readonly sessions = new Set<Session>();
  /** Sessions of lower attachments have been ended. */
  attachmentNumber: number;
  /** Requests of sessions of this volume that have not been released. */
  inFlightCount = 0;
  /** Reads, read bytes, writes, write bytes, flushes, zeroes, errors. */
  readonly counters = new Float64Array(7);
  /** Completed requests by duration: bucket i counts those below 2^i × 8 µs, and not in an earlier one. */
  readonly latency = new Float64Array(24);
  readonly #thread: Thread;
  readonly #writes: WriteBatch;
  readonly #message: OpenVolumeMessage;
  readonly #windowMemory: NativeMemory;
  /** [0]: bytes that may still be written before the free space is looked up. */
  readonly #spaceBudget = new Float64Array(1);
  readonly #spaceReport: SpaceReport;

  constructor(thread: Thread, index: number, message: OpenVolumeMessage) {
    this.#thread = thread;
    this.#writes = thread.writesTo(message.pool);
    this.#message = message;
    this.index = index;
    this.volumeId = message.volumeId;
    this.dataFd = message.dataFd;
    this.attachmentNumber = message.attachmentNumber;
    this.#spaceReport = new SpaceReport(message.reserveBytes);
    this.logs = new VolumeLogs(thread, index, message, () => this.core);
    this.#windowMemory = native.mapFile(message.windowFd, WINDOW_FILE_BYTES);
    try {
      this.core = this.#createCore(message);
    } catch (error) {
      // The mapping would keep the window's description, and its lock, for as long as the thread lives.
      this.logs.dispose();
      native.freeMemory(this.#windowMemory);
      throw error;
    }
  }

  #createCore(message: OpenVolumeMessage): VolumeCore {
    const window = new WindowFile(this.#windowMemory.buffer);
    // In a set of one there is no other copy to agree with: what was in flight is settled as it stands.
    window.reset(message.windowOwner);
    return new VolumeCore(this.#thread.slots, this, {
      sizeBytes: message.sizeBytes,
      epoch: message.epoch,
      openingLow: Number.parseInt(message.opening.slice(0, 8), 16) | 0,
      openingHigh: Number.parseInt(message.opening.slice(8, 16), 16) | 0,
      durability: message.durability,
      intentBits: message.hotBits,
      window,
      windowEntryCount: WINDOW_ENTRY_COUNT,
    });
  }

  /** About once a second while anything is hot. Returns false when nothing is. */
  tick(): boolean {
    // Others write to the same pool: what was granted against its free space a while ago is looked up again.
    this.#spaceBudget[0] = 0;
    return this.core.tick();
  }

  /** Everything is at rest and nobody refers to it any more. */
  dispose(): void {
    invariant(this.core.isQuiet && this.inFlightCount === 0, 'only a quiet volume is closed');
    this.#thread.mappedReads.forget(this.index);
    this.logs.dispose();
    native.freeMemory(this.#windowMemory);
  }

  // ---- VolumePorts: data

  startRead(request: number): void {
    const slots = this.#thread.slots;
    const offset = slots.offsetBytes[request] as number;
    const length = slots.lengthBytes[request] as number;
    this.counters[0] = (this.counters[0] as number) + 1;
    this.counters[1] = (this.counters[1] as number) + length;
    this.#startWhole(request, offset, length);
    if (this.#message.ioMode !== 'buffered') this.#continueRead(request);
    else if (!this.#thread.mappedReads.add(request)) this.#thread.reads.add(request, this.dataFd);
  }

  startWrite(request: number): void {
    const slots = this.#thread.slots;
    const offset = slots.offsetBytes[request] as number;
    const length = slots.lengthBytes[request] as number;
    this.counters[2] = (this.counters[2] as number) + 1;
    this.counters[3] = (this.counters[3] as number) + length;
    if (!this.#hasSpace(request)) {
      this.core.requestDone(request, ENOSPC);
      return;
    }
    if (this.#message.ioMode === 'buffered') {
      slots.ioOffset[request] = offset;
      slots.ioBuffer[request] = slots.data[request] as number;
      slots.ioLeft[request] = length;
      if (this.#writes.isOpen(this.#thread.clockMs)) this.#writes.add(request, this.dataFd);
      else this.#continueWrite(request);
      return;
    }
    this.#startWhole(request, offset, length);
    if (offset % BLOCK_BYTES !== 0 || (offset + length) % BLOCK_BYTES !== 0) this.#readEdges(request);
    else this.#continueWrite(request);
  }

  startZero(request: number): void {
    const slots = this.#thread.slots;
    this.counters[5] = (this.counters[5] as number) + 1;
    const keepsBlocks = ((slots.flags[request] as number) & FLAG_NO_HOLE) !== 0;
    if (keepsBlocks && !this.#hasSpace(request)) {
      this.core.requestDone(request, ENOSPC);
      return;
    }
    this.#zero(
      request,
      keepsBlocks ? FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE : FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE,
    );
  }

  startFlush(): void {
    this.counters[4] = (this.counters[4] as number) + 1;
    this.#writes.flushes.began(this.#thread.clockMs);
    if (this.#thread.faults.noDataFlush) this.#thread.ring.nop(this.index, TAG_FLUSH);
    else this.#thread.ring.fdatasync(this.dataFd, this.index, TAG_FLUSH);
  }

  reply(request: number, errno: number): void {
    if (errno !== 0) this.counters[6] = (this.counters[6] as number) + 1;
    this.#countLatency(request);
    this.#thread.sessionOf(request).reply(request, errno);
  }

  failed(what: 'flush' | 'intent', errno: number): void {
    this.#thread.tell({ type: 'volumeFailed', volumeId: this.volumeId, what, errno });
  }

  // ---- ends of ring entries

  ringDone(request: number, result: number): void {
    if (this.#thread.slots.kind[request] !== READ) this.#writes.ringWrites.ended(this.#thread.clockMs);
    this.dataDone(request, result);
  }

  flushDone(result: number): void {
    this.#writes.flushes.ended(this.#thread.clockMs);
    this.core.flushDone(result < 0 ? -result : 0);
  }

  /** Of a ring entry or of a batch. */
  dataDone(request: number, result: number): void {
    const slots = this.#thread.slots;
    const isRead = slots.kind[request] === READ;
    if (isInterruption(result)) {
      if (isRead) this.#continueRead(request);
      else this.#continueWrite(request);
      return;
    }
    if (result <= 0) {
      // Nothing read inside the volume means that the file is shorter than it should be.
      this.core.requestDone(request, result === 0 ? EIO : -result);
      return;
    }
    const left = (slots.ioLeft[request] as number) - result;
    slots.ioLeft[request] = left;
    if (left <= 0) {
      this.core.requestDone(request, 0);
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
      this.core.requestDone(request, 0);
      return;
    }
    const slots = this.#thread.slots;
    const length = slots.lengthBytes[request] as number;
    const sentBytes = Math.max(length - leftBytes, 0);
    slots.ioOffset[request] = (slots.offsetBytes[request] as number) + sentBytes;
    slots.ioBuffer[request] = (slots.data[request] as number) + sentBytes;
    slots.ioLeft[request] = length - sentBytes;
    this.#thread.reads.add(request, this.dataFd);
  }

  edgeRead(request: number, result: number): void {
    const slots = this.#thread.slots;
    if (result !== BLOCK_BYTES && (slots.error[request] as number) === 0) {
      slots.error[request] = result < 0 ? -result : EIO;
    }
    slots.pending[request] = (slots.pending[request] as number) - 1;
    if ((slots.pending[request] as number) > 0) return;
    const errno = slots.error[request] as number;
    if (errno !== 0) {
      this.core.requestDone(request, errno);
      return;
    }
    this.#mergeEdges(request);
    this.#continueWrite(request);
  }

  zeroDone(request: number, result: number): void {
    const slots = this.#thread.slots;
    this.#writes.ringWrites.ended(this.#thread.clockMs);
    if (result !== -EOPNOTSUPP) {
      // The second step of the fallback below keeps the blocks; its first has zeroed them.
      if (result === 0 && slots.pending[request] === ZERO_PUNCHED) {
        slots.pending[request] = ZERO_ALLOCATING;
        this.#zero(request, FALLOC_KEEP_SIZE);
        return;
      }
      this.core.requestDone(request, -result);
      return;
    }
    const flags = slots.flags[request] as number;
    const isFirstTry = slots.pending[request] === ZERO_FIRST && (flags & FLAG_NO_HOLE) !== 0;
    if (!isFirstTry || (flags & FLAG_FAST_ZERO) !== 0) {
      this.core.requestDone(request, EOPNOTSUPP);
      return;
    }
    // No zeroing in place here: punch the range out, then allocate it again.
    slots.pending[request] = ZERO_PUNCHED;
    this.#zero(request, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE);
  }

  startIntentRound(durable: boolean): void {
    this.logs.startIntentRound(durable);
  }

  startGenerationMerge(): void {
    this.logs.startGenerationMerge();
  }

  /** From the header's arrival to the reply's departure, to within a turn of the loop. */
  #countLatency(request: number): void {
    const thread = this.#thread;
    const units = (((thread.clockMs[0] as number) - (thread.slots.startedMs[request] as number)) * 1000) / 8;
    const bucket = Math.min(units < 1 ? 0 : 32 - Math.clz32(units), this.latency.length - 1);
    this.latency[bucket] = (this.latency[bucket] as number) + 1;
  }

  // ---- steps of data operations

  /** The disk operation covers the whole blocks around the request. */
  #startWhole(request: number, offset: number, length: number): void {
    const slots = this.#thread.slots;
    if (this.#message.ioMode === 'buffered') {
      slots.ioOffset[request] = offset;
      slots.ioBuffer[request] = slots.data[request] as number;
      slots.ioLeft[request] = length;
      return;
    }
    const inBlock = offset % BLOCK_BYTES;
    slots.ioOffset[request] = offset - inBlock;
    slots.ioBuffer[request] = (slots.data[request] as number) - inBlock;
    slots.ioLeft[request] = Math.ceil((inBlock + length) / BLOCK_BYTES) * BLOCK_BYTES;
  }

  #continueRead(request: number): void {
    const slots = this.#thread.slots;
    this.#thread.ring.read(
      this.dataFd,
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
      this.dataFd,
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
    if (hasHead) ring.read(this.dataFd, spare, BLOCK_BYTES, edges, 0, request, TAG_MERGE_READ);
    if (hasTail) ring.read(this.dataFd, spare + BLOCK_BYTES, BLOCK_BYTES, edges, 1, request, TAG_MERGE_READ);
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

  #zero(request: number, mode: number): void {
    const slots = this.#thread.slots;
    this.#writes.ringWrites.began(this.#thread.clockMs);
    this.#thread.ring.fallocate(
      this.dataFd,
      mode,
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
      this.#thread.tell({ type: 'poolSpace', volumeId: this.volumeId, isFull });
    }
    // Others write to the same pool: nobody counts on more than a part of what is left.
    this.#spaceBudget[0] = isFull ? 0 : Math.min(SPACE_CHECK_BYTES, free / 16);
    return !isFull || this.#isAllocated(slots.offsetBytes[request] as number, length);
  }

  /** A disk that cannot even say how full it is decides by answering the write itself. */
  #freeBytes(): number {
    try {
      return native.fileSystemSpace(this.dataFd).availableBytes - this.#message.reserveBytes;
    } catch {
      return Number.MAX_SAFE_INTEGER;
    }
  }

  #isAllocated(offset: number, length: number): boolean {
    try {
      return native.isAllocated(this.dataFd, offset, length);
    } catch {
      return false;
    }
  }
}
