// Links within a thread: a frontend and a primary on the same node. Frames are queued and delivered in the turn, so
// that neither end is ever called from within a call of its own. No byte is copied: a write's frame arrives with a twin
// of its slot, over the same buffer; a read's with a buffer of its own, which comes back with the answer (the host
// exchanges it for the asker's).
//
// The slots of the two ends are never the same: an end that gave a link up may send the same request over the next
// link while the other end still works on it, and would find its own state overwritten.
//
// What the end that connected says keeps its order: a frame that finds no slot waits, and so do those behind it. The
// answers of the other ends pass it: they give slots back. Of an end that has closed nothing is delivered any more.

import { invariant } from '../../core/invariant.ts';
import { BLOCK_BYTES } from '../../core/units.ts';
import {
  type ControlMessage,
  FRAME_HELLO,
  FRAME_REPLY,
  FrameFields,
  type Hello,
} from '../../replication/frames.ts';
import { OFFSET } from '../../replication/frames.ts';
import { NONE } from '../../replication/requests.ts';
import { bufferBytesOf, needsRequest } from '../../replication/wire-types.ts';
import type { LinkHost } from './hosts.ts';
import type { PeerSlots } from './peer-slots.ts';
import type { PeerLink, PeersOptions } from './peers.ts';

/** A power of two. All links of a thread together. */
const CAPACITY = 8192;
const MASK = CAPACITY - 1;
const NUMBERS = 4;
/** What two ends say to each other may never end: then it is the others' turn. */
const FRAMES_PER_TURN = 1024;
/** As a type: the other end is gone. */
const CLOSED = 0;

export class LocalEnd implements PeerLink {
  readonly number: number;
  readonly index: number;
  readonly isInitiator: boolean;
  host: LinkHost | undefined;
  other: LocalEnd | undefined;
  readonly #links: LocalLinks;

  /** Without a host it is the end that a Hello comes to. */
  constructor(links: LocalLinks, number: number, index: number, host: LinkHost | undefined) {
    this.#links = links;
    this.number = number;
    this.index = index;
    this.host = host;
    this.isInitiator = host !== undefined;
  }

  sendFrame(fields: FrameFields, request: number): void {
    if (this.other !== undefined) this.#links.push(this.other, fields, request);
  }

  sendControl(type: number, message: ControlMessage): void {
    if (this.other !== undefined) this.#links.pushControl(this.other, type, message);
  }

  close(): void {
    this.#links.close(this);
  }
}

/** Frames in their order. */
class FrameQueue {
  readonly to: (LocalEnd | undefined)[] = new Array<LocalEnd | undefined>(CAPACITY).fill(undefined);
  readonly type = new Uint8Array(CAPACITY);
  readonly request = new Int32Array(CAPACITY);
  readonly messages = new Map<number, ControlMessage>();
  readonly #flags = new Uint8Array(CAPACITY);
  readonly #errno = new Uint16Array(CAPACITY);
  readonly #epoch = new Uint32Array(CAPACITY);
  readonly #lengthBytes = new Uint32Array(CAPACITY);
  readonly #numbers = new Float64Array(CAPACITY * NUMBERS);
  #head = 0;
  #tail = 0;

  get isEmpty(): boolean {
    return this.#head === this.#tail;
  }

  /** The place of the oldest. */
  get first(): number {
    return this.#head & MASK;
  }

