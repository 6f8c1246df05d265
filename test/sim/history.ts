// What each block may hold, judged from what clients asked and were told. A write that was not answered may or
// may not have happened, once, at any time until its frontend's attachment is over; one that was acknowledged
// has happened by then, and so has one that was read; nothing that was read is ever followed by something older.

import type { Disk } from './disk.ts';

export interface Operation {
  readonly id: number;
  readonly issuedMs: number;
  /** When it was answered, or could no longer happen. */
  endedMs: number;
  readonly attachment: number;
}

/** A write of one block. */
interface Write {
  readonly value: number;
  readonly operation: Operation;
  /** When a read had first shown it: from then on it has happened, and does not happen again. */
  seenMs: number;
}

interface Candidate {
  readonly write: Write;
  removedMs: number;
}

/** What may stand in a block, with what no longer may, as long as a read that was asked for earlier may show it. */
interface Block {
  candidates: Candidate[];
  pruneAt: number;
}

const PRUNE_AT = 12;

const NEVER = Number.POSITIVE_INFINITY;
const INITIAL: Operation = { id: 0, issuedMs: -1, endedMs: -1, attachment: 0 };

export class History {
  readonly #current = new Map<number, Block>();
  /** The same after a loss of everything that was not flushed. */
  readonly #flushed = new Map<number, Candidate[]>();
  /** Acknowledged and not known to be covered by a flush. */
  #unflushed: { operation: Operation; blocks: readonly number[] }[] = [];
  /** When allLost() was called last. */
  #lostMs = -1;
  /** Every write counts as flushed once it is acknowledged. */
  isWritethrough: boolean;
  /** When the oldest request was asked for that is not answered. */
  readonly #oldestAskedMs: () => number;

  constructor(isWritethrough: boolean, oldestAskedMs: () => number) {
    this.isWritethrough = isWritethrough;
    this.#oldestAskedMs = oldestAskedMs;
  }

