// One data-plane thread with links and nothing else: it sends writes and reads as it is told, answers those of others,
// and checks every byte against a table that all sides draw from the same seed.

import { GCProfiler } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { invariant } from '../../src/core/invariant.ts';
import { ClusterKey } from '../../src/dataplane/peers/handshake.ts';
import type {
  GreetedConnection,
  GreetedHost,
  PeerEvent,
  PeersHost,
} from '../../src/dataplane/peers/hosts.ts';
import { Peers } from '../../src/dataplane/peers/peers.ts';
import { Thread } from '../../src/dataplane/thread.ts';
import type { ThreadData } from '../../src/dataplane/thread-messages.ts';
import * as frames from '../../src/replication/frames.ts';
import {
  type ControlMessage,
  FrameFields,
  type Hello,
  OFFSET,
  SEQUENCE,
} from '../../src/replication/frames.ts';
import { NONE, READ, WRITE } from '../../src/replication/requests.ts';
import { needsRequest } from '../../src/replication/wire-types.ts';
import type { Heard, RunOrder, SideCommand, SideOptions, SideStats } from './peers-support.ts';

const TABLE_BYTES = 8 * 1024 * 1024;
const SPREAD = 4 * 1024 * 1024;

invariant(parentPort !== null, 'this runs in a worker thread');
const port = parentPort;
const { thread: threadData, options } = workerData as { thread: ThreadData; options: SideOptions };

const table = new Uint8Array(TABLE_BYTES);
const tableWords = new Uint32Array(table.buffer);
let state = 0x9e3779b9;
for (let i = 0; i < tableWords.length; i++) {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  tableWords[i] = state ^ (state >>> 15);
}

function startOf(sequence: number): number {
  return (sequence * 7919 * 16) % SPREAD;
}

let profiler = new GCProfiler();
profiler.start();
let collections = 0;
function countCollections(): number {
  const report = profiler.stop() as { statistics: unknown[] } | undefined;
  collections += report?.statistics.length ?? 0;
  profiler = new GCProfiler();
  profiler.start();
  return collections;
}

/** Keeps `depth` requests in flight on one link. */
class Run {
  readonly order: RunOrder;
  readonly answer: (value: unknown) => void;
  readonly startedMs = performance.now();
  readonly collectionsBefore = countCollections();
  sentCount = 0;
  doneCount = 0;
  badCount = 0;
  bytes = 0;
  random = 1;

  constructor(order: RunOrder, answer: (value: unknown) => void) {
    this.order = order;
    this.answer = answer;
  }

  draw(limit: number): number {
    this.random = (Math.imul(this.random, 1103515245) + 12345) & 0x7fffffff;
    return (this.random >>> 8) % limit;
  }
}

const out = new FrameFields();

class TestHost implements GreetedHost, PeersHost {
  readonly peers: Peers;
  readonly heard: Heard[] = [];
  readonly closed: number[] = [];
  readonly accepted: number[] = [];
  readonly opened: number[] = [];
  readonly events: PeerEvent[] = [];
  readonly hoard: number[] = [];
  readonly waiting = new Map<number, (value: unknown) => void>();
  readonly runs = new Map<number, Run>();
  badCount = 0;
  receivedCount = 0;
  isHoarding = false;
  isRecording = false;
  isStopping = false;

  constructor(thread: Thread) {
    this.peers = new Peers(thread, {
      clusterKey: new ClusterKey(Buffer.alloc(32, options.key ?? 'k'), options.clusterId ?? 'cluster'),
      host: this,
      ...(options.versions === undefined ? {} : { versions: options.versions }),
      ...(options.socketBufferBytes === undefined ? {} : { socketBufferBytes: options.socketBufferBytes }),
      ...(options.payloadChecksums === undefined ? {} : { payloadChecksums: options.payloadChecksums }),
    });
  }

  // ---- as the thread's host

  hostOf(hello: Hello): GreetedHost | undefined {
    return (options.volumeIds ?? ['volume']).includes(hello.volumeId) ? this : undefined;
  }

  handOver(connection: GreetedConnection): void {
    port.postMessage({ handOver: connection });
  }

  event(event: PeerEvent): void {
    this.events.push(event);
  }

  // ---- as a volume

  greeted(link: number, hello: Hello): void {
    this.accepted.push(link);
    const message: ControlMessage =
      hello.kind === 'session'
        ? { kind: 'session', epoch: hello.epoch, sizeBytes: 1 << 30 }
        : {
            kind: 'stream',
            incarnation: 'incarnation',
            opening: 'opening',
            bootId: 'boot',
            lastInSyncEpoch: 1,
            suspects: [],
            hotExtents: [],
            isDeltaBase: true,
          };
    this.peers.sendControl(link, frames.FRAME_WELCOME, message);
  }

