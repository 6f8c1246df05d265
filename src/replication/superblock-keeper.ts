// The replica's durable word about itself: one write at a time, each with all changes that were asked for
// before it started. Who asked is told when the superblock that holds its change is on stable storage.
//
// A write that failed is the last one: what stands on the disk is not known, and nothing is promised any more.

import type { Superblock } from './layout/superblock.ts';
import type { DiskPorts } from './ports.ts';
import type { BrokenRules } from './rules.ts';

type Told = () => void;

export class SuperblockKeeper {
  readonly #disk: DiskPorts;
  readonly #broken: BrokenRules;
  readonly #onFailed: (errno: number) => void;
  #latest: Superblock;
  #waiting: Told[] = [];
  #writing: Told[] | undefined;
  #hasFailed = false;

  constructor(
    superblock: Superblock,
    disk: DiskPorts,
    broken: BrokenRules,
    onFailed: (errno: number) => void,
  ) {
    this.#latest = superblock;
    this.#disk = disk;
    this.#broken = broken;
    this.#onFailed = onFailed;
  }

  /** With all that was asked for, durable yet or not: what was promised binds from then on. */
  get latest(): Superblock {
    return this.#latest;
  }

  /** Nothing can be made durable any more. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** No write is on its way to the disk. */
  get isIdle(): boolean {
    return this.#writing === undefined;
  }

  /** `then` is called when the change is durable; never after a failure. */
  keep(change: Partial<Superblock>, then: () => void): void {
    if (this.#hasFailed) return;
    this.#latest = { ...this.#latest, ...change };
    if (this.#broken.promiseIsDurable) {
      then();
      return;
    }
    this.#waiting.push(then);
    if (this.#writing === undefined) this.#write();
  }

  done(errno: number): void {
    const told = this.#writing ?? [];
    this.#writing = undefined;
    if (errno !== 0) {
      this.#hasFailed = true;
      this.#waiting = [];
      this.#onFailed(errno);
      return;
    }
    if (this.#waiting.length > 0) this.#write();
    for (const then of told) then();
  }

  #write(): void {
    this.#writing = this.#waiting;
    this.#waiting = [];
    this.#disk.startSuperblock(this.#latest);
  }
}