  place(to: LocalEnd, type: number): number {
    invariant(this.#tail - this.#head < CAPACITY, 'the frames within a thread fit their queue');
    const place = this.#tail & MASK;
    this.#tail += 1;
    this.to[place] = to;
    this.type[place] = type;
    this.request[place] = NONE;
    return place;
  }

  shift(): void {
    this.to[this.#head & MASK] = undefined;
    this.#head += 1;
  }

  fill(place: number, fields: FrameFields): void {
    this.#flags[place] = fields.flags;
    this.#errno[place] = fields.errno;
    this.#epoch[place] = fields.epoch;
    this.#lengthBytes[place] = fields.lengthBytes;
    this.#numbers.set(fields.numbers, place * NUMBERS);
  }

  read(place: number, fields: FrameFields): void {
    fields.type = this.type[place] as number;
    fields.flags = this.#flags[place] as number;
    fields.errno = this.#errno[place] as number;
    fields.epoch = this.#epoch[place] as number;
    fields.lengthBytes = this.#lengthBytes[place] as number;
    for (let i = 0; i < NUMBERS; i++) fields.numbers[i] = this.#numbers[place * NUMBERS + i] as number;
  }

  /** Those to this end go, the others keep their order. */
  drop(to: LocalEnd, dropped: (request: number) => void): void {
    let kept = this.#head;
    for (let at = this.#head; at < this.#tail; at++) {
      const place = at & MASK;
      if (this.to[place] === to) {
        this.messages.delete(place);
        dropped(this.request[place] as number);
      } else {
        if (kept !== at) this.#move(place, kept & MASK);
        kept += 1;
      }
    }
    for (let at = kept; at < this.#tail; at++) this.to[at & MASK] = undefined;
    this.#tail = kept;
  }

  #move(from: number, into: number): void {
    this.to[into] = this.to[from];
    const message = this.messages.get(from);
    this.messages.delete(from);
    if (message !== undefined) this.messages.set(into, message);
    for (const column of [this.type, this.request, this.#flags, this.#errno, this.#epoch, this.#lengthBytes])
      column[into] = column[from] as number;
    this.#numbers.copyWithin(into * NUMBERS, from * NUMBERS, (from + 1) * NUMBERS);
  }
}

export class LocalLinks {
  readonly #slots: PeerSlots;
  readonly #options: PeersOptions;
  readonly #gone: (end: LocalEnd) => void;
  readonly #in = new FrameFields();
  /** Of the ends that connected. */
  readonly #questions = new FrameQueue();
  /** Of the others. */
  readonly #answers = new FrameQueue();
  /** The oldest question found no slot. */
  isWaiting = false;
  /** Frames that may still be delivered in this turn. */
  #turnLeft = FRAMES_PER_TURN;

  /** `gone`: an end's number may be forgotten. */
  constructor(slots: PeerSlots, options: PeersOptions, gone: (end: LocalEnd) => void) {
    this.#slots = slots;
    this.#options = options;
    this.#gone = gone;
  }

  get hasWork(): boolean {
    return this.isInterrupted && this.#turnLeft > 0;
  }

  /** The rest is for the next turn. */
  get isInterrupted(): boolean {
    return !this.#answers.isEmpty || (!this.#questions.isEmpty && !this.isWaiting);
  }

  beginTurn(): void {
    this.#turnLeft = FRAMES_PER_TURN;
  }

  push(to: LocalEnd, fields: FrameFields, request: number): void {
    const queue = this.#queueTo(to);
    const place = queue.place(to, fields.type);
    queue.fill(place, fields);
    queue.request[place] = request;
    if (request !== NONE) this.#slots.hold(request);
  }

  pushControl(to: LocalEnd, type: number, message: ControlMessage): void {
    const queue = this.#queueTo(to);
    queue.messages.set(queue.place(to, type), message);
  }

  #queueTo(to: LocalEnd): FrameQueue {
    return to.isInitiator ? this.#answers : this.#questions;
  }

  close(end: LocalEnd): void {
    const { other } = end;
    end.host = undefined;
    end.other = undefined;
    this.#gone(end);
    if (other === undefined) return;
    other.other = undefined;
    this.#queueTo(other).drop(other, (request) => {
      if (request !== NONE) this.#slots.release(request);
    });
    this.isWaiting = false;
    // It passes what others wait for.
    this.#answers.place(other, CLOSED);
  }

  /** Delivers what waits, and what that makes others send. */
  deliver(): void {
    while (this.hasWork) {
      this.#turnLeft -= 1;
      if (!this.#answers.isEmpty) this.#deliverFirst(this.#answers);
      else this.isWaiting = !this.#deliverFirst(this.#questions);
    }
  }

  /** False: it finds no slot. */
  #deliverFirst(queue: FrameQueue): boolean {
    const place = queue.first;
    const to = queue.to[place] as LocalEnd;
    const type = queue.type[place] as number;
    const message = queue.messages.size > 0 ? queue.messages.get(place) : undefined;
    const sent = queue.request[place] as number;
    const fields = this.#in;
    let request = NONE;
    if (type !== CLOSED && message === undefined && to.host !== undefined) {
      queue.read(place, fields);
      request = this.#requestFor(fields, sent);
      if (request === NONE && needsRequest(fields)) return false;
    }
    queue.shift();
    if (type === CLOSED) {
      this.#closed(to);
    } else if (message !== undefined) {
      queue.messages.delete(place);
      if (type === FRAME_HELLO) this.#greet(to, message as Hello);
      else to.host?.control(to.number, type, message);
    } else {
      if (sent !== NONE && request !== sent) this.#slots.release(sent);
      to.host?.frame(to.number, fields, request);
    }
    return true;
  }

  /** An answer's slot goes along with it; for a request the receiving end gets one of its own. */
  #requestFor(fields: FrameFields, sent: number): number {
    if (fields.type === FRAME_REPLY || !needsRequest(fields)) return sent;
    if (sent !== NONE) return this.#slots.takeTwin(sent);
    return this.#slots.take(bufferBytesOf(fields), (fields.numbers[OFFSET] as number) % BLOCK_BYTES);
  }

  #greet(end: LocalEnd, hello: Hello): void {
    const host = this.#options.host.hostOf(hello);
    if (host === undefined) {
      end.close();
      return;
    }
    end.host = host;
    host.greeted(end.number, hello);
  }

  #closed(end: LocalEnd): void {
    const { host } = end;
    end.host = undefined;
    this.#gone(end);
    host?.linkClosed(end.number);
  }
}
