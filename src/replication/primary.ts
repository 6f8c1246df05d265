// The copy that orders a volume's writes, serves its reads and answers for the others.
//
// A write: range lock → extents hot → sequence, window, stamp → local data and every stream → all that count have
// answered → reply. What counts is every member of every in-sync set that the store may hold now.
// A reply leaves only while every one of those members has granted a lease that has not run out, the epoch's
// promise is durable on all of them, and the set meets the failure mode's minimum.
//
// A new primary first brings the members' suspects to its own bytes, as ordinary writes of its epoch; requests
// that touch a suspect extent wait for it.

import { EXTENT_BYTES } from '../core/units.ts';
import {
  addMember,
  canDrop,
  dropMembers,
  handOver,
  knownSet,
  memberOf,
  minimumInSync,
  replicaOf,
  type VolumeConfig,
} from './config.ts';
import { WINDOW_SPAN } from './copy.ts';
import {
  FRAME_BEAT,
  FRAME_COPIED,
  FRAME_DONE,
  FRAME_EPOCH,
  FRAME_EPOCH_KEPT,
  FRAME_FLUSH,
  FRAME_FLUSHED,
  FRAME_GRANT,
  FRAME_HELLO,
  FRAME_PROMOTE,
  FRAME_REFUSED,
  FRAME_SETTLED,
  FRAME_STAMPED,
  FRAME_WELCOME,
  FRAME_WRITE,
  FRAME_ZERO,
  type FrameFields,
  OFFSET,
  type Refused,
  SEQUENCE,
  type StreamWelcome,
  type SuspectRange,
  TIME,
  WATERMARK,
} from './frames.ts';
import type { Hub } from './hub.ts';
import { RangeLocks } from './range-locks.ts';
import { Reconcile } from './reconcile.ts';
import { COPY_READ, FLUSH, NONE, READ, RequestQueue, REWRITE, ZERO } from './requests.ts';
import { Resync } from './resync.ts';
import { Seat } from './seat.ts';
import {
  BEAT_MS,
  DRAIN_LIMIT_MS,
  DROP_AFTER_MS,
  FAILED_RETRY_MS,
  HELD_OUT_LIMIT_MS,
  HELD_OUT_MS,
  LEASE_HELD_MS,
  RECONNECT_MS,
  SLOW_AFTER_MS,
  STORE_RETRY_MS,
} from './timing.ts';

const EIO = 5;
/** Writes that a stream may be behind: what it is sent waits in buffers. */
const UNANSWERED_LIMIT = WINDOW_SPAN / 2;
/** The local copy's bit in a waitMask. */
const LOCAL = 1;
/** Flush rounds of one joining replica are told from the volume's by their range. */
const JOIN_ROUND = 2 ** 40;
/** In the ring: done as far as anybody can be asked, but a lost member is still named. Its window entries stay. */
const KEPT = -2;

export interface PrimaryHost {
  /** The reply leaves now. */
  answer(request: number, errno: number): void;
  /** This process will not answer it: the frontend takes it elsewhere. The slot is free for that. */
  giveBack(request: number): void;
  /** Of an attachment that is over: nothing of it that has not started is applied any more. */
  isRevoked(request: number): boolean;
  /** All that was given back or answered is; nothing of this role is on its way to the disk. */
  primaryEnded(): void;
}

export type Phase = 'adopting' | 'serving' | 'draining' | 'ended';

export class Primary {
  readonly opening: string;
  readonly #hub: Hub;
  readonly #host: PrimaryHost;
  readonly #locks: RangeLocks;
  readonly #seats: Seat[] = [];
  #phase: Phase = 'adopting';
  #config: VolumeConfig;
  /** Its promise is durable here. */
  #isPromised = false;
  #streamCount = 0;
  #reconcile: Reconcile;
  /** Members (by replica) whose suspects are in. */
  readonly #gathered = new Set<string>();
  readonly #ownSuspects: readonly SuspectRange[] | 'hot';

  /** [0]: the newest sequence. [1]: everything up to here is settled. */
  readonly #sequences = new Float64Array(2);
  /** By sequence mod WINDOW_SPAN: the request in flight. */
  readonly #ring = new Int32Array(WINDOW_SPAN).fill(NONE);
  #inFlightCount = 0;
  readonly #waitingForRoom: RequestQueue;
  readonly #waitingForReconcile: RequestQueue;
  /** Admitted before it serves, or while it drains. */
  readonly #held: RequestQueue;
  /** Done, but no reply may leave now. */
  readonly #unreplied: RequestQueue;
  /** Reads that failed here and not elsewhere. */
  readonly #unreadable: RequestQueue;
  readonly #flushing: RequestQueue;
  readonly #flushNext: RequestQueue;
  #flushRound = 0;
  #localFlushRound = 0;
  #flushMask = 0;
  #flushSinceMs = 0;
  #isFlushRunning = false;

  #beatAtMs = 0;
  #lookAtMs = 0;
  #handOverTo: string | undefined;
  #drainingSinceMs = 0;
  /** It has offered its place: it answers nothing more in this opening. */
  #isRenounced = false;
  #joinRoundCount = 0;
  #isInheritedSettled = false;
  /** Its own copy failed: it hands over and leaves, or answers with errors. */
  #hasFailed = false;

  constructor(hub: Hub, host: PrimaryHost, opening: string) {
    this.#hub = hub;
    this.#host = host;
    this.opening = opening;
    this.#config = hub.known.config;
    const { table } = hub;
    this.#locks = new RangeLocks(table, (request) => this.#locked(request));
    this.#waitingForRoom = new RequestQueue(table);
    this.#waitingForReconcile = new RequestQueue(table);
    this.#held = new RequestQueue(table);
    this.#unreplied = new RequestQueue(table);
    this.#flushing = new RequestQueue(table);
    this.#unreadable = new RequestQueue(table);
    this.#flushNext = new RequestQueue(table);
    this.#ownSuspects = hub.copy.suspects();
    this.#reconcile = new Reconcile(hub, (request) => this.#rewrite(request));
    hub.copy.beginOpening(opening, 0, false);
    hub.copy.durability = this.#config.durability;
    this.#hasFailed = hub.copy.hasFailed;
    this.#seat();
    this.#promise();
  }

