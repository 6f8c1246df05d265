// One NBD connection: bytes in, requests to the volume, replies out.
//
// A request that finds no slot or no memory parks the session: it is not read until something is free, which
// is the back-pressure. A session that has handed over enough for one turn goes on in the next, after the
// others. A large read that can probably be sent from the page cache waits for what is being sent.
//
// Invariants: every request read gets exactly one reply unless the connection is gone; at most one receive
// and one send are in the ring; the descriptor is closed, and the index free again, only when neither is
// and nothing of the session is in flight: until then the kernel may still touch its buffers.

import { NONE } from '../../replication/requests.ts';
import { SMALLEST_MAPPED_BYTES } from '../mapped-reads.ts';
import { native } from '../native.ts';
import { isInterruption } from '../ring.ts';
import { LARGE_PAYLOAD_BYTES, SocketReceiver } from '../socket-receiver.ts';
import { TAG_CLOSE, TAG_RECEIVE } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { MAX_PAYLOAD_BYTES } from '../thread-memory.ts';
import type { HandshakeHost } from './handshake.ts';
import { Negotiation } from './negotiation.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EINVAL,
  NBD_REQUEST_MAGIC,
  REQUEST_HEADER_BYTES,
} from './protocol.ts';
import { Replies } from './replies.ts';
import { RequestBuffers } from './request-buffers.ts';
import {
  CLIENT_ALLOCATION_CONTEXT,
  CLIENT_READ_ONLY,
  CLIENT_STRUCTURED,
  checkRequest,
} from './request-check.ts';

/** A session reads no further request while it has this many unanswered. */
const IN_FLIGHT_LIMIT = 256;
/** Of this much it hands over requests in one turn, then it is the others' turn. */
const TURN_BYTES = 256 * 1024;
const HANDSHAKE_LIMIT_MS = 30_000;
const SEND_STALL_LIMIT_MS = 10_000;
/** While somebody waits for memory, a payload whose buffer is taken has to come within this. */
const PAYLOAD_STALL_LIMIT_MS = 10_000;
/** A command that no protocol of ours knows, as it is kept in a byte. */
const UNKNOWN_COMMAND = 255;

/**
 * What a session serves: requests go in by admit(), and each comes back by one reply(). Links may still read from a
 * request after its reply: PeerSlots says when a slot is free.
 */
export interface ServedVolume {
  /** In its thread, for the requests' slots. */
  readonly index: number;
  readonly sizeBytes: number;
  readonly sessions: Set<Session>;
  /** Requests of sessions that have not been released. */
  inFlightCount: number;
  admit(request: number): void;
  /** Of BLOCK_STATUS: fills the buffer and replyBytes, and returns the reply's errno. */
  describeBlocks(request: number): number;
}

export interface SessionOptions {
  readonly readOnly: boolean;
  /** In transmission phase from the start, on this volume; otherwise `host` and `resolve` find one. */
  readonly volume?: ServedVolume;
  readonly host?: HandshakeHost;
  readonly resolve?: (exportName: string) => ServedVolume | undefined;
  readonly onClosed?: () => void;
}

export class Session {
  readonly index: number;
  readonly fd: number;
  volume: ServedVolume | undefined;
  /** Read from the client, not yet released. */
  inFlightCount = 0;
  isClosing = false;
  isParked = false;
  /** Its last large read found its bytes in the page cache, mapped. */
  readsAreCached = false;
  readonly #thread: Thread;
  readonly #options: SessionOptions;
  readonly #openedAtMs: number;
  readonly #receiver: SocketReceiver;
  readonly #buffers: RequestBuffers;
  readonly #replies: Replies;
  #negotiation: Negotiation | undefined;
  #isNegotiating = false;
  #clientBits: number;
  #isHeld = false;
  /** What the request whose payload is under way will be answered: its payload is discarded. */
  #payloadErrno = 0;
  /** The next request is a large read, for which the connection must be free. */
  #isAwaitingRoom = false;
  /** The last payload was large, so the next header is received alone: what follows it then comes without a copy. */
  #isHeaderAlone = false;
  /** Bytes of the requests handed over in this turn. */
  #turnBytes = 0;
  /** No request is read any more: what is in flight is answered, then the connection ends. */
  #isLast = false;
  #isDirty = false;
  #isFdClosed = false;

