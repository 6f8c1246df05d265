// One data-plane thread: its ring, its memory, its volumes and sessions, and the loop.
//
// A turn of the loop: take completions; make the reads, writes and sends that gathered, and let parked sessions
// try again, until nothing moves; enter the ring, which submits everything and waits. Nothing in a turn
// allocates as long as only requests come.
// Control messages come through the port; an eventfd in the ring wakes the thread for them.

import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { invariant } from '../core/invariant.ts';
import type { DataFile } from './data-file.ts';
import type { ClusterLinks } from './cluster/cluster-links.ts';
import type { ClusterEvent } from './cluster/messages.ts';
import { MappedReads } from './mapped-reads.ts';
import { native } from './native.ts';
import { Session, type SessionOptions } from './nbd/session.ts';
import type { Peers } from './peers/peers.ts';
import { ReadBatch } from './read-batch.ts';
import { CancellingRing } from './cancelling-ring.ts';
import { NotBegun } from './not-begun.ts';
import { ECANCELED, Ring } from './ring.ts';
import { SendBatch } from './send-batch.ts';
import { Slots } from './slots.ts';
import {
  TAG_ACCEPT,
  TAG_CLOSE,
  TAG_DATA,
  TAG_FLUSH,
  TAG_GENERATION,
  TAG_INTENT,
  TAG_LINK_CONNECT,
  TAG_LINK_RECEIVE,
  TAG_LINK_SEND,
  TAG_MERGE_READ,
  TAG_PROTOCOL_TICK,
  TAG_RECEIVE,
  TAG_REST,
  TAG_SEND,
  TAG_STAMP,
  TAG_TICK,
  TAG_WAKE,
  TAG_ZERO,
} from './tags.ts';
import { SESSION_CAPACITY, ThreadMemory } from './thread-memory.ts';
import type { ThreadCounters, ThreadData, ThreadEvent, ThreadFaults } from './thread-messages.ts';
import type { VolumeLogs } from './volume-logs.ts';
import { nameThread, turnBegins, turnEnds } from './watchdog.ts';
import { WriteBatch } from './write-batch.ts';

const SUBMISSION_ENTRIES = 1024;
const COMPLETION_ENTRIES = 8192;
/** Completions taken in one turn, so that replies do not wait for an endless stream of them. */
const COMPLETIONS_PER_TURN = 256;

/** Something that accepts connections. */
export interface Listener {
  readonly fd: number;
  /** The connection is the listener's to place or to close. */
  accepted(fd: number): void;
  /** No accept is in the ring any more. */
  ended(): void;
}

/** Whoever works on a replica's files here: the ends of its ring entries and of its batches come back by its index. */
export interface FileUser {
  readonly index: number;
  readonly file: DataFile;
  readonly logs: VolumeLogs;
  /** Saved generations were read. */
  stampsRead(result: number): void;
  /** A reply to this read may leave now, by the clock of the turn. */
  mayAnswer(request: number): boolean;
  /** About once a second. True: it wants the next tick. */
  tick(): boolean;
}

export class Thread {
  readonly memory = new ThreadMemory();
  readonly ring: Ring;
  readonly slots = new Slots();
  readonly faults: ThreadFaults;
  /** File offsets of the block reads around an unaligned write, only while the entries are written. */
  readonly edgeOffsets = new Float64Array(2);
  readonly reads = new ReadBatch(this.memory.bytes, this.slots);
  readonly mappedReads = new MappedReads(this);
  readonly sends = new SendBatch(this.memory.bytes);
  readonly volumes: (FileUser | undefined)[] = [];
  /** One for each pool that has or had a volume here. */
  readonly #writes: WriteBatch[] = [];
  readonly #writesByPool = new Map<string, WriteBatch>();
  readonly eventFd = native.eventFd();
  /** [0]: a moment of this turn, CLOCK_BOOTTIME in milliseconds; in an array so that it is never boxed. */
  readonly clockMs = new Float64Array(1);
  #isClockBehind = false;
  readonly #port: MessagePort;
  readonly #busyPollMicros: number;
  readonly #beat: Int32Array;
  readonly #sessions: (Session | undefined)[] = [];
  readonly #freeSessions: number[] = [];
  readonly #notBegun = new NotBegun(() => this.tell({ type: 'noKernelWorkers' }));
  readonly #listeners = new Map<number, Listener>();
  readonly #dirty: Session[] = [];
  #dirtyCount = 0;
  readonly #parked: Session[] = [];
  #hasFreed = false;
  #interrupted: Session[] = [];
  #interruptedNext: Session[] = [];
  #interruptedCount = 0;
  /** Links to other daemons, where there are any. */
  #peers: Peers | undefined;
  #cluster: ClusterLinks | undefined;
  #isTickArmed = false;
  /** Listeners whose accept failed (no descriptors left, say): tried again at the next tick. */
  readonly #acceptLater: number[] = [];
  #isStopped = false;
  #hasBusiness = true;
  #onMessage: (message: unknown) => void = () => undefined;
  #onTurn: () => boolean = () => false;
  #collections: () => number = () => 0;

