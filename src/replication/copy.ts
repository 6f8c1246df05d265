// The local copy of a volume: applies writes in the order their holder of the range lock gives them, keeps the
// marks, the window and the generations, flushes. Primary and secondary use the same one. It decides nothing
// about other copies and answers no client.
//
// Order of a write (each step only after the one before):
//   prepare: extents hot (mark durable) → start: window entry, stamp, data → [FUA: flush] → applied().
// The window entry stays until settled(sequence): the write is on every copy, or on none that counts. Entries
// stand in a ring by sequence, so that a watermark clears them in order. The file holds two banks: one for the
// writes of this opening, the other for what an earlier one left, until that is settled.
//
// A flush or a log write that failed is never tried again and believed: from then on nothing is applied.

import { invariant } from '../core/invariant.ts';
import {
  Extents,
  type ExtentPorts,
  firstExtentOf,
  firstGenerationBlockOf,
  lastExtentOf,
  lastGenerationBlockOf,
} from './extents.ts';
import type { SuspectRange, UnsettledWrite } from './frames.ts';
import type { Durability } from './layout/superblock.ts';
import { WINDOW_ENTRY_COUNT, type WindowEntry, type WindowFile } from './layout/window.ts';
import type { DiskPorts } from './ports.ts';
import {
  COPY,
  FLAG_FUA,
  NONE,
  RequestQueue,
  type RequestTable,
  REWRITE,
  UNTOUCHED,
  WRITE,
  ZERO,
} from './requests.ts';
import type { BrokenRules } from './rules.ts';
import type { WrittenBlocks } from './written-blocks.ts';

const EIO = 5;
/** Writes in flight that one opening may have: the span between its lowest unsettled and its newest sequence. */
export const WINDOW_SPAN = WINDOW_ENTRY_COUNT / 2;

/** Told by the copy; the role that the replica has. */
export interface CopyHost {
  /** A request whose prepare() returned false may start now (or the copy has failed: start() says so). */
  prepared(request: number): void;
  applied(request: number, errno: number): void;
  /** All rounds up to this number of requestFlush() are over. */
  flushed(round: number, errno: number): void;
  copyFailed(what: 'flush' | 'intent' | 'superblock', errno: number): void;
}

export interface CopyOptions {
  readonly sizeBytes: number;
  readonly durability: Durability;
  /** Marks that an earlier process left. Taken over. */
  readonly intentBits: Uint8Array;
  readonly window: WindowFile;
  /** What an earlier process left in the window. */
  readonly inherited: readonly WindowEntry[] | 'unknown';
  readonly bootId: string;
  readonly broken: BrokenRules;
}

export class Copy implements ExtentPorts {
  readonly extents: Extents;
  /** What its files have room for. */
  sizeBytes: number;
  durability: Durability;
  /** A primary's, while copies are absent: everything that is stamped is noted there as well. */
  written: WrittenBlocks | undefined;
  readonly #table: RequestTable;
  readonly #disk: DiskPorts;
  readonly #host: CopyHost;
  readonly #window: WindowFile;
  readonly #bootId: string;
  readonly #broken: BrokenRules;

  /** First entry of the bank that this opening uses. */
  #bank = 0;
  #openingLow = 0;
  #openingHigh = 0;
  /** Entries of earlier openings that are not settled; they stand in the other bank. */
  #inherited: readonly WindowEntry[];
  #isUnknown: boolean;
  /** By sequence mod WINDOW_SPAN: the write that holds the entry; 0: none. */
  readonly #ringSequence = new Float64Array(WINDOW_SPAN);
  readonly #ringOffset = new Float64Array(WINDOW_SPAN);
  readonly #ringLength = new Uint32Array(WINDOW_SPAN);
  /** 1: an operation of it, perhaps of an earlier stream or process, may have put something on the disk. */
  readonly #ringIsTouched = new Uint8Array(WINDOW_SPAN);
  /** [0]: everything up to here is settled. */
  readonly #settled = new Float64Array(1);

  readonly #waitingForMarks: RequestQueue;
  /** Rarely anything: see #enter. */
  #waitingForEntry: { readonly request: number; readonly epoch: number }[] = [];
  readonly #flushing: RequestQueue;
  readonly #flushNext: RequestQueue;
  #flushRound = 0;
  #flushCovers = 0;
  #flushDoneRound = 0;
  #isFlushRunning = false;
  #coolingInFlush = false;
  #coolingWaits = false;
  #errno = 0;
  /** Data operations and logs under way. */
  #runningCount = 0;
  #stampReadCount = 0;

