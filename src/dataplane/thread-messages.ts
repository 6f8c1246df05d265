// What the main thread and a data-plane thread say to each other. Plain data: it is cloned on the way.

import type { FrontendView, ReplicaView } from './cluster-storage.ts';
import type { VolumeCounters } from './node-storage.ts';
import type { ThreadSample } from './thread-sample.ts';

export interface OpenVolumeMessage {
  readonly volumeId: string;
  /** Its name: what hangs with one disk is known by it. */
  readonly pool: string;
  readonly sizeBytes: number;
  readonly ioMode: 'direct' | 'buffered';
  readonly durability: 'writeback' | 'writethrough';
  readonly epoch: number;
  readonly opening: string;
  readonly attachmentNumber: number;
  /** What the window belongs to from now on: see WindowFiles. */
  readonly windowOwner: string;
  /** The thread uses these until it has answered 'close'; the main thread owns and closes them. */
  readonly dataFd: number;
  readonly intentFd: number;
  readonly generationsFd: number;
  readonly windowFd: number;
  readonly hotBits: Uint8Array;
  readonly reserveBytes: number;
}

export type ThreadCommand =
  | { readonly type: 'open'; readonly open: OpenVolumeMessage }
  /** Ends the sessions, drains, flushes and cools; answers when nothing refers to the files any more. */
  | { readonly type: 'close'; readonly volumeId: string }
  | {
      readonly type: 'adopt';
      readonly volumeId: string;
      readonly epoch: number;
      readonly attachmentNumber: number;
    }
  | { readonly type: 'grow'; readonly volumeId: string; readonly sizeBytes: number }
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
  /** The replica's superblock could not be written: as after a failed flush. Told as an event too. */
  | { readonly type: 'fail'; readonly volumeId: string; readonly errno: number }
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
  | {
      readonly type: 'volumeFailed';
      readonly volumeId: string;
      readonly what: 'flush' | 'intent' | 'superblock';
      readonly errno: number;
    }
  | { readonly type: 'poolSpace'; readonly volumeId: string; readonly isFull: boolean }
  | { readonly type: 'kernelSessionEnded'; readonly volumeId: string }
  | { readonly type: 'refusedSession'; readonly reason: string };

export interface ThreadFaults {
  readonly noDataFlush: boolean;
  readonly noIntentFlush: boolean;
  /** File systems can neither punch holes nor zero ranges. */
  readonly noZeroing: boolean;
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
