// A hostile little world for one volume core: a disk that keeps unflushed writes in a volatile cache, ends
// operations in any order, fails some, and loses power. Every step is drawn from one seed.

import { EXTENT_BYTES } from '../../src/core/units.ts';
import {
  encodeWindow,
  WINDOW_ENTRY_COUNT,
  WINDOW_FILE_BYTES,
  WindowFile,
} from '../../src/replication/layout/window.ts';
import { FLAG_FUA, FLUSH, READ, RequestTable, WRITE } from '../../src/replication/requests.ts';
import { VolumeCore, type VolumePorts } from '../../src/replication/volume-core.ts';

export const EXTENTS = 6;
const BLOCKS_PER_EXTENT = 4;
const STRIDE = EXTENT_BYTES / BLOCKS_PER_EXTENT;
export const BLOCKS = EXTENTS * BLOCKS_PER_EXTENT;

type Pending = { readonly run: () => void };

export class World implements VolumePorts {
  readonly table = new RequestTable(48);
  readonly core: VolumeCore;
  readonly window: WindowFile;
  /** By block: the id of the write whose bytes stand there. */
  readonly cache = new Array<number>(BLOCKS).fill(0);
  readonly stable = new Array<number>(BLOCKS).fill(0);
  stableBits = new Uint8Array(1);
  readonly pending: Pending[] = [];
  readonly problems: string[] = [];
  readonly replies = new Map<number, number>();
  /** By block: the last write acknowledged, and the last one acknowledged as flushed. */
  readonly acknowledged = new Array<number>(BLOCKS).fill(0);
  readonly flushed = new Array<number>(BLOCKS).fill(0);
  /** Acknowledged writes at the moment each unanswered flush came. */
  readonly #covers = new Map<number, number[]>();
  readonly #writeId = new Map<number, number>();
  #nextWriteId = 1;
  readonly #random: () => number;
  readonly #failureRate: number;
  failedWhat: string | undefined;

  constructor(random: () => number, failureRate: number, durability: 'writeback' | 'writethrough') {
    this.#random = random;
    this.#failureRate = failureRate;
    const memory = encodeWindow('boot').buffer as ArrayBuffer;
    this.window = new WindowFile(memory.slice(0, WINDOW_FILE_BYTES));
    this.core = new VolumeCore(this.table, this, {
      sizeBytes: EXTENTS * EXTENT_BYTES,
      epoch: 7,
      openingLow: 1,
      openingHigh: 2,
      durability,
      intentBits: new Uint8Array(1),
      window: this.window,
      windowEntryCount: WINDOW_ENTRY_COUNT,
    });
  }

  // ---- the client

  issue(kind: number, block: number, blockCount: number, flags: number): void {
    const request = this.table.take();
    if (request < 0) return;
    this.table.kind[request] = kind;
    this.table.flags[request] = flags;
    this.table.offsetBytes[request] = kind === FLUSH ? 0 : block * STRIDE;
    this.table.lengthBytes[request] = kind === FLUSH ? 0 : Math.min(blockCount, BLOCKS - block) * STRIDE;
    if (kind === WRITE) {
      this.#writeId.set(request, this.#nextWriteId);
      this.#nextWriteId += 1;
    }
    if (kind === FLUSH) this.#covers.set(request, [...this.acknowledged]);
    this.replies.set(request, 0);
    this.core.admit(request);
  }

