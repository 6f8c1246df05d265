// Who uses the volume: a kernel with some requests in flight, and the frontend that serves it. The frontend's
// process may die: the kernel keeps its requests and gives them to the next one.

import { BLOCK_BYTES } from '../../src/core/units.ts';
import {
  type ControlMessage,
  FRAME_REQUEST,
  FRAME_WELCOME,
  type FrameFields,
  SEQUENCE,
  type SessionWelcome,
} from '../../src/replication/frames.ts';
import type { StoredConfig } from '../../src/replication/config.ts';
import { Frontend, type FrontendPorts } from '../../src/replication/frontend.ts';
import { FLAG_FUA, FLUSH, NONE, READ, RequestTable, WRITE, ZERO } from '../../src/replication/requests.ts';
import { TICK_MS } from '../../src/replication/timing.ts';
import type { Replier } from './checks.ts';
import type { Operation } from './history.ts';
import type { Endpoint } from './network.ts';
import type { SimNode, World } from './world.ts';

const ENOSPC = 28;
const SLOTS = 64;

export interface Asked {
  readonly operation: Operation;
  readonly kind: number;
  readonly flags: number;
  readonly block: number;
  readonly blockCount: number;
  readonly value: number;
  /** Slot in the frontend of now, and where and when it was sent last. */
  request: number;
  link: number;
  sentMs: number;
  /** Who replied, on that link. */
  repliedBy: Replier | undefined;
}

/** One attachment of the volume to one node. */
export class Consumer {
  readonly attachment: number;
  readonly node: SimNode;
  readonly #world: World;
  frontend: FrontendProcess | undefined;
  readonly asked: Asked[] = [];
  #session = 1;
  /** Its requests are answered with errors: it asks for nothing more. */
  isDead = false;
  isGranted = false;
  /** It has seen what the volume was. */
  wasAnswered = false;

  constructor(world: World, node: SimNode, attachment: number) {
    this.#world = world;
    this.node = node;
    this.attachment = attachment;
    this.start();
  }

