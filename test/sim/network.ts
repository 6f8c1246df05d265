// Links between processes: frames arrive in order and late, or the link breaks; cut directions hold them back.
// A frame lost, repeated or out of its place ends the link, as the wire's numbering does.

import type { Random } from './random.ts';
import type { Schedule } from './schedule.ts';

export interface Endpoint {
  readonly node: number;
  /** False once the process is gone. */
  isAlive(): boolean;
  /** Runs now, or when its machine goes on. */
  deliver(run: () => void): void;
  linkClosed(link: number): void;
}

interface Link {
  readonly id: number;
  readonly ends: [Endpoint | undefined, Endpoint | undefined];
  readonly nodes: [number, number];
  readonly lastArrivalMs: [number, number];
  isBroken: boolean;
}

export interface NetworkShape {
  readonly delayMs: number;
  /** Chance of a frame to be lost, repeated or reordered. */
  readonly lossRate: number;
}

export class Network {
  readonly #schedule: Schedule;
  readonly #random: Random;
  shape: NetworkShape;
  readonly #links = new Map<number, Link>();
  /** "from>to": nothing passes. */
  readonly cuts = new Set<string>();
  frames = 0;
  lost = 0;

  constructor(schedule: Schedule, random: Random, shape: NetworkShape) {
    this.#schedule = schedule;
    this.#random = random;
    this.shape = shape;
  }

  isCut(from: number, to: number): boolean {
    return from !== to && this.cuts.has(`${from}>${to}`);
  }

  connect(id: number, from: Endpoint, toNode: number, accept: () => Endpoint | undefined): void {
    const link: Link = {
      id,
      ends: [from, undefined],
      nodes: [from.node, toNode],
      lastArrivalMs: [0, 0],
      isBroken: false,
    };
    this.#links.set(id, link);
    const attempt = (triesLeft: number): void => {
      if (link.isBroken) return;
      if (this.isCut(from.node, toNode) || this.isCut(toNode, from.node)) {
        if (triesLeft > 0) this.#schedule.after(200, () => attempt(triesLeft - 1));
        else this.break(id);
        return;
      }
      const to = accept();
      if (to === undefined) this.break(id);
      else link.ends[1] = to;
    };
    this.#schedule.after(this.#delay(), () => attempt(10));
  }

  #delay(): number {
    return this.#random.wait(this.shape.delayMs) + 0.02;
  }

  /** `arrive` runs at the other end, in order. */
  send(id: number, by: Endpoint, arrive: (at: Endpoint) => void): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    this.frames += 1;
    const side = link.ends[0] === by ? 0 : 1;
    if (this.#random.chance(this.shape.lossRate)) {
      this.lost += 1;
      this.#schedule.after(this.#delay(), () => this.break(id));
      return;
    }
    const from = link.nodes[side];
    const to = link.nodes[1 - side] as number;
    let atMs = Math.max(this.#schedule.nowMs + this.#delay(), link.lastArrivalMs[side] as number);
    link.lastArrivalMs[side] = atMs;
    const attempt = (): void => {
      if (link.isBroken) return;
      const end = link.ends[1 - side];
      if (end === undefined || this.isCut(from, to)) {
        // Held back: what was sent later waits behind it.
        atMs = this.#schedule.nowMs + 50;
        link.lastArrivalMs[side] = Math.max(link.lastArrivalMs[side] as number, atMs);
        this.#schedule.after(50, attempt);
        return;
      }
      if (!end.isAlive()) {
        this.break(id);
        return;
      }
      end.deliver(() => {
        if (!link.isBroken) arrive(end);
      });
    };
    this.#schedule.after(atMs - this.#schedule.nowMs, attempt);
  }

  /** One end closed it: the other one hears of it, later. */
  close(id: number, by: Endpoint): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    const other = link.ends[0] === by ? link.ends[1] : link.ends[0];
    this.#links.delete(id);
    if (other === undefined) {
      link.isBroken = true;
      return;
    }
    // What was sent before the end still arrives, and then the end does.
    const side = link.ends[0] === by ? 0 : 1;
    const waitMs =
      Math.max(this.#delay(), (link.lastArrivalMs[side] as number) - this.#schedule.nowMs) + 0.001;
    this.#schedule.after(waitMs, () => {
      if (link.isBroken) return;
      link.isBroken = true;
      if (other.isAlive()) other.deliver(() => other.linkClosed(id));
    });
  }

  /** Both ends lose it. */
  break(id: number): void {
    const link = this.#links.get(id);
    if (link === undefined || link.isBroken) return;
    link.isBroken = true;
    this.#links.delete(id);
    for (const end of link.ends)
      if (end?.isAlive() === true)
        this.#schedule.after(this.#delay(), () => {
          if (end.isAlive()) end.deliver(() => end.linkClosed(id));
        });
  }

  breakSome(rate: number): void {
    for (const id of Array.from(this.#links.keys())) if (this.#random.chance(rate)) this.break(id);
  }

  /** A process is gone: its kernel ends its connections. */
  processEnded(endpoint: Endpoint): void {
    for (const link of Array.from(this.#links.values()))
      if (link.ends.includes(endpoint)) this.break(link.id);
  }

  /** A machine is gone: nobody says so. */
  machineEnded(endpoint: Endpoint): void {
    for (const link of Array.from(this.#links.values()))
      if (link.ends[0] === endpoint) link.ends[0] = GONE;
      else if (link.ends[1] === endpoint) link.ends[1] = GONE;
  }
}

/** Where a machine was: swallows everything. */
const GONE: Endpoint = { node: -1, isAlive: () => true, deliver: () => {}, linkClosed: () => {} };