  constructor(table: RequestTable, disk: DiskPorts, host: CopyHost, options: CopyOptions) {
    this.#table = table;
    this.#disk = disk;
    this.#host = host;
    this.sizeBytes = options.sizeBytes;
    this.durability = options.durability;
    this.#window = options.window;
    this.#bootId = options.bootId;
    this.#broken = options.broken;
    this.#inherited = options.inherited === 'unknown' ? [] : options.inherited;
    this.#isUnknown = options.inherited === 'unknown';
    // What stands in a window that is not believed is hot in the intent log as well.
    if (this.#isUnknown) for (let entry = 0; entry < WINDOW_ENTRY_COUNT; entry++) options.window.clear(entry);
    this.extents = new Extents(options.sizeBytes, options.intentBits, this);
    this.#waitingForMarks = new RequestQueue(table);
    this.#flushing = new RequestQueue(table);
    this.#flushNext = new RequestQueue(table);
  }

  get hasFailed(): boolean {
    return this.#errno !== 0;
  }

  /** No data operation, flush, nor read or write of a log is on its way to the disk. */
  get isQuiet(): boolean {
    const hasLogsIdle = this.extents.isIdle && this.#stampReadCount === 0;
    return this.#runningCount === 0 && !this.#isFlushRunning && hasLogsIdle;
  }

  /** No data operation is on its way: what an older stream started has ended. */
  get isDataQuiet(): boolean {
    return this.#runningCount === 0 && this.#waitingForMarks.isEmpty && this.#waitingForEntry.length === 0;
  }

  get flushDoneRound(): number {
    return this.#flushDoneRound;
  }

  /** Its files have grown, durably. The same or a smaller size: nothing happens. */
  grow(sizeBytes: number): void {
    if (sizeBytes <= this.sizeBytes) return;
    this.extents.grow(sizeBytes);
    this.sizeBytes = sizeBytes;
  }

  // ---- openings

  /**
   * Writes of this opening follow. What the window holds of others is inherited until settleInherited(). The
   * bank is changed unless the opening goes on (`continues`: this copy took part in all of it).
   */
  beginOpening(opening: string, settledSequence: number, continues: boolean): void {
    const low = Number.parseInt(opening.slice(0, 8), 16) | 0;
    const high = Number.parseInt(opening.slice(8, 16), 16) | 0;
    const isSame = low === this.#openingLow && high === this.#openingHigh;
    if (continues && (isSame || this.#broken.sequencesBelongToOpening)) return;
    this.#inheritRing();
    this.#openingLow = low;
    this.#openingHigh = high;
    this.#settled[0] = settledSequence;
    const isFree = (bank: number) =>
      !this.#inherited.some(({ entryIndex }) => entryIndex >= bank && entryIndex < bank + WINDOW_SPAN);
    if (isFree(0)) this.#bank = 0;
    else if (isFree(WINDOW_SPAN)) this.#bank = WINDOW_SPAN;
    else {
      // Two openings came and went before anything was settled: doubt is cheaper than a third bank.
      this.#window.doubt();
      this.#isUnknown = true;
      for (const { entryIndex } of this.#inherited) this.#window.clear(entryIndex);
      this.#inherited = [];
      this.#bank = 0;
    }
  }

  #inheritRing(): void {
    const left: WindowEntry[] = [];
    for (let at = 0; at < WINDOW_SPAN; at++) {
      const sequence = this.#ringSequence[at] as number;
      if (sequence === 0) continue;
      const offsetBytes = this.#ringOffset[at] as number;
      const lengthBytes = this.#ringLength[at] as number;
      left.push({
        entryIndex: this.#bank + at,
        epoch: 0,
        openingLow: this.#openingLow,
        openingHigh: this.#openingHigh,
        sequence,
        offsetBytes,
        lengthBytes,
      });
      this.#ringSequence[at] = 0;
      if (!this.#broken.markKeptUntilSettled) this.#unmark(offsetBytes, lengthBytes);
    }
    if (left.length > 0) {
      for (const { offsetBytes, lengthBytes } of left) this.extents.keepHot(offsetBytes, lengthBytes);
      this.#inherited = [...this.#inherited, ...left];
    }
  }

  /** What may differ from other copies: writes of any opening that are not settled; 'hot': all hot extents. */
  suspects(): readonly SuspectRange[] | 'hot' {
    if (this.#isUnknown && !this.#broken.unknownWindowMeansHot) return 'hot';
    const found: SuspectRange[] = this.#inherited.map(({ offsetBytes, lengthBytes }) => ({
      offsetBytes,
      lengthBytes,
    }));
    for (let at = 0; at < WINDOW_SPAN; at++) {
      if (this.#ringSequence[at] === 0) continue;
      found.push({
        offsetBytes: this.#ringOffset[at] as number,
        lengthBytes: this.#ringLength[at] as number,
      });
    }
    return found;
  }

  /** All that was inherited is settled on every copy that counts. */
  settleInherited(epoch: number): void {
    for (const { entryIndex } of this.#inherited) this.#window.clear(entryIndex);
    this.#inherited = [];
    if (this.#isUnknown) {
      this.#isUnknown = false;
      this.#window.adopt(this.#bootId);
    }
    // Also where nothing is noted: a call that is left out leaves out its arguments.
    const settled = this.extents.settleInherited(this.#broken.unknownStampsAreNewest ? 0 : epoch);
    this.written?.noteExtents(settled);
  }

  /** The disk failed: whoever opens it next takes all hot extents for suspect. */
  doubt(): void {
    this.#window.doubt();
    this.#isUnknown = true;
  }

  /**
   * Another copy's bytes are the truth from here on: each extent may differ. False: marks are on their way, and this is to
   * be asked again when they are durable.
   */
  suspectEverything(): boolean {
    if (!this.extents.ensureHot(0, this.extents.extentCount - 1)) return false;
    this.extents.keepHot(0, this.sizeBytes);
    this.doubt();
    return true;
  }

  // ---- writes

  /** The highest sequence that may start now. */
  get lastSequence(): number {
    return (this.#settled[0] as number) + WINDOW_SPAN;
  }

  /** True: start() may be called. False: marks are on their way, and the host is told. */
  prepare(request: number): boolean {
    const offset = this.#table.offsetBytes[request] as number;
    const length = this.#table.lengthBytes[request] as number;
    if (this.#errno !== 0 || this.extents.ensureHot(firstExtentOf(offset), lastExtentOf(offset, length)))
      return true;
    if (this.#broken.markBeforeWrite)
      return this.extents.ensureHot(firstExtentOf(offset), lastExtentOf(offset, length));
    this.#waitingForMarks.push(request);
    return false;
  }

  /**
   * Window entry, stamp and data operation of a write, zeroing, rewrite or copy whose extents are hot. Ends in
   * applied(). A write that is sent again (its sequence holds its entry) is only applied again.
   */
  start(request: number, epoch: number): void {
    const table = this.#table;
    const kind = table.kind[request] as number;
    if (this.#errno !== 0) {
      this.#host.applied(request, EIO);
      return;
    }
    const offset = table.offsetBytes[request] as number;
    const length = table.lengthBytes[request] as number;
    if (kind === COPY) {
      this.extents.copyStarted(firstExtentOf(offset), lastExtentOf(offset, length));
    } else if (kind === ZERO && this.#broken.zeroesAreWrites) {
      // No entry, no stamp.
    } else if (!this.#enter(request, offset, length, epoch)) {
      this.#waitingForEntry.push({ request, epoch });
      return;
    }
    if (kind === REWRITE) {
      // The bytes are here already: they are only stamped, made stable where writes are, and sent to the others.
      this.#landed(request, 0);
      return;
    }
    this.#runningCount += 1;
    invariant(kind === WRITE || kind === ZERO || kind === COPY, 'only these are written');
    if (kind === ZERO || table.isHole[request] === 1) this.#disk.startZero(request);
    else this.#disk.startWrite(request);
  }

  /** False: another write holds the entry. That is one which a joining replica has still to end: the primary has not waited for it. */
  #enter(request: number, offset: number, length: number, epoch: number): boolean {
    return this.#occupy(this.#table.sequence[request] as number, offset, length, epoch);
  }

  #occupy(sequence: number, offset: number, length: number, epoch: number): boolean {
    const at = sequence % WINDOW_SPAN;
    const holder = this.#ringSequence[at] as number;
    if (holder === sequence) return true;
    if (holder !== 0) {
      invariant(holder <= (this.#settled[0] as number), 'the window has room for every write that may start');
      return false;
    }
    this.#ringSequence[at] = sequence;
    this.#ringOffset[at] = offset;
    this.#ringLength[at] = length;
    this.#ringIsTouched[at] = this.#isInherited(sequence) ? 1 : 0;
    if (!this.#broken.windowBeforeWrite) {
      this.#window.put(this.#bank + at, epoch, this.#openingLow, this.#openingHigh, sequence, offset, length);
    }
    this.extents.writeStarted(
      firstExtentOf(offset),
      lastExtentOf(offset, length),
      firstGenerationBlockOf(offset),
      lastGenerationBlockOf(offset, length),
      epoch,
    );
    this.written?.note(offset, length);
    if (this.#broken.markKeptUntilSettled) this.#unmark(offset, length);
    return true;
  }

  /**
   * An earlier process, or an earlier stream that it was being filled by, took this very write. A window that nobody can read
   * says nothing of it: such a copy is filled wherever it is hot, behind whatever its stream brings again.
   */
  #isInherited(sequence: number): boolean {
    for (const entry of this.#inherited) {
      // Words of the file are unsigned.
      const isLow = (entry.openingLow | 0) === this.#openingLow;
      const isHigh = (entry.openingHigh | 0) === this.#openingHigh;
      if (isLow && isHigh && entry.sequence === sequence) return true;
    }
    return false;
  }

  /** A window entry for a write that this copy gets otherwise, if at all. Its extents are hot. */
  enterUnsettled({ sequence, offsetBytes, lengthBytes }: UnsettledWrite, epoch: number): void {
    const isOfRing = sequence > (this.#settled[0] as number) && sequence <= this.lastSequence;
    if (isOfRing) this.#occupy(sequence, offsetBytes, lengthBytes, epoch);
  }

  /** The writes of this opening that are not settled. */
  *unsettledWrites(): Generator<UnsettledWrite> {
    for (let at = 0; at < WINDOW_SPAN; at++) {
      const sequence = this.#ringSequence[at] as number;
      const offsetBytes = this.#ringOffset[at] as number;
      if (sequence !== 0) yield { sequence, offsetBytes, lengthBytes: this.#ringLength[at] as number };
    }
  }

  #unmark(offsetBytes: number, lengthBytes: number): void {
    this.extents.writeEnded(firstExtentOf(offsetBytes), lastExtentOf(offsetBytes, lengthBytes));
  }

  /** This write is on every copy: its window entry is free. */
  settle(sequence: number): void {
    const at = sequence % WINDOW_SPAN;
    if (this.#ringSequence[at] !== sequence) return;
    this.#ringSequence[at] = 0;
    if (!this.#broken.windowBeforeWrite) this.#window.clear(this.#bank + at);
    const offset = this.#ringOffset[at] as number;
    if (!this.#broken.markKeptUntilSettled) this.#unmark(offset, this.#ringLength[at] as number);
    if (this.#waitingForEntry.length === 0) return;
    const waiting = this.#waitingForEntry;
    this.#waitingForEntry = [];
    for (const { request, epoch } of waiting) this.start(request, epoch);
  }

  /** Everything up to this sequence is on every copy. */
  settleUpTo(watermark: number): void {
    const from = this.#settled[0] as number;
    if (watermark <= from) return;
    this.#settled[0] = watermark;
    const last = Math.min(watermark, from + WINDOW_SPAN);
    for (let sequence = from + 1; sequence <= last; sequence++) this.settle(sequence);
  }

  /** Writes above the watermark count as written in this epoch from now on. */
  restampUnsettled(epoch: number): void {
    if (this.#broken.restampAtDrop) return;
    for (let at = 0; at < WINDOW_SPAN; at++) {
      if (this.#ringSequence[at] === 0) continue;
      const offset = this.#ringOffset[at] as number;
      const length = this.#ringLength[at] as number;
      this.extents.restamp(offset, length, epoch);
      if (!this.#broken.writtenHasRestamped) this.written?.note(offset, length);
    }
  }

  // ---- saved generations

  /** For the resync over `link`. Ends in stampsRead(). */
  readStamps(link: number, extent: number): void {
    this.#stampReadCount += 1;
    this.#disk.startStampRead(link, extent);
  }

  // ---- ends of what was started

  stampsRead(): void {
    this.#stampReadCount -= 1;
  }

  dataDone(request: number, outcome: number): void {
    const table = this.#table;
    this.#runningCount -= 1;
    const errno = this.#judged(request, outcome);
    if (table.kind[request] === COPY) {
      const offset = table.offsetBytes[request] as number;
      this.extents.writeEnded(
        firstExtentOf(offset),
        lastExtentOf(offset, table.lengthBytes[request] as number),
      );
    } else if ((table.sequence[request] as number) <= (this.#settled[0] as number))
      this.settle(table.sequence[request] as number);
    this.#landed(request, errno === 0 ? this.#errno : errno);
  }

  /** A write that was sent again is refused untouched only where no attempt at it has put anything on the disk. */
  #judged(request: number, errno: number): number {
    const sequence = this.#table.sequence[request] as number;
    const at = sequence % WINDOW_SPAN;
    if (this.#table.kind[request] === COPY || this.#ringSequence[at] !== sequence) return errno;
    if ((errno & UNTOUCHED) === 0) this.#ringIsTouched[at] = 1;
    const isTouched = this.#ringIsTouched[at] === 1 && !this.#broken.refusalIsOfFirstSending;
    return isTouched ? errno & ~UNTOUCHED : errno;
  }

  /** Its bytes are with the kernel, or are not: it is applied when they are where the volume's durability wants them. */
  #landed(request: number, outcome: number): void {
    const table = this.#table;
    const isFua = ((table.flags[request] as number) & FLAG_FUA) !== 0 && !this.#broken.fuaIsFlushed;
    if (outcome === 0 && table.kind[request] !== COPY && (isFua || this.durability === 'writethrough')) {
      this.#runningCount += 1;
      this.#flushNext.push(request);
      if (!this.#isFlushRunning) this.#startFlush();
      return;
    }
    this.#host.applied(request, outcome);
  }

  /** A flush that covers every write applied before this call: its number; ends in flushed(number or higher). */
  requestFlush(): number {
    this.#flushRound += 1;
    if (!this.#isFlushRunning) this.#startFlush();
    return this.#flushRound;
  }

  flushDone(errno: number): void {
    if (errno !== 0 && !this.#broken.failedFlushIsFinal) this.fail('flush', errno);
    const isForCooling = this.#coolingInFlush;
    this.#coolingInFlush = false;
    for (let request = this.#flushing.shift(); request !== NONE; request = this.#flushing.shift()) {
      this.#runningCount -= 1;
      this.#host.applied(request, this.#errno);
    }
    const round = this.#flushCovers;
    const isNewRound = round > this.#flushDoneRound;
    this.#flushDoneRound = round;
    if (isForCooling) this.extents.coolingFlushed(this.#errno);
    this.#isFlushRunning = false;
    if (!this.#flushNext.isEmpty || this.#coolingWaits || this.#flushRound > round) this.#startFlush();
    if (isNewRound) this.#host.flushed(round, this.#errno);
  }

  intentRoundDone(errno: number): void {
    this.extents.intentRoundDone(errno);
  }

  generationsMerged(errno: number): void {
    this.extents.generationsMerged(errno);
  }

  /** About once a second while anything is hot. Returns false when nothing is. */
  tick(idleTicks: number): boolean {
    return this.extents.tick(idleTicks);
  }

  // ---- ExtentPorts

  startIntentRound(durable: boolean): void {
    if (this.#broken.markBeforeWrite) {
      this.extents.intentRoundDone(0);
      return;
    }
    this.#disk.startIntentRound(durable);
  }

  startGenerationMerge(): void {
    this.#disk.startGenerationMerge();
  }

  startCoolingFlush(): void {
    if (this.#broken.flushBeforeCooling) {
      this.extents.coolingFlushed(this.#errno);
      return;
    }
    this.#coolingWaits = true;
    if (!this.#isFlushRunning) this.#startFlush();
  }

  marksReady(): void {
    if (this.#waitingForMarks.isEmpty) return;
    const waiting = new RequestQueue(this.#table);
    this.#waitingForMarks.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift()) {
      if (this.prepare(request)) this.#host.prepared(request);
    }
  }

  intentFailed(errno: number): void {
    this.fail('intent', errno);
  }

  /** Nothing is applied any more: the disk failed, or another file of the replica did. */
  fail(what: 'flush' | 'intent' | 'superblock', errno: number): void {
    if (this.#errno !== 0) return;
    this.#errno = EIO;
    this.#host.copyFailed(what, errno);
    this.marksReady();
  }

  #startFlush(): void {
    this.#flushNext.moveTo(this.#flushing);
    this.#coolingInFlush = this.#coolingWaits;
    this.#coolingWaits = false;
    this.#flushCovers = this.#flushRound;
    this.#isFlushRunning = true;
    this.#disk.startFlush();
  }
}