  control(link: number, type: number, message: ControlMessage): void {
    if (this.isRecording) this.heard.push({ link, type, message });
    if (type === frames.FRAME_WELCOME || type === frames.FRAME_REFUSED) {
      this.waiting.get(link)?.({ link, type });
      this.waiting.delete(link);
    }
  }

  linkClosed(link: number): void {
    this.closed.push(link);
    this.waiting.get(link)?.({ link, type: 0 });
    this.waiting.delete(link);
    const run = this.runs.get(link);
    this.runs.delete(link);
    run?.answer({ ...this.#figures(run), isWhole: false });
  }

  frame(link: number, fields: FrameFields, request: number): void {
    this.receivedCount += 1;
    if (this.isRecording) this.#record(link, fields, request);
    switch (fields.type) {
      case frames.FRAME_WRITE:
        if (options.verify === true && !this.#isRight(request, fields)) this.badCount += 1;
        this.#answer(link, frames.FRAME_DONE, fields, request);
        return;
      case frames.FRAME_REQUEST:
        if (fields.errno === READ)
          this.#fill(request, fields.numbers[SEQUENCE] as number, fields.lengthBytes);
        else if (options.verify === true && !this.#isRight(request, fields)) this.badCount += 1;
        this.#answer(link, frames.FRAME_REPLY, fields, request);
        return;
      case frames.FRAME_REPLY:
        if (options.verify === true && request !== NONE && !this.#isRight(request, fields))
          this.badCount += 1;
        if (request !== NONE) this.peers.slots.release(request);
        this.#done(link);
        return;
      case frames.FRAME_DONE:
        this.#done(link);
        return;
      default:
        if (request !== NONE) this.peers.slots.release(request);
    }
  }

  #record(link: number, fields: FrameFields, request: number): void {
    const { memory, slots } = this.peers.thread;
    const at = slots.data[request] as number;
    const hasBytes = request !== NONE && fields.type !== frames.FRAME_ZERO && needsRequest(fields);
    this.heard.push({
      link,
      type: fields.type,
      fields: {
        flags: fields.flags,
        errno: fields.errno,
        epoch: fields.epoch,
        lengthBytes: fields.lengthBytes,
        numbers: [...fields.numbers],
      },
      hasSlot: request !== NONE,
      firstBytes: hasBytes && slots.buffer[request] !== NONE ? [...memory.bytes.subarray(at, at + 8)] : [],
    });
  }

  #answer(link: number, type: number, fields: FrameFields, request: number): void {
    if (this.isHoarding) {
      this.hoard.push(request);
      return;
    }
    const isRead = type === frames.FRAME_REPLY && fields.errno === READ;
    out.type = type;
    out.errno = 0;
    out.lengthBytes = isRead ? fields.lengthBytes : 0;
    out.numbers[SEQUENCE] = fields.numbers[SEQUENCE] as number;
    this.peers.sendFrame(link, out, isRead ? request : NONE);
    this.peers.slots.release(request);
  }

  #isRight(request: number, fields: FrameFields): boolean {
    const { memory, slots } = this.peers.thread;
    const at = slots.data[request] as number;
    const start = startOf(fields.numbers[SEQUENCE] as number);
    const length = fields.lengthBytes;
    return (
      Buffer.compare(memory.bytes.subarray(at, at + length), table.subarray(start, start + length)) === 0
    );
  }

  #fill(request: number, sequence: number, length: number): void {
    if (options.verify !== true) return;
    const { memory, slots } = this.peers.thread;
    const start = startOf(sequence);
    memory.bytes.set(table.subarray(start, start + length), slots.data[request] as number);
  }

  // ---- sending

  run(order: RunOrder, answer: (value: unknown) => void): void {
    const run = new Run(order, answer);
    this.runs.set(order.link, run);
    while (run.sentCount - run.doneCount < order.depth && run.sentCount < order.count) this.#next(run);
  }

  #next(run: Run): void {
    const { link, minBytes, maxBytes, isRead } = run.order;
    const span = Math.floor((maxBytes - minBytes) / 512) + 1;
    const length = minBytes + 512 * run.draw(span);
    run.sentCount += 1;
    run.bytes += length;
    out.type = isRead === undefined ? frames.FRAME_WRITE : frames.FRAME_REQUEST;
    out.errno = isRead === undefined ? 0 : isRead ? READ : WRITE;
    out.lengthBytes = length;
    out.numbers[SEQUENCE] = run.sentCount;
    out.numbers[OFFSET] = 512 * run.draw(1 << 20);
    if (isRead === true) {
      this.peers.sendFrame(link, out, NONE);
      return;
    }
    const request = this.peers.slots.take(length);
    invariant(request !== NONE, 'there is room for a run');
    this.#fill(request, run.sentCount, length);
    this.peers.sendFrame(link, out, request);
    // Its core is done with it; the link keeps it until the bytes have left.
    this.peers.slots.release(request);
  }