  #of(index: number): Block {
    let found = this.#current.get(index);
    if (found === undefined) {
      const write: Write = { value: 0, operation: INITIAL, seenMs: NEVER };
      found = { candidates: [{ write, removedMs: NEVER }], pruneAt: PRUNE_AT };
      this.#current.set(index, found);
      this.#flushed.set(index, [{ write, removedMs: NEVER }]);
    }
    return found;
  }

  #flushedOf(index: number): Candidate[] {
    this.#of(index);
    return this.#flushed.get(index) as Candidate[];
  }

  becomesWriteback(): void {
    this.isWritethrough = false;
  }

  issued(operation: Operation, blocks: readonly number[], value: number): void {
    for (const index of blocks) {
      const block = this.#of(index);
      const write: Write = { value, operation, seenMs: NEVER };
      block.candidates.push({ write, removedMs: NEVER });
      if (block.candidates.length >= block.pruneAt) this.#prune(block);
      this.#flushedOf(index).push({ write, removedMs: NEVER });
    }
  }

  acknowledged(operation: Operation, blocks: readonly number[], nowMs: number, isFua: boolean): void {
    const isStable = isFua || this.isWritethrough;
    // An answer that was on its way when the machines lost power: what it acknowledges may be gone.
    const isLate = this.isOfBeforeLoss(operation) && !isStable;
    operation.endedMs = isLate ? Math.min(operation.endedMs, nowMs) : nowMs;
    if (isLate) return;
    for (const block of blocks) this.#overwrite(this.#of(block).candidates, operation, nowMs);
    if (isStable) for (const block of blocks) this.#overwriteFlushed(block, operation);
    else this.#unflushed.push({ operation, blocks });
  }

  /** Everything acknowledged before the flush was asked for is on stable storage. */
  flushed(issuedMs: number): void {
    this.#unflushed = this.#unflushed.filter(({ operation, blocks }) => {
      if (operation.endedMs >= issuedMs) return true;
      for (const block of blocks) this.#overwriteFlushed(block, operation);
      return false;
    });
  }

  #overwrite(candidates: Candidate[], by: Operation, nowMs: number): void {
    for (const candidate of candidates) {
      if (candidate.removedMs === NEVER && isBefore(candidate.write, by)) candidate.removedMs = nowMs;
    }
  }

  #overwriteFlushed(block: number, by: Operation): void {
    const candidates = this.#flushedOf(block);
    if (!candidates.some(({ write }) => isBefore(write, by))) return;
    this.#flushed.set(
      block,
      candidates.filter(({ write }) => !isBefore(write, by)),
    );
  }

  /** What must be on stable storage once a flush that was asked for then is answered; blocks that may hold several values are left out. */
  *coveredBy(flushIssuedMs: number): Generator<{ block: number; value: number }> {
    for (const { operation, blocks } of this.#unflushed) {
      if (operation.endedMs >= flushIssuedMs) continue;
      for (const block of blocks) {
        const possible = this.#of(block).candidates.filter(({ removedMs }) => removedMs === NEVER);
        const [only] = possible;
        if (only !== undefined && possible.length === 1 && only.write.operation.endedMs < flushIssuedMs)
          yield { block, value: only.write.value };
      }
    }
  }

  /** undefined: the value may stand there. Otherwise what is wrong. */
  read(block: number, value: number, issuedMs: number, nowMs: number): string | undefined {
    const { candidates } = this.#of(block);
    const shown = candidates.filter(({ write, removedMs }) => write.value === value && removedMs >= issuedMs);
    if (shown.length === 0) {
      const known = candidates
        .filter(({ removedMs }) => removedMs >= issuedMs)
        .map(({ write }) => `${write.value}${write.operation.endedMs === NEVER ? '?' : ''}`);
      return `block ${block} shows ${value}; it may hold ${known.join(' or ')}`;
    }
    for (const candidate of candidates) {
      if (candidate.write.value === value || candidate.removedMs !== NEVER) continue;
      if (hasHappenedBy(candidate.write) < issuedMs) candidate.removedMs = nowMs;
    }
    // Zeroings look alike: which one it was is not known.
    const [only] = shown;
    if (only !== undefined && shown.length === 1) only.write.seenMs = Math.min(only.write.seenMs, nowMs);
    return undefined;
  }

  #prune(block: Block): void {
    const oldestMs = this.#oldestAskedMs();
    block.candidates = block.candidates.filter(({ removedMs }) => removedMs >= oldestMs);
    block.pruneAt = Math.max(PRUNE_AT, block.candidates.length * 2);
  }

  /** The next attachment is granted: nothing of the older ones happens any more. */
  attachmentGranted(attachment: number, pending: Iterable<Operation>, nowMs: number): void {
    for (const operation of pending)
      if (operation.attachment < attachment && operation.endedMs === NEVER) operation.endedMs = nowMs;
  }

  /** What answers it may tell of may be gone. */
  isOfBeforeLoss({ issuedMs }: Operation): boolean {
    return issuedMs < this.#lostMs;
  }

  /** All machines lost power: what was not flushed may be gone. */
  allLost(nowMs: number): void {
    this.#lostMs = nowMs;
    this.#unflushed = [];
    // What had been read may be gone, and an older write stand there again.
    for (const [index, candidates] of this.#flushed) {
      for (const { write } of candidates) write.seenMs = NEVER;
      this.#of(index).candidates = candidates.map((candidate) => ({ ...candidate }));
    }
  }

  /** A person made one copy's bytes the volume: whatever it holds is what was written. */
  becomes(disk: Disk, nowMs: number): void {
    const operation: Operation = { id: 0, issuedMs: nowMs, endedMs: nowMs, attachment: 0 };
    this.#unflushed = [];
    for (const [index, block] of this.#current) {
      const candidate = (value: number): Candidate => {
        return { write: { value, operation, seenMs: NEVER }, removedMs: NEVER };
      };
      block.candidates = [candidate(disk.blocks[index] ?? 0)];
      this.#flushed.set(index, disk.versions(index).map(candidate));
    }
  }

  blocks(): Iterable<number> {
    return this.#current.keys();
  }
}

/** It has happened by then, if it ever does. */
function hasHappenedBy({ operation, seenMs }: Write): number {
  return Math.min(operation.endedMs, seenMs);
}

function isBefore(one: Write, other: Operation): boolean {
  return one.operation !== other && hasHappenedBy(one) < other.issuedMs;
}
