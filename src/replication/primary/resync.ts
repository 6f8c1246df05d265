// Brings one joining replica up to the primary, extent by extent, while writes go on: they go to the replica
// too, from the start of its stream, and what is copied is copied under the range's lock, in the same stream.
//
// Needed is what was written since the replica was dropped (generations say it; by blocks of 4 KiB where this opening has
// seen all of it), and what its own last process may have written and others have not. Generations go along, so that the
// table of the newcomer answers for every other absent copy. Those of a hot extent go after its blocks: a write that was in
// flight when the stream began reaches the replica only as a copy, and may have been stamped anew by then, for a member
// that left.

import { BLOCK_BYTES, EXTENT_BYTES, GENERATION_BLOCKS_PER_EXTENT, KIB } from '../../core/units.ts';
import { STAMP_UNKNOWN } from '../extents.ts';
import { FRAME_COPY, FRAME_COPY_ZERO, FRAME_STAMPS, OFFSET, SEQUENCE, type SuspectRange } from '../frames.ts';
import type { Hub } from '../hub.ts';
import { BURST_BYTES, FULL_BYTES } from '../pace.ts';
import type { RangeLocks } from '../range-locks.ts';
import { COPY_READ, NONE } from '../requests.ts';
import { BLOCKS_PER_EXTENT, BLOCKS_PER_GENERATION_BLOCK, type WrittenBlocks } from '../written-blocks.ts';

const COPY_BYTES = 256 * KIB;
const COPIES_IN_FLIGHT = 32;
/** As many blocks, each alone, as a small burst has room for: a disk may have to look for every one of them. */
const COPIES_OF_BURST = BURST_BYTES / BLOCK_BYTES;
/** A burst goes on through so many extents; without one a resync looks at as many as it likes, one at a time. */
const LOOKS_OF_BURST = 16;

export interface ResyncTarget {
  readonly link: number;
  readonly suspects: readonly SuspectRange[];
  readonly hotExtents: readonly number[];
  /** Everything stamped with this epoch or a later one is missing there; 0: all. */
  readonly since: number;
  /** The copy is no base: everything goes, and all generations. */
  readonly isFull: boolean;
  /** Requests of the volume's clients that are not answered. */
  readonly openCount: () => number;
  /** They wait for this copy, or for another one that is being filled. */
  readonly isUrgent: () => boolean;
}

export class Resync {
  readonly #hub: Hub;
  readonly #locks: RangeLocks;
  readonly #target: ResyncTarget;
  /** A burst of it is in flight; else it is at full pace, or rests. */
  #isBurst = false;
  /** Of the burst: what it may still do, and what it counts for the floor of the pace. */
  #leftBytes = 0;
  #leftCopies = 0;
  #leftLooks = 0;
  #costBytes = 0;
  readonly #hotExtents: ReadonlySet<number>;
  readonly #epoch: number;
  /** Of the volume's size when it began: what lies beyond is new, and comes by the stream. */
  readonly #extentCount: number;
  #extent = -1;
  /** Ranges that go again when all of that is there: by extent, 1 for each block that is needed. */
  readonly #again = new Map<number, Uint8Array>();
  #isAgain = false;
  /** Whose blocks are being copied. */
  #copying = 0;
  /** By block of that extent: 1 is needed. */
  readonly #needed = new Uint8Array(BLOCKS_PER_EXTENT);
  #nextBlock = BLOCKS_PER_EXTENT;
  #isReadingStamps = false;
  /** The generations that are being read may be older than those which the extent's cooling saves meanwhile. */
  #wasHot = false;
  /** The current extent's generations go out when its blocks have been read. */
  #owesStamps = false;
  #unansweredCount = 0;
  #readingCount = 0;
  /** Of copies that are read or not answered. */
  #bytesInFlight = 0;
  /** Sent and not answered: they hold their ranges. */
  readonly #awaited = new Set<number>();
  #isStopped = false;
  /** Of data: blocks that hold only zeroes go as a header. */
  bytesSent = 0;

