// The way out of a primary's requests: each is answered once, given back to its frontend, or waits until a reply may
// leave. A slot that was answered or given back is not the primary's any more.

import { NONE, RequestQueue, UNTOUCHED } from '../requests.ts';
import { STORE_RETRY_MS } from '../timing.ts';
import type { PrimaryState } from './state.ts';

const EIO = 5;

export interface PrimaryHost {
  /** The reply leaves now. */
  answer(request: number, errno: number): void;
  /** This process will not answer it: the frontend takes it elsewhere. The slot is free for that. */
  giveBack(request: number): void;
  /** Requests are taken from here on. */
  serves(): void;
  /** Of an attachment that is over: nothing of it that has not started is applied any more. */
  isRevoked(request: number): boolean;
  /** Nobody hears its reply, and its frontend sends it again: what has not started need not. */
  isUnheard(request: number): boolean;
  /** When any client last said something; undefined: nobody uses the volume. */
  readonly clientHeardMs: number | undefined;
}

export class Replies {
  readonly #state: PrimaryState;
  readonly #host: PrimaryHost;
  readonly #replied: () => void;
  /** Done, but no reply may leave now. */
  readonly #unreplied: RequestQueue;
  /** They failed here, and another copy may take over and do better. */
  readonly #failed: RequestQueue;
  /** Admitted, and neither answered nor given back. */
  #openCount = 0;
  #lookAtMs = 0;

  /** `replied`: told after each reply. */
  constructor(state: PrimaryState, host: PrimaryHost, replied: () => void) {
    this.#state = state;
    this.#host = host;
    this.#replied = replied;
    this.#unreplied = new RequestQueue(state.hub.table);
    this.#failed = new RequestQueue(state.hub.table);
  }

  get openCount(): number {
    return this.#openCount;
  }

  /** Another copy is to take over, for their sake. */
  get isAnyFailed(): boolean {
    return !this.#failed.isEmpty;
  }

  admitted(): void {
    this.#openCount += 1;
  }

  isRevoked(request: number): boolean {
    return this.#host.isRevoked(request);
  }

  isUnheard(request: number): boolean {
    return this.#host.isUnheard(request);
  }

  /** A reply to it that left now would count. */
  mayAnswer(request: number): boolean {
    const isOver = this.#state.phase === 'ended' || this.isUnheard(request) || this.isRevoked(request);
    return !isOver && this.#state.mayReply();
  }

  /** What it is answered with is settled, or was read. */
  replyOrWait(request: number): void {
    const error = this.#state.hub.table.error[request] as number;
    // What every copy has refused none does better.
    const hasFailed = error !== 0 && (error & UNTOUCHED) === 0;
    if (this.#state.phase === 'ended' || this.isUnheard(request)) this.giveBack(request);
    else if (hasFailed && !this.#state.isSole) this.waitForOtherCopy(request);
    else if (this.#state.mayReply()) this.#reply(request);
    else {
      this.#unreplied.push(request);
      this.lookSoon();
    }
  }

  #reply(request: number): void {
    this.#openCount -= 1;
    const error = (this.#state.hub.table.error[request] as number) & ~UNTOUCHED;
    this.#host.answer(request, this.#state.isUnfit ? EIO : error);
    this.#replied();
  }

  /** It was not begun. */
  fail(request: number, errno: number): void {
    this.#openCount -= 1;
    this.#host.answer(request, errno);
  }

  giveBack(request: number): void {
    this.#openCount -= 1;
    this.#host.giveBack(request);
  }

  /** Another copy takes over, and the frontend asks it. */
  waitForOtherCopy(request: number): void {
    this.#failed.push(request);
  }

  /** A lease, a promise or a copy came: replies that waited for it leave. */
  replyWaiting(): void {
    const state = this.#state;
    if (state.isSole && state.mayReply())
      for (let r = this.#failed.shift(); r !== NONE; r = this.#failed.shift()) this.#reply(r);
    if (this.#unreplied.isEmpty || !state.mayReply()) return;
    const waiting = new RequestQueue(state.hub.table);
    this.#unreplied.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift())
      this.replyOrWait(request);
  }

  /** What is done, and heard by nobody, waits for nothing. */
  discardUnheard(): void {
    for (const queue of [this.#unreplied, this.#failed])
      queue.takeOut(
        (request) => this.isUnheard(request),
        (request) => this.giveBack(request),
      );
  }

  /** The opening is over. */
  end(): void {
    for (const queue of [this.#unreplied, this.#failed])
      for (let request = queue.shift(); request !== NONE; request = queue.shift()) this.giveBack(request);
  }

  /** No reply may leave: the store may know why. */
  lookSoon(): void {
    const { hub } = this.#state;
    const nowMs = hub.ports.nowMs();
    if (nowMs < this.#lookAtMs) return;
    this.#lookAtMs = nowMs + STORE_RETRY_MS;
    hub.look();
  }

  describe(): string {
    return `open ${this.#openCount} unreplied ${[...this.#unreplied.requests()].length}`;
  }
}
