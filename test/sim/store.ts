// The store: linearizable, slow at times, silent at times; replies get lost, and requests arrive after the one
// who asked has given up.

import type { StoredConfig, VolumeConfig } from '../../src/replication/config.ts';
import type { ProposalOutcome } from '../../src/replication/ports.ts';
import type { Random } from './random.ts';
import type { Schedule } from './schedule.ts';

const TIMEOUT_MS = 1000;

export class SimStore {
  current: StoredConfig;
  isDown = false;
  delayMs: number;
  lossRate: number;
  /** Chance of each swap that its outcome is heard seconds later. */
  lateRate = 0;
  /** Chance of each read that may be old that it is. */
  oldRate = 0;
  /** Nodes that do not reach it. */
  readonly cutOff = new Set<number>();
  changes = 0;
  /** All it ever held. */
  /** The next change is made, and who asked for it hears nothing. */
  losesNextReply = false;
  readonly past: StoredConfig[] = [];
  readonly #waiting: (() => void)[] = [];
  onChange: () => void = () => {};
  readonly #schedule: Schedule;
  readonly #random: Random;

  constructor(schedule: Schedule, random: Random, config: VolumeConfig, delayMs: number, lossRate: number) {
    this.#schedule = schedule;
    this.#random = random;
    this.current = { config, revision: 1 };
    this.delayMs = delayMs;
    this.lossRate = lossRate;
  }

  #delay(): number {
    return this.#random.wait(this.delayMs) + 0.05;
  }

  #isSilent(node: number): boolean {
    return this.isDown || this.cutOff.has(node);
  }

  /** `mayBeOld`: of somebody whom an older state must not mislead. */
  read(node: number, answer: (stored: StoredConfig | undefined) => void, mayBeOld = false): void {
    let isAnswered = false;
    const once = (stored: StoredConfig | undefined): void => {
      if (!isAnswered) answer(stored);
      isAnswered = true;
    };
    this.#schedule.after(TIMEOUT_MS, () => once(undefined));
    if (this.#isSilent(node) || this.#random.chance(this.lossRate)) return;
    this.#schedule.after(this.#delay(), () => {
      if (this.#isSilent(node)) return;
      const isOld = mayBeOld && this.oldRate > 0 && this.#random.chance(this.oldRate);
      const current = (isOld ? this.past.at(-1 - this.#random.below(3)) : undefined) ?? this.current;
      this.#schedule.after(this.#delay(), () => once(current));
    });
  }

  /** `answer` may be called twice: 'unknown' first, and the truth much later. */
  swap(
    node: number,
    baseRevision: number,
    config: VolumeConfig,
    answer: (outcome: ProposalOutcome) => void,
  ): void {
    let isAnswered = false;
    this.#schedule.after(TIMEOUT_MS, () => {
      if (!isAnswered) answer({ type: 'unknown' });
      isAnswered = true;
    });
    if (this.#isSilent(node) && this.#random.chance(0.5)) return;
    const isRequestLost = this.#random.chance(this.lossRate / 2);
    const isReplyLost = this.#random.chance(this.lossRate);
    if (isRequestLost) return;
    const isLate = this.#random.chance(this.lossRate);
    const { generation } = this;
    this.#schedule.after(isLate ? TIMEOUT_MS * this.#random.between(0.5, 3) : this.#delay(), () => {
      if (this.#isSilent(node) && !isLate) return;
      if (this.generation !== generation) return;
      const outcome = this.#apply(baseRevision, config);
      if (isReplyLost || this.losesNextReply) {
        this.losesNextReply = false;
        return;
      }
      const isHeardLate = this.lateRate > 0 && this.#random.chance(this.lateRate);
      const delayMs = isHeardLate ? TIMEOUT_MS * this.#random.between(1, 4) : this.#delay();
      this.#schedule.after(delayMs, () => {
        isAnswered = true;
        answer(outcome);
      });
    });
  }

  #apply(baseRevision: number, config: VolumeConfig): ProposalOutcome {
    if (this.current.revision !== baseRevision) return { type: 'conflict', current: this.current };
    this.past.push(this.current);
    this.current = { config, revision: baseRevision + 1 };
    this.changes += 1;
    this.onChange();
    for (const run of this.#waiting.splice(0)) this.#schedule.after(0, run);
    return { type: 'committed', revision: this.current.revision };
  }

  afterNextChange(run: () => void): void {
    this.#waiting.push(run);
  }

  /** Put back from an old snapshot; its revisions go on from there, or above all that there were. */
  /** How often it was put back: a daemon that knew it before takes it for another store until it starts again. */
  generation = 0;

  restore({ config, revision }: StoredConfig, isBumped: boolean): void {
    this.generation += 1;
    this.current = { config, revision: isBumped ? this.current.revision + 1000 : revision };
    this.onChange();
  }

  /** A person's tool: never lost, always on the newest. */
  change(by: (config: VolumeConfig) => VolumeConfig): VolumeConfig {
    this.#apply(this.current.revision, by(this.current.config));
    return this.current.config;
  }
}