  constructor(thread: Thread, index: number, fd: number, options: SessionOptions) {
    this.#thread = thread;
    this.index = index;
    this.fd = fd;
    this.#options = options;
    this.#receiver = new SocketReceiver(thread, fd, thread.memory.receiveOffset(index), index, TAG_RECEIVE);
    this.#buffers = new RequestBuffers(thread);
    this.#replies = new Replies(thread, index, fd);
    this.#openedAtMs = thread.nowMs();
    this.#clientBits = options.readOnly ? CLIENT_READ_ONLY : 0;
    this.volume = options.volume;
    if (options.host !== undefined) {
      this.#negotiation = new Negotiation(thread, index, fd, options.host);
      this.#isNegotiating = true;
    }
  }

  /** Starts to serve. `hold`: does not read before resume(). */
  start(hold: boolean): void {
    this.volume?.sessions.add(this);
    this.#isHeld = hold;
    if (this.#negotiation?.send() === false) this.close();
    this.#proceed();
  }

  resume(): void {
    this.#isHeld = false;
    this.#proceed();
  }

  // ---- receiving

  received(result: number): void {
    const receiver = this.#receiver;
    receiver.isReceiving = false;
    if (isInterruption(result) && !this.isClosing) {
      this.#receive();
      return;
    }
    if (result <= 0 || this.isClosing) {
      this.close();
      return;
    }
    receiver.received(result);
    this.#proceed();
  }

  /** Tries again after something was released. */
  retry(): void {
    this.isParked = false;
    this.#proceed();
  }

  #proceed(): void {
    if (!this.#receiver.isReceiving && !this.#isHeld) {
      this.#isAwaitingRoom = false;
      this.#turnBytes = 0;
      while (!this.isClosing && !this.isParked && this.#step());
      if (!this.isClosing && !this.isParked && !this.#isLast && !this.#isAwaitingRoom) {
        this.#receive();
        return;
      }
    }
    this.#endIfDone();
  }

  #receive(): void {
    const isHeaderWanted = this.#isHeaderAlone && this.#receiver.payloadRequest === NONE;
    this.#receiver.receive(isHeaderWanted ? REQUEST_HEADER_BYTES : 0);
  }

  /** Consumes something of the receive buffer; false when more bytes are needed, or nothing more is wanted. */
  #step(): boolean {
    const receiver = this.#receiver;
    if (this.#isNegotiating) return receiver.availableBytes > 0 && this.#negotiate();
    if (receiver.payloadRequest !== NONE) return receiver.takePayload() && this.#payloadComplete();
    return receiver.availableBytes >= REQUEST_HEADER_BYTES && !this.#isLast && this.#header(receiver.at);
  }