  start(): void {
    if (!this.node.isUp || this.isDead || this.frontend !== undefined) return;
    this.#session += 1000;
    this.frontend = new FrontendProcess(this.#world, this, this.#session);
    for (const asked of Array.from(this.asked)) this.frontend.admit(asked);
    if (this.isGranted) this.#world.schedule.after(0, () => this.fill());
  }

  kill(): void {
    this.frontend?.kill();
    this.frontend = undefined;
  }

  /** Keeps the wanted number of requests in flight. */
  fill(): void {
    const { shape } = this.#world;
    while (
      !this.isDead &&
      this.frontend !== undefined &&
      this.asked.length < shape.depth &&
      this.#world.isIssuing
    ) {
      if (this.attachment < this.#world.store.current.config.attachment.number && this.asked.length >= 4)
        return;
      this.#ask();
    }
  }

  #ask(): void {
    const world = this.#world;
    const { shape } = world;
    const random = world.random.client;
    const dice = random.unit();
    let kind = WRITE as number;
    if (dice < shape.readShare) kind = READ;
    else if (dice < shape.readShare + shape.flushShare) kind = FLUSH;
    else if (dice < shape.readShare + shape.flushShare + shape.zeroShare) kind = ZERO;
    let at = random.pick(shape.blocks);
    const grownBlocks = world.blockCount - world.firstBlockCount;
    if (grownBlocks > 0 && random.chance(0.5)) at += grownBlocks;
    const blockCount =
      kind === FLUSH ? 0 : Math.min(1 + random.below(shape.maxBlocks), world.blockCount - at);
    const flags = (kind === WRITE || kind === ZERO) && random.chance(shape.fuaShare) ? FLAG_FUA : 0;
    this.ask(kind, at, blockCount, flags);
  }

  ask(kind: number, at: number, blockCount: number, flags: number): void {
    const world = this.#world;
    world.operationCount += 1;
    const id = world.operationCount;
    const nowMs = world.schedule.nowMs;
    const operation: Operation = {
      id,
      issuedMs: nowMs,
      endedMs: Number.POSITIVE_INFINITY,
      attachment: this.attachment,
    };
    const asked: Asked = {
      operation,
      kind,
      flags,
      block: kind === FLUSH ? 0 : at,
      blockCount,
      value: kind === WRITE ? id : 0,
      request: NONE,
      link: NONE,
      sentMs: 0,
      repliedBy: undefined,
    };
    if (kind === WRITE || kind === ZERO) world.history.issued(operation, blocksOf(asked), asked.value);
    this.asked.push(asked);
    this.frontend?.admit(asked);
  }

  answered(asked: Asked, errno: number, values: Int32Array | undefined): void {
    const world = this.#world;
    const index = this.asked.indexOf(asked);
    world.expect(index >= 0, 'a request is answered once');
    this.asked.splice(index, 1);
    const nowMs = world.schedule.nowMs;
    world.answeredCount += 1;
    world.onAnswer(asked, errno, values);
    world.trace(() => `consumer ${this.attachment}: ${describe(asked)} → ${errno === 0 ? 'ok' : errno}`);
    if (errno === 0) this.wasAnswered = true;
    if (errno === 0) world.checks.replyTaken(asked);
    if (errno !== 0) {
      const newest = world.consumers.at(-1)?.attachment ?? 0;
      const isOver = this.attachment < Math.max(newest, world.highestAttachment);
      // All that count have refused it.
      const isByAll = world.wasEveryDiskFull || world.hasSoleCopyRefused(asked.operation.issuedMs);
      const isRefused = errno === ENOSPC && isByAll;
      world.expect(
        isOver || world.mayFail || world.hasSoleCopyFailed || isRefused,
        `a request of the current attachment does not fail (${describe(asked)}: ${errno})`,
      );
      // A file system that is told of a full disk goes on.
      this.isDead = errno !== ENOSPC;
      if (errno === ENOSPC) this.#fillSoon();
      return;
    }
    switch (asked.kind) {
      case READ:
        // What an attachment reads after its end counts for nothing: its frontend does not know yet.
        if (!this.#isCurrent() || world.history.isOfBeforeLoss(asked.operation)) break;
        for (let at = 0; at < asked.blockCount; at++) {
          const problem = world.history.read(
            asked.block + at,
            (values as Int32Array)[at] as number,
            asked.operation.issuedMs,
            nowMs,
          );
          if (problem !== undefined) world.violate('history', `read ${asked.operation.id}: ${problem}`);
        }
        break;
      case FLUSH:
        world.history.flushed(asked.operation.issuedMs);
        break;
      default:
        world.history.acknowledged(asked.operation, blocksOf(asked), nowMs, (asked.flags & FLAG_FUA) !== 0);
    }
    this.#fillSoon();
  }

  #fillSoon(): void {
    const { schedule, shape, random } = this.#world;
    const think = shape.thinkMs;
    schedule.after(think === 0 ? 0 : random.client.wait(think), () => this.fill());
  }

  #isCurrent(): boolean {
    return !this.#world.consumers.some((other) => other.attachment > this.attachment && other.isGranted);
  }

  granted(): void {
    if (this.isGranted) return;
    this.isGranted = true;
    const world = this.#world;
    for (const other of world.consumers) {
      if (other.attachment >= this.attachment) continue;
      const pending = other.asked.map(({ operation }) => operation);
      world.history.attachmentGranted(
        this.attachment,
        [...pending, ...world.failedOperations],
        world.schedule.nowMs,
      );
    }
    this.fill();
  }
}

function blocksOf({ block, blockCount }: Asked): number[] {
  return Array.from({ length: blockCount }, (_, at) => block + at);
}

export function describe({ operation, kind, block, blockCount, flags }: Asked): string {
  const name = ['read', 'write', 'zero', 'flush'][kind];
  return `${name} ${operation.id} [${block}+${blockCount}]${flags !== 0 ? ' fua' : ''}`;
}

export class FrontendProcess implements FrontendPorts, Endpoint {
  readonly node: number;
  readonly core: Frontend;
  readonly #world: World;
  readonly #consumer: Consumer;
  readonly #table = new RequestTable(SLOTS);
  readonly #buffers: (Int32Array | undefined)[] = new Array(SLOTS).fill(undefined);
  readonly #asked: (Asked | undefined)[] = new Array(SLOTS).fill(undefined);
  #isAlive = true;
  /** By link: the epoch that its primary named. */
  readonly #welcomes = new Map<number, number>();
  #newestEpoch = 0;

