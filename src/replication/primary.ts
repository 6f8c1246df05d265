// The copy that orders a volume's writes, serves its reads and answers for the others.
//
// A write: range lock → extents hot → sequence, window, stamp → local data and every stream → all that count have
// answered → reply. What counts is every member of every in-sync set that the store may hold now.
// A reply leaves only while every one of those members has granted a lease that has not run out, the epoch's
// promise is durable on all of them, and the set meets the failure mode's minimum.
//
// Its parts stand in primary/, each below those that use it: state → in-flight → streams, replies → flushes → admission →
// settling; silence, joining, adoption, handover; answers. Here they are joined, and told of time and of new epochs.

import { knownSet, memberOf } from './config.ts';
import type { FrameFields } from './frames.ts';
import type { Hub } from './hub.ts';
import { Admission } from './primary/admission.ts';
import { Adoption } from './primary/adoption.ts';
import { Answers } from './primary/answers.ts';
import { Flushes } from './primary/flushes.ts';
import { Handover } from './primary/handover.ts';
import { InFlight } from './primary/in-flight.ts';
import { Joining } from './primary/joining.ts';
import { Reads } from './primary/reads.ts';
import { type PrimaryHost, Replies } from './primary/replies.ts';
import { Settling } from './primary/settling.ts';
import { Silence } from './primary/silence.ts';
import { LOCAL, type Phase, PrimaryState } from './primary/state.ts';
import { Streams, type StreamsHost } from './primary/streams.ts';
import { RangeLocks } from './range-locks.ts';
import { Reconcile } from './primary/reconcile.ts';
import type { Seat } from './primary/seat.ts';
import { TICK_MS } from './timing.ts';
import { WrittenBlocks } from './written-blocks.ts';

const EIO = 5;
const ENOSPC = 28;

export class Primary implements StreamsHost {
  readonly opening: string;
  readonly #hub: Hub;
  readonly #state: PrimaryState;
  readonly #inFlight: InFlight;
  readonly #locks: RangeLocks;
  readonly #reconcile: Reconcile;
  readonly #streams: Streams;
  readonly #replies: Replies;
  readonly #flushes: Flushes;
  readonly #silence: Silence;
  readonly #admission: Admission;
  readonly #settling: Settling;
  readonly #reads: Reads;
  readonly #joining: Joining;
  readonly #adoption: Adoption;
  readonly #handover: Handover;
  readonly #answers: Answers;
  #tickedMs: number;

  constructor(hub: Hub, host: PrimaryHost, opening: string) {
    this.#hub = hub;
    this.opening = opening;
    this.#tickedMs = hub.ports.nowMs();
    const state = new PrimaryState(hub, opening);
    const inFlight = new InFlight(hub.table);
    const locks = new RangeLocks(hub.table, (request) => this.#admission.locked(request));
    const reconcile = new Reconcile(hub, (request) => this.#admission.prepare(request));
    const streams = new Streams(state, inFlight, reconcile, this);
    const replies = new Replies(state, host, () => {
      this.#handover.proceed();
      this.#joining.clientAnswered();
    });
    const flushes = new Flushes(state, streams, replies, reconcile);
    const lost = (): void => {
      this.#recount();
      this.#adoption.serveIfComplete();
    };
    const silence = new Silence(state, inFlight, flushes, () => host.clientHeardMs, lost);
    const admission = new Admission(state, inFlight, locks, reconcile, streams, flushes, replies);
    // Where no reply may leave clients wait for a copy to be filled, perhaps: nothing gives way to them then.
    const openCount = (): number => (state.mayReply() ? replies.openCount : 0);
    const joining = new Joining(state, inFlight, locks, streams, silence, openCount);
    const ownSuspects = hub.copy.suspects();
    const adoption = new Adoption(state, locks, reconcile, streams, admission, joining, ownSuspects, () =>
      host.serves(),
    );
    const rewritten = (): void => {
      adoption.reconciled();
      flushes.begin();
    };
    const fail = (mask: number): void => this.#outOfRoom(mask);
    const settling = new Settling(state, inFlight, reconcile, streams, admission, replies, rewritten, fail);
    const promisesChanged = (): void => this.#promisesChanged();
    this.#state = state;
    this.#inFlight = inFlight;
    this.#locks = locks;
    this.#reconcile = reconcile;
    this.#streams = streams;
    this.#replies = replies;
    this.#flushes = flushes;
    this.#silence = silence;
    this.#admission = admission;
    this.#settling = settling;
    this.#reads = new Reads(state, locks, reconcile, streams, replies, admission, settling);
    this.#joining = joining;
    this.#adoption = adoption;
    this.#handover = new Handover(state, silence, admission, adoption, replies);
    this.#answers = new Answers({
      state,
      inFlight,
      reconcile,
      streams,
      replies,
      flushes,
      silence,
      admission,
      settling,
      joining,
      adoption,
      promisesChanged,
    });
    this.#noteWritten(state.config.epoch);
    hub.copy.beginOpening(opening, 0, false);
    hub.copy.durability = state.config.durability;
    streams.seat();
    this.#promise();
    // Requests wait for the members: they are asked now, and not at the next tick.
    for (const seat of state.seats) streams.keep(seat, hub.ports.nowMs());
  }

