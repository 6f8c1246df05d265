// Entries of files that the kernel never began (isNotBegun in ring.ts): what cannot be done without waiting goes to a worker
// of the kernel, and where it can start none (a signal under way, no memory, no process left to it) it cancels what waits for
// one. Seen up to Linux 6.14.
//
// Whoever made the entry hears of it a tick later, and makes it again; where that goes on for LIMIT ticks it hears of an error
// instead. Nothing cancels entries of files here, and no file system of a disk answers so itself: a flush, too, may be made
// again. Cold path: this allocates.

import { ECANCELED, isNotBegun } from './ring.ts';
import { TAG_DATA, TAG_INTENT } from './tags.ts';

const EIO = 5;
/** About four seconds: as long as a disk may be silent. */
export const LIMIT_TICKS = 40;
/** From then on it is no accident. */
const TOLD_TICKS = 10;

interface Entry {
  readonly index: number;
  readonly tag: number;
}

export class NotBegun {
  #entries: Entry[] = [];
  /** Of those that were handed back at the last tick: for how many in a row. */
  #ticks = new Map<string, number>();
  readonly #tell: () => void;

  /** `tell`: the kernel has had no worker for a second; once each time. */
  constructor(tell: () => void) {
    this.#tell = tell;
  }

  /** Of a data operation, a flush or a mark. True: it is kept till the next tick. */
  keeps(index: number, tag: number, result: number): boolean {
    if (!isNotBegun(result) || tag < TAG_DATA || tag > TAG_INTENT) return false;
    this.#entries.push({ index, tag });
    return true;
  }

  tick(dispatch: (index: number, tag: number, result: number) => void): void {
    if (this.#entries.length === 0 && this.#ticks.size === 0) return;
    const before = this.#ticks;
    const entries = this.#entries;
    this.#ticks = new Map();
    this.#entries = [];
    for (const { index, tag } of entries) {
      const key = `${tag} ${index}`;
      const ticks = (before.get(key) ?? 0) + 1;
      this.#ticks.set(key, ticks);
      if (ticks === TOLD_TICKS) this.#tell();
      dispatch(index, tag, ticks > LIMIT_TICKS ? -EIO : -ECANCELED);
    }
  }
}
