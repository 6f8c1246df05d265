// Flushes of a primary: one round at a time on every copy that counts; requests that come meanwhile share the next.
// A round covers every write acknowledged before it began. None begins before the copies are equal after a change of the
// primary: until then one of them may hold, on stable storage even, what nobody was told of in the place of what was
// acknowledged.

import { NONE, RequestQueue } from '../requests.ts';
import type { Seat } from './seat.ts';
import { SLOW_AFTER_MS } from '../timing.ts';
import type { Reconcile } from './reconcile.ts';
import type { Replies } from './replies.ts';
import { LOCAL, type PrimaryState } from './state.ts';
import type { Streams } from './streams.ts';

export class Flushes {
  readonly #state: PrimaryState;
  readonly #streams: Streams;
  readonly #replies: Replies;
  readonly #reconcile: Reconcile;
  readonly #flushing: RequestQueue;
  readonly #next: RequestQueue;
  #round = 0;
  #localRound = 0;
  /** Who has still to answer the running round. */
  #mask = 0;
  #sinceMs = 0;
  #isRunning = false;

  constructor(state: PrimaryState, streams: Streams, replies: Replies, reconcile: Reconcile) {
    this.#state = state;
    this.#streams = streams;
    this.#replies = replies;
    this.#reconcile = reconcile;
    this.#flushing = new RequestQueue(state.hub.table);
    this.#next = new RequestQueue(state.hub.table);
  }

  flush(request: number): void {
    this.#next.push(request);
    this.begin();
  }

  /** The copies may be equal by now. */
  begin(): void {
    const isDue = !this.#isRunning && !this.#next.isEmpty && this.#state.phase !== 'ended';
    if (isDue && this.#reconcile.isOver) this.#start();
  }

  #start(): void {
    const { hub, seats } = this.#state;
    this.#next.moveTo(this.#flushing);
    this.#isRunning = true;
    this.#round += 1;
    this.#mask = hub.broken.flushReachesEveryMember ? LOCAL : this.#state.wantedMask;
    this.#sinceMs = hub.ports.nowMs();
    this.#localRound = hub.copy.requestFlush();
    for (const seat of seats) if (seat.isOpen) this.ask(seat);
  }

  /** Also on a new stream: the older one's answer is void. */
  ask(seat: Seat): void {
    if (this.isWaitingFor(seat.bit)) this.#streams.flush(seat, this.#round);
  }

  /** The local copy's rounds up to this number are over. */
  localDone(round: number, errno: number): void {
    if (!this.#isRunning || round < this.#localRound || (errno !== 0 && !this.#state.isSole)) return;
    const { error } = this.#state.hub.table;
    if (errno !== 0) for (const request of this.#flushing.requests()) error[request] = errno;
    this.clearBit(LOCAL);
    this.endIfDone();
  }

  answered(bit: number, round: number): void {
    if (round !== this.#round) return;
    this.clearBit(bit);
    this.endIfDone();
  }

  isWaitingFor(bit: number): boolean {
    return this.#isRunning && (this.#mask & bit) !== 0;
  }

  /** This copy holds the running round up for longer than a disk may take. */
  isHeldUpBy(bit: number, nowMs: number): boolean {
    return this.isWaitingFor(bit) && nowMs - this.#sinceMs >= SLOW_AFTER_MS;
  }

  clearBit(bit: number): void {
    this.#mask &= ~bit;
  }

  /** Every copy has answered, and the epoch's promises are durable. */
  endIfDone(): void {
    const state = this.#state;
    if (!this.#isRunning || this.#mask !== 0 || !state.isEpochKept()) return;
    const done = new RequestQueue(state.hub.table);
    this.#flushing.moveTo(done);
    this.#isRunning = false;
    this.begin();
    for (let request = done.shift(); request !== NONE; request = done.shift())
      this.#replies.replyOrWait(request);
  }

  /** What no round has begun for, and nobody hears. */
  discardUnheard(): void {
    this.#next.takeOut(
      (request) => this.#replies.isUnheard(request),
      (request) => this.#replies.giveBack(request),
    );
  }

  /** The opening is over. */
  end(): void {
    for (const queue of [this.#flushing, this.#next])
      for (let request = queue.shift(); request !== NONE; request = queue.shift())
        this.#replies.giveBack(request);
  }

  describe(): string {
    return `flush running ${this.#isRunning} mask ${this.#mask}`;
  }
}
