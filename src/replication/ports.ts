// What the replication core asks of the world around it. Production answers with rings, sockets and the store;
// the simulator with a hostile world. Every start* ends in exactly one call back into the core, never from
// within the call that started it, unless it says so.
//
// Requests are slots of a RequestTable; buffers belong to the slot that holds them. A port that still sends
// from a buffer keeps it, whatever the core does with the slot (release() only says that the core is done).

import type { StoredConfig, VolumeConfig } from './config.ts';
import type { ControlMessage, FrameFields } from './frames.ts';
import type { Superblock } from './layout/superblock.ts';
import type { Pace } from './pace.ts';

/** The local copy's files. */
export interface DiskPorts {
  /** Reads the request's range into its buffer. Ends in dataDone(request, errno). */
  startRead(request: number): void;
  /** Writes its buffer. Ends in dataDone(request, errno); the errno may be UNTOUCHED (requests.ts). */
  startWrite(request: number): void;
  /** Makes the range read as zeroes. Ends in dataDone(request, errno), as a write. */
  startZero(request: number): void;
  /** A flush of the data file: covers every data operation that ended before this call. Ends in flushDone(errno). One at a time. */
  startFlush(): void;
  /** As ExtentPorts. Ends in intentRoundDone(errno). */
  startIntentRound(durable: boolean): void;
  /** As ExtentPorts. Ends in generationsMerged(errno). */
  startGenerationMerge(): void;
  /** Reads an extent's saved generations, for the resync over `link`. Ends in stampsRead(link, extent, errno, stamps). */
  startStampRead(link: number, extent: number): void;
  /** Durably replaces the superblock. Ends in superblockDone(errno). One at a time. */
  startSuperblock(superblock: Superblock): void;
}

export type ProposalOutcome =
  | { readonly type: 'committed'; readonly revision: number }
  /** Another change came first: this is what stands there. undefined: the volume is gone. */
  | { readonly type: 'conflict'; readonly current: StoredConfig | undefined }
  /** It may have been committed, or may yet be. */
  | { readonly type: 'unknown' };

export interface ReplicaPorts extends DiskPorts {
  /**
   * CLOCK_BOOTTIME, in milliseconds: at or after all that the core has been told, and at or before now. A process that
   * stands still within a batch of events goes on in the time of before: what it says then it says late.
   */
  nowMs(): number;
  /** 32 hex digits that were never drawn before. */
  drawId(): string;

  /** A slot with a buffer of this size for the core's own copying; NONE: try again at the next tick. */
  takeRequest(lengthBytes: number): number;
  /** The core is done with a slot that it took or that came in a frame. */
  release(request: number): void;

  /** Opens a link to a replica's node; the Hello is the first message. Ends in linkClosed, whenever that is. */
  connect(node: string, replicaId: string): number;
  /** `request`: the slot whose buffer is the payload, or NONE. Never waits: what the socket does not take is queued. */
  sendFrame(link: number, fields: FrameFields, request: number): void;
  sendControl(link: number, type: number, message: ControlMessage): void;
  /** Nothing of this link is delivered any more; no linkClosed follows. */
  closeLink(link: number): void;

  /**
   * A copy of this volume may be brought up to date now, beside those of the node's other volumes. False: it is not its
   * turn, and this is asked again at the next tick. `isFull`: it needs everything; `isUrgent`: requests wait for it.
   */
  beginResync(isFull: boolean, isUrgent: boolean): boolean;
  /** Once for every beginResync() that was true. */
  endResync(isFull: boolean): void;
  /** Of all resyncs of the data-plane thread. Those that wait for their turn by it are told at Primary.resyncTurn(). */
  readonly pace: Pace;

  /** Linearizable. Ends in configRead(current | undefined (the store did not answer)). One at a time. */
  readConfig(): void;
  /** Compare-and-swap of the volume's record. Ends in proposed(number, outcome). */
  propose(proposal: number, baseRevision: number, config: VolumeConfig): void;

  /** For logs, metrics and the volume's timeline. */
  event(event: ReplicaEvent): void;
}

export type ReplicaEvent =
  | { readonly type: 'role'; readonly role: string; readonly epoch: number }
  | { readonly type: 'memberSilent'; readonly replicaId: string }
  | { readonly type: 'memberDropped' | 'memberAdded'; readonly replicaId: string; readonly epoch: number }
  /** It left again and again, soon after it had joined: it is not taken up for so long. */
  | {
      readonly type: 'heldOut';
      readonly replicaId: string;
      readonly times: number;
      readonly forMs: number;
    }
  /** A copy in sync hears nothing of its primary. */
  | { readonly type: 'suspected'; readonly replicaId: string; readonly silentMs: number }
  /** Nothing that it granted to that primary holds any more, and it proposes itself. */
  | { readonly type: 'leaseOver'; readonly replicaId: string }
  /** Of the volume's frontend here: the first good answer after another connection to a primary, and the last one before. */
  | {
      readonly type: 'firstIo';
      readonly fromNode: string;
      readonly toNode: string;
      readonly pauseMs: number;
    }
  | { readonly type: 'reconciled'; readonly epoch: number; readonly bytes: number }
  | { readonly type: 'resync'; readonly replicaId: string; readonly bytesLeft: number }
  | { readonly type: 'failed'; readonly what: string; readonly errno: number };
