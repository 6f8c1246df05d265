// The one path of every request of a volume: order, marks, window, acknowledgement. It decides and does no
// I/O of its own: it calls ports, and is told when what it started has ended. Here a volume is an in-sync
// set of one; the rules stand where the further copies join them.
//
// Order of a write (each step only after the one before):
//   range lock → extents hot (mark durable) → window entry → data → [FUA: flush] → window cleared → reply.
// A flush covers every write acknowledged before it came: it is a flush of the disk that starts afterwards.
// A flush or a log write that failed is never tried again and believed: from then on every write, zero and
// flush is answered EIO; reads go on.

import { invariant, unreachable } from '../core/invariant.ts';
import {
  Extents,
  type ExtentPorts,
  firstExtentOf,
  firstGenerationBlockOf,
  lastExtentOf,
  lastGenerationBlockOf,
} from './extents.ts';
import type { WindowFile } from './layout/window.ts';
import { RangeLocks } from './range-locks.ts';
import { FLAG_FUA, FLUSH, NONE, READ, RequestQueue, type RequestTable, WRITE, ZERO } from './requests.ts';

const EIO = 5;
/** Seconds without a write after which an extent cools. */
const IDLE_TICKS = 5;

export interface VolumePorts {
  /** Each ends in requestDone(request, errno). */
  startRead(request: number): void;
  startWrite(request: number): void;
  startZero(request: number): void;
  /** Flushes the data file: covers every write that ended before this call. Ends in flushDone(errno). One at a time. */
  startFlush(): void;
  /** See ExtentPorts. */
  startIntentRound(durable: boolean): void;
  startGenerationMerge(): void;
  /** Exactly once a request; `errno` 0 is success. The slot is the caller's again. */
  reply(request: number, errno: number): void;
  /** Something failed that makes this replica unfit to acknowledge; called once. */
  failed(what: 'flush' | 'intent', errno: number): void;
}

export interface VolumeCoreOptions {
  readonly sizeBytes: number;
  readonly epoch: number;
  /** The opening as two 32-bit halves of its first 64 bits, for window entries. */
  readonly openingLow: number;
  readonly openingHigh: number;
  readonly durability: 'writeback' | 'writethrough';
  readonly intentBits: Uint8Array;
  readonly window: WindowFile;
  readonly windowEntryCount: number;
}

export class VolumeCore implements ExtentPorts {
  readonly extents: Extents;
  epoch: number;
  sizeBytes: number;
  readonly #table: RequestTable;
  readonly #ports: VolumePorts;
  readonly #locks: RangeLocks;
  readonly #window: WindowFile;
  readonly #openingLow: number;
  readonly #openingHigh: number;
  readonly #flushEveryWrite: boolean;
  /** [0]: the sequence number of the last write; in an array so that it is never boxed. */
  readonly #sequence = new Float64Array(1);
  readonly #freeEntries: Int16Array;
  #freeEntryCount: number;
  readonly #waitingForMarks: RequestQueue;
  readonly #waitingForWindow: RequestQueue;
  /** Covered by the flush that runs, and by the one after it. */
  readonly #flushing: RequestQueue;
  readonly #flushNext: RequestQueue;
  #isFlushRunning = false;
  /** The cooling waits for the running flush / for the next one. */
  #coolingInFlush = false;
  #coolingWaits = false;
  #errno = 0;
  /** Admitted and not yet replied to. */
  #inFlightCount = 0;

