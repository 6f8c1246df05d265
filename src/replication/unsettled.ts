// Before a copy is filled its primary tells it which writes of the opening are not settled: it gets them as copied blocks,
// if at all, and should it survive with a member that lacks them, nothing else would say where the two differ. Each gets
// its window entry here; what the stream brings after that list waits until they have.

import type { Copy } from './copy.ts';
import { firstExtentOf, lastExtentOf } from './extents.ts';
import type { UnsettledWrite } from './frames.ts';

export class Unsettled {
  readonly #copy: Copy;
  #writes: readonly UnsettledWrite[] = [];
  #epoch = 0;
  #waiting: (() => void)[] = [];

  constructor(copy: Copy) {
    this.#copy = copy;
  }

  take(writes: readonly UnsettledWrite[], epoch: number): void {
    const { sizeBytes } = this.#copy;
    const inside = writes.filter(({ offsetBytes, lengthBytes }) => offsetBytes + lengthBytes <= sizeBytes);
    this.#writes = [...this.#writes, ...inside];
    this.#epoch = epoch;
    this.proceed();
  }

  /** Now, or when the entries are made. */
  whenEntered(run: () => void): void {
    if (this.#writes.length === 0) run();
    else this.#waiting.push(run);
  }

  get isIdle(): boolean {
    return this.#writes.length === 0;
  }

  /** Marks may be durable. */
  proceed(): void {
    const { extents, hasFailed } = this.#copy;
    const isHot = this.#writes.map(({ offsetBytes, lengthBytes }) =>
      extents.ensureHot(firstExtentOf(offsetBytes), lastExtentOf(offsetBytes, lengthBytes)),
    );
    if (isHot.includes(false) && !hasFailed) return;
    if (!hasFailed) for (const write of this.#writes) this.#copy.enterUnsettled(write, this.#epoch);
    this.#writes = [];
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const run of waiting) run();
  }
}
