// Hot and cold extents: the intent log's and the generation table's memory.
//
// Before the first write to a cold extent its mark is durable ("this extent may differ from stable storage
// or from other copies"). Many marks share one round of the intent log; one round runs at a time. An extent
// that nobody wrote for a while cools: data flushed, then its generations durable, then the mark cleared,
// and only if no write came between. A mark is never dropped for space.
//
// States of an extent:
//
//      COLD ──mark──▶ MARKING ──round done──▶ HOT ──idle──▶ COOLING ──flushed, merged──▶ COLD
//                                              ▲───────write─────┘
//
// The bit in `bits` is set from MARKING on and cleared at the step to COLD. Clearing need not be durable: a
// mark too many costs a little resync, never data.

import { invariant } from '../core/invariant.ts';
import { EXTENT_BYTES, GENERATION_BLOCK_BYTES, GENERATION_BLOCKS_PER_EXTENT } from '../core/units.ts';
import { EXTENTS_PER_SECTOR } from './layout/intent.ts';
import { NONE } from './requests.ts';

const COLD = 0;
const MARKING = 1;
const HOT = 2;
const COOLING = 3;

/** Stamp of a block whose last write is not known: newer than every epoch. */
export const STAMP_UNKNOWN = 0xffffffff;
/** Sequential writers find the next extents marked before they get there. */
const MARK_AHEAD_EXTENTS = 7;
const COOLING_BATCH_EXTENTS = 256;

export interface ExtentPorts {
  /**
   * Writes the sectors of `bits` named by `roundSectors[0..roundSectorCount)`; durably if `durable`. Ends in
   * intentRoundDone(errno). The bits are read before this returns.
   */
  startIntentRound(durable: boolean): void;
  /** A flush of the data file that starts after this call. Ends in coolingFlushed(errno). */
  startCoolingFlush(): void;
  /** Merges the stamps of `coolingExtents[0..coolingCount)` into the generations file, durably. Ends in generationsMerged(errno). */
  startGenerationMerge(): void;
  /** A marking round is over: writes that waited for it may go on. */
  marksReady(): void;
  /** The log cannot be written: nothing may be acknowledged any more. */
  intentFailed(errno: number): void;
}

export class Extents {
  /** Whole-volume bitmap, as the intent file holds it: bit n is byte n >> 3, bit n & 7. */
  bits: Uint8Array;
  extentCount: number;
  roundSectors: Int32Array;
  roundSectorCount = 0;
  readonly coolingExtents = new Int32Array(COOLING_BATCH_EXTENTS);
  coolingCount = 0;
  /** The last merge of generations did not reach the disk. */
  hasMergeFailed = false;
  readonly #ports: ExtentPorts;
  #state: Uint8Array;
  /** Writes in flight by extent. */
  #writers: Uint16Array;
  #lastTick: Uint32Array;
  #stampIndex: Int32Array;
  #stamps = new Uint32Array(64 * GENERATION_BLOCKS_PER_EXTENT);
  #freeStamps: number[] = [];
  #stampCount = 0;
  #hotList: Int32Array;
  #hotPosition: Int32Array;
  #hotCount = 0;
  #cursor = 0;
  /** Extents of the running round, then of the next. */
  #marking: Int32Array;
  #markingCount = 0;
  #markingNext: Int32Array;
  #markingNextCount = 0;
  #sectorDirty: Uint8Array;
  #hasDirtySectors = false;
  #isRoundRunning = false;
  #coolingPhase: 'idle' | 'flushing' | 'merging' = 'idle';
  #tick = 1;
  #isFailed = false;
  /** Marked by an earlier process, and not yet known to be settled: never cools. */
  #isInherited: Uint8Array;

