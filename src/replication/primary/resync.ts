// Brings one joining replica up to the primary, extent by extent, while writes go on: they go to the replica
// too, from the start of its stream, and what is copied is copied under the range's lock, in the same stream.
//
// Needed is what was written since the replica was dropped, and what its own last process may have written and
// others have not. Generations go along, so that the table of the newcomer answers for every other absent copy. Those of a
// hot extent go after its blocks: a write that was in flight when the stream began reaches the replica only as a copy, and
// may have been stamped anew by then, for a member that left.

import {
  BLOCK_BYTES,
  EXTENT_BYTES,
  GENERATION_BLOCK_BYTES,
  GENERATION_BLOCKS_PER_EXTENT,
} from '../../core/units.ts';
import { STAMP_UNKNOWN } from '../extents.ts';
import { FRAME_COPY, FRAME_COPY_ZERO, FRAME_STAMPS, OFFSET, SEQUENCE, type SuspectRange } from '../frames.ts';
import type { Hub } from '../hub.ts';
import type { RangeLocks } from '../range-locks.ts';
import { COPY_READ, NONE } from '../requests.ts';

const COPIES_IN_FLIGHT = 4;
const MAX_COPY_BYTES = 4 * GENERATION_BLOCK_BYTES;

export interface ResyncTarget {
  readonly link: number;
  readonly suspects: readonly SuspectRange[];
  readonly hotExtents: readonly number[];
  /** Everything stamped with this epoch or a later one is missing there; 0: all. */
  readonly since: number;
  /** The copy is no base: everything goes, and all generations. */
  readonly isFull: boolean;
}

export class Resync {
  readonly #hub: Hub;
  readonly #locks: RangeLocks;
  readonly #target: ResyncTarget;
  readonly #hotExtents: ReadonlySet<number>;
  readonly #epoch: number;
  /** Of the volume's size when it began: what lies beyond is new, and comes by the stream. */
  readonly #extentCount: number;
  #extent = -1;
  /** Of the current extent: 1 is needed. */
  readonly #needed = new Uint8Array(GENERATION_BLOCKS_PER_EXTENT);
  #nextBlock = GENERATION_BLOCKS_PER_EXTENT;
  #isReadingStamps = false;
  /** The current extent's generations go out when its blocks have been read. */
  #owesStamps = false;
  #unansweredCount = 0;
  #readingCount = 0;
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
    return this.#extent >= this.#extentCount && this.#unansweredCount === 0 && this.#readingCount === 0;
  }

  /** For people. */
  describe(): string {
    return `extent ${this.#extent} block ${this.#nextBlock} stamps ${this.#isReadingStamps} reading ${this.#readingCount} unanswered ${this.#unansweredCount}`;
  }

  get bytesLeft(): number {
    return Math.max(0, this.#extentCount - Math.max(0, this.#extent)) * EXTENT_BYTES;
  }

  /** The stream is gone. Copies that are still being read end by themselves. */
  stop(): void {
    this.#isStopped = true;
    for (const request of this.#awaited) this.#end(request);
    this.#awaited.clear();
  }

  #end(request: number): void {
    if (!this.#hub.broken.copyUnderRangeLock) this.#locks.release(request);
    this.#hub.ports.release(request);
  }

  /** Goes on as far as slots and the limit allow. */
  step(): void {
    while (
      !this.#isStopped &&
      !this.#isReadingStamps &&
      this.#readingCount + this.#unansweredCount < COPIES_IN_FLIGHT
    ) {
      if (this.#nextBlock < GENERATION_BLOCKS_PER_EXTENT) {
        if (!this.#copyNext()) return;
        continue;
      }
      if (this.#extent >= this.#extentCount) return;
      if (!this.#owesStamps) this.#extent += 1;
      else if (this.#readingCount > 0) return;
      if (this.#extent >= this.#extentCount) return;
      this.#isReadingStamps = true;
      this.#hub.copy.readStamps(this.#target.link, this.#extent);
    }
  }

  /** The extent's generations on disk; unreadable ones count as newest. */
  stampsRead(extent: number, errno: number, onDisk: Uint32Array): void {
    if (this.#isStopped || extent !== this.#extent) return;
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
    for (const [block, stamp] of stamps.entries())
      this.#needed[block] = (isFull ? stamp > 0 : stamp >= since) ? 1 : 0;
    if (!this.#hub.broken.suspectsInDelta) this.#addSuspects(extent);
    const isNeeded = this.#needed.includes(1);
    this.#nextBlock = isNeeded ? 0 : GENERATION_BLOCKS_PER_EXTENT;
    if (!isNeeded && !(isFull && stamps.some((stamp) => stamp > 0))) return;
    this.#owesStamps = this.#hub.copy.extents.isHot(extent) && !this.#hub.broken.stampsGoAfterCopies;
    if (!this.#owesStamps) this.#sendStamps(extent, stamps);
  }

  #addSuspects(extent: number): void {
    if (this.#hotExtents.has(extent)) this.#needed.fill(1);
    const start = extent * EXTENT_BYTES;
    for (const { offsetBytes, lengthBytes } of this.#target.suspects) {
      const from = Math.max(offsetBytes - start, 0);
      const to = Math.min(offsetBytes + lengthBytes - start, EXTENT_BYTES);
      if (from >= to) continue;
      this.#needed.fill(1, Math.floor(from / GENERATION_BLOCK_BYTES), Math.ceil(to / GENERATION_BLOCK_BYTES));
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
    let first = this.#nextBlock;
    while (first < GENERATION_BLOCKS_PER_EXTENT && this.#needed[first] === 0) first += 1;
    const sizeBytes = this.#hub.known.config.sizeBytes;
    const offset = this.#extent * EXTENT_BYTES + first * GENERATION_BLOCK_BYTES;
    if (first >= GENERATION_BLOCKS_PER_EXTENT || offset >= sizeBytes) {
      this.#nextBlock = GENERATION_BLOCKS_PER_EXTENT;
      return true;
    }
    let end = first;
    while (
      end < GENERATION_BLOCKS_PER_EXTENT &&
      this.#needed[end] === 1 &&
      (end - first + 1) * GENERATION_BLOCK_BYTES <= MAX_COPY_BYTES
    )
      end += 1;
    const wholeBytes = Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
    const length = Math.min((end - first) * GENERATION_BLOCK_BYTES, wholeBytes - offset);
    const request = ports.takeRequest(length);
    if (request === NONE) return false;
    this.#nextBlock = end;
    table.kind[request] = COPY_READ;
    table.offsetBytes[request] = offset;
    table.lengthBytes[request] = length;
    table.origin[request] = this.#target.link;
    this.#readingCount += 1;
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
