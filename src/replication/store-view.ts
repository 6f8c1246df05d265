// What a replica knows of the store: the newest configuration it has seen committed, and when to look again. A read is
// linearizable; one at a time.
//
// Invariant: what is known only moves forward.

import type { StoredConfig } from './config.ts';
import type { ReplicaPorts } from './ports.ts';
import type { BrokenRules } from './rules.ts';
import { STORE_RETRY_MS } from './timing.ts';

export class StoreView {
  readonly #ports: ReplicaPorts;
  readonly #broken: BrokenRules;
  #known: StoredConfig | undefined;
  #isReading = false;
  /** The store has changed since the last read of it began, or did not answer that read. */
  #mustRead = false;
  #lookAtMs = 0;

  constructor(ports: ReplicaPorts, broken: BrokenRules) {
    this.#ports = ports;
    this.#broken = broken;
  }

  get known(): StoredConfig | undefined {
    return this.#known;
  }

  /** False: it was known, or is older than what is. */
  learn(stored: StoredConfig): boolean {
    const known = this.#known;
    // The epoch counts as well: a store that was put back may have its revisions raised above all others.
    const isOld =
      known !== undefined && (stored.revision <= known.revision || stored.config.epoch < known.config.epoch);
    if (isOld && !this.#broken.configNeverGoesBack) return false;
    this.#known = stored;
    return true;
  }

  look(): void {
    if (this.#isReading) return;
    this.#isReading = true;
    this.#mustRead = false;
    this.#lookAtMs = this.#ports.nowMs() + STORE_RETRY_MS;
    this.#ports.readConfig();
  }

  changed(): void {
    this.#mustRead = true;
    this.look();
  }

  /** A read is over; false: the store did not answer it. */
  answered(stored: StoredConfig | undefined | 'gone'): stored is StoredConfig | 'gone' {
    this.#isReading = false;
    if (stored === undefined) this.#mustRead = true;
    return stored !== undefined;
  }

  /** `isWaiting`: for a change of the store. */
  tick(isWaiting: boolean): void {
    if ((isWaiting || this.#mustRead) && this.#ports.nowMs() >= this.#lookAtMs) this.look();
  }
}