  constructor(sizeBytes: number, bits: Uint8Array, ports: ExtentPorts) {
    this.#ports = ports;
    const count = Math.ceil(sizeBytes / EXTENT_BYTES);
    this.extentCount = count;
    this.bits = new Uint8Array(Math.ceil(count / 8));
    this.bits.set(bits.subarray(0, this.bits.length));
    const sectorCount = Math.ceil(count / EXTENTS_PER_SECTOR);
    this.roundSectors = new Int32Array(sectorCount);
    this.#sectorDirty = new Uint8Array(sectorCount);
    this.#state = new Uint8Array(count);
    this.#writers = new Uint16Array(count);
    this.#lastTick = new Uint32Array(count);
    this.#stampIndex = new Int32Array(count).fill(NONE);
    this.#hotList = new Int32Array(count);
    this.#hotPosition = new Int32Array(count).fill(NONE);
    this.#marking = new Int32Array(count);
    this.#markingNext = new Int32Array(count);
    this.#isInherited = new Uint8Array(count);
    for (let extent = 0; extent < count; extent++) {
      if (((this.bits[extent >> 3] as number) & (1 << (extent & 7))) !== 0) this.#inherit(extent);
    }
  }

  get hotCount(): number {
    return this.#hotCount;
  }

  /** Nothing of the log or of the cooling is on its way to the disk. */
  get isIdle(): boolean {
    return !this.#isRoundRunning && this.#coolingPhase === 'idle';
  }

