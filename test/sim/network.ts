// Links between processes, as TCP connections are: frames arrive in order and late; a cut direction holds them
// back; a process that ends has its links closed, a machine that loses power says nothing.
//
// Worse than TCP: frames get lost, repeated, damaged and out of their place. The network tells nobody: that the
// link ends then, and nothing wrong is believed, is the work of the wire format's own checks.

import {
  type ControlMessage,
  FRAME_COPY,
  FRAME_COPY_ZERO,
  type FrameFields,
} from '../../src/replication/frames.ts';
import { type Lane, LinkCodec, type Parcel } from './link-codec.ts';
import type { Random } from './random.ts';
import type { Schedule } from './schedule.ts';

export interface Endpoint {
  readonly node: number;
  /** False once the process is gone. */
  isAlive(): boolean;
  /** Runs now, or when its machine goes on. */
  deliver(run: () => void): void;
  linkClosed(link: number): void;
  /** `fields` are filled again for the next frame. */
  framed(link: number, fields: FrameFields, payload: Int32Array | undefined): void;
  controlled(link: number, type: number, message: ControlMessage): void;
}

/** 0: the end that opened the link. */
type Side = 0 | 1;

interface Link {
  readonly id: number;
  readonly ends: [Endpoint | undefined, Endpoint | undefined];
  readonly nodes: readonly [number, number];
  /** By the side that sends. */
  readonly lanes: readonly [Lane, Lane];
  /** By side: it wants to hear nothing more. */
  readonly isClosed: [boolean, boolean];
  /** By the side that closed it: the other one has heard all. */
  readonly hasEnded: [boolean, boolean];
  isBroken: boolean;
}

/** Chances of each frame. */
export interface NetworkShape {
  readonly delayMs: number;
  readonly lossRate: number;
  readonly repeatRate: number;
  readonly reorderRate: number;
  readonly flipRate: number;
  /** The connection stands still with it, and everything behind it waits: others overtake. */
  readonly stallRate: number;
  /** Of each connection of a process that is killed: what it had sent still arrives. */
  readonly lingerRate: number;
  /** Who closed a link is still told what had arrived by then, as a host may that reads ahead. */
  readonly hearsAfterClose: boolean;
}

export interface NetworkStreams {
  readonly delay: Random;
  readonly faults: Random;
}

const CONNECT_TRIES = 10;
const POLL_MS = 50;
const STALL_MS = 2000;
const EDGE_STALL_RATE = 0.2;

export class Network {
  readonly #schedule: Schedule;
  readonly #random: NetworkStreams;
  shape: NetworkShape;
  /** What is under way on a connection arrives even when both ends have closed it. */
  readonly #isLasting: boolean;
  readonly #codec = new LinkCodec();
  readonly #links = new Map<number, Link>();
  /** from * 64 + to: nothing passes. How many faults want it so. */
  readonly #cuts = new Map<number, number>();
  frames = 0;
  /** Frames that something was done to. */
  faults = 0;
  /** Of resyncs. */
  copiedBytes = 0;
  onDamage: (link: number, text: string) => void = () => {};

  constructor(schedule: Schedule, random: NetworkStreams, shape: NetworkShape) {
    this.#schedule = schedule;
    this.#random = random;
    this.shape = shape;
    this.#isLasting = shape.stallRate > 0;
  }

  // ---- cuts

  cut(from: number, to: number): void {
    const key = from * 64 + to;
    this.#cuts.set(key, (this.#cuts.get(key) ?? 0) + 1);
  }

  mend(from: number, to: number): void {
    const key = from * 64 + to;
    const count = this.#cuts.get(key) ?? 0;
    if (count > 1) this.#cuts.set(key, count - 1);
    else if (count === 1) {
      this.#cuts.delete(key);
      this.#flushHeld();
    }
  }

  mendAll(): void {
    this.#cuts.clear();
    this.#flushHeld();
  }

  isCut(from: number, to: number): boolean {
    return this.#cuts.size > 0 && from !== to && this.#cuts.has(from * 64 + to);
  }

