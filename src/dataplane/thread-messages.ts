// What the main thread and a data-plane thread say to each other. Plain data: it is cloned on the way.

import type { FrontendView, ReplicaView } from './cluster-storage.ts';
import type { VolumeCounters } from './node-storage.ts';
import type { ThreadSample } from './thread-sample.ts';

export type ThreadCommand =
  /** The thread owns `fd` from now on. */
  | {
      readonly type: 'listen';
      readonly exportId: number;
      readonly fd: number;
      readonly volumeId: string;
      readonly exportName: string;
    }
  | { readonly type: 'unlisten'; readonly exportId: number }
  /** A connected socket in transmission phase. Fences older ones of the same kind. The thread owns `fd`. */
  | { readonly type: 'connect'; readonly volumeId: string; readonly fd: number; readonly readOnly: boolean }
  | { readonly type: 'disconnect'; readonly volumeId: string }
  | { readonly type: 'counters'; readonly volumeId: string }
  | { readonly type: 'threadCounters' }
  | { readonly type: 'sample' }
  | { readonly type: 'stop' };

export interface ThreadCounters {
  readonly ringEntries: number;
  readonly ringEnters: number;
  readonly setupFlags: number;
  readonly sessions: number;
  readonly freeRequests: number;
  /** Garbage collections of this thread since it started. */
  readonly collections: number;
}

export type AnswerValue =
  | VolumeCounters
  | ThreadCounters
  | ThreadSample
  | ReplicaView
  | FrontendView
  | boolean
  | undefined;

/** `ok` false: `code` and `message` as in HoldfastError. */
export type ThreadAnswer =
  | { readonly id: number; readonly ok: true; readonly value: AnswerValue }
  | { readonly id: number; readonly ok: false; readonly code: string; readonly message: string };

/** Said without being asked. */
export type ThreadEvent =
  | { readonly type: 'ready'; readonly eventFd: number; readonly setupFlags: number }
  | { readonly type: 'poolSpace'; readonly volumeId: string; readonly isFull: boolean }
  | { readonly type: 'kernelSessionEnded'; readonly volumeId: string }
  | { readonly type: 'refusedSession'; readonly reason: string }
  | { readonly type: 'noKernelWorkers' };

export interface ThreadFaults {
  readonly noDataFlush: boolean;
  readonly noIntentFlush: boolean;
  /** File systems can neither punch holes nor zero ranges. */
  readonly noZeroing: boolean;
  /** The kernel never begins some of the entries of files. */
  readonly cancelledEntries: boolean;
  /** The thread never comes back from opening a volume. */
  readonly stuckThread: boolean;
}

export interface ThreadData {
  readonly faults: ThreadFaults;
  /** How long the thread polls before it sleeps, at most. */
  readonly busyPollMicros: number;
  /** Shared memory: see watchdog.ts. */
  readonly beat: Int32Array;
}