  /** True when every extent from `first` to `last` is hot; else the missing marks are on their way and marksReady() follows. */
  ensureHot(first: number, last: number): boolean {
    let isHot = true;
    for (let extent = first; extent <= last; extent++) {
      const state = this.#state[extent] as number;
      if (state === HOT) continue;
      if (state === COOLING) {
        this.#state[extent] = HOT;
        continue;
      }
      isHot = false;
      if (state === COLD) this.#requestMarks(extent);
    }
    if (!isHot && !this.#isRoundRunning) this.#startRound();
    return isHot;
  }

  /** A write to hot extents starts: it is counted, and its blocks are stamped with its epoch. */
  writeStarted(first: number, last: number, firstBlock: number, lastBlock: number, epoch: number): void {
    for (let extent = first; extent <= last; extent++) {
      invariant(this.#state[extent] === HOT, 'writes go to hot extents only');
      this.#writers[extent] = (this.#writers[extent] as number) + 1;
      this.#lastTick[extent] = this.#tick;
      const base = (this.#stampIndex[extent] as number) * GENERATION_BLOCKS_PER_EXTENT;
      const extentFirst = extent * GENERATION_BLOCKS_PER_EXTENT;
      const from = Math.max(firstBlock - extentFirst, 0);
      const to = Math.min(lastBlock - extentFirst, GENERATION_BLOCKS_PER_EXTENT - 1);
      for (let block = from; block <= to; block++) {
        if (this.#stamps[base + block] !== STAMP_UNKNOWN) this.#stamps[base + block] = epoch;
      }
    }
  }

  /** As writeStarted, without a stamp: bytes that come with their own (mergeStamps). */
  copyStarted(first: number, last: number): void {
    for (let extent = first; extent <= last; extent++) {
      invariant(this.#state[extent] === HOT, 'copies go to hot extents only');
      this.#writers[extent] = (this.#writers[extent] as number) + 1;
      this.#lastTick[extent] = this.#tick;
    }
  }

  /** A write in flight is stamped anew: it counts as one of a later epoch. */
  restamp(offsetBytes: number, lengthBytes: number, epoch: number): void {
    const lastBlock = lastGenerationBlockOf(offsetBytes, lengthBytes);
    for (let block = firstGenerationBlockOf(offsetBytes); block <= lastBlock; block++) {
      const extent = Math.floor(block / GENERATION_BLOCKS_PER_EXTENT);
      invariant(this.#state[extent] === HOT, 'the extent of a write in flight is hot');
      const at =
        (this.#stampIndex[extent] as number) * GENERATION_BLOCKS_PER_EXTENT +
        (block % GENERATION_BLOCKS_PER_EXTENT);
      if ((this.#stamps[at] as number) < epoch) this.#stamps[at] = epoch;
    }
  }

  /** Stamps of another copy for a hot extent: each block keeps the newer one. */
  mergeStamps(extent: number, stamps: ArrayLike<number>): void {
    invariant(this.isHot(extent), 'stamps are merged into hot extents');
    const base = this.stampOffset(extent);
    for (let block = 0; block < GENERATION_BLOCKS_PER_EXTENT; block++) {
      const stamp = stamps[block] ?? STAMP_UNKNOWN;
      if ((this.#stamps[base + block] as number) < stamp) this.#stamps[base + block] = stamp;
    }
    this.#lastTick[extent] = this.#tick;
  }

  isHot(extent: number): boolean {
    return this.#stampIndex[extent] !== NONE;
  }

  /** The extents of this range stay hot until settleInherited(). */
  keepHot(offsetBytes: number, lengthBytes: number): void {
    const last = lastExtentOf(offsetBytes, lengthBytes);
    for (let extent = firstExtentOf(offsetBytes); extent <= last; extent++) this.#isInherited[extent] = 1;
  }

  hotExtents(): number[] {
    return Array.from(this.#hotList.subarray(0, this.#hotCount));
  }

  /** Those which stay hot until settleInherited(): an earlier process left them marked, or keepHot(). */
  inheritedExtents(): number[] {
    return this.hotExtents().filter((extent) => this.#isInherited[extent] !== 0);
  }

  /**
   * What an earlier process left marked is settled on every copy: its blocks count as written in this epoch,
   * and the extents may cool. Until then they stay hot. Returns those which were stamped.
   */
  settleInherited(epoch: number): number[] {
    const stamped: number[] = [];
    for (let i = 0; i < this.#hotCount; i++) {
      const extent = this.#hotList[i] as number;
      if (this.#isInherited[extent] === 0) continue;
      this.#isInherited[extent] = 0;
      const base = this.stampOffset(extent);
      const end = base + GENERATION_BLOCKS_PER_EXTENT;
      if (this.#stamps.subarray(base, end).includes(STAMP_UNKNOWN)) stamped.push(extent);
      for (let at = base; at < end; at++) {
        if (this.#stamps[at] === STAMP_UNKNOWN) this.#stamps[at] = epoch;
      }
    }
    return stamped;
  }

  /** The write is acknowledged on every copy (or failed on every copy). */
  writeEnded(first: number, last: number): void {
    for (let extent = first; extent <= last; extent++) {
      this.#writers[extent] = (this.#writers[extent] as number) - 1;
    }
  }

  /** The memory of a hot extent's stamps: 64 values from the returned index of stampMemory. */
  stampOffset(extent: number): number {
    return (this.#stampIndex[extent] as number) * GENERATION_BLOCKS_PER_EXTENT;
  }

  get stampMemory(): Uint32Array {
    return this.#stamps;
  }

  /**
   * One step of time, about a second. Starts to cool extents whose last write is `idleTicks` or more ago.
   * Returns false when nothing is hot, so that the caller need not tick.
   */
  tick(idleTicks: number): boolean {
    this.#tick += 1;
    if (this.#coolingPhase === 'idle' && this.#hotCount > 0 && !this.#isFailed) this.#startCooling(idleTicks);
    return this.#hotCount > 0;
  }

  /**
   * Nobody will write any more: starts to cool what may, however lately it was written. True: it is under way, and to be
   * asked again at its end. A merge that failed is not made again.
   */
  coolNow(): boolean {
    if (this.#coolingPhase === 'idle' && !this.hasMergeFailed && !this.#isFailed) this.#startCooling(0);
    return this.#coolingPhase !== 'idle';
  }

  intentRoundDone(errno: number): void {
    this.#isRoundRunning = false;
    if (errno !== 0) {
      this.#isFailed = true;
      this.#ports.intentFailed(errno);
      return;
    }
    const marked = this.#markingCount;
    for (let i = 0; i < marked; i++) this.#becomeHot(this.#marking[i] as number);
    this.#markingCount = 0;
    if (this.#markingNextCount > 0 || this.#hasDirtySectors) this.#startRound();
    if (marked > 0) this.#ports.marksReady();
  }

  coolingFlushed(errno: number): void {
    this.#keepCooling();
    if (errno !== 0) {
      for (let i = 0; i < this.coolingCount; i++) this.#state[this.coolingExtents[i] as number] = HOT;
      this.coolingCount = 0;
    }
    if (this.coolingCount === 0) {
      this.#coolingPhase = 'idle';
      return;
    }
    this.#coolingPhase = 'merging';
    this.#ports.startGenerationMerge();
  }

  /** A merge that failed (no space for a sector, say) loses nothing: the marks stand, and it is made again later. */
  generationsMerged(errno: number): void {
    this.#coolingPhase = 'idle';
    this.hasMergeFailed = errno !== 0;
    this.#keepCooling();
    for (let i = 0; i < this.coolingCount; i++) {
      const extent = this.coolingExtents[i] as number;
      if (errno === 0) this.#becomeCold(extent);
      else this.#state[extent] = HOT;
    }
    this.coolingCount = 0;
    if (this.#hasDirtySectors && !this.#isRoundRunning) this.#startRound();
  }

  /** The copy's files have grown. Rounds and cooling that are under way go on. */
  grow(sizeBytes: number): void {
    const count = Math.ceil(sizeBytes / EXTENT_BYTES);
    invariant(count >= this.extentCount, 'volumes only grow');
    if (count === this.extentCount) return;
    const bits = new Uint8Array(Math.ceil(count / 8));
    bits.set(this.bits);
    this.bits = bits;
    const sectorCount = Math.ceil(count / EXTENTS_PER_SECTOR);
    const resized = <T extends Uint8Array | Uint16Array | Uint32Array | Int32Array>(old: T, fresh: T): T => {
      fresh.set(old);
      return fresh;
    };
    this.roundSectors = resized(this.roundSectors, new Int32Array(sectorCount));
    this.#sectorDirty = resized(this.#sectorDirty, new Uint8Array(sectorCount));
    this.#state = resized(this.#state, new Uint8Array(count));
    this.#writers = resized(this.#writers, new Uint16Array(count));
    this.#lastTick = resized(this.#lastTick, new Uint32Array(count));
    this.#stampIndex = resized(this.#stampIndex, new Int32Array(count).fill(NONE));
    this.#hotList = resized(this.#hotList, new Int32Array(count));
    this.#hotPosition = resized(this.#hotPosition, new Int32Array(count).fill(NONE));
    this.#marking = resized(this.#marking, new Int32Array(count));
    this.#markingNext = resized(this.#markingNext, new Int32Array(count));
    this.#isInherited = resized(this.#isInherited, new Uint8Array(count));
    this.extentCount = count;
  }

  // ---- marks

  /** Marks a cold extent; and the next ones too when the one before is hot, as in a sequential write. */
  #requestMarks(extent: number): void {
    this.#requestMark(extent);
    if (extent === 0 || this.#state[extent - 1] === COLD) return;
    const end = Math.min(extent + MARK_AHEAD_EXTENTS, this.extentCount - 1);
    for (let ahead = extent + 1; ahead <= end && this.#state[ahead] === COLD; ahead++)
      this.#requestMark(ahead);
  }

  #requestMark(extent: number): void {
    this.#state[extent] = MARKING;
    this.bits[extent >> 3] = (this.bits[extent >> 3] as number) | (1 << (extent & 7));
    this.#dirtySector(extent);
    this.#markingNext[this.#markingNextCount] = extent;
    this.#markingNextCount += 1;
  }

  #dirtySector(extent: number): void {
    this.#sectorDirty[Math.floor(extent / EXTENTS_PER_SECTOR)] = 1;
    this.#hasDirtySectors = true;
  }

  #startRound(): void {
    if (this.#isFailed) return;
    const swap = this.#marking;
    this.#marking = this.#markingNext;
    this.#markingNext = swap;
    this.#markingCount = this.#markingNextCount;
    this.#markingNextCount = 0;
    this.roundSectorCount = 0;
    for (let sector = 0; sector < this.#sectorDirty.length; sector++) {
      if (this.#sectorDirty[sector] === 0) continue;
      this.#sectorDirty[sector] = 0;
      this.roundSectors[this.roundSectorCount] = sector;
      this.roundSectorCount += 1;
    }
    this.#hasDirtySectors = false;
    this.#isRoundRunning = true;
    this.#ports.startIntentRound(this.#markingCount > 0);
  }

  // ---- hot and cold

  #inherit(extent: number): void {
    this.#becomeHot(extent);
    this.#isInherited[extent] = 1;
    const base = this.stampOffset(extent);
    this.#stamps.fill(STAMP_UNKNOWN, base, base + GENERATION_BLOCKS_PER_EXTENT);
  }

  #becomeHot(extent: number): void {
    this.#state[extent] = HOT;
    this.#lastTick[extent] = this.#tick;
    this.#hotPosition[extent] = this.#hotCount;
    this.#hotList[this.#hotCount] = extent;
    this.#hotCount += 1;
    const index = this.#takeStamps();
    this.#stampIndex[extent] = index;
    this.#stamps.fill(0, index * GENERATION_BLOCKS_PER_EXTENT, (index + 1) * GENERATION_BLOCKS_PER_EXTENT);
  }

  #becomeCold(extent: number): void {
    this.#state[extent] = COLD;
    this.bits[extent >> 3] = (this.bits[extent >> 3] as number) & ~(1 << (extent & 7));
    this.#dirtySector(extent);
    this.#freeStamps.push(this.#stampIndex[extent] as number);
    this.#stampIndex[extent] = NONE;
    const position = this.#hotPosition[extent] as number;
    this.#hotCount -= 1;
    const moved = this.#hotList[this.#hotCount] as number;
    this.#hotList[position] = moved;
    this.#hotPosition[moved] = position;
    this.#hotPosition[extent] = NONE;
  }

  #takeStamps(): number {
    const free = this.#freeStamps.pop();
    if (free !== undefined) return free;
    const needed = (this.#stampCount + 1) * GENERATION_BLOCKS_PER_EXTENT;
    if (needed > this.#stamps.length) {
      const grown = new Uint32Array(this.#stamps.length * 2);
      grown.set(this.#stamps);
      this.#stamps = grown;
    }
    this.#stampCount += 1;
    return this.#stampCount - 1;
  }

  // ---- cooling

  #startCooling(idleTicks: number): void {
    this.coolingCount = 0;
    const scanned = Math.min(this.#hotCount, 16 * COOLING_BATCH_EXTENTS);
    for (let i = 0; i < scanned && this.coolingCount < COOLING_BATCH_EXTENTS; i++) {
      this.#cursor = this.#cursor + 1 >= this.#hotCount ? 0 : this.#cursor + 1;
      const extent = this.#hotList[this.#cursor] as number;
      if (this.#state[extent] !== HOT || this.#writers[extent] !== 0) continue;
      if (this.#isInherited[extent] !== 0) continue;
      if (this.#tick - (this.#lastTick[extent] as number) < idleTicks) continue;
      this.#state[extent] = COOLING;
      this.coolingExtents[this.coolingCount] = extent;
      this.coolingCount += 1;
    }
    if (this.coolingCount === 0) return;
    this.#coolingPhase = 'flushing';
    this.#ports.startCoolingFlush();
  }

  /** Forgets the extents that were written meanwhile. */
  #keepCooling(): void {
    let kept = 0;
    for (let i = 0; i < this.coolingCount; i++) {
      const extent = this.coolingExtents[i] as number;
      if (this.#state[extent] !== COOLING) continue;
      this.coolingExtents[kept] = extent;
      kept += 1;
    }
    this.coolingCount = kept;
  }
}

/** The extents and generation blocks that a range touches. */
export function firstExtentOf(offsetBytes: number): number {
  return Math.floor(offsetBytes / EXTENT_BYTES);
}
export function lastExtentOf(offsetBytes: number, lengthBytes: number): number {
  return Math.floor((offsetBytes + lengthBytes - 1) / EXTENT_BYTES);
}
export function firstGenerationBlockOf(offsetBytes: number): number {
  return Math.floor(offsetBytes / GENERATION_BLOCK_BYTES);
}
export function lastGenerationBlockOf(offsetBytes: number, lengthBytes: number): number {
  return Math.floor((offsetBytes + lengthBytes - 1) / GENERATION_BLOCK_BYTES);
}