  constructor(table: RequestTable, ports: VolumePorts, options: VolumeCoreOptions) {
    this.#table = table;
    this.#ports = ports;
    this.sizeBytes = options.sizeBytes;
    this.epoch = options.epoch;
    this.#window = options.window;
    this.#openingLow = options.openingLow;
    this.#openingHigh = options.openingHigh;
    this.#flushEveryWrite = options.durability === 'writethrough';
    this.#locks = new RangeLocks(table, (request) => {
      this.#locked(request);
    });
    this.extents = new Extents(options.sizeBytes, options.intentBits, this);
    // In a set of one there is nobody to agree with.
    this.extents.settleInherited(options.epoch);
    this.#freeEntryCount = options.windowEntryCount;
    this.#freeEntries = new Int16Array(options.windowEntryCount);
    for (let i = 0; i < options.windowEntryCount; i++)
      this.#freeEntries[i] = options.windowEntryCount - 1 - i;
    this.#waitingForMarks = new RequestQueue(table);
    this.#waitingForWindow = new RequestQueue(table);
    this.#flushing = new RequestQueue(table);
    this.#flushNext = new RequestQueue(table);
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  get hasFailed(): boolean {
    return this.#errno !== 0;
  }

  /** Nothing admitted is unanswered and nothing of the logs is on its way. */
  get isQuiet(): boolean {
    return this.#inFlightCount === 0 && this.extents.isIdle && !this.#isFlushRunning;
  }

  /** The range is inside the volume and not empty (the edge has answered others). */
  admit(request: number): void {
    this.#inFlightCount += 1;
    const kind = this.#table.kind[request] as number;
    if (kind !== READ && this.#errno !== 0) {
      this.#reply(request, this.#errno);
      return;
    }
    if (kind === FLUSH) {
      this.#flush(request);
      return;
    }
    if (this.#locks.acquire(request)) this.#locked(request);
  }

  /** Something outside failed that makes this replica unfit to acknowledge; who calls this tells of it. */
  fail(): void {
    if (this.#errno !== 0) return;
    this.#errno = EIO;
    this.#failWaiting();
  }

  // ---- ends of what was started

  requestDone(request: number, errno: number): void {
    const table = this.#table;
    if (errno !== 0) table.error[request] = errno;
    if (table.kind[request] === READ) {
      this.#unlockAndReply(request, errno);
      return;
    }
    // What was in flight when the replica failed is not acknowledged either.
    const outcome = errno === 0 ? this.#errno : errno;
    const needsFlush = this.#flushEveryWrite || ((table.flags[request] as number) & FLAG_FUA) !== 0;
    if (outcome === 0 && needsFlush) this.#flush(request);
    else this.#writeSettled(request, outcome);
  }

  flushDone(errno: number): void {
    if (errno !== 0 && this.#errno === 0) {
      this.#errno = EIO;
      this.#ports.failed('flush', errno);
    }
    const isForCooling = this.#coolingInFlush;
    this.#coolingInFlush = false;
    for (let request = this.#flushing.shift(); request !== NONE; request = this.#flushing.shift()) {
      if (this.#table.kind[request] === FLUSH) this.#reply(request, this.#errno);
      else this.#writeSettled(request, this.#errno);
    }
    if (isForCooling) this.extents.coolingFlushed(this.#errno);
    // Until here the flush counts as running: what asked for one meanwhile is covered by the next.
    this.#isFlushRunning = false;
    if (!this.#flushNext.isEmpty || this.#coolingWaits) this.#startFlush();
    if (this.#errno !== 0) this.#failWaiting();
  }

  intentRoundDone(errno: number): void {
    this.extents.intentRoundDone(errno);
  }

  generationsMerged(errno: number): void {
    this.extents.generationsMerged(errno);
  }

  /** About once a second while anything is hot. Returns false when nothing is. */
  tick(): boolean {
    return this.extents.tick(IDLE_TICKS);
  }

  /** On the way to a clean stop: cools everything, one batch a call; true when nothing is left to cool or it cannot be. */
  coolAll(): boolean {
    if (this.#errno !== 0 || this.extents.hotCount === 0 || this.extents.hasMergeFailed) return true;
    if (this.extents.isIdle) this.extents.tick(0);
    return false;
  }

  /** A larger size, already on disk. */
  grow(sizeBytes: number): void {
    invariant(sizeBytes >= this.sizeBytes, 'volumes only grow');
    this.extents.grow(sizeBytes);
    this.sizeBytes = sizeBytes;
  }

  // ---- ExtentPorts

  startIntentRound(durable: boolean): void {
    this.#ports.startIntentRound(durable);
  }

  startGenerationMerge(): void {
    this.#ports.startGenerationMerge();
  }

  startCoolingFlush(): void {
    this.#coolingWaits = true;
    if (!this.#isFlushRunning) this.#startFlush();
  }

  marksReady(): void {
    if (this.#waitingForMarks.isEmpty) return;
    const waiting = new RequestQueue(this.#table);
    this.#waitingForMarks.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift()) this.#write(request);
  }

  intentFailed(errno: number): void {
    if (this.#errno !== 0) return;
    this.#errno = EIO;
    this.#ports.failed('intent', errno);
    this.#failWaiting();
  }

  // ---- steps

  #locked(request: number): void {
    const kind = this.#table.kind[request] as number;
    if (kind === READ) this.#ports.startRead(request);
    else this.#write(request);
  }

  /** Holds its range. Ends by starting the data write, or waits for marks or for a window entry. */
  #write(request: number): void {
    const table = this.#table;
    if (this.#errno !== 0) {
      this.#unlockAndReply(request, this.#errno);
      return;
    }
    const offset = table.offsetBytes[request] as number;
    const length = table.lengthBytes[request] as number;
    const firstExtent = firstExtentOf(offset);
    const lastExtent = lastExtentOf(offset, length);
    if (!this.extents.ensureHot(firstExtent, lastExtent)) {
      this.#waitingForMarks.push(request);
      return;
    }
    if (this.#freeEntryCount === 0) {
      this.#waitingForWindow.push(request);
      return;
    }
    this.#freeEntryCount -= 1;
    const entry = this.#freeEntries[this.#freeEntryCount] as number;
    table.windowEntry[request] = entry;
    this.#sequence[0] = (this.#sequence[0] as number) + 1;
    this.#window.put(
      entry,
      this.epoch,
      this.#openingLow,
      this.#openingHigh,
      this.#sequence[0],
      offset,
      length,
    );
    this.extents.writeStarted(
      firstExtent,
      lastExtent,
      firstGenerationBlockOf(offset),
      lastGenerationBlockOf(offset, length),
      this.epoch,
    );
    const kind = table.kind[request] as number;
    if (kind === WRITE) this.#ports.startWrite(request);
    else if (kind === ZERO) this.#ports.startZero(request);
    else unreachable(kind as never);
  }

  /** Every copy has it (or has failed it alike): window entry and range are free, then the reply. */
  #writeSettled(request: number, errno: number): void {
    const table = this.#table;
    const entry = table.windowEntry[request] as number;
    this.#window.clear(entry);
    table.windowEntry[request] = NONE;
    this.#freeEntries[this.#freeEntryCount] = entry;
    this.#freeEntryCount += 1;
    const offset = table.offsetBytes[request] as number;
    const length = table.lengthBytes[request] as number;
    this.extents.writeEnded(firstExtentOf(offset), lastExtentOf(offset, length));
    this.#unlockAndReply(request, errno);
    if (this.#waitingForWindow.isEmpty) return;
    const waiting = this.#waitingForWindow.shift();
    if (waiting !== NONE) this.#write(waiting);
  }

  #unlockAndReply(request: number, errno: number): void {
    this.#locks.release(request);
    this.#reply(request, errno);
  }

  #reply(request: number, errno: number): void {
    this.#inFlightCount -= 1;
    this.#ports.reply(request, errno);
  }

  #flush(request: number): void {
    this.#flushNext.push(request);
    if (!this.#isFlushRunning) this.#startFlush();
  }

  #startFlush(): void {
    this.#flushNext.moveTo(this.#flushing);
    this.#coolingInFlush = this.#coolingWaits;
    this.#coolingWaits = false;
    this.#isFlushRunning = true;
    this.#ports.startFlush();
  }

  #failWaiting(): void {
    this.marksReady();
    for (let r = this.#waitingForWindow.shift(); r !== NONE; r = this.#waitingForWindow.shift())
      this.#write(r);
  }
}