  /** A member has said nothing for longer than it should. */
  get missesMember(): boolean {
    return this.#silence.isAnyMissed;
  }

  /** For people. */
  describe(): string {
    const state = this.#state;
    const nowMs = this.#hub.ports.nowMs();
    return [
      state.phase,
      this.#inFlight.describe(),
      `locks ${this.#locks.heldCount} ${this.#replies.describe()} ${this.#admission.describe()}`,
      `${this.#flushes.describe()} reconciled ${this.#reconcile.isOver} mayReply ${state.mayReply()}`,
      `kept ${state.isEpochKept()} failed ${state.hasFailed} pending ${this.#hub.pending !== undefined}`,
      ...state.seats.map((seat) => seat.describe(nowMs)),
    ].join(', ');
  }

  get phase(): Phase {
    return this.#state.phase;
  }

  get isServing(): boolean {
    return this.#state.phase === 'serving';
  }

  get hasEnded(): boolean {
    return this.#state.phase === 'ended';
  }

  /** Nothing is in flight, and every member has been told so. */
  get isIdle(): boolean {
    return (
      this.isServing && this.#replies.openCount === 0 && this.#reconcile.isOver && this.#state.isEpochKept()
    );
  }

  /** It has offered its place: it answers nothing more. */
  get isRenounced(): boolean {
    return this.#state.isRenounced;
  }

  /** For people and checkers: requests may be answered now. */
  get mayReply(): boolean {
    return this.#state.mayReply();
  }

  /** For a host that sends the bytes of a read, under its range lock, before it tells the end of it. */
  mayAnswer(request: number): boolean {
    return this.#replies.mayAnswer(request);
  }

  get seats(): Iterable<Seat> {
    return this.#state.seats;
  }

  /** Nothing that it was given or took is with it any more. */
  get isQuiet(): boolean {
    return this.#replies.openCount === 0 && this.#locks.isIdle && this.#hub.copy.isDataQuiet;
  }

  // ---- requests, and ends of what was started

  /** The range is inside the volume and not empty, except of a flush. */
  admit(request: number): void {
    this.#admission.admit(request);
  }

  /** A session is over: what it asked for and has not begun is dropped. */
  discardUnheard(): void {
    if (!this.hasEnded) this.#admission.discardUnheard();
  }

  /** Its extents are hot. */
  prepared(request: number): void {
    this.#admission.prepared(request);
  }

