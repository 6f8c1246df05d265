// A ring for tests: the plainest use of the addon's queues, one entry and one completion at a time.
// Shares nothing with the data plane's ring, so that neither can hide the other's mistakes.

import { type NativeMemory, type NativeRing, native } from '../../src/dataplane/native.ts';

export const OP = {
  nop: 0,
  timeout: 11,
  accept: 13,
  close: 19,
  read: 22,
  write: 23,
  send: 26,
  recv: 27,
} as const;
/** Of an entry: `fd` is a slot of the registered files. */
export const FIXED_FILE = 1;
const ENTRY_BYTES = 64;
const CQE_BYTES = 16;

export interface Entry {
  readonly opcode: number;
  readonly flags?: number;
  readonly fd?: number;
  readonly offset?: bigint;
  readonly address?: number;
  readonly length?: number;
  readonly userData?: number;
}

export interface Completion {
  readonly userData: number;
  readonly result: number;
}

export class TestRing implements Disposable {
  readonly ring: NativeRing;
  readonly arena: NativeMemory;
  readonly bytes: Buffer;
  readonly #queues: Int32Array;
  readonly #entries: DataView;
  #unsubmitted = 0;

  constructor(submissionCount = 8, completionCount = 16, arenaBytes = 1 << 20) {
    this.ring = native.createRing(submissionCount, completionCount);
    this.arena = native.createMemory(arenaBytes);
    this.bytes = Buffer.from(this.arena.buffer);
    this.#queues = new Int32Array(this.ring.memory);
    this.#entries = new DataView(this.ring.submissionEntries);
  }

  push({ opcode, flags = 0, fd = -1, offset = 0n, address = 0, length = 0, userData = 0 }: Entry): void {
    const tailAt = this.ring.offsets.sqTail >> 2;
    const tail = Atomics.load(this.#queues, tailAt);
    const at = (tail & (this.ring.submissionCount - 1)) * ENTRY_BYTES;
    new Uint8Array(this.ring.submissionEntries, at, ENTRY_BYTES).fill(0);
    this.#entries.setUint8(at, opcode);
    this.#entries.setUint8(at + 1, flags);
    this.#entries.setInt32(at + 4, fd, true);
    this.#entries.setBigUint64(at + 8, offset, true);
    this.#entries.setBigUint64(at + 16, BigInt(address), true);
    this.#entries.setUint32(at + 24, length, true);
    this.#entries.setBigUint64(at + 32, BigInt(userData), true);
    Atomics.store(this.#queues, tailAt, (tail + 1) | 0);
    this.#unsubmitted++;
  }

  enter(waitCount: number, { spinMicros = 0, timeoutMicros = -1 } = {}): number {
    const submitCount = this.#unsubmitted;
    const result = native.enter(this.ring, submitCount, waitCount, spinMicros, timeoutMicros);
    if (result >= 0) this.#unsubmitted -= result;
    return result;
  }

  /** Everything that has completed so far. */
  take(): Completion[] {
    const { offsets, memory, completionCount } = this.ring;
    const view = new DataView(memory);
    const taken: Completion[] = [];
    let head = Atomics.load(this.#queues, offsets.cqHead >> 2);
    while (head !== Atomics.load(this.#queues, offsets.cqTail >> 2)) {
      const at = offsets.cqes + (head & (completionCount - 1)) * CQE_BYTES;
      taken.push({ userData: Number(view.getBigUint64(at, true)), result: view.getInt32(at + 8, true) });
      head = (head + 1) | 0;
      Atomics.store(this.#queues, offsets.cqHead >> 2, head);
    }
    return taken;
  }

  /** Submits one entry and waits for one completion. */
  run(entry: Entry): number {
    this.push(entry);
    this.enter(1, { timeoutMicros: 10_000_000 });
    const [completion] = this.take();
    if (completion === undefined) throw new Error('the request did not complete within 10 s');
    return completion.result;
  }

  [Symbol.dispose](): void {
    native.closeRing(this.ring);
    native.freeMemory(this.arena);
  }
}