  /** A whole request header stands at `at`. False: parked, interrupted, closed, or the last one. */
  #header(at: number): boolean {
    const { memory } = this.#thread;
    const view = memory.view;
    const volume = this.volume;
    if (view.getUint32(at) !== NBD_REQUEST_MAGIC || volume === undefined) {
      this.close();
      return false;
    }
    const command = view.getUint16(at + 6);
    if (command === NBD_CMD_DISC) {
      this.#isLast = true;
      return false;
    }
    if (command === NBD_CMD_READ && this.#awaitsRoom(view.getUint32(at + 24))) return false;
    if (this.#turnBytes >= TURN_BYTES) {
      this.#thread.interrupt(this);
      return false;
    }
    const request = this.#takeSlot(at, command, volume);
    if (request === NONE) return this.#park();
    const { slots } = this.#thread;
    const wireFlags = view.getUint16(at + 4);
    const errno = checkRequest(slots, request, wireFlags, this.#clientBits, volume.sizeBytes);
    if (errno === 0 && !(this.#hasRoom(request, command) && this.#buffers.take(request))) {
      // The header stays where it is: a parked session reads it again.
      slots.release(request);
      return this.#park();
    }
    this.#receiver.consume(REQUEST_HEADER_BYTES);
    this.#turnBytes += slots.lengthBytes[request] as number;
    memory.bytes.copyWithin(memory.headerOffset(request) + 8, at + 8, at + 16);
    this.inFlightCount += 1;
    volume.inFlightCount += 1;
    this.#thread.peers.slots.track(request);
    if (command === NBD_CMD_WRITE) this.#beginWrite(request, errno);
    else this.#beginOther(request, command, errno, volume);
    return true;
  }

  #hasRoom(request: number, command: number): boolean {
    if (command !== NBD_CMD_READ && command !== NBD_CMD_WRITE) return true;
    const { memory, slots } = this.#thread;
    const length = slots.lengthBytes[request] as number;
    // What is too large takes no buffer: it is refused.
    if (length > MAX_PAYLOAD_BYTES) return true;
    return memory.hasRoomBesideCopies(length, this.inFlightCount === 0);
  }

  /** A slot with what the header says, or NONE. */
  #takeSlot(at: number, command: number, volume: ServedVolume): number {
    const { memory, slots } = this.#thread;
    // A session holds no more slots than it leaves free, so that those who never read leave some to the others.
    const freeCount = this.#thread.peers.slots.trackableCount;
    const mayTake = this.inFlightCount < IN_FLIGHT_LIMIT && this.inFlightCount < freeCount;
    const request = mayTake ? slots.take() : NONE;
    if (request === NONE) return NONE;
    const view = memory.view;
    slots.command[request] = Math.min(command, UNKNOWN_COMMAND);
    slots.offsetBytes[request] = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20);
    slots.lengthBytes[request] = view.getUint32(at + 24);
    slots.session[request] = this.index;
    slots.volume[request] = volume.index;
    slots.startedMs[request] = this.#thread.clockMs[0] as number;
    slots.buffer[request] = NONE;
    slots.charged[request] = 0;
    slots.replyBytes[request] = 0;
    slots.sentBytes[request] = 0;
    return request;
  }

  #beginWrite(request: number, errno: number): void {
    const slots = this.#thread.slots;
    const length = slots.lengthBytes[request] as number;
    if (length > MAX_PAYLOAD_BYTES) {
      // Nobody drains gigabytes to be polite: the answer, then the end.
      this.#isLast = true;
      this.reply(request, NBD_EINVAL);
      return;
    }
    this.#isHeaderAlone = length >= LARGE_PAYLOAD_BYTES;
    if (length === 0) {
      this.reply(request, errno);
      return;
    }
    this.#payloadErrno = errno;
    const { data } = this.#thread.slots;
    this.#receiver.expectPayload(request, length, errno === 0 ? (data[request] as number) : NONE);
  }

  #beginOther(request: number, command: number, errno: number, volume: ServedVolume): void {
    this.#isHeaderAlone = false;
    const isEmpty = this.#thread.slots.lengthBytes[request] === 0 && command !== NBD_CMD_FLUSH;
    // CACHE is a hint: reading ahead is the page cache's business in buffered pools and nobody's in direct ones.
    if (errno !== 0 || isEmpty || command === NBD_CMD_CACHE) this.reply(request, errno);
    else if (command === NBD_CMD_BLOCK_STATUS) this.reply(request, volume.describeBlocks(request));
    else volume.admit(request);
  }

  #payloadComplete(): boolean {
    const request = this.#receiver.endPayload();
    if (this.#payloadErrno !== 0) this.reply(request, this.#payloadErrno);
    else this.volume?.admit(request);
    return true;
  }

  /**
   * A large read whose bytes will probably leave from the page cache is not taken before the connection has nothing
   * else to send: now it would have to be copied first, and its reply would leave no earlier.
   */
  #awaitsRoom(lengthBytes: number): boolean {
    this.#isAwaitingRoom = lengthBytes >= SMALLEST_MAPPED_BYTES && this.readsAreCached && !this.isFreeToSend;
    return this.#isAwaitingRoom;
  }

  #park(): boolean {
    this.#thread.park(this);
    return false;
  }

  // ---- replying

  /** The one reply of a request. */
  reply(request: number, errno: number): void {
    if (this.isClosing) {
      this.#release(request);
      this.#endIfDone();
      return;
    }
    const { slots } = this.#thread;
    slots.error[request] = errno;
    if ((slots.sentBytes[request] as number) > 0) {
      this.#endBegun(request, errno);
      return;
    }
    this.#replies.push(request);
    this.#markDirty();
  }

  // ---- replies whose bytes leave while the read is made

  /** The next bytes on the connection may be those of a reply that nobody has queued. */
  get isFreeToSend(): boolean {
    return !this.isClosing && !this.#isSending && this.#replies.isFree;
  }

  /** Puts the header of a read that succeeds into its place, and returns its length. */
  prepareReply(request: number): number {
    return this.#replies.writeHeader(request, this.#thread.memory.headerOffset(request));
  }

  /** So much of the reply has left, header included. What is missing follows from the request's buffer once reply() comes. */
  replyBegun(request: number, sentBytes: number, isWhole: boolean): void {
    this.#thread.slots.sentBytes[request] = sentBytes;
    if (!isWhole) this.#replies.begun(request);
  }

  #endBegun(request: number, errno: number): void {
    if (errno === 0 && this.#replies.endBegun(request)) {
      this.#markDirty();
      return;
    }
    this.#release(request);
    // An error comes too late: the client has been promised bytes that cannot be had.
    if (errno !== 0) this.close();
    else this.#endIfDone();
  }

  /** At the end of a turn. */
  flushReplies(): void {
    this.#isDirty = false;
    if (this.isClosing || this.#isSending || !this.#replies.hasQueued) return;
    this.#replies.send();
  }

  sent(result: number): void {
    if (this.#negotiation?.isSending === true) {
      if (!this.#negotiation.sent(result)) this.close();
    } else if (this.#replies.sent(result)) {
      for (let r = this.#replies.takeSent(); r !== NONE; r = this.#replies.takeSent()) this.#release(r);
    } else if (!this.#replies.isSending) {
      this.close();
    }
    if (this.#replies.hasQueued) this.#markDirty();
    else if (this.#isAwaitingRoom && !this.isParked && this.isFreeToSend) this.#thread.interrupt(this);
    this.#endIfDone();
  }

  get #isSending(): boolean {
    return this.#replies.isSending || this.#negotiation?.isSending === true;
  }

  #markDirty(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.#thread.dirty(this);
  }

  #release(request: number): void {
    // Nobody is told of its end any more: a primary in this thread may keep its bytes, not its slot.
    this.#thread.peers.slots.releaseTracked(request, this.isClosing);
  }

  /** Nobody has the request any more. */
  freed(request: number): void {
    const slots = this.#thread.slots;
    this.#buffers.free(request);
    this.inFlightCount -= 1;
    if (this.volume !== undefined) this.volume.inFlightCount -= 1;
    slots.release(request);
    this.#thread.somethingFreed();
    // A primary may have kept it beyond the last reply.
    if (this.isClosing || this.#isLast) this.#endIfDone();
  }

  // ---- handshake

  #negotiate(): boolean {
    const negotiation = this.#negotiation;
    if (negotiation === undefined) return false;
    const receiver = this.#receiver;
    receiver.consume(negotiation.receive(receiver.at, receiver.at + receiver.availableBytes));
    if (!negotiation.send()) {
      this.close();
      return false;
    }
    if (negotiation.state === 'negotiating') return false;
    const { result } = negotiation;
    const volume = result === undefined ? undefined : this.#options.resolve?.(result.exportName);
    if (result === undefined || volume === undefined) {
      // The last answer (to ABORT, say) leaves first.
      this.#isLast = true;
      return false;
    }
    this.#isNegotiating = false;
    this.#replies.structured = result.structuredReplies;
    if (result.structuredReplies) this.#clientBits |= CLIENT_STRUCTURED;
    if (result.allocationContextId !== 0) this.#clientBits |= CLIENT_ALLOCATION_CONTEXT;
    this.volume = volume;
    volume.sessions.add(this);
    return true;
  }

  // ---- closing

  /** Time matters to it now. */
  get isTimed(): boolean {
    return this.#isNegotiating;
  }

  /** Ends what takes too long. */
  checkDeadlines(nowMs: number, isMemoryShort: boolean): void {
    if (this.isClosing) return;
    const isStalled =
      (this.#replies.isSending && nowMs - (this.#replies.movedMs[0] as number) > SEND_STALL_LIMIT_MS) ||
      (this.#receiver.payloadRequest !== NONE &&
        nowMs - (this.#receiver.payloadSinceMs[0] as number) > PAYLOAD_STALL_LIMIT_MS);
    if (this.isTimed && nowMs - this.#openedAtMs > HANDSHAKE_LIMIT_MS) this.close();
    else if (isMemoryShort && isStalled) this.close();
  }

  /** Ends the connection now; requests in flight run to their end unheard. */
  close(): void {
    if (!this.isClosing) {
      this.isClosing = true;
      native.shutdownSocket(this.fd);
      for (let r = this.#replies.takeQueued(); r !== NONE; r = this.#replies.takeQueued()) this.#release(r);
    }
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.#isLast && !this.isClosing && this.inFlightCount === 0 && !this.#isSending) this.close();
    if (!this.isClosing || this.#receiver.isReceiving || this.#isSending || this.#isFdClosed) return;
    const unfinished = this.#receiver.endPayload();
    if (unfinished !== NONE) this.#release(unfinished);
    for (let r = this.#replies.takeSent(); r !== NONE; r = this.#replies.takeSent()) this.#release(r);
    // The last of them may have ended it within.
    if (this.inFlightCount > 0 || this.#isFdClosed) return;
    this.#isFdClosed = true;
    this.#thread.ring.close(this.fd, this.index, TAG_CLOSE);
    this.volume?.sessions.delete(this);
    this.#thread.sessionEnded(this);
    this.#options.onClosed?.();
  }
}
