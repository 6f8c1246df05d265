// The tests' end of data-plane threads that have links: see peers-side.fixture.ts.

import { Worker } from 'node:worker_threads';
import { native } from '../../src/dataplane/native.ts';
import type { GreetedConnection, PeerEvent } from '../../src/dataplane/peers/hosts.ts';
import type { ThreadData } from '../../src/dataplane/thread-messages.ts';
import type { VolumeConfig } from '../../src/replication/config.ts';
import type { ControlMessage, FrameFields, Hello } from '../../src/replication/frames.ts';
import type { VersionRange } from '../../src/replication/wire.ts';

export interface SideOptions {
  readonly key?: string;
  readonly clusterId?: string;
  readonly versions?: VersionRange;
  readonly socketBufferBytes?: number;
  readonly payloadChecksums?: boolean;
  readonly volumeIds?: readonly string[];
  /** Fill and check every byte. */
  readonly verify?: boolean;
}

export interface RunOrder {
  readonly link: number;
  readonly count: number;
  readonly depth: number;
  readonly minBytes: number;
  readonly maxBytes: number;
  /** Of a session; undefined: writes of a stream. */
  readonly isRead?: boolean;
}

export interface RunFigures {
  readonly doneCount: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly collections: number;
  /** False: the link ended. */
  readonly isWhole: boolean;
}

export interface Heard {
  readonly link: number;
  readonly type: number;
  readonly message?: ControlMessage;
  readonly fields?: Pick<FrameFields, 'flags' | 'errno' | 'epoch' | 'lengthBytes'> & { numbers: number[] };
  readonly hasSlot?: boolean;
  readonly firstBytes?: number[];
}

export interface SideStats {
  readonly freeRequests: number;
  readonly freeBytes: number;
  readonly receivedCount: number;
  readonly badCount: number;
  readonly collections: number;
  readonly heard: readonly Heard[];
  readonly closed: readonly number[];
  readonly accepted: readonly number[];
  readonly opened: readonly number[];
  readonly events: readonly PeerEvent[];
  readonly hoardCount: number;
}

export type SideCommand =
  | { readonly type: 'listen'; readonly fd: number }
  /** Answers when it is welcomed, refused or closed. */
  | { readonly type: 'connect'; readonly address: string; readonly hello: Hello }
  | { readonly type: 'run'; readonly order: RunOrder }
  | {
      readonly type: 'send';
      readonly link: number;
      readonly fields: Partial<FrameFields> & { numbers: number[] };
      readonly payloadBytes: number;
      readonly count?: number;
    }
  | {
      readonly type: 'sendControl';
      readonly link: number;
      readonly frameType: number;
      readonly message: ControlMessage;
    }
  | { readonly type: 'close'; readonly link: number }
  | { readonly type: 'set'; readonly isHoarding?: boolean; readonly isRecording?: boolean }
  | { readonly type: 'adopt'; readonly connection: GreetedConnection }
  | { readonly type: 'adoptRaw'; readonly fd: number; readonly received: Uint8Array }
  | { readonly type: 'stats' }
  | { readonly type: 'stop' };

const config: VolumeConfig = {
  volumeId: 'volume',
  sizeBytes: 1 << 30,
  lineage: 'lineage',
  epoch: 7,
  primary: { replicaId: 'r1', opening: 'opening' },
  inSync: [{ replicaId: 'r1', incarnation: 'incarnation' }],
  replicas: [{ id: 'r1', node: 'node', outSince: null, needsFullCopy: false, bootId: 'boot', report: null }],
  attachment: { number: 3, node: 'node' },
  durability: 'writeback',
  failureMode: 'soft',
};

export const STREAM: Hello = {
  kind: 'stream',
  volumeId: 'volume',
  config,
  revision: 1,
  replicaId: 'r1',
  stream: 1,
  watermark: 0,
  role: 'member',
};

export const SESSION: Hello = {
  kind: 'session',
  volumeId: 'volume',
  node: 'node',
  attachment: 3,
  session: 1,
  epoch: 7,
};

export class Side {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: unknown): void }>();
  readonly #ready: Promise<void>;
  readonly #exited: Promise<void>;
  #eventFd = -1;
  #nextId = 1;
  port = 0;
  onHandOver: (connection: GreetedConnection) => void = () => undefined;

  static async start(options: SideOptions = {}): Promise<Side> {
    const side = new Side(options);
    await side.#ready;
    return side;
  }

  private constructor(options: SideOptions) {
    const thread: ThreadData = {
      faults: {
        noDataFlush: false,
        noIntentFlush: false,
        noZeroing: false,
        cancelledEntries: false,
        stuckThread: false,
      },
      busyPollMicros: 0,
      beat: new Int32Array(new SharedArrayBuffer(64)),
    };
    this.#worker = new Worker(new URL('./peers-side.fixture.ts', import.meta.url), {
      workerData: { thread, options },
    });
    this.#exited = new Promise((resolve) => this.#worker.once('exit', () => resolve()));
    this.#ready = new Promise((resolve, reject) => {
      this.#worker.on('error', (error) => {
        reject(error);
        for (const waiting of this.#waiting.values()) waiting.reject(error);
      });
      this.#worker.on('message', (message) => {
        if (message.event?.type === 'ready') {
          this.#eventFd = message.event.eventFd;
          resolve();
        } else if (message.handOver !== undefined) {
          this.onHandOver(message.handOver);
        } else {
          this.#waiting.get(message.id)?.resolve(message.value);
          this.#waiting.delete(message.id);
        }
      });
    });
  }

  ask(command: SideCommand): Promise<unknown> {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, command });
      native.signalEventFd(this.#eventFd);
    });
  }

  async listen(): Promise<number> {
    const { fd, port } = native.listenTcp('127.0.0.1', 0, 1024);
    await this.ask({ type: 'listen', fd });
    this.port = port;
    return port;
  }

  async connect(
    to: number | 'local',
    hello: Hello = STREAM,
  ): Promise<{ readonly link: number; readonly type: number }> {
    const address = to === 'local' ? to : `127.0.0.1:${to}`;
    return (await this.ask({ type: 'connect', address, hello })) as { link: number; type: number };
  }

  async run(order: RunOrder): Promise<RunFigures> {
    return (await this.ask({ type: 'run', order })) as RunFigures;
  }

  async stats(): Promise<SideStats> {
    return (await this.ask({ type: 'stats' })) as SideStats;
  }

  async stop(): Promise<void> {
    await this.ask({ type: 'stop' });
    await this.#exited;
  }
}

/** Until it is true; bounded. */
export async function eventually<T>(
  look: () => Promise<T>,
  isRight: (value: T) => boolean,
  timeoutMs = 10_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await look();
    if (isRight(value) || Date.now() > deadline) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