  #flushHeld(): void {
    for (const link of this.#links.values()) {
      this.#flush(link, 0);
      this.#flush(link, 1);
    }
  }

  #flush(link: Link, side: Side): void {
    const lane = link.lanes[side];
    if (lane.held.length === 0 || !this.#passes(link, side)) return;
    const { held } = lane;
    lane.held = [];
    for (const parcel of held) this.#arrive(link, side, parcel);
  }

  #passes(link: Link, side: Side): boolean {
    const other = opposite(side);
    return link.ends[other] !== undefined && !this.isCut(link.nodes[side], link.nodes[other]);
  }

  // ---- the beginning

  connect(id: number, from: Endpoint, toNode: number, accept: () => Endpoint | undefined): void {
    const link: Link = {
      id,
      ends: [from, undefined],
      nodes: [from.node, toNode],
      lanes: this.#codec.lanes(),
      isClosed: [false, false],
      hasEnded: [false, false],
      isBroken: false,
    };
    this.#links.set(id, link);
    const attempt = (triesLeft: number): void => {
      if (link.isBroken) return;
      if (this.isCut(from.node, toNode) || this.isCut(toNode, from.node)) {
        if (triesLeft > 0) this.#schedule.after(200, () => attempt(triesLeft - 1));
        else this.#break(link);
        return;
      }
      const to = accept();
      if (to === undefined) this.#break(link);
      else {
        link.ends[1] = to;
        this.#flush(link, 0);
      }
    };
    this.#schedule.after(this.#delay(), () => attempt(CONNECT_TRIES));
  }

  #delay(): number {
    return this.#random.delay.wait(this.shape.delayMs) + 0.02;
  }

  /** Drawn only where connections stall at all: other runs stay as they were. */
  #stall({ lastArrivalMs }: Lane, parcel: Parcel | null): number {
    const { stallRate } = this.shape;
    if (stallRate === 0) return 0;
    // A beginning takes round trips of its own, and nothing behind an end tells that it was lost.
    const rate = parcel === null || lastArrivalMs === 0 ? EDGE_STALL_RATE : stallRate;
    return this.#random.faults.chance(rate) ? this.#random.faults.wait(STALL_MS) : 0;
  }

  // ---- frames

  send(id: number, by: Endpoint, fields: FrameFields, payload: Int32Array | undefined): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    const side = sideOf(link, by);
    if (fields.type === FRAME_COPY || fields.type === FRAME_COPY_ZERO) this.copiedBytes += fields.lengthBytes;
    this.#dispatch(link, side, this.#codec.encode(link.lanes[side], fields, payload));
  }

  sendControl(id: number, by: Endpoint, type: number, message: ControlMessage): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    const side = sideOf(link, by);
    const back = link.lanes[opposite(side)];
    this.#dispatch(link, side, this.#codec.encodeControl(link.lanes[side], back, type, message));
  }

  #dispatch(link: Link, side: Side, parcel: Parcel): void {
    const lane = link.lanes[side];
    this.frames += 1;
    let lateMs = 0;
    const { shape } = this;
    const isFaulty = shape.lossRate + shape.repeatRate + shape.reorderRate + shape.flipRate > 0;
    if (isFaulty) {
      const random = this.#random.faults;
      // Drawn for every frame alike, so that one kind of fault taken away leaves the others where they were.
      const isLost = random.chance(shape.lossRate);
      const isRepeated = random.chance(shape.repeatRate);
      const isReordered = random.chance(shape.reorderRate);
      const isFlipped = random.chance(shape.flipRate);
      const place = random.unit();
      if (isLost || isRepeated || isReordered || isFlipped) {
        this.faults += 1;
        lane.isFaulted = true;
      }
      if (isLost) {
        this.#codec.release(parcel);
        return;
      }
      if (isRepeated) this.#after(link, side, this.#codec.copyOf(parcel), 0);
      if (isFlipped) flip(parcel, place);
      if (isReordered) lateMs = this.shape.delayMs * (0.5 + 4 * place) + 0.1;
    }
    this.#after(link, side, parcel, lateMs);
  }

  /** In order, unless it is made late. */
  #after(link: Link, side: Side, parcel: Parcel | null, lateMs: number): void {
    const lane = link.lanes[side];
    const { nowMs } = this.#schedule;
    const atMs = Math.max(nowMs + this.#delay() + this.#stall(lane, parcel), lane.lastArrivalMs);
    lane.lastArrivalMs = atMs;
    this.#schedule.at(atMs + lateMs, () => {
      if (link.isBroken) {
        if (parcel !== null) this.#codec.release(parcel);
      } else if (lane.held.length > 0 || !this.#passes(link, side)) lane.held.push(parcel);
      else this.#arrive(link, side, parcel);
    });
  }

  #arrive(link: Link, side: Side, parcel: Parcel | null): void {
    const other = opposite(side);
    const end = link.ends[other] as Endpoint;
    if (link.isBroken) return;
    if (parcel === null) {
      link.hasEnded[side] = true;
      // What the other one sent before it closed is still under way.
      if (this.#isLasting && link.isClosed[other] && !link.hasEnded[other]) return;
      link.isBroken = true;
      this.#links.delete(link.id);
      if (!link.isClosed[other] && end.isAlive()) end.deliver(() => end.linkClosed(link.id));
      return;
    }
    if (!end.isAlive()) {
      this.#break(link);
      return;
    }
    end.deliver(() => {
      const hears = !link.isClosed[other] || this.shape.hearsAfterClose;
      if (!link.isBroken && hears) this.#hear(link, side, end, parcel);
      this.#codec.release(parcel);
    });
  }

  #hear(link: Link, side: Side, end: Endpoint, parcel: Parcel): void {
    const lane = link.lanes[side];
    const damage = this.#codec.decode(
      lane,
      link.lanes[opposite(side)],
      parcel,
      (fields, payload) => end.framed(link.id, fields, payload),
      (type, message) => end.controlled(link.id, type, message),
    );
    if (damage === undefined || link.isClosed[opposite(side)]) return;
    if (!lane.isFaulted) throw new Error(`an intact frame was refused: ${damage.text}`);
    this.onDamage(link.id, damage.text);
    link.isClosed[opposite(side)] = true;
    this.#break(link);
    end.linkClosed(link.id);
  }

  // ---- the end

  /** One end closed it, and hears nothing more; the other one gets what was sent before, and then hears of the end. */
  close(id: number, by: Endpoint): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    const side = sideOf(link, by);
    link.isClosed[side] = true;
    if (link.isClosed[opposite(side)] && !this.#isLasting) {
      link.isBroken = true;
      this.#links.delete(id);
    } else this.#after(link, side, null, 0);
  }

  /** Both ends lose it, each when it hears of that. */
  #break(link: Link): void {
    if (link.isBroken) return;
    link.isBroken = true;
    this.#links.delete(link.id);
    this.#tell(link, 0);
    this.#tell(link, 1);
  }

  #tell(link: Link, side: Side): void {
    const end = link.ends[side];
    if (end === undefined || link.isClosed[side]) return;
    const attempt = (): void => {
      if (!end.isAlive()) return;
      if (this.isCut(link.nodes[opposite(side)], link.nodes[side])) this.#schedule.after(POLL_MS, attempt);
      else end.deliver(() => end.linkClosed(link.id));
    };
    this.#schedule.after(this.#delay(), attempt);
  }

  breakSome(rate: number): void {
    for (const link of this.#links.values()) if (this.#random.faults.chance(rate)) this.#break(link);
  }

  /** Every link between two nodes. */
  breakBetween(one: number, other: number): void {
    for (const link of this.#links.values())
      if (link.nodes.includes(one) && link.nodes.includes(other)) this.#break(link);
  }

  /** A process is gone: its kernel ends its connections. */
  processEnded(endpoint: Endpoint): void {
    const { lingerRate } = this.shape;
    for (const link of this.#links.values()) {
      if (!link.ends.includes(endpoint)) continue;
      if (lingerRate > 0 && this.#random.faults.chance(lingerRate)) this.close(link.id, endpoint);
      else this.#break(link);
    }
  }

  /** A machine is gone: nobody says so. */
  machineEnded(endpoint: Endpoint): void {
    for (const link of this.#links.values())
      if (link.ends[0] === endpoint) link.ends[0] = GONE;
      else if (link.ends[1] === endpoint) link.ends[1] = GONE;
  }
}

function opposite(side: Side): Side {
  return side === 0 ? 1 : 0;
}

function sideOf(link: Link, end: Endpoint): Side {
  return link.ends[0] === end ? 0 : 1;
}

/** One to three bits, anywhere in the frame. */
function flip({ wire, lengthBytes }: Parcel, place: number): void {
  const bits = lengthBytes * 8;
  const first = Math.floor(place * bits);
  const count = 1 + (first % 3);
  for (let at = 0; at < count; at++) {
    const bit = (first + at * 37) % bits;
    const byte = bit >> 3;
    wire.bytes[byte] = (wire.bytes[byte] as number) ^ (1 << (bit & 7));
  }
}

/** Where a machine was: swallows everything. */
const GONE: Endpoint = {
  node: -1,
  isAlive: () => true,
  deliver: () => {},
  linkClosed: () => {},
  framed: () => {},
  controlled: () => {},
};