  #done(link: number): void {
    const run = this.runs.get(link);
    if (run === undefined) return;
    run.doneCount += 1;
    if (run.sentCount < run.order.count) this.#next(run);
    else if (run.doneCount === run.order.count) {
      this.runs.delete(link);
      run.answer({ ...this.#figures(run), isWhole: true });
    }
  }

  #figures(run: Run): object {
    return {
      doneCount: run.doneCount,
      bytes: run.bytes,
      seconds: (performance.now() - run.startedMs) / 1000,
      collections: countCollections() - run.collectionsBefore,
    };
  }

  // ---- told

  command(command: SideCommand, answer: (value: unknown) => void): void {
    const { peers } = this;
    switch (command.type) {
      case 'listen':
        peers.listen(command.fd);
        answer(undefined);
        return;
      case 'connect': {
        const link =
          command.address === 'local' ? peers.connectLocal(this) : peers.connect(this, command.address);
        this.opened.push(link);
        this.waiting.set(link, answer);
        peers.sendControl(link, frames.FRAME_HELLO, command.hello);
        return;
      }
      case 'run':
        this.run(command.order, answer);
        return;
      case 'send':
        this.#send(command.link, command.fields, command.payloadBytes, command.count ?? 1);
        answer(undefined);
        return;
      case 'sendControl':
        peers.sendControl(command.link, command.frameType, command.message);
        answer(undefined);
        return;
      case 'close':
        peers.closeLink(command.link);
        answer(undefined);
        return;
      case 'set':
        this.isHoarding = command.isHoarding ?? this.isHoarding;
        this.isRecording = command.isRecording ?? this.isRecording;
        if (!this.isHoarding) for (const request of this.hoard.splice(0)) peers.slots.release(request);
        answer(undefined);
        return;
      case 'adopt':
        peers.adopt(command.connection);
        answer(undefined);
        return;
      case 'adoptRaw':
        peers.adoptRaw(command.fd, command.received);
        answer(undefined);
        return;
      case 'stats':
        answer(this.#stats());
        return;
      case 'stop':
        answer(undefined);
        this.isStopping = true;
        peers.stop();
        return;
    }
  }

  #send(
    link: number,
    from: Partial<FrameFields> & { numbers: number[] },
    payloadBytes: number,
    count: number,
  ): void {
    const { memory, slots } = this.peers.thread;
    for (let i = 0; i < count; i++) {
      Object.assign(out, { type: 0, flags: 0, errno: 0, epoch: 0, lengthBytes: 0 }, from, {
        numbers: out.numbers,
      });
      out.numbers.set(from.numbers);
      let request = NONE;
      if (payloadBytes > 0) {
        request = this.peers.slots.take(payloadBytes);
        invariant(request !== NONE, 'there is room for a payload');
        memory.bytes.fill(
          out.type,
          slots.data[request] as number,
          (slots.data[request] as number) + payloadBytes,
        );
      }
      this.peers.sendFrame(link, out, request);
      if (request !== NONE) this.peers.slots.release(request);
    }
  }

  #stats(): SideStats {
    const { thread } = this.peers;
    return {
      freeRequests: thread.slots.freeCount,
      freeBytes: thread.memory.freeBytes,
      receivedCount: this.receivedCount,
      badCount: this.badCount,
      collections: countCollections(),
      heard: this.heard,
      closed: this.closed,
      accepted: this.accepted,
      opened: this.opened,
      events: this.events,
      hoardCount: this.hoard.length,
    };
  }
}

const thread = new Thread(port, threadData);
const host = new TestHost(thread);
thread.run(
  (message) => {
    const { id, command } = message as { id: number; command: SideCommand };
    host.command(command, (value) => port.postMessage({ id, value }));
  },
  () => {
    if (host.isStopping && host.peers.isIdle) thread.stop();
    return host.isStopping;
  },
  countCollections,
);
thread.dispose();
