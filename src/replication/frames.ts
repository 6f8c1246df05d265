// What replicas and frontends say to each other. A link is one connection for one volume, opened by a primary
// to a replica (a stream) or by a frontend to the primary (a session). The first message is a Hello; the other
// side answers Welcome or Refused, or closes. Frames arrive in the order they were sent, each at most once: the
// wire numbers them, and a gap or a repetition ends the link.
//
// Frames of the hot path are a handful of numbers (FrameFields) and perhaps a payload in a request's buffer;
// the rare ones carry a control message. Bytes: wire.ts.

import type { VolumeConfig } from './config.ts';

// ---- both kinds of link
/** Control: Hello, Welcome, Refused. */
export const FRAME_HELLO = 1;
export const FRAME_WELCOME = 2;
export const FRAME_REFUSED = 3;

// ---- stream, primary to replica
/** sequence, offset, length, watermark, epoch, flags; payload. */
export const FRAME_WRITE = 4;
/** The same without payload: reads as zeroes afterwards. */
export const FRAME_ZERO = 5;
/** Resync: bytes that the primary holds under the range's lock. sequence is the copy's own number; payload. */
export const FRAME_COPY = 6;
export const FRAME_COPY_ZERO = 7;
/** sequence: the flush round. Covers all writes that the replica has acknowledged. */
export const FRAME_FLUSH = 8;
/** time: when it was sent; watermark. Asks for a grant. */
export const FRAME_BEAT = 9;
/** Control EpochMessage: a higher epoch of the same opening, or what a copy has to know before it is filled. */
export const FRAME_EPOCH = 10;
/** Control StampsMessage: generations of one extent, for the replica's own table. */
export const FRAME_STAMPS = 11;
/** sequence: what was suspect before it is settled on every member: inherited marks and windows may go. */
export const FRAME_SETTLED = 12;
/** Control PromoteMessage: the place of the primary is yours. */
export const FRAME_PROMOTE = 13;

// ---- stream, replica to primary
/** sequence, errno (perhaps UNTOUCHED of requests.ts), epoch: the write is applied. */
export const FRAME_DONE = 20;
export const FRAME_COPIED = 21;
export const FRAME_FLUSHED = 22;
/** time: the beat's, echoed. A promise, from its sending on, not to promote for the length of a lease. */
export const FRAME_GRANT = 23;
/** epoch: promised durably, and what was unsettled is stamped with it. */
export const FRAME_EPOCH_KEPT = 24;
/** sequence: the extent; its stamps are in the replica's table. */
export const FRAME_STAMPED = 25;

// ---- session, frontend to primary
/** sequence: the request's tag; length, offset, flags (FLAG_ of requests.ts), kind in `errno`; payload of a write. */
export const FRAME_REQUEST = 30;
// ---- session, primary to frontend
/** sequence: the tag; errno; payload of a read. */
export const FRAME_REPLY = 31;
/** Control MovedMessage: the primary is elsewhere, or will be: ask the store. */
export const FRAME_MOVED = 32;
/** The attachment is over: everything of it fails from here on. */
export const FRAME_REVOKED = 33;
/** Nothing but a sign of life, while requests wait for their answers: only a link without it is dead. */
export const FRAME_WAITING = 34;
/** A frontend's answer to WAITING: it is there, and can be heard. */
export const FRAME_HERE = 35;

/** Indices of FrameFields.numbers: what may exceed 31 bits. */
export const SEQUENCE = 0;
export const OFFSET = 1;
export const WATERMARK = 2;
export const TIME = 3;

/** One frame's fields; filled, handed over and filled again: whoever gets it keeps nothing of it. */
export class FrameFields {
  type = 0;
  flags = 0;
  /** A positive errno, 0 for none; in a REQUEST the request's kind. */
  errno = 0;
  epoch = 0;
  lengthBytes = 0;
  readonly numbers = new Float64Array(4);
}

export interface StreamHello {
  readonly kind: 'stream';
  readonly volumeId: string;
  readonly config: VolumeConfig;
  readonly revision: number;
  /** The replica that this stream is for. */
  readonly replicaId: string;
  /** Rises with every stream of this opening. */
  readonly stream: number;
  /** Everything up to here is settled. */
  readonly watermark: number;
  readonly role: 'member' | 'joining';
}

export interface SessionHello {
  readonly kind: 'session';
  readonly volumeId: string;
  readonly node: string;
  readonly attachment: number;
  /** Rises with every session of this attachment, across restarts too. */
  readonly session: number;
  /** The highest epoch this frontend was served in: a primary of a lower one refuses. */
  readonly epoch: number;
}

export type Hello = StreamHello | SessionHello;

export interface SuspectRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** A write of this opening that some copy may lack. */
export interface UnsettledWrite extends SuspectRange {
  readonly sequence: number;
}

export interface StreamWelcome {
  readonly kind: 'stream';
  readonly incarnation: string;
  /** Of the process that answers: named when the primary hands over to it. */
  readonly opening: string;
  readonly bootId: string;
  /** The newest epoch in which it was a member, as far as it knows: what was settled by then, it has. */
  readonly lastInSyncEpoch: number;
  /** Writes that may have reached this copy and not the others; 'hot': all of `hotExtents`. */
  readonly suspects: readonly SuspectRange[] | 'hot';
  readonly hotExtents: readonly number[];
  /** It was in sync once, in this lineage, and its tables are readable: a delta is enough. */
  readonly isDeltaBase: boolean;
}

export interface SessionWelcome {
  readonly kind: 'session';
  readonly epoch: number;
  /** The primary's; null: an older peer does not say. */
  readonly opening: string | null;
  readonly sizeBytes: number;
}

export type Welcome = StreamWelcome | SessionWelcome;

export type RefusalReason =
  /** Of a stream: the replica has promised a higher epoch. Of a session: this is not the primary, or not yet. */
  | 'epoch'
  | 'notPrimary'
  /** A newer stream or session was seen. */
  | 'number'
  | 'lineage'
  /** The attachment is over. */
  | 'revoked'
  /** Ask again in a moment. */
  | 'busy'
  /** The disk of this copy failed. */
  | 'failed'
  /** The volume has grown, and this copy has not. */
  | 'size'
  /** Its daemon is being stopped. Also said on an open stream, as its last word. */
  | 'stopping';

export interface Refused {
  readonly reason: RefusalReason;
  /** The highest epoch the answering side knows. */
  readonly epoch: number;
}

export interface EpochMessage {
  readonly config: VolumeConfig;
  readonly revision: number;
  readonly role: 'member' | 'joining';
  /** For a copy that is to be filled: it gets them as copied blocks, if at all, and each needs its window entry. */
  readonly unsettled: readonly UnsettledWrite[];
}

export interface StampsMessage {
  readonly extent: number;
  /** GENERATION_BLOCKS_PER_EXTENT epochs. */
  readonly stamps: readonly number[];
}

export interface PromoteMessage {
  readonly config: VolumeConfig;
  readonly revision: number;
}

export interface MovedMessage {
  readonly epoch: number;
}

export type ControlMessage =
  | Hello
  | Welcome
  | Refused
  | EpochMessage
  | StampsMessage
  | PromoteMessage
  | MovedMessage;
