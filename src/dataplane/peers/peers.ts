// All links of one data-plane thread to other daemons, and within itself: numbers for the hosts, turns of the loop.
//
// Connections come from a listening socket of the thread, or accepted already, with the first bytes that were read of
// them. One is authenticated and its Hello read in the thread that got it; if its volume is another thread's, it is
// handed over there with its keys. Strangers are kept few: when too many are unproven at
// once the oldest goes, so that a flood of half-open connections costs a fixed part of the memory and those that prove
// themselves at once are hardly ever hit.
//
// Invariant: a link's number is never given out again while anybody may remember it.

import type { ControlMessage, FrameFields } from '../../replication/frames.ts';
import { FrameFields as Fields } from '../../replication/frames.ts';
import { type VersionRange, WIRE_VERSIONS, WireBuffer } from '../../replication/wire.ts';
import { native } from '../native.ts';
import { SendBatch } from '../send-batch.ts';
import { TAG_LINK_CONNECT, TAG_LINK_RECEIVE, TAG_LINK_SEND } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { LINK_CAPACITY } from '../thread-memory.ts';
import type { ClusterKey } from './handshake.ts';
import type { GreetedConnection, LinkHost, PeerEvent, PeersHost } from './hosts.ts';
import { Link } from './link.ts';
import { LocalEnd, LocalLinks } from './local-links.ts';
import { PeerSlots } from './peer-slots.ts';

/** Connections that have not proven anything yet, at most. */
const UNPROVEN_LIMIT = 64;
/** Of the thread's listeners. */
const LISTENER_INDEX = 0x7000_0000;
const QUIET_MS = 60_000;
/** Peers whose last refusal is remembered. */
const REMEMBERED_LIMIT = 1024;
/** Links have numbers of 31 bits, index included. */
const GENERATIONS = 2 ** 20;

export interface PeersOptions {
  readonly clusterKey: ClusterKey;
  readonly host: PeersHost;
  /** CRC-32C of payloads; on unless an operator says otherwise. */
  readonly payloadChecksums?: boolean;
  readonly versions?: VersionRange;
  /** Of the sockets; by default the kernel tunes them. */
  readonly socketBufferBytes?: number;
  /** Nobody sends from a tracked slot any more: see PeerSlots. */
  readonly freeTracked?: (request: number) => void;
}

export interface PeerLink {
  readonly number: number;
  readonly index: number;
  sendFrame(fields: FrameFields, request: number): void;
  sendControl(type: number, message: ControlMessage): void;
  close(): void;
}

export class Peers {
  readonly thread: Thread;
  readonly options: PeersOptions;
  readonly versions: VersionRange;
  readonly slots: PeerSlots;
  readonly wire: WireBuffer;
  readonly sends: SendBatch;
  /** For control messages. */
  readonly out = new Fields();
  readonly #links: (PeerLink | undefined)[] = new Array<PeerLink | undefined>(LINK_CAPACITY).fill(undefined);
  readonly #free: number[] = [];
  readonly #local: LocalLinks;
  readonly #listeners = new Set<number>();
  readonly #unproven: Link[] = [];
  readonly #dirty: Link[] = [];
  #dirtyCount = 0;
  readonly #parked: Link[] = [];
  #interrupted: Link[] = [];
  #interruptedNext: Link[] = [];
  #interruptedCount = 0;
  readonly #closed: Link[] = [];
  readonly #neverOpened: { readonly host: LinkHost; readonly number: number }[] = [];
  readonly #lastEventMs = new Map<string, number>();
  #generation = 0;
  #neverOpenedCount = 0;
  #isStopping = false;

  constructor(thread: Thread, options: PeersOptions) {
    this.thread = thread;
    this.options = options;
    this.versions = options.versions ?? WIRE_VERSIONS;
    this.wire = new WireBuffer(thread.memory.bytes);
    this.sends = new SendBatch(thread.memory.bytes);
    this.slots = new PeerSlots(
      thread,
      LINK_CAPACITY,
      (index) => {
        const link = this.#links[index];
        if (link instanceof Link) link.goneIfDone();
      },
      options.freeTracked ?? (() => undefined),
    );
    this.#local = new LocalLinks(this.slots, options, (end) => this.gone(end));
    for (let index = LINK_CAPACITY - 1; index >= 0; index--) this.#free.push(index);
    thread.attachPeers(this);
  }

