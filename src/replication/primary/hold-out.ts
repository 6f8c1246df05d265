// How long a copy that has left the in-sync set is left out before it is taken up again. One that leaves, and leaves again
// soon after it has joined, costs the others a pause and a resync each time: it is left out for longer and longer, and
// after some times it counts as flapping, and is held out for a minute and more, until that is over or a person says
// so. It is known to this opening only: another primary begins anew.
//
// A copy that the failure mode cannot do without is never held out; who knows that ends it (primary.ts).

import { FLAP_WITHIN_MS, FLAPPING_OUT_LIMIT_MS, FLAPPING_OUT_MS, HELD_OUT_MS } from '../timing.ts';

/** So many times in a row, each within FLAP_WITHIN_MS of joining: it is flapping. */
export const FLAPPING_AFTER = 5;

export class HoldOut {
  #joinedMs: number;
  #departureCount = 0;
  #untilMs = Number.NEGATIVE_INFINITY;

  constructor(nowMs: number) {
    this.#joinedMs = nowMs;
  }

  joined(nowMs: number): void {
    this.#joinedMs = nowMs;
    this.#untilMs = Number.NEGATIVE_INFINITY;
  }

  /** `isPlanned`: its daemon was stopped in order, which says nothing against it. How long it stays out, in ms. */
  left(nowMs: number, isPlanned: boolean): number {
    const isSoon = nowMs - this.#joinedMs < FLAP_WITHIN_MS;
    if (!isSoon) this.#departureCount = 0;
    if (!isPlanned) this.#departureCount += 1;
    const times = this.#departureCount;
    const flappingMs = Math.min(FLAPPING_OUT_MS * 2 ** (times - FLAPPING_AFTER), FLAPPING_OUT_LIMIT_MS);
    const unplannedMs = this.isFlapping ? flappingMs : HELD_OUT_MS * 2 ** (times - 1);
    const outMs = isPlanned ? HELD_OUT_MS : unplannedMs;
    this.#untilMs = nowMs + outMs;
    return outMs;
  }

  get isFlapping(): boolean {
    return this.#departureCount >= FLAPPING_AFTER;
  }

  /** In a row, each soon after it had joined. */
  get departureCount(): number {
    return this.#departureCount;
  }

  /** 0: it may be taken up. */
  leftMs(nowMs: number): number {
    return Math.max(0, this.#untilMs - nowMs);
  }

  /** It is needed, or a person has looked at it. */
  end(): void {
    this.#departureCount = 0;
    this.#untilMs = Number.NEGATIVE_INFINITY;
  }
}
