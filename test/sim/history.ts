// What each block may hold, judged from what clients asked and were told. A write that was not answered may or
// may not have happened, once, at any time until its frontend's attachment is over; one that was acknowledged
// has happened by then; nothing that was read is ever followed by something older.

export interface Operation {
  readonly id: number;
  readonly issuedMs: number;
  /** When it was answered, or could no longer happen. */
  endedMs: number;
  readonly attachment: number;
}

interface Candidate {
  readonly value: number;
  readonly operation: Operation;
  removedMs: number;
}

const NEVER = Number.POSITIVE_INFINITY;

export class History {
  /** By block: what may stand there. */
  readonly #current = new Map<number, Candidate[]>();
  /** The same after a loss of everything that was not flushed. */
  readonly #flushed = new Map<number, Candidate[]>();
  /** Acknowledged and not known to be covered by a flush. */
  #unflushed: { operation: Operation; blocks: readonly number[] }[] = [];
  /** Every write counts as flushed once it is acknowledged. */
  readonly #isWritethrough: boolean;

  constructor(isWritethrough: boolean) {
    this.#isWritethrough = isWritethrough;
  }

  #of(map: Map<number, Candidate[]>, block: number): Candidate[] {
    let found = map.get(block);
    if (found === undefined) {
      const initial: Operation = { id: 0, issuedMs: -1, endedMs: -1, attachment: 0 };
      found = [{ value: 0, operation: initial, removedMs: NEVER }];
      map.set(block, found);
    }
    return found;
  }

  issued(operation: Operation, blocks: readonly number[], value: number): void {
    for (const block of blocks) {
      this.#of(this.#current, block).push({ value, operation, removedMs: NEVER });
      this.#of(this.#flushed, block).push({ value, operation, removedMs: NEVER });
    }
  }

  acknowledged(operation: Operation, blocks: readonly number[], nowMs: number, isFua: boolean): void {
    operation.endedMs = nowMs;
    for (const block of blocks) this.#overwrite(this.#of(this.#current, block), operation, nowMs);
    if (isFua || this.#isWritethrough)
      for (const block of blocks) this.#overwrite(this.#of(this.#flushed, block), operation, nowMs);
    else this.#unflushed.push({ operation, blocks });
  }

  /** Everything acknowledged before the flush was asked for is on stable storage. */
  flushed(issuedMs: number, nowMs: number): void {
    this.#unflushed = this.#unflushed.filter(({ operation, blocks }) => {
      if (operation.endedMs >= issuedMs) return true;
      for (const block of blocks) this.#overwrite(this.#of(this.#flushed, block), operation, nowMs);
      return false;
    });
  }

  #overwrite(candidates: Candidate[], by: Operation, nowMs: number): void {
    for (const candidate of candidates) {
      const { operation } = candidate;
      if (operation !== by && operation.endedMs < by.issuedMs && candidate.removedMs === NEVER)
        candidate.removedMs = nowMs;
    }
  }

  /** undefined: the value may stand there. Otherwise what is wrong. */
  read(block: number, value: number, issuedMs: number, nowMs: number): string | undefined {
    const candidates = this.#of(this.#current, block);
    const matching = candidates.filter(
      (candidate) => candidate.value === value && candidate.removedMs >= issuedMs,
    );
    if (matching.length === 0) {
      const known = candidates
        .filter(({ removedMs }) => removedMs >= issuedMs)
        .map((candidate) => `${candidate.value}${candidate.operation.endedMs === NEVER ? '?' : ''}`);
      const old = candidates.some((candidate) => candidate.value === value);
      return `block ${block} shows ${old ? 'an older value, ' : ''}${value}; it may hold ${known.join(' or ')}`;
    }
    for (const candidate of candidates) {
      if (candidate.value === value || candidate.removedMs !== NEVER) continue;
      if (candidate.operation.endedMs < issuedMs) candidate.removedMs = nowMs;
    }
    this.#prune(block, candidates, issuedMs);
    return undefined;
  }

  #prune(block: number, candidates: Candidate[], issuedMs: number): void {
    if (candidates.length < 64) return;
    this.#current.set(
      block,
      candidates.filter(({ removedMs }) => removedMs >= issuedMs - 120_000),
    );
  }

  /** The next attachment is granted: nothing of the older ones happens any more. */
  attachmentGranted(attachment: number, pending: Iterable<Operation>, nowMs: number): void {
    for (const operation of pending)
      if (operation.attachment < attachment && operation.endedMs === NEVER) operation.endedMs = nowMs;
  }

  /** All machines lost power: what was not flushed may be gone. */
  allLost(): void {
    this.#unflushed = [];
    for (const [block, candidates] of this.#flushed)
      this.#current.set(
        block,
        candidates.filter(({ removedMs }) => removedMs === NEVER).map((candidate) => ({ ...candidate })),
      );
  }

  blocks(): Iterable<number> {
    return this.#current.keys();
  }
}
