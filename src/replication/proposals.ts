// Changes of the configuration, one at a time, by compare-and-swap. A proposal whose outcome is not known may
// have happened or may still happen: it counts as possible until the store has answered it, and it is made
// again, under the same guard, until it has.

import type { StoredConfig, VolumeConfig } from './config.ts';
import type { ProposalOutcome } from './ports.ts';
import type { BrokenRules } from './rules.ts';
import { STORE_RETRY_MS } from './timing.ts';

interface Pending {
  number: number;
  readonly base: StoredConfig;
  readonly config: VolumeConfig;
  /** Not undefined: the outcome of the last attempt is unknown; when to try again. */
  retryAtMs: number | undefined;
}

export interface ProposalHost {
  nowMs(): number;
  propose(proposal: number, baseRevision: number, config: VolumeConfig): void;
  /** What the store holds now, as far as the proposal's outcome tells. undefined: the volume is gone. */
  settled(current: StoredConfig | undefined): void;
}

export class Proposals {
  readonly #host: ProposalHost;
  readonly #broken: BrokenRules;
  #number = 0;
  #pending: Pending | undefined;

  constructor(host: ProposalHost, broken: BrokenRules) {
    this.#host = host;
    this.#broken = broken;
  }

  /** What may hold beside the configuration that is known. */
  get pending(): VolumeConfig | undefined {
    return this.#pending?.config;
  }

  submit(base: StoredConfig, config: VolumeConfig): void {
    this.#pending = { number: 0, base, config, retryAtMs: undefined };
    this.#attempt(this.#pending);
  }

  proposed(number: number, outcome: ProposalOutcome): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    if (pending.number !== number && !this.#broken.lateOutcomeSettlesOnlyItsOwn) return;
    switch (outcome.type) {
      case 'unknown':
        if (this.#broken.unknownProposalCounts) this.#pending = undefined;
        else pending.retryAtMs = this.#host.nowMs() + STORE_RETRY_MS;
        return;
      case 'committed':
        this.#pending = undefined;
        this.#host.settled({ config: pending.config, revision: outcome.revision });
        return;
      case 'conflict':
        this.#pending = undefined;
        this.#host.settled(outcome.current);
    }
  }

  tick(): void {
    const pending = this.#pending;
    if (pending?.retryAtMs !== undefined && this.#host.nowMs() >= pending.retryAtMs) this.#attempt(pending);
  }

  #attempt(pending: Pending): void {
    this.#number += 1;
    pending.number = this.#number;
    pending.retryAtMs = undefined;
    this.#host.propose(this.#number, pending.base.revision, pending.config);
  }
}