  constructor(world: World, consumer: Consumer, session: number) {
    this.#world = world;
    this.#consumer = consumer;
    this.node = consumer.node.index;
    this.core = new Frontend(this.#table, this, {
      volumeId: world.store.current.config.volumeId,
      node: consumer.node.name,
      attachment: consumer.attachment,
      firstSession: session,
      broken: world.broken,
    });
    this.#tick();
  }

  admit(asked: Asked): void {
    const request = this.#table.take();
    asked.request = request;
    this.#asked[request] = asked;
    this.#table.kind[request] = asked.kind;
    this.#table.flags[request] = asked.flags;
    this.#table.offsetBytes[request] = asked.block * BLOCK_BYTES;
    this.#table.lengthBytes[request] = asked.blockCount * BLOCK_BYTES;
    this.#buffers[request] = new Int32Array(asked.blockCount).fill(asked.value);
    this.deliver(() => this.core.admit(request));
  }

  /** The request that went out on this link in this slot; undefined: the link is an old one. */
  askedOn(link: number, slot: number): Asked | undefined {
    const asked = this.#asked[slot];
    return asked?.link === link ? asked : undefined;
  }

  #tick(): void {
    if (!this.#isAlive) return;
    this.deliver(() => this.core.tick());
    this.#world.schedule.after(TICK_MS * this.#world.random.process.between(0.8, 1.2), () => this.#tick());
  }

  kill(): void {
    this.#isAlive = false;
    this.#world.network.processEnded(this);
  }

  cutPower(): void {
    this.#isAlive = false;
    this.#world.network.machineEnded(this);
  }

  // ---- Endpoint

  isAlive(): boolean {
    return this.#isAlive;
  }

  deliver(run: () => void): void {
    this.#consumer.node.run(() => {
      if (!this.#isAlive) return;
      this.#world.calls += 1;
      run();
      if (this.core.isOpen) this.#consumer.granted();
      this.#world.checkStep();
    });
  }

  linkClosed(link: number): void {
    this.core.linkClosed(link);
  }

  controlled(link: number, type: number, message: ControlMessage): void {
    if (type === FRAME_WELCOME) this.#welcomes.set(link, (message as SessionWelcome).epoch);
    this.core.control(link, type, message);
  }

  /** The payload goes into the request's own buffer, as the wire does it. */
  framed(link: number, fields: FrameFields, payload: Int32Array | undefined): void {
    this.#payload = payload;
    this.core.frame(link, fields, payload === undefined ? NONE : PAYLOAD);
    this.#payload = undefined;
  }

  #payload: Int32Array | undefined;

  // ---- FrontendPorts

  nowMs(): number {
    return this.#consumer.node.nowMs();
  }

  readConfig(): void {
    const answer = (stored: StoredConfig | undefined): void =>
      this.deliver(() => this.core.configRead(stored));
    this.#world.store.read(this.node, answer, true);
  }

  connect(node: string): number {
    const link = this.#world.connect(this, node);
    this.#world.frontendOfLink.set(link, this);
    return link;
  }

  sendFrame(link: number, fields: FrameFields, request: number): void {
    const asked = this.#asked[fields.numbers[SEQUENCE] as number];
    if (fields.type === FRAME_REQUEST) this.#asksIn(this.#welcomes.get(link) ?? 0);
    if (fields.type === FRAME_REQUEST && asked !== undefined) {
      asked.link = link;
      asked.sentMs = this.#world.schedule.nowMs;
      asked.repliedBy = undefined;
    }
    const payload = request === NONE ? undefined : (this.#buffers[request] as Int32Array);
    this.#world.network.send(link, this, fields, payload);
  }

  /** A request goes to a primary of this epoch. */
  #asksIn(epoch: number): void {
    if (epoch < this.#newestEpoch)
      this.#world.violate(
        'order',
        `the frontend on ${this.#consumer.node.name} asks a primary of epoch ${epoch} after one of ${this.#newestEpoch}`,
      );
    this.#newestEpoch = Math.max(this.#newestEpoch, epoch);
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    this.#world.sendControl(this, link, type, message);
  }

  closeLink(link: number): void {
    this.#world.network.close(link, this);
  }

  takePayload(request: number): void {
    if (this.#payload !== undefined) this.#buffers[request] = this.#payload;
  }

  release(): void {
    // The payload is the frame's own.
  }

  reply(request: number, errno: number): void {
    const asked = this.#asked[request] as Asked;
    this.#asked[request] = undefined;
    const values = this.#buffers[request];
    this.#buffers[request] = undefined;
    this.#table.release(request);
    if (errno !== 0) this.#world.failedOperations.push(asked.operation);
    this.#consumer.answered(asked, errno, values);
  }
}

/** No slot of the table: the payload that came with the frame being handled. */
const PAYLOAD = -2;