  reply(request: number, errno: number): void {
    const count = this.replies.get(request);
    if (count === undefined) this.problems.push('a reply to nobody');
    this.replies.delete(request);
    const kind = this.table.kind[request];
    if (kind === WRITE && errno === 0) {
      for (const block of this.#blocks(request)) {
        this.acknowledged[block] = this.#writeId.get(request) ?? -1;
        if ((this.table.flags[request] ?? 0) & FLAG_FUA) this.flushed[block] = this.acknowledged[block];
      }
    }
    if (kind === FLUSH && errno === 0) {
      for (const [block, id] of (this.#covers.get(request) ?? []).entries()) {
        this.flushed[block] = Math.max(this.flushed[block] ?? 0, id);
      }
    }
    if (kind !== READ && errno === 0 && this.failedWhat === 'flush')
      this.problems.push('acknowledged after a failed flush');
    this.table.release(request);
  }

  // ---- the disk

  startRead(request: number): void {
    // A read must see, from its start to its end, the last acknowledged write and nothing that is still in flight.
    const seen = this.#blocks(request).map((block) => this.cache[block]);
    this.#later(() => {
      for (const [index, block] of this.#blocks(request).entries()) {
        if (this.cache[block] !== seen[index]) this.problems.push('bytes changed under a read');
      }
      this.core.requestDone(request, 0);
    });
  }

  startWrite(request: number): void {
    const blocks = this.#blocks(request);
    for (const block of blocks) {
      const extent = Math.floor(block / BLOCKS_PER_EXTENT);
      if (((this.stableBits[extent >> 3] ?? 0) & (1 << (extent & 7))) === 0)
        this.problems.push('a write before its mark is durable');
    }
    const entries = this.window.readEntries('boot');
    const offset = this.table.offsetBytes[request];
    if (entries === 'unknown' || !entries.some((entry) => entry.offsetBytes === offset)) {
      this.problems.push('a write that is not in the window');
    }
    this.#later(() => {
      const id = this.#writeId.get(request) ?? -1;
      if (this.#fails()) {
        this.core.requestDone(request, 28);
        return;
      }
      for (const block of blocks) {
        if ((this.cache[block] ?? 0) > id) this.problems.push('overlapping writes out of order');
        this.cache[block] = id;
        // A volatile cache may write back whenever it likes.
        if (this.#random() < 0.2) this.stable[block] = id;
      }
      this.core.requestDone(request, 0);
    });
  }

  startZero(request: number): void {
    this.startWrite(request);
  }

  startFlush(): void {
    const snapshot = [...this.cache];
    this.#later(() => {
      if (this.#fails()) {
        this.core.flushDone(5);
        return;
      }
      for (const [block, id] of snapshot.entries())
        this.stable[block] = Math.max(this.stable[block] ?? 0, id);
      this.core.flushDone(0);
    });
  }

  startIntentRound(durable: boolean): void {
    const bits = this.core.extents.bits.slice();
    this.#later(() => {
      if (this.#fails()) {
        this.core.intentRoundDone(5);
        return;
      }
      // Without a flush the new sector may or may not have reached the disk.
      if (durable || this.#random() < 0.5) this.stableBits = bits;
      this.core.intentRoundDone(0);
    });
  }

  startGenerationMerge(): void {
    this.#later(() => {
      this.core.generationsMerged(this.#fails() ? 5 : 0);
    });
  }

  failed(what: 'flush' | 'intent'): void {
    this.failedWhat = what;
  }

  // ---- time

  /** One pending operation ends, in any order. */
  step(): boolean {
    const at = Math.floor(this.#random() * this.pending.length);
    const [one] = this.pending.splice(at, 1);
    one?.run();
    return one !== undefined;
  }

  /** What a power cut now would leave must be admissible. */
  checkPowerCut(): void {
    for (let block = 0; block < BLOCKS; block++) {
      if ((this.stable[block] ?? 0) < (this.flushed[block] ?? 0))
        this.problems.push('a flushed write is not on stable storage');
      const extent = Math.floor(block / BLOCKS_PER_EXTENT);
      const isMarked = ((this.stableBits[extent >> 3] ?? 0) & (1 << (extent & 7))) !== 0;
      if (!isMarked && this.stable[block] !== this.cache[block])
        this.problems.push('an unmarked extent differs from stable storage');
    }
  }

  #blocks(request: number): number[] {
    const first = (this.table.offsetBytes[request] ?? 0) / STRIDE;
    const count = (this.table.lengthBytes[request] ?? 0) / STRIDE;
    return Array.from({ length: count }, (_, index) => first + index);
  }

  #later(run: () => void): void {
    this.pending.push({ run });
  }

  #fails(): boolean {
    return this.#random() < this.#failureRate;
  }
}
