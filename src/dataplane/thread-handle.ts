// The main thread's end of one data-plane thread: commands go out, answers and events come back.
// A thread that ends by itself has broken an invariant; the process must stop then (`onDeath`).

import { Worker } from 'node:worker_threads';
import { type ErrorCode, HoldfastError } from '../core/errors.ts';
import { native } from './native.ts';
import type { FrontendView, ReplicaView } from './cluster-storage.ts';
import type { ClusterCommand, ClusterEvent } from './cluster/messages.ts';
import type { VolumeCounters } from './node-storage.ts';
import type { ThreadSample } from './thread-sample.ts';
import type {
  AnswerValue,
  ThreadAnswer,
  ThreadCommand,
  ThreadCounters,
  ThreadData,
  ThreadEvent,
} from './thread-messages.ts';

interface Waiting {
  resolve(value: AnswerValue): void;
  reject(error: unknown): void;
}

export class ThreadHandle {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #exited: Promise<void>;
  #eventFd = -1;
  #nextId = 1;
  #isStopping = false;
  #death: HoldfastError | undefined;
  /** IORING_SETUP_* flags the thread's ring got. */
  setupFlags = 0;
  /** Volumes placed on this thread, for placing the next one. */
  volumeCount = 0;

  /** Resolves when the thread's ring stands. UNSUPPORTED or INTERNAL when it cannot. */
  static async start(
    data: ThreadData,
    onEvent: (event: ThreadEvent | ClusterEvent, handle: ThreadHandle) => void,
    onDeath: (error: Error) => void,
  ): Promise<ThreadHandle> {
    const handle = new ThreadHandle(data, onDeath);
    await handle.#whenReady(onEvent);
    return handle;
  }

  private constructor(data: ThreadData, onDeath: (error: Error) => void) {
    const entry = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url);
    this.#worker = new Worker(entry, { workerData: data, name: 'holdfast-data' });
    this.#exited = new Promise((resolve) => {
      this.#worker.once('exit', (exitCode) => {
        this.#die(`the data-plane thread ended (exit code ${exitCode})`);
        resolve();
      });
    });
    this.#worker.on('error', (error: unknown) => {
      this.#die(error instanceof Error ? (error.stack ?? error.message) : String(error));
      if (!this.#isStopping) onDeath(error instanceof Error ? error : new Error(String(error)));
    });
  }

  /** Rejects with the thread's error; INTERNAL when the thread is gone. */
  ask(command: ThreadCommand | ClusterCommand): Promise<AnswerValue> {
    if (this.#death !== undefined) return Promise.reject(this.#death);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, command });
      native.signalEventFd(this.#eventFd);
    });
  }

  async askVolumeCounters(volumeId: string): Promise<VolumeCounters> {
    return (await this.ask({ type: 'counters', volumeId })) as VolumeCounters;
  }

  async askReplicaView(volumeId: string): Promise<ReplicaView | undefined> {
    return (await this.ask({ type: 'replicaView', volumeId })) as ReplicaView | undefined;
  }

  async askFrontendView(volumeId: string): Promise<FrontendView | undefined> {
    return (await this.ask({ type: 'frontendView', volumeId })) as FrontendView | undefined;
  }

  async askThreadCounters(): Promise<ThreadCounters> {
    return (await this.ask({ type: 'threadCounters' })) as ThreadCounters;
  }

  async askSample(): Promise<ThreadSample> {
    return (await this.ask({ type: 'sample' })) as ThreadSample;
  }

  /** Every volume must be closed before. */
  async stop(): Promise<void> {
    if (this.#isStopping) return this.#exited;
    this.#isStopping = true;
    if (this.#death === undefined) await this.ask({ type: 'stop' });
    await this.#exited;
  }

  #whenReady(onEvent: (event: ThreadEvent | ClusterEvent, handle: ThreadHandle) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#worker.once('error', reject);
      this.#worker.on('message', (message: { event?: ThreadEvent | ClusterEvent; answer?: ThreadAnswer }) => {
        if (message.answer !== undefined) this.#answered(message.answer);
        if (message.event === undefined) return;
        if (message.event.type === 'ready') {
          this.#eventFd = message.event.eventFd;
          this.setupFlags = message.event.setupFlags;
          resolve();
        } else {
          onEvent(message.event, this);
        }
      });
    });
  }

  #answered(answer: ThreadAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (answer.ok) waiting?.resolve(answer.value);
    else waiting?.reject(new HoldfastError(answer.code as ErrorCode, answer.message));
  }

  #die(reason: string): void {
    this.#death ??= new HoldfastError('INTERNAL', reason);
    for (const waiting of this.#waiting.values()) waiting.reject(this.#death);
    this.#waiting.clear();
  }
}
