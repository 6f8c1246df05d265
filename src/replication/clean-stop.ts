// The end of a replica's process in good order: everything that was started has ended and is flushed, then the clean
// mark is durable: the copy keeps its incarnation across a reboot. Without the mark where the disk would not have it, or
// where the copy has not found out yet who it is.
//
// Invariant: it ends, whatever fails, and not before everything that was started has ended.

import type { Copy } from './copy.ts';
import type { SuperblockKeeper } from './superblock-keeper.ts';

export class CleanStop {
  readonly #copy: Copy;
  readonly #keeper: SuperblockKeeper;
  readonly #isMarkable: boolean;
  /** Nothing refers to the files any more. */
  readonly #stopped: () => void;
  #flushRound = 0;
  #isMarking = false;
  #isOver = false;

  constructor(copy: Copy, keeper: SuperblockKeeper, isMarkable: boolean, stopped: () => void) {
    this.#copy = copy;
    this.#keeper = keeper;
    this.#isMarkable = isMarkable;
    this.#stopped = stopped;
  }

  /** Something ended. `isQuiet`: the role has nothing under way. */
  step(isQuiet: boolean): void {
    const copy = this.#copy;
    if (this.#isOver || !isQuiet || !copy.isQuiet || !this.#keeper.isIdle) return;
    if (this.#isMarking) this.#end();
    else if (this.#flushRound === 0) this.#flushRound = copy.requestFlush();
    else if (copy.flushDoneRound >= this.#flushRound) this.#mark();
  }

  #mark(): void {
    if (this.#copy.hasFailed || !this.#isMarkable) {
      this.#end();
      return;
    }
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