  // ---- for hosts

  /** `host:port`, numeric. The Hello is to be sent at once. Ends in linkClosed, whenever that is, if not in closeLink. */
  connect(host: LinkHost, address: string): number {
    const index = this.#free.pop();
    const target = /^\[?([^\]]+)\]?:(\d+)$/.exec(address);
    if (index !== undefined && target !== null) {
      try {
        const socket = native.openTcp(target[1] ?? '', Number(target[2]));
        const link = new Link(this, this.#number(index), index, socket.fd, true, address);
        this.#links[index] = link;
        link.host = host;
        link.connect(socket.address);
        this.thread.wakeForTime();
        return link.number;
      } catch (error) {
        this.event({ type: 'unreachable', peer: address, reason: String(error) });
      }
    }
    if (index !== undefined) this.#free.push(index);
    this.#neverOpenedCount += 1;
    const number = -1 - this.#neverOpenedCount;
    this.#neverOpened.push({ host, number });
    return number;
  }

  /** To whoever hostOf() names in this thread. */
  connectLocal(host: LinkHost): number {
    const near = this.#localEnd(host);
    const far = this.#localEnd(undefined);
    if (near !== undefined && far !== undefined) {
      near.other = far;
      far.other = near;
      return near.number;
    }
    if (near !== undefined) this.gone(near);
    this.#neverOpenedCount += 1;
    const number = -1 - this.#neverOpenedCount;
    this.#neverOpened.push({ host, number });
    return number;
  }

  /** `request`: the slot whose buffer is the payload, or NONE. Never waits. A link that has ended swallows it. */
  sendFrame(link: number, fields: FrameFields, request: number): void {
    this.#linkOf(link)?.sendFrame(fields, request);
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    this.#linkOf(link)?.sendControl(type, message);
  }

  /** Nothing of this link is delivered any more; no linkClosed follows. */
  closeLink(link: number): void {
    this.#linkOf(link)?.close();
    const at = this.#neverOpened.findIndex(({ number }) => number === link);
    if (at >= 0) this.#neverOpened.splice(at, 1);
  }

  // ---- accepting

  /** The thread owns the listening socket from now on. */
  listen(fd: number): void {
    this.thread.listen(LISTENER_INDEX + fd, {
      fd,
      accepted: (accepted) => this.#accepted(accepted),
      ended: () => {
        this.#listeners.delete(fd);
        native.close(fd);
      },
    });
    this.#listeners.add(fd);
  }