  /** For people. */
  describe(): string {
    const { table } = this.#hub;
    const ring = [...this.#ring].filter((request) => request !== NONE);
    const masks = ring
      .slice(0, 4)
      .map(
        (r) =>
          `${r}:${table.sequence[r]} mask ${table.waitMask[r]} errno ${table.error[r]} kind ${table.kind[r]}`,
      );
    return (
      `${this.#phase} inFlight ${this.#inFlightCount} sequences ${this.#sequences.join('/')} ring ${ring.length} [${masks.join('; ')}] ` +
      `locks ${this.#locks.heldCount} idle ${this.#locks.isIdle} unreplied ${[...this.#unreplied.requests()].length} room ${[...this.#waitingForRoom.requests()].length} ` +
      `reconcile ${this.#reconcile.isOver} waiting ${[...this.#waitingForReconcile.requests()].length} flushRunning ${this.#isFlushRunning} mask ${this.#flushMask} ` +
      `mayReply ${this.#mayReply()} kept ${this.#isEpochKept()} failed ${this.#hasFailed} pending ${this.#hub.pending !== undefined} ` +
      this.#seats
        .map(
          (seat) =>
            `${seat.replicaId} unanswered ${seat.unansweredCount} older ${seat.olderUnansweredCount} gating ${seat.isGating} round ${seat.joinRound} lease ${Math.round(seat.leaseUntilMs - this.#hub.ports.nowMs())} resync ${seat.resync?.describe()}`,
        )
        .join(', ')
    );
  }

  get phase(): Phase {
    return this.#phase;
  }

  get isServing(): boolean {
    return this.#phase === 'serving';
  }

  get hasEnded(): boolean {
    return this.#phase === 'ended';
  }

  /** Nothing is in flight, and every member has been told so. */
  get isIdle(): boolean {
    return (
      this.#phase === 'serving' && this.#inFlightCount === 0 && this.#reconcile.isOver && this.#isEpochKept()
    );
  }

  /** For people and checkers: requests may be answered now. */
  get mayReply(): boolean {
    return this.#mayReply();
  }

  get seats(): Iterable<Seat> {
    return this.#seats;
  }

  // ---- requests of clients

  /** The range is inside the volume and not empty, except of a flush. */
  admit(request: number): void {
    this.#inFlightCount += 1;
    if (this.#phase === 'ended') {
      this.#giveBack(request);
      return;
    }
    if (this.#phase !== 'serving') {
      this.#held.push(request);
      return;
    }
    this.#begin(request);
  }

  #begin(request: number): void {
    const kind = this.#hub.table.kind[request] as number;
    if (kind !== READ && this.#hub.copy.hasFailed && this.#isSole()) this.#fail(request, EIO);
    else if (kind === FLUSH) this.#flush(request);
    else if (this.#reconcile.blocks(request)) this.#waitingForReconcile.push(request);
    else this.#lock(request);
  }

  #lock(request: number): void {
    const { broken, table } = this.#hub;
    const isFree =
      (broken.readsWaitForOverlappingWrites && table.kind[request] === READ) || broken.overlapsInOrder;
    if (isFree || this.#locks.acquire(request)) this.#locked(request);
  }

  #unlock(request: number): void {
    const { broken, table } = this.#hub;
    const isFree =
      (broken.readsWaitForOverlappingWrites && table.kind[request] === READ) ||
      (broken.overlapsInOrder && table.kind[request] !== COPY_READ && table.kind[request] !== REWRITE);
    if (!isFree) this.#locks.release(request);
  }

  #locked(request: number): void {
    const kind = this.#hub.table.kind[request] as number;
    if (kind === COPY_READ) {
      const resync = this.#resyncOf(request);
      if (resync !== undefined) resync.locked(request);
      else this.#endCopy(request);
    } else if (kind === REWRITE) {
      if (this.#phase !== 'ended') this.#reconcile.locked(request);
      else this.#dropUnsent(request);
    } else this.#lockedByClient(request, kind);
  }

  #lockedByClient(request: number, kind: number): void {
    const { ports, copy } = this.#hub;
    if (this.#phase === 'ended') this.#dropUnsent(request);
    else if (this.#host.isRevoked(request)) {
      this.#unlock(request);
      this.#fail(request, EIO);
    } else if (kind === READ) ports.startRead(request);
    else if (copy.prepare(request)) this.prepared(request);
  }

  /** Its extents are hot. */
  prepared(request: number): void {
    if (this.#phase === 'ended') this.#dropUnsent(request);
    else if (this.#host.isRevoked(request)) {
      this.#unlock(request);
      this.#fail(request, EIO);
    } else if (!this.#hasRoom()) {
      this.#waitingForRoom.push(request);
    } else this.#send(request);
  }

  #dropUnsent(request: number): void {
    this.#unlock(request);
    if (this.#hub.table.kind[request] === REWRITE) {
      this.#hub.ports.release(request);
      this.#endIfQuiet();
    } else this.#giveBack(request);
  }

  /** A rewrite of the reconciliation has its bytes and its lock. */
  #rewrite(request: number): void {
    if (this.#hub.copy.prepare(request)) this.prepared(request);
  }

  #send(request: number): void {
    const { table, copy, ports } = this.#hub;
    this.#sequences[0] = (this.#sequences[0] as number) + 1;
    const sequence = this.#sequences[0] as number;
    table.sequence[request] = sequence;
    table.sentMs[request] = ports.nowMs();
    this.#ring[sequence % WINDOW_SPAN] = request;
    const epoch = this.#config.epoch;
    let mask = LOCAL;
    for (const seat of this.#seats) if (this.#counts(seat)) mask |= seat.bit;
    table.waitMask[request] = mask;
    table.error[request] = 0;
    copy.start(request, epoch);
    for (const seat of this.#seats) {
      // A rewrite has its bytes only where a member needs them; a joining replica gets them by its delta.
      const isJoiner = table.kind[request] !== REWRITE && !this.#hub.broken.joiningStreamSendsWrites;
      const isWanted = (seat.role === 'member' && !seat.isLost) || isJoiner;
      if (seat.isOpen && isWanted) this.#forward(seat, request);
    }
  }

  #forward(seat: Seat, request: number): void {
    const { table, out, ports } = this.#hub;
    const isZero = table.kind[request] === ZERO || table.isHole[request] === 1;
    out.type = isZero ? FRAME_ZERO : FRAME_WRITE;
    out.flags = table.flags[request] as number;
    out.epoch = this.#config.epoch;
    out.errno = 0;
    out.lengthBytes = table.lengthBytes[request] as number;
    out.numbers[SEQUENCE] = table.sequence[request] as number;
    out.numbers[OFFSET] = table.offsetBytes[request] as number;
    out.numbers[WATERMARK] = this.#sequences[1] as number;
    seat.unansweredCount += 1;
    ports.sendFrame(seat.link, out, isZero ? NONE : request);
  }

  // ---- answers

  /** The local copy has a write, or failed to. */
  applied(request: number, errno: number): void {
    const { table } = this.#hub;
    if (errno !== 0) {
      table.error[request] = errno;
      this.#localFailed(errno);
    }
    this.#answered(request, LOCAL);
  }