  constructor(port: MessagePort, data: ThreadData) {
    this.#port = port;
    this.faults = data.faults;
    const RingKind = data.faults.cancelledEntries ? CancellingRing : Ring;
    this.ring = new RingKind(SUBMISSION_ENTRIES, COMPLETION_ENTRIES, this.memory.region);
    this.#busyPollMicros = data.busyPollMicros;
    this.#beat = data.beat;
    nameThread(this.#beat);
    this.#readClock();
  }

  /** The buffered writes to a pool. */
  writesTo(pool: string): WriteBatch {
    const known = this.#writesByPool.get(pool);
    if (known !== undefined) return known;
    const writes = new WriteBatch(this.memory.bytes, this.slots);
    this.#writesByPool.set(pool, writes);
    this.#writes.push(writes);
    return writes;
  }

  nowMs(): number {
    return this.clockMs[0] as number;
  }

  /**
   * For the replication core: not before anything that it is told of. A completion of this turn was there before the turn's
   * clock was read, so a lease that held then covers the reply to it, however long the process stands still in between.
   * It is read once a turn and not once an event: where a kernel has no clock in memory a look costs a system call.
   */
  eventMs(): number {
    if (this.#isClockBehind) this.#readClock();
    return this.clockMs[0] as number;
  }

  /** What the core is told next has happened since the clock was read: a system call within the turn, a message. */
  clockIsBehind(): void {
    this.#isClockBehind = true;
  }

  #readClock(): void {
    this.#isClockBehind = false;
    native.readClock(this.clockMs);
  }

  /** For the next entry of `volumes`. */
  freeVolumeIndex(): number {
    const free = this.volumes.indexOf(undefined);
    return free === -1 ? this.volumes.length : free;
  }

  tell(event: ThreadEvent | ClusterEvent): void {
    this.#port.postMessage({ event });
  }

  counters(): ThreadCounters {
    return {
      ringEntries: this.ring.totals[0] ?? 0,
      ringEnters: this.ring.totals[1] ?? 0,
      setupFlags: this.ring.setupFlags,
      sessions: this.#sessions.filter((session) => session !== undefined).length,
      freeRequests: this.slots.freeCount,
      collections: this.#collections(),
    };
  }

  /**
   * Runs until stop(). `onMessage` handles one control message; `onTurn` runs after control messages and
   * returns true while it has unfinished business that ordinary completions move on.
   */
  run(onMessage: (message: unknown) => void, onTurn: () => boolean, collections: () => number): void {
    this.#onMessage = onMessage;
    this.#onTurn = onTurn;
    this.#collections = collections;
    this.#armWake();
    this.tell({ type: 'ready', eventFd: this.eventFd, setupFlags: this.ring.setupFlags });
    this.#drainMessages();
    while (!this.#isStopped) {
      turnBegins(this.#beat);
      // In this order: what has completed by now is earlier than the clock.
      const readyCount = this.ring.readyCount;
      this.#readClock();
      this.#takeCompletions(readyCount);
      this.#goOnWithInterrupted();
      this.#carryOut();
      if (this.#hasBusiness) {
        // After what was carried out: it may be what the business waits for, and no completion need follow.
        this.#hasBusiness = this.#onTurn();
        this.#carryOut();
        // And what was carried out just now may be it too.
        if (this.#hasBusiness) this.#armTick();
      }
      turnEnds(this.#beat);
      // The last turn hands in what it has (the stop's own answer is on the port) and waits for nothing.
      const isWaiting =
        !this.#isStopped && this.#interruptedCount === 0 && this.#peers?.isInterrupted !== true;
      this.ring.enter(isWaiting ? 1 : 0, this.#busyPollMicros, -1);
    }
  }

  stop(): void {
    this.#isStopped = true;
  }

  dispose(): void {
    this.ring.dispose();
    this.memory.dispose();
    native.close(this.eventFd);
  }

  // ---- sessions

  /** Undefined: the thread has as many as it can hold; the caller closes the descriptor. */
  addSession(fd: number, options: SessionOptions): Session | undefined {
    const index = this.#freeSessions.pop() ?? this.#sessions.length;
    if (index >= SESSION_CAPACITY) return undefined;
    const session = new Session(this, index, fd, options);
    this.#sessions[index] = session;
    this.#armTick();
    return session;
  }

  sessionEnded(session: Session): void {
    this.#sessions[session.index] = undefined;
    this.#freeSessions.push(session.index);
  }

  sessionOf(request: number): Session {
    return this.#session(this.slots.session[request] as number);
  }

  dirty(session: Session): void {
    this.#dirty[this.#dirtyCount] = session;
    this.#dirtyCount += 1;
  }

  /** The session is not read until something is freed. */
  park(session: Session): void {
    session.isParked = true;
    this.#parked.push(session);
    this.#armTick();
  }

  /** The session goes on with what it has received in the next turn, after all others had theirs. */
  interrupt(session: Session): void {
    session.isParked = true;
    this.#interrupted[this.#interruptedCount] = session;
    this.#interruptedCount += 1;
  }

  somethingFreed(): void {
    this.#hasFreed = true;
  }

  // ---- links to other daemons

  attachPeers(peers: Peers): void {
    this.#peers = peers;
  }

  attachCluster(cluster: ClusterLinks): void {
    this.#cluster = cluster;
  }

  get peers(): Peers {
    invariant(this.#peers !== undefined, 'a thread with shared requests has links');
    return this.#peers;
  }

  /** Ends in one tick of the cluster. */
  startProtocolTimer(): void {
    this.ring.timeout(this.memory.protocolTimespecOffset, 0, TAG_PROTOCOL_TICK);
  }

  /** Ends in the cluster's restOver(). One at a time. */
  startRestTimer(restMs: number): void {
    this.ring.timeout(this.memory.setRest(restMs), 0, TAG_REST);
  }

  // ---- listeners

  listen(index: number, listener: Listener): void {
    this.#listeners.set(index, listener);
    this.ring.accept(listener.fd, index, TAG_ACCEPT);
  }

  // ---- the turn

  #takeCompletions(readyCount: number): void {
    const ring = this.ring;
    for (let left = Math.min(readyCount, COMPLETIONS_PER_TURN); left > 0 && ring.next(); left--) {
      if (!this.#notBegun.keeps(ring.index, ring.tag, ring.result))
        this.#dispatch(ring.index, ring.tag, ring.result);
    }
  }

  /** Makes what has gathered, until nothing of it lets anything else start. */
  #carryOut(): void {
    const peers = this.#peers;
    for (;;) {
      // First: the other copies work while this one does.
      this.#cluster?.carryOut();
      peers?.carryOut();
      this.#runReads();
      this.#runWrites();
      this.#flushDirty();
      if (this.#hasFreed && (this.#parked.length > 0 || peers?.isParked === true)) this.#retryParked();
      else if (peers?.hasWork === true || this.#cluster?.hasWork === true) continue;
      else if (this.reads.isEmpty && this.#areWritesEmpty() && this.#dirtyCount === 0) return;
    }
  }

  #runReads(): void {
    const reads = this.reads;
    while (!reads.isEmpty) {
      const count = reads.run();
      this.clockIsBehind();
      for (let i = 0; i < count; i++) {
        const request = reads.request(i);
        this.#fileOf(request).dataDone(request, reads.result(i));
      }
    }
  }

  /** A finished write may let others start: until there are none. */
  #runWrites(): void {
    for (let at = 0; at < this.#writes.length; at++) {
      const writes = this.#writes[at] as WriteBatch;
      while (!writes.isEmpty) {
        const count = writes.run(this.clockMs);
        this.clockIsBehind();
        for (let i = 0; i < count; i++) {
          const request = writes.request(i);
          this.#fileOf(request).dataDone(request, writes.result(i));
        }
      }
    }
  }

  #areWritesEmpty(): boolean {
    for (let at = 0; at < this.#writes.length; at++) {
      if (!(this.#writes[at] as WriteBatch).isEmpty) return false;
    }
    return true;
  }

  #dispatch(index: number, tag: number, result: number): void {
    switch (tag) {
      case TAG_RECEIVE:
        this.#session(index).received(result);
        return;
      case TAG_SEND:
        this.#session(index).sent(result);
        return;
      case TAG_DATA:
        this.#fileOf(index).ringDone(index, result);
        return;
      case TAG_FLUSH:
        this.#volume(index).file.flushDone(result);
        return;
      case TAG_ZERO:
        this.#fileOf(index).zeroDone(index, result);
        return;
      case TAG_MERGE_READ:
        this.#fileOf(index).edgeRead(index, result);
        return;
      case TAG_INTENT:
        this.#armTick();
        this.#volume(index).logs.intentWritten(result);
        return;
      case TAG_GENERATION:
        this.#volume(index).logs.generationDone(result);
        return;
      case TAG_ACCEPT:
        this.#accepted(index, result);
        return;
      case TAG_WAKE:
        this.#armWake();
        this.#drainMessages();
        return;
      case TAG_STAMP:
        this.#volume(index).stampsRead(result);
        return;
      case TAG_PROTOCOL_TICK:
        this.#notBegun.tick((at, of, outcome) => this.#dispatch(at, of, outcome));
        this.#cluster?.tick();
        return;
      case TAG_REST:
        this.#cluster?.restOver();
        return;
      case TAG_TICK:
        this.#tick();
        return;
      case TAG_LINK_RECEIVE:
      case TAG_LINK_SEND:
      case TAG_LINK_CONNECT:
        this.#peers?.completed(index, tag, result);
        return;
      case TAG_CLOSE:
        return;
      default:
        invariant(false, `every completion has a known tag, not ${tag}`);
    }
  }

  #flushDirty(): void {
    for (let i = 0; i < this.#dirtyCount; i++) (this.#dirty[i] as Session).flushReplies();
    this.#dirtyCount = 0;
    const sends = this.sends;
    const count = sends.run();
    for (let i = 0; i < count; i++) this.#session(sends.session(i)).sent(sends.result(i));
    // After the replies that are ready: only a connection with nothing else to send takes bytes of the page cache.
    this.mappedReads.run();
  }

  #goOnWithInterrupted(): void {
    const count = this.#interruptedCount;
    // Who is interrupted again comes after those that are not served yet.
    const sessions = this.#interrupted;
    this.#interrupted = this.#interruptedNext;
    this.#interruptedNext = sessions;
    this.#interruptedCount = 0;
    for (let i = 0; i < count; i++) (sessions[i] as Session).retry();
    this.#peers?.goOnWithInterrupted();
  }

  #retryParked(): void {
    this.#hasFreed = false;
    const count = this.#parked.length;
    for (let i = 0; i < count; i++) {
      const session = this.#parked.shift();
      session?.retry();
    }
    this.#peers?.retryParked();
  }

  #accepted(index: number, result: number): void {
    const listener = this.#listeners.get(index);
    invariant(listener !== undefined, 'an accept belongs to a listener');
    if (result >= 0) listener.accepted(result);
    // ECONNABORTED, EMFILE and the like pass; EINVAL and ECANCELED mean that the socket was shut down.
    const EINVAL = 22;
    const EBADF = 9;
    if (result === -EINVAL || result === -ECANCELED || result === -EBADF) {
      this.#listeners.delete(index);
      listener.ended();
      return;
    }
    if (result >= 0) {
      this.ring.accept(listener.fd, index, TAG_ACCEPT);
    } else {
      this.#acceptLater.push(index);
      this.#armTick();
    }
  }

  #armWake(): void {
    this.ring.readEvent(this.eventFd, this.memory.eventOffset, 0, TAG_WAKE);
  }

  #drainMessages(): void {
    this.#hasBusiness = true;
    for (
      let next = receiveMessageOnPort(this.#port);
      next !== undefined;
      next = receiveMessageOnPort(this.#port)
    ) {
      this.clockIsBehind();
      this.#onMessage(next.message);
    }
  }

  /** Something is open or mapped that time may change. */
  wakeForTime(): void {
    this.#armTick();
  }

  /** Ticks come once a second while something waits for time to pass, and stop when nothing does. */
  #armTick(): void {
    if (this.#isTickArmed) return;
    this.#isTickArmed = true;
    this.ring.timeout(this.memory.timespecOffset, 0, TAG_TICK);
  }

  #tick(): void {
    this.#isTickArmed = false;
    const nowMs = this.nowMs();
    let isNeeded = false;
    for (const volume of this.volumes) if (volume?.tick() === true) isNeeded = true;
    const isMemoryShort = this.#parked.length > 0 || this.#peers?.isParked === true;
    if (this.#peers?.tick(nowMs, isMemoryShort) === true) isNeeded = true;
    for (const session of this.#sessions) {
      if (session === undefined) continue;
      session.checkDeadlines(nowMs, isMemoryShort);
      if (session.isTimed || isMemoryShort) isNeeded = true;
    }
    for (let index = this.#acceptLater.pop(); index !== undefined; index = this.#acceptLater.pop()) {
      const listener = this.#listeners.get(index);
      if (listener !== undefined) this.ring.accept(listener.fd, index, TAG_ACCEPT);
    }
    this.#hasBusiness = true;
    if (this.mappedReads.tick()) isNeeded = true;
    if (isNeeded) this.#armTick();
  }

  #session(index: number): Session {
    return this.#sessions[index] as Session;
  }

  #volume(index: number): FileUser {
    return this.volumes[index] as FileUser;
  }

  /** The file that a request's data operation is on. */
  #fileOf(request: number): DataFile {
    return (this.volumes[this.slots.volume[request] as number] as FileUser).file;
  }
}