  /** Ends everything, for a thread that stops; the hosts are not told. Turns are needed until isIdle. */
  stop(): void {
    this.#isStopping = true;
    for (const fd of this.#listeners) native.shutdownSocket(fd);
    for (const link of this.#links) link?.close();
  }

  get isIdle(): boolean {
    return this.#listeners.size === 0 && this.#free.length === LINK_CAPACITY;
  }

  /** A connection that another thread has accepted and authenticated. Owns the descriptor from now on, as the next. */
  adopt(connection: GreetedConnection): void {
    this.#add(connection.fd)?.adopt(connection);
  }

  /** A connection that was accepted elsewhere (blocking), and what has been read of it: of its greeting, if it is ours. */
  adoptRaw(fd: number, received: Uint8Array): void {
    this.#accepted(fd, received);
  }

  #accepted(fd: number, received?: Uint8Array): void {
    for (let at = this.#unproven.length - 1; at >= 0; at--) {
      const link = this.#unproven[at];
      if (link?.isAuthenticated === true || link?.isEnding === true) this.#unproven.splice(at, 1);
    }
    if (this.#unproven.length >= UNPROVEN_LIMIT) this.#unproven.shift()?.end();
    const link = this.#add(fd);
    if (link === undefined) return;
    this.#unproven.push(link);
    link.accepted(received);
  }

  #add(fd: number): Link | undefined {
    const index = this.#isStopping ? undefined : this.#free.pop();
    if (index === undefined) {
      native.close(fd);
      return undefined;
    }
    const link = new Link(this, this.#number(index), index, fd, false, native.peerAddress(fd));
    this.#links[index] = link;
    this.thread.wakeForTime();
    return link;
  }

  // ---- for links

  dirty(link: Link): void {
    this.#dirty[this.#dirtyCount] = link;
    this.#dirtyCount += 1;
  }

  /** It is not read until something is freed. */
  park(link: Link): void {
    this.#parked.push(link);
    this.thread.wakeForTime();
  }

  /** It goes on in the next turn, after all others had theirs. */
  interrupt(link: Link): void {
    this.#interrupted[this.#interruptedCount] = link;
    this.#interruptedCount += 1;
  }

  /** Its host is told later in this turn. */
  closed(link: Link): void {
    this.#closed.push(link);
  }

  gone(link: PeerLink): void {
    if (this.#links[link.index] !== link) return;
    this.#links[link.index] = undefined;
    this.#free.push(link.index);
  }

  /** What may come in floods is said once a peer and minute. */
  event(event: PeerEvent): void {
    if (event.type !== 'ended') {
      const key = `${event.type} ${event.peer}`;
      const nowMs = this.thread.nowMs();
      if (nowMs - (this.#lastEventMs.get(key) ?? Number.NEGATIVE_INFINITY) < QUIET_MS) return;
      if (this.#lastEventMs.size >= REMEMBERED_LIMIT) this.#lastEventMs.clear();
      this.#lastEventMs.set(key, nowMs);
    }
    this.options.host.event(event);
  }

  // ---- for the thread

  completed(index: number, tag: number, result: number): void {
    const link = this.#links[index] as Link;
    if (tag === TAG_LINK_RECEIVE) link.received(result);
    else if (tag === TAG_LINK_SEND) link.sent(result);
    else if (tag === TAG_LINK_CONNECT) link.connected(result);
  }

  get hasWork(): boolean {
    return (
      this.#dirtyCount > 0 || this.#closed.length > 0 || this.#neverOpened.length > 0 || this.#local.hasWork
    );
  }

  /** Delivers within the thread, tells of ends, and sends what has gathered. */
  carryOut(): void {
    if (!this.hasWork) return;
    this.#local.deliver();
    for (let link = this.#closed.shift(); link !== undefined; link = this.#closed.shift()) link.tellClosed();
    for (let never = this.#neverOpened.shift(); never !== undefined; never = this.#neverOpened.shift()) {
      never.host.linkClosed(never.number);
    }
    for (let i = 0; i < this.#dirtyCount; i++) (this.#dirty[i] as Link).flush();
    this.#dirtyCount = 0;
    const { sends } = this;
    const count = sends.run();
    for (let i = 0; i < count; i++) (this.#links[sends.session(i)] as Link).sent(sends.result(i));
  }

  get isParked(): boolean {
    return this.#parked.length > 0 || this.#local.isWaiting;
  }

  retryParked(): void {
    this.#local.isWaiting = false;
    const count = this.#parked.length;
    for (let i = 0; i < count; i++) this.#parked.shift()?.retry();
  }

  get isInterrupted(): boolean {
    return this.#interruptedCount > 0 || this.#local.isInterrupted;
  }

  goOnWithInterrupted(): void {
    this.#local.beginTurn();
    const count = this.#interruptedCount;
    const links = this.#interrupted;
    // Who is interrupted again comes after those that are not served yet.
    this.#interrupted = this.#interruptedNext;
    this.#interruptedNext = links;
    this.#interruptedCount = 0;
    for (let i = 0; i < count; i++) (links[i] as Link).retry();
  }

  /** True: time matters to some link. */
  tick(nowMs: number, isMemoryShort: boolean): boolean {
    let isNeeded = false;
    for (const link of this.#links) {
      if (!(link instanceof Link)) continue;
      link.checkDeadlines(nowMs, isMemoryShort);
      if (link.isTimed) isNeeded = true;
    }
    return isNeeded || this.isParked;
  }

  // ---- numbers

  #number(index: number): number {
    this.#generation = (this.#generation + 1) % GENERATIONS;
    return this.#generation * LINK_CAPACITY + index;
  }

  #linkOf(number: number): PeerLink | undefined {
    if (number < 0) return undefined;
    const link = this.#links[number % LINK_CAPACITY];
    return link?.number === number ? link : undefined;
  }

  #localEnd(host: LinkHost | undefined): LocalEnd | undefined {
    const index = this.#free.pop();
    if (index === undefined) return undefined;
    const end = new LocalEnd(this.#local, this.#number(index), index, host);
    this.#links[index] = end;
    return end;
  }
}