  constructor(hub: Hub, locks: RangeLocks, target: ResyncTarget) {
    this.#hub = hub;
    this.#locks = locks;
    this.#target = target;
    this.#hotExtents = new Set(target.hotExtents);
    this.#epoch = hub.known.config.epoch;
    this.#extentCount = Math.ceil(hub.known.config.sizeBytes / EXTENT_BYTES);
  }

  /** Everything needed is there, and answered. */
  get isDone(): boolean {
    const isCopied = this.#again.size === 0 && this.#nextBlock >= BLOCKS_PER_EXTENT;
    return this.#extent >= this.#extentCount && isCopied && this.#inFlightCount === 0;
  }

  /**
   * The replica may have a write that no member has taken: its range goes once more, behind it in the stream. Extents that
   * are still to be looked at have a stamp of that write.
   */
  again(offsetBytes: number, lengthBytes: number): void {
    if (this.#isStopped) return;
    const end = Math.ceil((offsetBytes + lengthBytes) / BLOCK_BYTES);
    for (let block = Math.floor(offsetBytes / BLOCK_BYTES); block < end; block++) {
      const extent = Math.floor(block / BLOCKS_PER_EXTENT);
      if (extent > this.#extent && extent < this.#extentCount) continue;
      const blocks = this.#again.get(extent) ?? new Uint8Array(BLOCKS_PER_EXTENT);
      blocks[block % BLOCKS_PER_EXTENT] = 1;
      this.#again.set(extent, blocks);
    }
    this.step();
  }

  /** The copy has not answered all that it was sent. */
  get isAwaited(): boolean {
    return this.#unansweredCount > 0;
  }

  /** For people. */
  describe(): string {
    return `extent ${this.#extent} block ${this.#nextBlock} stamps ${this.#isReadingStamps} reading ${this.#readingCount} unanswered ${this.#unansweredCount}`;
  }

  get bytesLeft(): number {
    return Math.max(0, this.#extentCount - Math.max(0, this.#extent)) * EXTENT_BYTES;
  }

  /** Once: the stream is gone, or it has joined. Copies that are still being read end by themselves. */
  stop(): void {
    this.#isStopped = true;
    this.#hub.ports.pace.leave(this);
    this.#hub.ports.endResync(this.#target.isFull);
    for (const request of this.#awaited) this.#end(request);
    this.#awaited.clear();
  }

  #end(request: number): void {
    this.#bytesInFlight -= this.#hub.table.lengthBytes[request] as number;
    if (!this.#hub.broken.copyUnderRangeLock) this.#locks.release(request);
    this.#hub.ports.release(request);
  }

  /** A client's request was answered: time goes by, and it may be the last one for long. */
  clientAnswered(): void {
    this.#hub.ports.pace.clientsSeen(this.#hub.ports.nowMs());
    this.step();
  }

  /** Goes on as far as slots and the pace allow. */
  step(): void {
    while (!this.#isStopped && !this.#isReadingStamps && this.#hasSlot) {
      if (this.#nextBlock < BLOCKS_PER_EXTENT) {
        if (!this.#mayCopy() || !this.#copyNext()) break;
        continue;
      }
      if (this.#extent >= this.#extentCount) {
        if (!this.#copyAgain()) break;
        continue;
      }
      if (!this.#owesStamps) this.#extent += 1;
      else if (this.#readingCount > 0) break;
      if (this.#extent < this.#extentCount) this.#readStamps();
    }
    // There is nothing more to copy for now, or no slot for it.
    const looksOn = this.#isReadingStamps && this.#leftLooks > 0;
    if (this.#isBurst && this.#inFlightCount === 0 && !looksOn) this.#endBurst();
  }

  /** The next extent of them. */
  #copyAgain(): boolean {
    for (const [extent, blocks] of this.#again) {
      this.#isAgain = true;
      this.#again.delete(extent);
      this.#copying = extent;
      this.#needed.set(blocks);
      this.#nextBlock = 0;
      return true;
    }
    return false;
  }

  /** At full pace always; else in the burst that is in flight, or in another one if it is its turn. */
  #mayCopy(): boolean {
    const { ports } = this.#hub;
    const nowMs = ports.nowMs();
    const openCount = this.#target.openCount();
    // What a refused client adds to comes to an end all the same, as quickly as it may ask.
    if (this.#isAgain || this.#target.isUrgent() || ports.pace.isFull(nowMs, openCount)) {
      this.#isBurst = false;
      ports.pace.leave(this);
      return true;
    }
    if (this.#isBurst && this.#leftBytes > 0 && this.#leftCopies > 0) return true;
    if (this.#inFlightCount > 0) return false;
    if (this.#isBurst) this.#endBurst();
    this.#leftBytes = ports.pace.begin(this, nowMs, openCount);
    this.#leftCopies = COPIES_OF_BURST;
    this.#leftLooks = LOOKS_OF_BURST;
    this.#costBytes = 0;
    this.#isBurst = this.#leftBytes > 0;
    return this.#isBurst;
  }

  #endBurst(): void {
    this.#isBurst = false;
    this.#hub.ports.pace.ended(this, this.#hub.ports.nowMs(), this.#costBytes);
  }

  get #inFlightCount(): number {
    return this.#readingCount + this.#unansweredCount;
  }

  get #hasSlot(): boolean {
    return this.#inFlightCount < COPIES_IN_FLIGHT && this.#bytesInFlight < FULL_BYTES;
  }

  #readStamps(): void {
    this.#isReadingStamps = true;
    this.#leftLooks -= 1;
    this.#wasHot = this.#hub.copy.extents.isHot(this.#extent);
    this.#hub.copy.readStamps(this.#target.link, this.#extent);
  }

  /** The extent's generations on disk; unreadable ones count as newest. */
  stampsRead(extent: number, errno: number, onDisk: Uint32Array): void {
    if (this.#isStopped || extent !== this.#extent) return;
    if (this.#wasHot && !this.#hub.copy.extents.isHot(extent)) {
      this.#readStamps();
      return;
    }
    this.#isReadingStamps = false;
    const stamps = this.#newest(extent, errno, onDisk);
    if (this.#owesStamps) {
      this.#owesStamps = false;
      this.#sendStamps(extent, stamps);
    } else this.#choose(extent, stamps);
    this.step();
  }

  #newest(extent: number, errno: number, onDisk: Uint32Array): number[] {
    const { extents } = this.#hub.copy;
    const base = extents.isHot(extent) ? extents.stampOffset(extent) : NONE;
    const stamps: number[] = [];
    for (let block = 0; block < GENERATION_BLOCKS_PER_EXTENT; block++) {
      const saved = errno === 0 ? (onDisk[block] as number) : STAMP_UNKNOWN;
      const live = base === NONE ? 0 : (extents.stampMemory[base + block] as number);
      const newest = Math.max(saved, live);
      stamps.push(newest === STAMP_UNKNOWN ? this.#epoch : newest);
    }
    return stamps;
  }

  /** What of the extent is copied. */
  #choose(extent: number, stamps: readonly number[]): void {
    const { isFull, since } = this.#target;
    const { extents } = this.#hub.copy;
    const written = this.#written();
    this.#copying = extent;
    this.#needed.fill(0);
    for (const [block, stamp] of stamps.entries()) {
      if (!(isFull ? stamp > 0 : stamp >= since)) continue;
      const first = block * BLOCKS_PER_GENERATION_BLOCK;
      if (written !== undefined) written.choose(extent, block, this.#needed);
      else this.#needed.fill(1, first, first + BLOCKS_PER_GENERATION_BLOCK);
    }
    if (!this.#hub.broken.suspectsInDelta) this.#addSuspects(extent);
    const isNeeded = this.#needed.includes(1);
    this.#nextBlock = isNeeded ? 0 : BLOCKS_PER_EXTENT;
    if (!isNeeded && !(isFull && stamps.some((stamp) => stamp > 0))) return;
    this.#owesStamps = extents.isHot(extent) && !this.#hub.broken.stampsGoAfterCopies;
    if (!this.#owesStamps) this.#sendStamps(extent, stamps);
  }

  /** What this opening knows by blocks, if that is all which the replica lacks. */
  #written(): WrittenBlocks | undefined {
    const { isFull, since } = this.#target;
    const { written } = this.#hub.copy;
    const isEnough = written?.covers(since) === true || this.#hub.broken.writtenSinceItLeft;
    return isFull || !isEnough ? undefined : written;
  }

  #addSuspects(extent: number): void {
    if (this.#hotExtents.has(extent)) this.#needed.fill(1);
    const start = extent * EXTENT_BYTES;
    for (const { offsetBytes, lengthBytes } of this.#target.suspects) {
      const from = Math.max(offsetBytes - start, 0);
      const to = Math.min(offsetBytes + lengthBytes - start, EXTENT_BYTES);
      if (from < to) this.#needed.fill(1, Math.floor(from / BLOCK_BYTES), Math.ceil(to / BLOCK_BYTES));
    }
  }

  #sendStamps(extent: number, stamps: readonly number[]): void {
    if (this.#hub.broken.stampsAreHandedOver) return;
    this.#unansweredCount += 1;
    this.#hub.ports.sendControl(this.#target.link, FRAME_STAMPS, { extent, stamps });
  }

  /** Copies the next run of needed blocks; false when there is no slot for it now. */
  #copyNext(): boolean {
    const { ports, table } = this.#hub;
    const first = this.#needed.indexOf(1, this.#nextBlock);
    const sizeBytes = this.#hub.known.config.sizeBytes;
    const offset = this.#copying * EXTENT_BYTES + first * BLOCK_BYTES;
    if (first < 0 || offset >= sizeBytes) {
      this.#nextBlock = BLOCKS_PER_EXTENT;
      return true;
    }
    const roomBytes = this.#isBurst ? this.#leftBytes : FULL_BYTES;
    const gap = this.#needed.indexOf(0, first);
    const end = Math.min(
      gap < 0 ? BLOCKS_PER_EXTENT : gap,
      first + Math.min(COPY_BYTES, roomBytes) / BLOCK_BYTES,
    );
    const wholeBytes = Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
    const length = Math.min((end - first) * BLOCK_BYTES, wholeBytes - offset);
    const request = ports.takeRequest(length);
    if (request === NONE) return false;
    this.#nextBlock = end;
    table.kind[request] = COPY_READ;
    table.offsetBytes[request] = offset;
    table.lengthBytes[request] = length;
    table.origin[request] = this.#target.link;
    this.#readingCount += 1;
    this.#bytesInFlight += length;
    this.#leftBytes -= length;
    this.#leftCopies -= 1;
    this.#costBytes += Math.max(length, BURST_BYTES);
    if (this.#hub.broken.copyUnderRangeLock || this.#locks.acquire(request)) this.locked(request);
    return true;
  }

  locked(request: number): void {
    this.#hub.ports.startRead(request);
  }

  /** Read under the lock: sent, and kept locked until the replica has it. A failed read ends the stream (the caller). */
  readDone(request: number, errno: number): void {
    const { ports, table, out } = this.#hub;
    this.#readingCount -= 1;
    if (this.#isStopped || errno !== 0) {
      this.#end(request);
      return;
    }
    this.#unansweredCount += 1;
    this.#awaited.add(request);
    const length = table.lengthBytes[request] as number;
    const isHole = table.isHole[request] === 1;
    if (!isHole) this.bytesSent += length;
    out.type = isHole ? FRAME_COPY_ZERO : FRAME_COPY;
    out.flags = 0;
    out.lengthBytes = length;
    out.numbers[SEQUENCE] = request;
    out.numbers[OFFSET] = table.offsetBytes[request] as number;
    ports.sendFrame(this.#target.link, out, isHole ? NONE : request);
  }

  copied(request: number): void {
    if (!this.#awaited.delete(request)) return;
    this.#end(request);
    this.stamped();
  }

  /** An extent's generations are in the replica's table. */
  stamped(): void {
    this.#unansweredCount -= 1;
    this.step();
  }
}