  readDone(request: number, errno: number): void {
    const { table } = this.#hub;
    if (table.kind[request] === REWRITE) {
      if (errno !== 0) this.#localFailed(errno);
      if (errno === 0 && this.#phase !== 'ended') this.#reconcile.readDone(request);
      else {
        this.#locks.release(request);
        this.#hub.ports.release(request);
        this.#endIfQuiet();
      }
      return;
    }
    if (table.kind[request] === COPY_READ) {
      const seat = this.#seatOfLink(table.origin[request] as number);
      if (seat?.resync !== undefined) seat.resync.readDone(request, errno);
      else this.#endCopy(request);
      if (errno !== 0 && seat !== undefined) this.#closeSeat(seat);
      this.#endIfQuiet();
      return;
    }
    table.error[request] = errno;
    if (errno === 0 || this.#isSole() || this.#phase === 'ended') {
      this.#finish(request);
      return;
    }
    // Another copy has these bytes: it takes over, and the frontend asks it.
    this.#unlock(request);
    this.#unreadable.push(request);
    this.#localFailed(errno);
  }

  /** A resync's copy whose stream is gone. */
  #endCopy(request: number): void {
    if (!this.#hub.broken.copyUnderRangeLock) this.#locks.release(request);
    this.#hub.ports.release(request);
  }

  #answered(request: number, bit: number): void {
    const { table } = this.#hub;
    const mask = (table.waitMask[request] as number) & ~bit;
    table.waitMask[request] = mask;
    if (this.#phase === 'ended') {
      if (bit === LOCAL) this.#abandon(request);
      return;
    }
    if (mask === 0 || (this.#hub.broken.ackWaitsForEveryMember && (mask & LOCAL) === 0))
      this.#settleIfKept(request);
  }

  /** Every copy that counts has it: it is settled, unless a higher epoch still waits for its promises. */
  #settleIfKept(request: number): void {
    const { table, copy } = this.#hub;
    if (!this.#isEpochKept(true) && !this.#hub.broken.epochKeptBeforeAck) return;
    // A copy that failed it is on its way out of the set, or this one hands over: nobody is told before.
    const hasFailed = (table.error[request] as number) !== 0 && !this.#hub.broken.failedWriteIsNotSettled;
    if (hasFailed && !this.#isSole()) return;
    const sequence = table.sequence[request] as number;
    if (this.#isAnyLost()) this.#ring[sequence % WINDOW_SPAN] = KEPT;
    else {
      this.#ring[sequence % WINDOW_SPAN] = NONE;
      copy.settle(sequence);
      this.#advance();
    }
    this.#finish(request);
    this.#useRoom();
  }

  /** No lost member is named any more: what was kept for it is settled, in the epoch that dropped or filled it. */
  #settleKept(): void {
    if (this.#isAnyLost()) return;
    const last = this.#sequences[0] as number;
    for (let sequence = (this.#sequences[1] as number) + 1; sequence <= last; sequence++) {
      if (this.#ring[sequence % WINDOW_SPAN] !== KEPT) continue;
      this.#ring[sequence % WINDOW_SPAN] = NONE;
      this.#hub.copy.settle(sequence);
    }
    this.#advance();
    this.#settleInherited();
    this.#useRoom();
  }

  #advance(): void {
    let settled = this.#sequences[1] as number;
    const newest = this.#sequences[0] as number;
    while (settled < newest && this.#ring[(settled + 1) % WINDOW_SPAN] === NONE) settled += 1;
    this.#sequences[1] = settled;
    this.#hub.copy.settleUpTo(settled);
    for (const seat of this.#seats) this.#tellSettled(seat);
  }

  #useRoom(): void {
    while (!this.#waitingForRoom.isEmpty && this.#hasRoom()) this.prepared(this.#waitingForRoom.shift());
  }

  /** The window takes another write, and no stream is too far behind. */
  #hasRoom(): boolean {
    if ((this.#sequences[0] as number) - (this.#sequences[1] as number) >= WINDOW_SPAN - 1) return false;
    for (const seat of this.#seats) if (seat.unansweredCount >= UNANSWERED_LIMIT) return false;
    return true;
  }

  /** Settled, or read: the reply leaves now or when it may. */
  #finish(request: number): void {
    const { table } = this.#hub;
    if (table.kind[request] === REWRITE) {
      this.#unlock(request);
      this.#reconcile.done(request);
      this.#reconciled();
      return;
    }
    // The range is free before the reply may leave: what is settled may be overwritten, and resyncs go on meanwhile.
    this.#unlock(request);
    this.#replyOrWait(request);
  }

  #replyOrWait(request: number): void {
    if (this.#phase === 'ended') this.#giveBack(request);
    else if (this.#mayReply()) this.#reply(request);
    else {
      this.#unreplied.push(request);
      this.#lookSoon();
    }
  }

  #reply(request: number): void {
    const { table } = this.#hub;
    this.#inFlightCount -= 1;
    this.#host.answer(request, table.error[request] as number);
    if (this.#phase === 'draining') this.#drained();
  }

  #fail(request: number, errno: number): void {
    this.#inFlightCount -= 1;
    this.#host.answer(request, errno);
  }

  #giveBack(request: number): void {
    this.#inFlightCount -= 1;
    this.#host.giveBack(request);
    this.#endIfQuiet();
  }

  /** Replies that waited for a lease, for promises or for the minimum. */
  #replyWaiting(): void {
    if (this.#isSole() && this.#mayReply())
      for (let r = this.#unreadable.shift(); r !== NONE; r = this.#unreadable.shift()) this.#reply(r);
    if (this.#unreplied.isEmpty || !this.#mayReply()) return;
    const waiting = new RequestQueue(this.#hub.table);
    this.#unreplied.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift())
      this.#replyOrWait(request);
  }

  // ---- flushes

  #flush(request: number): void {
    this.#flushNext.push(request);
    if (!this.#isFlushRunning) this.#startFlush();
  }

  #startFlush(): void {
    const { copy, broken, ports } = this.#hub;
    this.#flushNext.moveTo(this.#flushing);
    this.#isFlushRunning = true;
    this.#flushRound += 1;
    let mask = LOCAL;
    for (const seat of this.#seats)
      if (this.#counts(seat) && !broken.flushReachesEveryMember) mask |= seat.bit;
    this.#flushMask = mask;
    this.#flushSinceMs = ports.nowMs();
    this.#localFlushRound = copy.requestFlush();
    for (const seat of this.#seats)
      if (seat.isOpen && (mask & seat.bit) !== 0) this.#sendFlush(seat, this.#flushRound);
  }

  #sendFlush(seat: Seat, round: number): void {
    const { out, ports } = this.#hub;
    out.type = FRAME_FLUSH;
    out.flags = 0;
    out.epoch = this.#config.epoch;
    out.numbers[SEQUENCE] = round;
    ports.sendFrame(seat.link, out, NONE);
  }

  /** The local copy's rounds up to this number are over. */
  flushed(round: number, errno: number): void {
    if (errno !== 0) this.#localFailed(errno);
    if (this.#isFlushRunning && round >= this.#localFlushRound && (errno === 0 || this.#isSole()))
      this.#flushAnswered(LOCAL, errno);
  }

  #flushAnswered(bit: number, errno: number): void {
    this.#flushMask &= ~bit;
    if (errno !== 0) for (const request of this.#flushing.requests()) this.#hub.table.error[request] = errno;
    this.#endFlush();
  }

  #endFlush(): void {
    if (!this.#isFlushRunning || this.#flushMask !== 0 || !this.#isEpochKept()) return;
    const done = new RequestQueue(this.#hub.table);
    this.#flushing.moveTo(done);
    this.#isFlushRunning = false;
    if (!this.#flushNext.isEmpty && this.#phase !== 'ended') this.#startFlush();
    for (let request = done.shift(); request !== NONE; request = done.shift()) this.#replyOrWait(request);
  }

  // ---- who counts

  /**
   * Its answers and its lease are needed: it is in a set that the store may hold now, or is about to be. One that
   * is lost and named is not waited for, so that others can be filled; but no reply leaves while it is named.
   */
  #counts(seat: Seat): boolean {
    if (seat.isGating && !this.#hub.broken.gateFromSubmission) return true;
    if (seat.isLost) return false;
    const isCommitted = memberOf(this.#config, seat.replicaId) !== undefined;
    const { pending } = this.#hub;
    if (pending === undefined) return isCommitted;
    const isPending = memberOf(pending, seat.replicaId) !== undefined;
    // A smaller set counts only once it is committed.
    if (isCommitted) return isPending || !this.#hub.broken.dropIsCommittedBeforeAck;
    return isPending && !this.#hub.broken.gateFromSubmission;
  }

  /** A member that nobody waits for is still named: it could be promoted, and the windows must say what it lacks. */
  #isAnyLost(): boolean {
    if (this.#hub.broken.lostMembersKeepWindows) return false;
    for (const seat of this.#seats) if (seat.isLost && seat.role === 'member') return true;
    return false;
  }

  /** The set names no other copy: only then an error of this one's disk reaches the application. Else requests wait. */
  #isSole(): boolean {
    const { pending } = this.#hub;
    return this.#config.inSync.length === 1 && (pending === undefined || pending.inSync.length === 1);
  }

  #isAlone(): boolean {
    for (const seat of this.#seats) if (this.#counts(seat)) return false;
    return true;
  }

  /** The promise of the epoch is durable here and on every member. `isInternal`: those that are lost do not count. */
  #isEpochKept(isInternal = false): boolean {
    if (!this.#isPromised) return false;
    for (const seat of this.#seats) {
      if (memberOf(this.#config, seat.replicaId) === undefined) continue;
      if (seat.isLost) {
        if (isInternal) continue;
        return false;
      }
      if (seat.keptEpoch < this.#config.epoch) return false;
    }
    return true;
  }

  #mayReply(): boolean {
    const { broken, ports, known } = this.#hub;
    if (this.#phase === 'adopting' || this.#phase === 'ended' || this.#isRenounced) return false;
    if (this.#config.inSync.length < minimumInSync(this.#config) && !broken.minimumHoldsRequests)
      return false;
    if (known.config.primary.opening !== this.opening) return false;
    if (!this.#isEpochKept() && !broken.epochKeptBeforeAck) return false;
    if (broken.leaseCheckedAtReply) return true;
    const nowMs = ports.nowMs();
    let hasOne = false;
    let isAnyMissing = false;
    for (const seat of this.#seats) {
      if (!this.#counts(seat)) continue;
      if (nowMs < seat.leaseUntilMs) hasOne = true;
      else isAnyMissing = true;
    }
    return !isAnyMissing || (broken.leaseFromEveryMember && hasOne);
  }

  // ---- streams

  #seat(): void {
    const nowMs = this.#hub.ports.nowMs();
    const wanted = this.#config.replicas.filter(({ id }) => id !== this.#hub.replicaId);
    for (const replica of wanted) {
      let seat = this.#seatOf(replica.id);
      if (seat === undefined) {
        seat = new Seat(replica, this.#freeBit(), nowMs);
        this.#seats.push(seat);
      }
      const role = memberOf(this.#config, replica.id) !== undefined ? 'member' : 'joining';
      if (role === 'joining' && seat.role === 'member') this.#dropped(seat, nowMs);
      seat.role = role;
    }
    for (const seat of Array.from(this.#seats)) {
      if (wanted.some(({ id }) => id === seat.replicaId)) continue;
      this.#closeSeat(seat);
      this.#clearBit(seat);
      this.#seats.splice(this.#seats.indexOf(seat), 1);
    }
  }

  #freeBit(): number {
    const taken = [...this.#seats].reduce((mask, seat) => mask | seat.bit, LOCAL);
    let bit = LOCAL << 1;
    while ((taken & bit) !== 0) bit <<= 1;
    return bit;
  }

  #dropped(seat: Seat, nowMs: number): void {
    const isFlapping = nowMs - seat.droppedMs < HELD_OUT_LIMIT_MS;
    seat.heldOutMs = isFlapping ? Math.min(seat.heldOutMs * 2, HELD_OUT_LIMIT_MS) : HELD_OUT_MS;
    seat.droppedMs = nowMs;
    seat.nextAttemptMs = nowMs + seat.heldOutMs;
    seat.isLost = false;
    this.#closeSeat(seat);
    this.#clearBit(seat);
    this.#hub.ports.event({ type: 'memberDropped', replicaId: seat.replicaId, epoch: this.#config.epoch });
  }

  /** Nothing waits for it any more. */
  #clearBit(seat: Seat): void {
    const { table } = this.#hub;
    for (const request of this.#ring) {
      if (request >= 0) table.waitMask[request] = (table.waitMask[request] as number) & ~seat.bit;
    }
    this.#flushMask &= ~seat.bit;
  }

  #closeSeat(seat: Seat): void {
    if (seat.link !== NONE) this.#hub.ports.closeLink(seat.link);
    this.#seatClosed(seat);
  }

  #seatClosed(seat: Seat): void {
    seat.closed(this.#hub.ports.nowMs(), !this.#hub.broken.joinEndsWithItsStream);
    this.#recount();
    this.#useRoom();
  }

  /** Nobody waits for an answer that does not count any more. */
  #recount(): void {
    if (this.#phase === 'ended') return;
    for (const seat of this.#seats) if (!this.#counts(seat)) this.#clearBit(seat);
    this.#settleWaiting();
    this.#endFlush();
  }

  #connect(seat: Seat, nowMs: number): void {
    const { ports, known } = this.#hub;
    seat.nextAttemptMs = nowMs + RECONNECT_MS;
    this.#streamCount += 1;
    seat.link = ports.connect(seat.node, seat.replicaId);
    seat.helloEpoch = this.#config.epoch;
    ports.sendControl(seat.link, FRAME_HELLO, {
      kind: 'stream',
      volumeId: this.#config.volumeId,
      config: this.#config,
      revision: known.revision,
      replicaId: seat.replicaId,
      stream: this.#streamCount,
      watermark: this.#sequences[1] as number,
      role: seat.isLost ? 'joining' : seat.role,
    });
  }

  linkClosed(link: number): void {
    const seat = this.#seatOfLink(link);
    if (seat !== undefined) this.#seatClosed(seat);
  }

  #seatOf(replicaId: string): Seat | undefined {
    return this.#seats.find((seat) => seat.replicaId === replicaId);
  }

  #seatOfLink(link: number): Seat | undefined {
    for (const seat of this.#seats) if (seat.link === link) return seat;
    return undefined;
  }

  #resyncOf(request: number): Resync | undefined {
    return this.#seatOfLink(this.#hub.table.origin[request] as number)?.resync;
  }

  control(link: number, type: number, message: unknown): void {
    const seat = this.#seatOfLink(link);
    if (seat === undefined || this.#phase === 'ended') return;
    seat.heardMs = this.#hub.ports.nowMs();
    if (type === FRAME_WELCOME) this.#welcomed(seat, message as StreamWelcome);
    else if (type === FRAME_REFUSED) this.#refused(seat, message as Refused);
  }

  #refused(seat: Seat, { reason, epoch }: Refused): void {
    const { ports } = this.#hub;
    this.#closeSeat(seat);
    if (reason === 'failed' || reason === 'lineage') seat.hasFailed = true;
    const isUrgent = !seat.hasFailed || seat.role === 'member';
    seat.nextAttemptMs = ports.nowMs() + (isUrgent ? RECONNECT_MS : FAILED_RETRY_MS);
    if (reason === 'epoch' || epoch > this.#config.epoch) this.#hub.look();
  }

  #welcomed(seat: Seat, welcome: StreamWelcome): void {
    const { broken } = this.#hub;
    seat.isOpen = true;
    seat.welcome = welcome;
    seat.hasFailed = false;
    // It answers after its promise of the configuration that its stream began with is durable.
    seat.keptEpoch = seat.helloEpoch;
    const member = memberOf(this.#config, seat.replicaId);
    const isSame =
      member !== undefined && (member.incarnation === null || member.incarnation === welcome.incarnation);
    // In another incarnation it may have lost what it acknowledged; a window that nobody can read, in the middle of
    // an opening, says the same. It is out, however well it looks; where the set cannot do without it, it is filled again.
    const isDoubtful =
      this.#phase !== 'adopting' && welcome.suspects === 'hot' && welcome.hotExtents.length > 0;
    if (
      seat.role === 'member' &&
      !seat.isLost &&
      (!isSame || isDoubtful) &&
      !broken.incarnationCheckedAtJoin
    ) {
      seat.isLost = true;
      seat.lacksSince = isSame ? this.#config.epoch : welcome.lastInSyncEpoch;
      this.#closeSeat(seat);
      this.#considerDrops();
      this.#startServing();
      return;
    }
    if (seat.helloEpoch < this.#config.epoch) this.#sendEpoch(seat);
    if (seat.isLost || seat.role === 'joining') {
      this.#sendUnanswered(seat);
      if (this.#phase === 'serving' && this.#reconcile.isOver) this.#startResync(seat, welcome);
      return;
    }
    this.#gather(seat.replicaId, welcome.suspects, welcome.hotExtents);
    this.#sendUnanswered(seat);
    seat.settledAtSequence = (this.#sequences[0] as number) + 1;
    this.#beat(seat);
    this.#tellSettled(seat);
    this.#promisesChanged();
  }

  /** What it has not answered goes again, in order; what its older stream brought has come to rest by now. */
  #sendUnanswered(seat: Seat): void {
    const { table } = this.#hub;
    for (
      let sequence = (this.#sequences[1] as number) + 1;
      sequence <= (this.#sequences[0] as number);
      sequence++
    ) {
      const request = this.#ring[sequence % WINDOW_SPAN] as number;
      if (request < 0 || ((table.waitMask[request] as number) & seat.bit) === 0) continue;
      this.#forward(seat, request);
    }
    if (this.#isFlushRunning && (this.#flushMask & seat.bit) !== 0) this.#sendFlush(seat, this.#flushRound);
  }

  #sendEpoch(seat: Seat): void {
    const { ports, known } = this.#hub;
    ports.sendControl(seat.link, FRAME_EPOCH, {
      config: this.#config,
      revision: known.revision,
      role: seat.isLost ? 'joining' : seat.role,
    });
  }

  #beat(seat: Seat): void {
    const { out, ports } = this.#hub;
    out.type = FRAME_BEAT;
    out.flags = 0;
    out.epoch = this.#config.epoch;
    out.numbers[TIME] = ports.nowMs();
    out.numbers[WATERMARK] = this.#sequences[1] as number;
    ports.sendFrame(seat.link, out, NONE);
  }

  /** Everything that was in flight or suspect when its stream began is settled. */
  #tellSettled(seat: Seat): void {
    if (seat.settledAtSequence === 0 || !seat.isOpen || seat.role !== 'member' || seat.isLost) return;
    if (!this.#reconcile.isOver || this.#isAnyLost()) return;
    if ((this.#sequences[1] as number) < seat.settledAtSequence - 1) return;
    seat.settledAtSequence = 0;
    const { out, ports } = this.#hub;
    out.type = FRAME_SETTLED;
    out.epoch = this.#config.epoch;
    out.numbers[SEQUENCE] = this.#sequences[1] as number;
    ports.sendFrame(seat.link, out, NONE);
  }

  frame(link: number, fields: FrameFields): void {
    const seat = this.#seatOfLink(link);
    if (seat === undefined || this.#phase === 'ended' || !seat.isOpen) return;
    const { ports, table, broken } = this.#hub;
    seat.heardMs = ports.nowMs();
    const sequence = fields.numbers[SEQUENCE] as number;
    switch (fields.type) {
      case FRAME_DONE: {
        seat.unansweredCount -= 1;
        if (seat.isGating && sequence < seat.gateSequence) seat.olderUnansweredCount -= 1;
        if (fields.errno !== 0) {
          this.#seatFailed(seat);
          return;
        }
        const request = this.#ring[sequence % WINDOW_SPAN] as number;
        if (request >= 0 && table.sequence[request] === sequence) this.#answered(request, seat.bit);
        this.#useRoom();
        this.#joinIfReady(seat);
        return;
      }
      case FRAME_FLUSHED:
        if (fields.errno !== 0) this.#seatFailed(seat);
        else if (sequence >= JOIN_ROUND) this.#joinFlushed(seat, sequence);
        else if (sequence === this.#flushRound) this.#flushAnswered(seat.bit, 0);
        return;
      case FRAME_GRANT: {
        const from = broken.leaseCountsFromSending ? ports.nowMs() : (fields.numbers[TIME] as number);
        seat.leaseUntilMs = Math.max(seat.leaseUntilMs, from + LEASE_HELD_MS);
        this.#replyWaiting();
        return;
      }
      case FRAME_EPOCH_KEPT:
        seat.keptEpoch = fields.epoch;
        this.#promisesChanged();
        return;
      case FRAME_COPIED:
        if (fields.errno !== 0) this.#seatFailed(seat);
        else {
          seat.resync?.copied(sequence);
          this.#joinIfReady(seat);
        }
        return;
      case FRAME_STAMPED:
        seat.resync?.stamped();
        this.#joinIfReady(seat);
    }
  }

  /** Its disk refused something: it leaves the set, and comes back when it can. */
  #seatFailed(seat: Seat): void {
    this.#hub.ports.event({ type: 'memberSilent', replicaId: seat.replicaId });
    seat.hasFailed = true;
    this.#closeSeat(seat);
    seat.nextAttemptMs = this.#hub.ports.nowMs() + HELD_OUT_MS;
    this.#considerDrops();
  }

  // ---- the epoch

  /** The known configuration has changed, and this is still the primary of it. */
  configChanged(): void {
    const before = this.#config;
    const next = this.#hub.known.config;
    this.#config = next;
    const { copy } = this.#hub;
    if (next.epoch !== before.epoch) {
      // First: a write that only waited for a member that is gone settles in recount(), in this epoch.
      this.#isPromised = false;
      copy.durability = next.durability;
      copy.restampUnsettled(next.epoch);
    }
    this.#seat();
    this.#recount();
    if (next.epoch === before.epoch) return;
    for (const seat of this.#seats) {
      if (!seat.isOpen) continue;
      const named = memberOf(next, seat.replicaId)?.incarnation;
      if (seat.role === 'member' && seat.isGating && named === seat.welcome?.incarnation) this.#joined(seat);
      this.#sendEpoch(seat);
    }
    this.#settleKept();
    this.#promise();
  }

  #promise(): void {
    const hub = this.#hub;
    const config = this.#config;
    this.#isPromised = false;
    hub.keep(
      {
        promisedEpoch: config.epoch,
        attachmentNumber: config.attachment.number,
        durability: config.durability,
        lastInSyncIncarnation: hub.incarnation,
        inSync: knownSet(config),
      },
      () => {
        if (this.#phase === 'ended' || this.#config.epoch !== config.epoch) return;
        this.#isPromised = true;
        this.#gather(hub.replicaId, this.#ownSuspects, hub.copy.extents.hotExtents());
        this.#promisesChanged();
      },
    );
  }

  /** A promise became durable, or a member left: what waited for it may go on. */
  #promisesChanged(): void {
    this.#startServing();
    this.#settleWaiting();
    if (!this.#isEpochKept()) return;
    this.#endFlush();
    this.#replyWaiting();
  }

  #settleWaiting(): void {
    const { table } = this.#hub;
    const last = this.#sequences[0] as number;
    for (let sequence = (this.#sequences[1] as number) + 1; sequence <= last; sequence++) {
      const request = this.#ring[sequence % WINDOW_SPAN] as number;
      if (request >= 0 && table.sequence[request] === sequence && table.waitMask[request] === 0)
        this.#settleIfKept(request);
    }
  }

  // ---- the beginning: adopt the members, settle what is suspect

  #gather(replicaId: string, suspects: readonly SuspectRange[] | 'hot', hotExtents: readonly number[]): void {
    if (this.#gathered.has(replicaId) || this.#phase !== 'adopting') return;
    this.#gathered.add(replicaId);
    const { broken } = this.#hub;
    if (broken.reconcileBeforeServing) return;
    if (broken.suspectsOfEveryMember && replicaId !== this.#hub.replicaId) return;
    if (suspects === 'hot')
      for (const extent of hotExtents) this.#reconcile.suspect(extent * EXTENT_BYTES, EXTENT_BYTES);
    else
      for (const { offsetBytes, lengthBytes } of suspects) this.#reconcile.suspect(offsetBytes, lengthBytes);
    this.#startServing();
  }

  #startServing(): void {
    if (this.#phase !== 'adopting' || !this.#isPromised) return;
    const isMissing = ({ replicaId }: { replicaId: string }): boolean =>
      !this.#gathered.has(replicaId) && this.#seatOf(replicaId)?.isLost !== true;
    if (this.#config.inSync.some(isMissing) || !this.#isEpochKept(true)) return;
    this.#phase = 'serving';
    this.#hub.ports.event({ type: 'role', role: 'primary', epoch: this.#config.epoch });
    this.#reconcile.start(this.#isAlone(), (request) => this.#locks.acquire(request));
    this.#reconciled();
    const held = new RequestQueue(this.#hub.table);
    this.#held.moveTo(held);
    for (let request = held.shift(); request !== NONE; request = held.shift()) this.#begin(request);
  }

  #reconciled(): void {
    const hub = this.#hub;
    const waiting = new RequestQueue(hub.table);
    this.#waitingForReconcile.moveTo(waiting);
    for (let request = waiting.shift(); request !== NONE; request = waiting.shift()) {
      if (this.#phase === 'ended') this.#giveBack(request);
      else if (this.#reconcile.blocks(request)) this.#waitingForReconcile.push(request);
      else this.#lock(request);
    }
    if (!this.#reconcile.isOver || this.#phase === 'ended') return;
    if (!this.#reconcile.isTold) {
      this.#reconcile.isTold = true;
      hub.ports.event({ type: 'reconciled', epoch: this.#config.epoch, bytes: this.#reconcile.bytes });
      for (const seat of this.#seats) {
        this.#tellSettled(seat);
        if (seat.isOpen && (seat.isLost || seat.role === 'joining') && seat.welcome !== undefined)
          this.#startResync(seat, seat.welcome);
      }
    }
    this.#settleInherited();
  }

  /** What earlier openings left in doubt is the same on every member that is named. */
  #settleInherited(): void {
    if (!this.#reconcile.isTold || this.#isInheritedSettled || this.#isAnyLost()) return;
    this.#isInheritedSettled = true;
    this.#hub.copy.settleInherited(this.#config.epoch);
    for (const seat of this.#seats) this.#tellSettled(seat);
  }

  // ---- joining

  #startResync(seat: Seat, welcome: StreamWelcome): void {
    const { outSince, needsFullCopy } = replicaOf(this.#config, seat.replicaId);
    const lacksFrom = seat.isLost ? welcome.lastInSyncEpoch : outSince;
    const isFull = needsFullCopy || lacksFrom === null || !welcome.isDeltaBase;
    const hotExtents =
      welcome.suspects === 'hot' || !this.#hub.broken.suspectsInDelta ? welcome.hotExtents : [];
    seat.resync = new Resync(this.#hub, this.#locks, {
      link: seat.link,
      suspects: welcome.suspects === 'hot' ? [] : welcome.suspects,
      hotExtents,
      since: isFull ? 0 : this.#hub.broken.outSinceIsRecorded ? lacksFrom + 1 : lacksFrom,
      isFull,
    });
    seat.resync.step();
    this.#joinIfReady(seat);
  }

  /** Copied, then everything sent is answered, then flushed, then proposed. */
  #joinIfReady(seat: Seat): void {
    const { broken } = this.#hub;
    const { resync } = seat;
    if (resync === undefined || !seat.isOpen) return;
    if (!resync.isDone && !broken.deltaIsCompleteBeforeJoin) return;
    if (!seat.isGating) {
      seat.isGating = true;
      seat.gateSequence = (this.#sequences[0] as number) + 1;
      // Newer writes wait for it; the older ones it has only to answer.
      seat.olderUnansweredCount = seat.unansweredCount;
    }
    const isBehind = seat.olderUnansweredCount > 0 && !broken.answeredBeforeJoin;
    if (isBehind || seat.joinRound !== 0) return;
    this.#joinRoundCount += 1;
    seat.joinRound = JOIN_ROUND + this.#joinRoundCount;
    if (broken.flushBeforeJoin) this.#joinFlushed(seat, seat.joinRound);
    else this.#sendFlush(seat, seat.joinRound);
  }

  #joinFlushed(seat: Seat, round: number): void {
    if (!seat.isGating || seat.joinRound !== round) return;
    seat.isReadyToJoin = true;
    this.#proposeJoin(seat);
  }

  #proposeJoin(seat: Seat): void {
    const hub = this.#hub;
    if (hub.pending !== undefined || !seat.isReadyToJoin || seat.welcome === undefined || !this.#mayPropose())
      return;
    const member = { replicaId: seat.replicaId, incarnation: seat.welcome.incarnation };
    // It takes the place of one that the set could not do without so far.
    const silent = this.#seats.find(
      (other) => other !== seat && other.role === 'member' && this.#isSilent(other),
    );
    const insteadOf = seat.isLost || silent === undefined ? [] : [silent.replicaId];
    hub.submit(addMember(this.#config, member, insteadOf, this.#lacking()));
  }

  /** Since when lost members lack what was written: longer than since the epoch that drops them. */
  #lacking(): Map<string, number> {
    if (this.#hub.broken.lackingSinceLoss) return new Map();
    const lost = this.#seats.filter((seat) => seat.isLost && seat.role === 'member');
    return new Map(lost.map(({ replicaId, lacksSince }) => [replicaId, lacksSince]));
  }

  #joined(seat: Seat): void {
    seat.isGating = false;
    seat.isLost = false;
    seat.isReadyToJoin = false;
    seat.joinRound = 0;
    seat.resync?.stop();
    seat.resync = undefined;
    seat.settledAtSequence = (this.#sequences[0] as number) + 1;
    this.#hub.ports.event({ type: 'memberAdded', replicaId: seat.replicaId, epoch: this.#config.epoch });
    this.#beat(seat);
  }

  // ---- silence

  #isSilent(seat: Seat): boolean {
    const nowMs = this.#hub.ports.nowMs();
    if (seat.hasFailed || seat.isLost) return true;
    if (!seat.isOpen) return nowMs - seat.closedSinceMs >= DROP_AFTER_MS;
    if (nowMs - seat.heardMs >= DROP_AFTER_MS) return true;
    const oldest = this.#oldest();
    const { table } = this.#hub;
    if (
      this.#isFlushRunning &&
      (this.#flushMask & seat.bit) !== 0 &&
      nowMs - this.#flushSinceMs >= SLOW_AFTER_MS
    )
      return true;
    if (oldest === NONE || ((table.waitMask[oldest] as number) & seat.bit) === 0) return false;
    return nowMs - (table.sentMs[oldest] as number) >= SLOW_AFTER_MS;
  }

  /** The oldest write that somebody still has to answer. */
  #oldest(): number {
    const last = this.#sequences[0] as number;
    for (let sequence = (this.#sequences[1] as number) + 1; sequence <= last; sequence++) {
      const request = this.#ring[sequence % WINDOW_SPAN] as number;
      if (request >= 0) return request;
    }
    return NONE;
  }

  /** Its own disk hangs: the others are not held up by it. */
  #isLocalSlow(): boolean {
    const nowMs = this.#hub.ports.nowMs();
    const { table } = this.#hub;
    if (
      this.#isFlushRunning &&
      (this.#flushMask & LOCAL) !== 0 &&
      nowMs - this.#flushSinceMs >= SLOW_AFTER_MS
    )
      return true;
    const oldest = this.#oldest();
    if (oldest === NONE || ((table.waitMask[oldest] as number) & LOCAL) === 0) return false;
    return nowMs - (table.sentMs[oldest] as number) >= SLOW_AFTER_MS;
  }

  #mayPropose(): boolean {
    return this.#phase === 'adopting' || this.#phase === 'serving';
  }

  /** Members that are silent leave, as far as the minimum allows. */
  #considerDrops(): void {
    const hub = this.#hub;
    if (hub.pending !== undefined || !this.#mayPropose()) return;
    const silent: string[] = [];
    for (const seat of this.#seats) {
      if (seat.role !== 'member' || !this.#isSilent(seat)) continue;
      if (canDrop(this.#config, [...silent, seat.replicaId])) silent.push(seat.replicaId);
    }
    if (silent.length === 0) return;
    for (const replicaId of silent) hub.ports.event({ type: 'memberSilent', replicaId });
    hub.submit(dropMembers(this.#config, silent, this.#lacking()));
  }

  /**
   * A member that is away and cannot be dropped holds writes up, and they hold their ranges: where another replica
   * could be filled to take its place, it is given up. What was settled without it reaches it by its delta.
   */
  #considerLoss(): void {
    if (this.#hub.pending !== undefined) return;
    if (!this.#seats.some((seat) => seat.role === 'joining' && seat.resync !== undefined)) return;
    for (const seat of this.#seats) {
      if (seat.role !== 'member' || seat.isLost || seat.isOpen || !this.#isSilent(seat)) continue;
      seat.isLost = true;
      seat.lacksSince = this.#config.epoch;
      this.#recount();
    }
  }

  copyHasFailed(): void {
    this.#localFailed(EIO);
  }

  stampsRead(link: number, extent: number, errno: number, stamps: Uint32Array): void {
    const seat = this.#seatOfLink(link);
    if (seat === undefined) return;
    seat.resync?.stampsRead(extent, errno, stamps);
    this.#joinIfReady(seat);
  }

  #localFailed(errno: number): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#hub.ports.event({ type: 'failed', what: 'data', errno });
    this.#leave();
  }

  /** Its own copy failed: a member that has everything takes over, and this one leaves. */
  #leave(): void {
    const hub = this.#hub;
    if (hub.pending !== undefined || this.#phase === 'ended') return;
    for (const seat of this.#seats) {
      if (seat.role !== 'member' || !seat.isOpen || seat.welcome === undefined || this.#isSilent(seat))
        continue;
      // Where the set cannot do without this copy it stays, as a secondary that the new primary brings up to date.
      const leaves = this.#config.inSync.length - 1 >= minimumInSync(this.#config);
      this.#phase = 'draining';
      this.#isRenounced = true;
      hub.submit(handOver(this.#config, seat.replicaId, seat.welcome.opening, leaves));
      return;
    }
  }

  // ---- handover

  /** Drains, and gives the place to this member. False: it cannot now. */
  handOver(replicaId: string): boolean {
    const seat = this.#seatOf(replicaId);
    if (this.#phase !== 'serving' || !this.#reconcile.isOver || this.#hub.pending !== undefined) return false;
    if (seat === undefined || !seat.isOpen || seat.role !== 'member' || this.#isSilent(seat)) return false;
    if (!this.#isEpochKept()) return false;
    this.#phase = 'draining';
    this.#handOverTo = replicaId;
    this.#drainingSinceMs = this.#hub.ports.nowMs();
    this.#drained();
    return true;
  }

  #drained(): void {
    const hub = this.#hub;
    if (this.#handOverTo === undefined || hub.pending !== undefined) return;
    const seat = this.#seatOf(this.#handOverTo);
    const isLate = hub.ports.nowMs() - this.#drainingSinceMs >= DRAIN_LIMIT_MS;
    if (isLate || seat?.isOpen !== true || seat.isLost || seat.welcome === undefined) {
      this.#resume();
      return;
    }
    if (this.#inFlightCount > this.#heldCount() && !hub.broken.drainBeforeHandover) return;
    // From here on this opening answers nothing: the swap itself is its renouncement, and if its outcome is not
    // known, it serves again only by winning another opening.
    this.#handOverTo = undefined;
    if (!hub.broken.renounceBeforeHandover) this.#isRenounced = true;
    hub.submit(handOver(this.#config, seat.replicaId, seat.welcome.opening, false));
  }

  #heldCount(): number {
    let count = 0;
    for (const _ of this.#held.requests()) count += 1;
    return count;
  }

  #resume(): void {
    this.#handOverTo = undefined;
    this.#phase = 'serving';
    // Who was welcomed while it drained has not begun.
    for (const seat of this.#seats) {
      const isIdle = seat.isOpen && seat.resync === undefined && (seat.isLost || seat.role === 'joining');
      if (isIdle && seat.welcome !== undefined) this.#startResync(seat, seat.welcome);
    }
    const held = new RequestQueue(this.#hub.table);
    this.#held.moveTo(held);
    for (let request = held.shift(); request !== NONE; request = held.shift()) this.#begin(request);
  }

  get isRenounced(): boolean {
    return this.#isRenounced;
  }

  /** The target learns from its old primary what the store says now. */
  tellPromoted(): void {
    const { known, ports } = this.#hub;
    const seat = this.#seatOf(known.config.primary.replicaId);
    if (seat?.isOpen === true)
      ports.sendControl(seat.link, FRAME_PROMOTE, { config: known.config, revision: known.revision });
  }

  // ---- the end

  /** Another primary was chosen, or this opening is over: what is unanswered goes back to its frontend. */
  end(): void {
    if (this.#phase === 'ended') return;
    this.#phase = 'ended';
    for (const seat of this.#seats) this.#closeSeat(seat);
    const waiting = [
      this.#held,
      this.#waitingForReconcile,
      this.#flushing,
      this.#flushNext,
      this.#unreplied,
      this.#unreadable,
    ];
    for (const queue of waiting) {
      for (let request = queue.shift(); request !== NONE; request = queue.shift()) this.#giveBack(request);
    }
    for (let r = this.#waitingForRoom.shift(); r !== NONE; r = this.#waitingForRoom.shift()) this.prepared(r);
    for (let at = 0; at < WINDOW_SPAN; at++) {
      const request = this.#ring[at] as number;
      if (request >= 0 && ((this.#hub.table.waitMask[request] as number) & LOCAL) === 0)
        this.#abandon(request);
    }
    this.#reconcile.stop();
    this.#endIfQuiet();
  }

  /** A write in flight that this process will not settle: its window entry stays, for whoever does. */
  #abandon(request: number): void {
    const { table } = this.#hub;
    const at = (table.sequence[request] as number) % WINDOW_SPAN;
    if (this.#ring[at] === request) this.#ring[at] = NONE;
    this.#unlock(request);
    if (table.kind[request] === REWRITE) {
      this.#hub.ports.release(request);
      this.#endIfQuiet();
    } else this.#giveBack(request);
  }

  get isQuiet(): boolean {
    return this.#inFlightCount === 0 && this.#locks.isIdle && this.#hub.copy.isDataQuiet;
  }

  #endIfQuiet(): void {
    if (this.#phase === 'ended' && this.isQuiet) this.#host.primaryEnded();
  }

  // ---- time

  tick(): void {
    const hub = this.#hub;
    const nowMs = hub.ports.nowMs();
    if (this.#phase === 'ended') {
      this.#endIfQuiet();
      return;
    }
    for (const seat of this.#seats) {
      if (seat.link === NONE && nowMs >= seat.nextAttemptMs) this.#connect(seat, nowMs);
      // A link that says nothing is given up, and another one tried.
      else if (seat.link !== NONE && nowMs - Math.max(seat.heardMs, seat.nextAttemptMs) >= DROP_AFTER_MS)
        this.#closeSeat(seat);
      seat.resync?.step();
      this.#joinIfReady(seat);
      if (seat.isReadyToJoin) this.#proposeJoin(seat);
    }
    if (nowMs >= this.#beatAtMs) {
      this.#beatAtMs = nowMs + BEAT_MS;
      for (const seat of this.#seats) if (seat.isOpen) this.#beat(seat);
    }
    this.#considerDrops();
    this.#considerLoss();
    if (this.#isLocalSlow()) this.#localFailed(EIO);
    if (this.#hasFailed) this.#leave();
    this.#reconcile.step();
    if (!this.#mayReply()) this.#lookSoon();
    this.#replyWaiting();
    if (this.#phase === 'draining' && this.#handOverTo !== undefined) this.#drained();
  }

  #lookSoon(): void {
    const nowMs = this.#hub.ports.nowMs();
    if (nowMs < this.#lookAtMs) return;
    this.#lookAtMs = nowMs + STORE_RETRY_MS;
    this.#hub.look();
  }
}
