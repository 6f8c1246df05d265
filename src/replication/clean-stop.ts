// The end of a replica's process in good order: everything that was started has ended and is flushed, what may cool is
// cold, then the clean mark is durable: the copy keeps its incarnation across a reboot, and nothing but what is not settled
// is still in doubt. Without the mark where the disk would not have it, or where the copy has not found out yet who it is.
//
// Invariant: it ends, whatever fails, and not before everything that was started has ended.

import type { Copy } from './copy.ts';
import type { SuperblockKeeper } from './superblock-keeper.ts';

/** A volume with very many hot extents leaves some of them hot: that costs a resync time, and a stop must not wait. */
const COOLING_LIMIT_MS = 2000;

export class CleanStop {
  readonly #copy: Copy;
  readonly #keeper: SuperblockKeeper;
  readonly #isMarkable: boolean;
  readonly #nowMs: () => number;
  /** Nothing refers to the files any more. */
  readonly #stopped: () => void;
  #flushRound = 0;
  #coolsUntilMs = 0;
  #isMarking = false;
  #isOver = false;

  constructor(
    copy: Copy,
    keeper: SuperblockKeeper,
    isMarkable: boolean,
    nowMs: () => number,
    stopped: () => void,
  ) {
    this.#copy = copy;
    this.#keeper = keeper;
    this.#isMarkable = isMarkable;
    this.#nowMs = nowMs;
    this.#stopped = stopped;
  }

  /** Something ended. `isQuiet`: the role has nothing under way. */
  step(isQuiet: boolean): void {
    const copy = this.#copy;
    if (this.#isOver || !isQuiet || !copy.isQuiet || !this.#keeper.isIdle) return;
    if (this.#isMarking) this.#end();
    else if (this.#flushRound === 0) this.#flushRound = copy.requestFlush();
    else if (copy.flushDoneRound >= this.#flushRound) this.#flushed();
  }

  #flushed(): void {
    if (this.#copy.hasFailed || !this.#isMarkable) this.#end();
    else if (!this.#cool()) this.#mark();
  }

  /** True: extents are cooling, and their end is to be waited for. */
  #cool(): boolean {
    const nowMs = this.#nowMs();
    if (this.#coolsUntilMs === 0) this.#coolsUntilMs = nowMs + COOLING_LIMIT_MS;
    return nowMs < this.#coolsUntilMs && this.#copy.extents.coolNow();
  }

  #mark(): void {
    this.#isMarking = true;
    const { promisedEpoch } = this.#keeper.latest;
    // It is over when the write is, durable or not.
    this.#keeper.keep({ cleanMark: { epoch: promisedEpoch } }, () => undefined);
  }

  #end(): void {
    this.#isOver = true;
    this.#stopped();
  }
}
