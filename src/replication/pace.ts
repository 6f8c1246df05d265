// How much the resyncs of a data-plane thread may have in flight. Everything, while no client asks this node for anything.
// While clients do, of any volume, one small burst at a time, of one resync after the other, and while they are being served a
// rest after each, of some times the burst's own length: what makes the clients' requests slow, a disk or processors that are
// busy, makes bursts slow as well, and the resyncs give way.
//
// A floor bounds how long that may take: what is missing to FLOOR_BYTES_PER_SECOND is made up for by larger bursts, which
// wait for no rest. 100 GiB in a row take about seven hours of the heaviest load, 64 blocks here and there a second; a disk
// that cannot do so much is never left alone. All resyncs of the thread together are given that.
//
// Invariants: it goes by the times that it is told and by nothing else; one burst at a time, but for those that have not been
// answered for BURST_LIMIT_MS; nobody has two bursts while another waits; no rest is longer than REST_LIMIT_MS.

import { KIB, MIB } from '../core/units.ts';

export const FULL_BYTES = 1024 * KIB;
export const BURST_BYTES = 64 * KIB;
/** Of one that the floor is owed: a disk with a head moves it once for so much. */
export const LARGE_BURST_BYTES = 256 * KIB;
/** So long after their last request clients may be about to ask again. */
export const CLIENTS_MS = 1000;
export const RESTS = 3;
export const REST_LIMIT_MS = 50;
/** The disk of a copy that is being filled may hang: the others wait for its answers no longer. */
export const BURST_LIMIT_MS = 500;
export const FLOOR_BYTES_PER_SECOND = 4 * MIB;
/** What is owed for longer is forgotten: nothing is made up for at the clients' cost for long. */
const OWED_LIMIT_MS = 250;

/** What the clients of a node do there, whichever volumes and threads are theirs. */
export interface ClientLoad {
  /** Operations that are on their way to the disk and back for them. */
  readonly openCount: number;
  /** Changes with every request of theirs. */
  readonly begunCount: number;
}

export class Pace {
  readonly #load: ClientLoad;
  #begunCount: number;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #clientsUntilMs = Number.NEGATIVE_INFINITY;
  /** Who has a burst in flight. */
  #holder: object | undefined;
  /** In the order in which they get the next ones. */
  readonly #waiting = new Set<object>();
  #beganMs = 0;
  #begunAtBurst = 0;
  #restsUntilMs = Number.NEGATIVE_INFINITY;
  /** Up to when the floor has been kept. */
  #paidUntilMs = 0;

  constructor(load: ClientLoad) {
    this.#load = load;
    this.#begunCount = load.begunCount;
  }

  /** A client's request is open, or has just been answered. */
  clientsSeen(nowMs: number): void {
    if (nowMs >= this.#clientsUntilMs) this.#paidUntilMs = nowMs;
    this.#clientsUntilMs = nowMs + CLIENTS_MS;
  }

  /** No client is there. `openCount`: requests of the resync's own volume that are not answered, wherever they are. */
  isFull(nowMs: number, openCount: number): boolean {
    const { begunCount } = this.#load;
    // What came before anybody looked may have come long ago.
    const isNew = begunCount !== this.#begunCount && nowMs - this.#lookedMs < CLIENTS_MS;
    if (openCount > 0 || this.#load.openCount > 0 || isNew) this.clientsSeen(nowMs);
    this.#begunCount = begunCount;
    this.#lookedMs = nowMs;
    return nowMs >= this.#clientsUntilMs;
  }

  /** Bytes that this resync, which has none in flight, may now have; 0: it waits. Else it says ended(). */
  begin(who: object, nowMs: number, openCount: number): number {
    const isNext = !this.#isHeld(nowMs) && this.#isFirst(who);
    const isOwed = this.#isOwed(nowMs);
    const rests = !isOwed && nowMs < this.#restsUntilMs && this.#areServed(openCount);
    if (!isNext || rests) {
      this.#waiting.add(who);
      return 0;
    }
    this.#waiting.delete(who);
    this.#holder = who;
    this.#beganMs = nowMs;
    this.#begunAtBurst = this.#load.begunCount;
    return isOwed ? LARGE_BURST_BYTES : BURST_BYTES;
  }

  #isHeld(nowMs: number): boolean {
    return this.#holder !== undefined && nowMs - this.#beganMs < BURST_LIMIT_MS;
  }

  #isFirst(who: object): boolean {
    for (const first of this.#waiting) return first === who;
    return true;
  }

  #isOwed(nowMs: number): boolean {
    return ((nowMs - this.#paidUntilMs) / 1000) * FLOOR_BYTES_PER_SECOND >= LARGE_BURST_BYTES;
  }

  /** Clients are there now, or came while the last burst was in flight or after it. */
  #areServed(openCount: number): boolean {
    return openCount > 0 || this.#load.openCount > 0 || this.#load.begunCount !== this.#begunAtBurst;
  }

  /** Its burst is answered. `costBytes`: what it counts for the floor. */
  ended(who: object, nowMs: number, costBytes: number): void {
    if (this.#holder !== who) return;
    this.#holder = undefined;
    const lengthMs = Math.max(0, nowMs - this.#beganMs);
    this.#restsUntilMs = nowMs + Math.min(RESTS * lengthMs, REST_LIMIT_MS);
    const paidMs = (costBytes / FLOOR_BYTES_PER_SECOND) * 1000;
    this.#paidUntilMs = Math.max(this.#paidUntilMs, this.#beganMs - OWED_LIMIT_MS) + paidMs;
  }

  /** It is over, or goes on without bursts. */
  leave(who: object): void {
    if (this.#holder === who) this.#holder = undefined;
    this.#waiting.delete(who);
  }

  get isAnyoneWaiting(): boolean {
    return this.#waiting.size > 0;
  }

  /** How long until the first of those that wait may begin; undefined: what is in flight comes first. */
  waitMs(nowMs: number): number | undefined {
    if (this.#isHeld(nowMs)) return undefined;
    return this.#isOwed(nowMs) ? 0 : Math.max(0, this.#restsUntilMs - nowMs);
  }
}