  /** The local copy has a write, or failed to. */
  applied(request: number, errno: number): void {
    if (errno !== 0) {
      this.#hub.table.error[request] = errno;
      if (!this.#settling.isLocalRefusal(request, errno)) this.#localFailed(errno);
    }
    this.#settling.answered(request, LOCAL);
  }

  readDone(request: number, errno: number): void {
    if (this.#reads.done(request, errno)) this.#localFailed(errno);
  }

  /** The local copy's flush rounds up to this number are over. */
  flushed(round: number, errno: number): void {
    if (errno !== 0) this.#localFailed(errno);
    this.#flushes.localDone(round, errno);
  }

  stampsRead(link: number, extent: number, errno: number, stamps: Uint32Array): void {
    this.#answers.stampsRead(link, extent, errno, stamps);
  }

  copyHasFailed(): void {
    this.#localFailed(EIO);
    if (this.#state.isUnfit) this.#promisesChanged();
  }

  /** These copies had no room for what others have taken. */
  #outOfRoom(mask: number): void {
    for (const seat of Array.from(this.#state.seats)) if ((seat.bit & mask) !== 0) this.#streams.fail(seat);
    if ((mask & LOCAL) !== 0) this.#localFailed(ENOSPC);
    this.#silence.considerDrops();
  }

  #localFailed(errno: number): void {
    if (this.#state.hasFailed) return;
    this.#state.hasFailed = true;
    this.#hub.ports.event({ type: 'failed', what: 'data', errno });
    this.#handover.leave();
  }

  // ---- links

  linkClosed(link: number): void {
    this.#answers.linkClosed(link);
  }

  control(link: number, type: number, message: unknown): void {
    this.#answers.control(link, type, message);
  }

  frame(link: number, fields: FrameFields): void {
    this.#answers.frame(link, fields);
  }

  // ---- who counts

  waitsNoMore({ bit }: Seat): void {
    this.#inFlight.clearBit(bit);
    this.#flushes.clearBit(bit);
  }

  countsNoMore(): void {
    this.#recount();
    this.#admission.useRoom();
  }

  /** Nobody waits for an answer that does not count any more. */
  #recount(): void {
    if (this.hasEnded) return;
    for (const seat of this.#state.seats) if (!this.#state.counts(seat)) this.waitsNoMore(seat);
    this.#settling.settleWaiting();
    this.#flushes.endIfDone();
  }

  // ---- the epoch

  /** The known configuration has changed, and this is still the primary of it. */
  configChanged(): void {
    const state = this.#state;
    const before = state.config;
    const next = this.#hub.known.config;
    state.config = next;
    const { copy } = this.#hub;
    if (next.epoch !== before.epoch) {
      // First: a write that only waited for a member that is gone settles in #recount(), in this epoch.
      state.isPromised = false;
      copy.durability = next.durability;
      this.#noteWritten(before.epoch + 1);
      copy.restampUnsettled(next.epoch);
    }
    this.#streams.seat();
    this.#recount();
    if (next.epoch === before.epoch) {
      // Before anything is sent to them that lies beyond the size they know.
      if (next.sizeBytes !== before.sizeBytes) this.#streams.tellEpochToAll();
      return;
    }
    for (const seat of state.seats) {
      if (!seat.isOpen) continue;
      const named = memberOf(next, seat.replicaId)?.incarnation;
      if (seat.role === 'member' && seat.isGating && named === seat.welcome?.incarnation)
        this.#joining.joined(seat);
      this.#streams.tellEpoch(seat);
    }
    if (!state.isAnyLost) {
      this.#settling.settleKept();
      this.#adoption.settleInherited();
      this.#admission.useRoom();
    }
    this.#promise();
  }

  /** As long as copies are absent: nothing has a stamp of this epoch or a later one yet. */
  #noteWritten(sinceEpoch: number): void {
    const { config, hub } = this.#state;
    const isAnyAbsent = config.inSync.length < config.replicas.length;
    hub.copy.written = isAnyAbsent ? (hub.copy.written ?? new WrittenBlocks(sinceEpoch)) : undefined;
  }

  /** Makes the promise of the configuration durable. */
  #promise(): void {
    const hub = this.#hub;
    const state = this.#state;
    const { config } = state;
    state.isPromised = false;
    hub.keep(
      {
        promisedEpoch: config.epoch,
        attachmentNumber: config.attachment.number,
        durability: config.durability,
        lastInSyncIncarnation: hub.incarnation,
        earlierIncarnations: [],
        inSync: knownSet(config),
      },
      () => {
        if (this.hasEnded || state.config.epoch !== config.epoch) return;
        state.isPromised = true;
        this.#adoption.gatherOwn();
        this.#promisesChanged();
      },
    );
    if (state.isUnfit) this.#promisesChanged();
  }

  /** A promise became durable, or a member left: what waited for it may go on. */
  #promisesChanged(): void {
    this.#adoption.serveIfComplete();
    this.#settling.settleWaiting();
    if (!this.#state.isEpochKept()) return;
    this.#flushes.endIfDone();
    this.#replies.replyWaiting();
  }

  // ---- handover

  /** Drains, and gives the place to this member. False: it cannot now. */
  handOver(replicaId: string): boolean {
    const isBusy = this.#hub.pending !== undefined || !this.#reconcile.isOver;
    if (!this.isServing || isBusy || !this.#state.isEpochKept()) return false;
    return this.#handover.begin(replicaId);
  }

  tellPromoted(): void {
    this.#handover.tellPromoted();
  }

  // ---- time

  /** The pace may let one that waits go on. */
  resyncTurn(): void {
    for (const { resync } of this.#state.seats) resync?.step();
  }

  tick(): void {
    if (this.hasEnded) return;
    const state = this.#state;
    const nowMs = this.#hub.ports.nowMs();
    const stoodStillMs = nowMs - this.#tickedMs - 2 * TICK_MS;
    this.#tickedMs = nowMs;
    if (stoodStillMs > 0) this.#silence.stoodStill(stoodStillMs);
    this.#takeUp();
    for (const seat of state.seats) {
      if (this.#silence.isStuckFilling(seat, nowMs)) this.#streams.giveUp(seat, nowMs);
      this.#streams.keep(seat, nowMs);
      seat.resync?.step();
      this.#joining.proceed(seat);
      if (seat.isReadyToJoin) this.#joining.propose(seat);
    }
    this.#streams.beatAll(nowMs);
    this.#silence.considerDrops();
    this.#silence.considerLoss();
    if (this.#silence.isLocalSlow()) this.#localFailed(EIO);
    if (state.hasFailed) this.#handover.leave();
    this.#reconcile.step();
    this.#flushes.begin();
    if (!state.mayReply()) this.#replies.lookSoon();
    this.#replies.replyWaiting();
    this.#handover.proceed();
  }

  /** Copies that are held out while requests wait for one; and those that waited for their turn to be filled. */
  #takeUp(): void {
    const { seats } = this.#state;
    if (this.#silence.isShort) for (const seat of seats) this.#streams.readmit(seat);
    if (this.isServing && seats.some((seat) => seat.isWaitingForTurn)) this.#adoption.fillWaiting();
  }

  /** A person has looked at this copy: it is held out no longer. False: it is not held out. */
  readmit(replicaId: string): boolean {
    const seat = this.#state.seatOf(replicaId);
    return seat !== undefined && this.#streams.readmit(seat);
  }

  // ---- the end

  /** Another primary was chosen, or this opening is over: what is unanswered goes back to its frontend. */
  end(): void {
    if (this.hasEnded) return;
    this.#state.phase = 'ended';
    this.#hub.copy.written = undefined;
    for (const seat of this.#state.seats) this.#streams.close(seat);
    this.#admission.end();
    this.#flushes.end();
    this.#replies.end();
    this.#admission.endPrepared();
    this.#settling.end();
    this.#reconcile.stop();
  }
}
