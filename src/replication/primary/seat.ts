// What a primary knows of one other replica: its stream, its lease, what it still has to answer.

import type { ReplicaConfig } from '../config.ts';
import type { StreamWelcome } from '../frames.ts';
import { NONE } from '../requests.ts';
import { HoldOut } from './hold-out.ts';
import type { Resync } from './resync.ts';

export class Seat {
  readonly replicaId: string;
  readonly node: string;
  /** Its bit in a request's waitMask. */
  readonly bit: number;
  link = NONE;
  isOpen = false;
  role: 'member' | 'joining' = 'joining';
  /** Of the open stream. */
  welcome: StreamWelcome | undefined;
  /** Answers of this member are wanted although it is not one yet: it has caught up and is about to join. */
  isGating = false;
  /** The highest epoch whose promise it has confirmed on this stream. */
  keptEpoch = 0;
  /** Until then it has promised not to promote, as far as the primary may count on it. */
  leaseUntilMs = 0;
  heardMs: number;
  /** Since when it is without an open stream. */
  closedSinceMs: number;
  nextAttemptMs = 0;
  readonly holdOut: HoldOut;
  /** How often in a row it could not open a stream yet. */
  busyCount = 0;
  /** Writes sent on this stream and not answered. */
  unansweredCount = 0;
  /** Of those, the ones below the first that waits for it (a joining replica). */
  olderUnansweredCount = 0;
  gateSequence = 0;
  /** The round of the flush that must succeed before it joins; 0: none is asked for. */
  joinRound = 0;
  /** Copied, answered, flushed: it may be proposed. */
  isReadyToJoin = false;
  /** Of the configuration that its stream began with. */
  helloEpoch = 0;
  /** SETTLED goes out once everything up to here is. 0: it went. */
  settledAtSequence = 0;
  resync: Resync | undefined;
  /** It could be filled, and others of this node are before it. */
  isWaitingForTurn = false;
  /** When it last ended some of what it had to do, or had nothing to do. */
  workedMs: number;
  /** By resyncs that are over. */
  #copiedBytes = 0;
  /** Its disk failed: it said so. */
  hasFailed = false;
  /** Its daemon is being stopped: it said so. */
  isLeaving = false;
  /** The set names it, but not in the incarnation that it has, and cannot do without it: it is filled again. */
  isLost = false;
  /** Of a lost one: the epoch from which on it may lack writes. */
  lacksSince = 0;

  constructor(replica: ReplicaConfig, bit: number, nowMs: number) {
    this.replicaId = replica.id;
    this.node = replica.node;
    this.bit = bit;
    this.heardMs = nowMs;
    this.workedMs = nowMs;
    this.closedSinceMs = nowMs;
    this.holdOut = new HoldOut(nowMs);
  }

  /** `forgetsJoin`: always, but in tests. */
  closed(nowMs: number, forgetsJoin = true): void {
    this.link = NONE;
    if (this.isOpen) this.closedSinceMs = nowMs;
    this.isOpen = false;
    this.welcome = undefined;
    this.keptEpoch = 0;
    this.unansweredCount = 0;
    this.olderUnansweredCount = 0;
    if (forgetsJoin) {
      this.isGating = false;
      this.isReadyToJoin = false;
    }
    this.joinRound = 0;
    this.settledAtSequence = 0;
    this.endResync();
  }

  /** It is not about to join any more. */
  ungate(): void {
    this.isGating = false;
    this.isReadyToJoin = false;
    this.joinRound = 0;
    this.olderUnansweredCount = 0;
  }

  /** Something that it was sent waits for its disk. */
  get isAtWork(): boolean {
    const isFlushing = this.joinRound !== 0 && !this.isReadyToJoin;
    return this.unansweredCount > 0 || isFlushing || this.resync?.isAwaited === true;
  }

  endResync(): void {
    this.isWaitingForTurn = false;
    this.#copiedBytes += this.resync?.bytesSent ?? 0;
    this.resync?.stop();
    this.resync = undefined;
  }

  /** By all resyncs since this primary has known the copy. */
  get resyncBytesSent(): number {
    return this.#copiedBytes + (this.resync?.bytesSent ?? 0);
  }

  /** For people. */
  describe(nowMs: number): string {
    return (
      `${this.replicaId} unanswered ${this.unansweredCount} older ${this.olderUnansweredCount} gating ${this.isGating} ` +
      `round ${this.joinRound} lease ${Math.round(this.leaseUntilMs - nowMs)} resync ${this.resync?.describe()}`
    );
  }
}
