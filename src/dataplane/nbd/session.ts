// One NBD connection: bytes in, requests to the volume, replies out.
//
// Receiving: one receive at a time. Headers and small payloads come through the session's receive buffer;
// the rest of a payload is received straight into the request's own buffer. A request that finds no slot or
// no memory parks the session: it is not read until something is free, which is the back-pressure.
//
// Invariants: every request read gets exactly one reply unless the connection is gone; at most one receive
// and one send are in the ring; the descriptor is closed, and the index free again, only when neither is
// and nothing of the session is in flight: until then the kernel may still touch its buffers.

import { BLOCK_BYTES } from '../../core/units.ts';
import { NONE } from '../../replication/requests.ts';
import { native } from '../native.ts';
import { isInterruption, MSG_WAITALL } from '../ring.ts';
import { TAG_CLOSE, TAG_RECEIVE } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { MAX_PAYLOAD_BYTES, RECEIVE_BYTES } from '../thread-memory.ts';
import type { Volume } from '../volume.ts';
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
  NBD_EIO,
  NBD_REQUEST_MAGIC,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
  REQUEST_HEADER_BYTES,
} from './protocol.ts';
import { Replies } from './replies.ts';
import {
  CLIENT_ALLOCATION_CONTEXT,
  CLIENT_READ_ONLY,
  CLIENT_STRUCTURED,
  checkRequest,
  FLAG_ONE_DESCRIPTOR,
} from './request-check.ts';

/** A session reads no further request while it has this many unanswered. */
const IN_FLIGHT_LIMIT = 256;
/** From this size on the next header is received alone, so that the payload behind it comes without a copy. */
const LARGE_PAYLOAD_BYTES = 16 * 1024;
const STATUS_DESCRIPTORS = 256;
const HANDSHAKE_LIMIT_MS = 30_000;
const SEND_STALL_LIMIT_MS = 10_000;
/** While somebody waits for memory, a payload whose buffer is taken has to come within this. */
const PAYLOAD_STALL_LIMIT_MS = 10_000;
/** A command that no protocol of ours knows, as it is kept in a byte. */
const UNKNOWN_COMMAND = 255;

// What the next bytes are.
const IN_HANDSHAKE = 0;
const IN_HEADER = 1;
const IN_PAYLOAD = 2;
const IN_DISCARD = 3;

export interface SessionOptions {
  readonly readOnly: boolean;
  /** In transmission phase from the start, on this volume; otherwise `host` and `resolve` find one. */
  readonly volume?: Volume;
  readonly host?: HandshakeHost;
  readonly resolve?: (exportName: string) => Volume | undefined;
  readonly onClosed?: () => void;
}

export class Session {
  readonly index: number;
  readonly fd: number;
  volume: Volume | undefined;
  /** Read from the client, not yet released. */
  inFlightCount = 0;
  isClosing = false;
  isParked = false;
  readonly #thread: Thread;
  readonly #options: SessionOptions;
  readonly #openedAtMs: number;
  readonly #replies: Replies;
  #negotiation: Negotiation | undefined;
  #clientBits: number;
  #mode = IN_HEADER;
  readonly #receiveAt: number;
  /** Unparsed bytes of the receive buffer. */
  #start = 0;
  #end = 0;
  #isReceiving = false;
  /** Bytes the receive under way has room for; one that got fewer has emptied the socket. */
  #askedBytes = 0;
  #isDrained = false;
  #isHeld = false;
  #payloadRequest = NONE;
  /** [0]: when its header came. */
  readonly #payloadSinceMs = new Float64Array(1);
  /** Bytes of the payload (or of the discarded one) still to come, and where they go. */
  #payloadLeft = 0;
  #payloadAt = 0;
  #discardErrno = 0;
  #lastWasLarge = false;
  /** No request is read any more: what is in flight is answered, then the connection ends. */
  #isLast = false;
  #bytesHeld = 0;
  #isDirty = false;
  #isFdClosed = false;

  constructor(thread: Thread, index: number, fd: number, options: SessionOptions) {
    this.#thread = thread;
    this.index = index;
    this.fd = fd;
    this.#options = options;
    this.#receiveAt = thread.memory.receiveOffset(index);
    this.#replies = new Replies(thread, index, fd);
    this.#openedAtMs = thread.nowMs();
    this.#clientBits = options.readOnly ? CLIENT_READ_ONLY : 0;
    this.volume = options.volume;
    if (options.host !== undefined) {
      this.#negotiation = new Negotiation(thread, index, fd, options.host);
      this.#mode = IN_HANDSHAKE;
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
    this.#isReceiving = false;
    if (isInterruption(result) && !this.isClosing) {
      this.#receive();
      return;
    }
    if (result <= 0 || this.isClosing) {
      this.close();
      return;
    }
    this.#isDrained = result < this.#askedBytes;
    if (this.#mode === IN_PAYLOAD) {
      this.#payloadAt += result;
      this.#payloadLeft -= result;
      if (this.#payloadLeft === 0) this.#payloadComplete();
    } else {
      this.#end += result;
    }
    this.#proceed();
  }

  /** Tries again after something was released. */
  retry(): void {
    this.isParked = false;
    this.#proceed();
  }

  #proceed(): void {
    if (!this.#isReceiving && !this.#isHeld) {
      while (!this.isClosing && !this.isParked && this.#step());
      if (!this.isClosing && !this.isParked && !this.#isLast) {
        this.#receive();
        return;
      }
    }
    this.#endIfDone();
  }

  /** Consumes something of the receive buffer; false when more bytes are needed, or nothing more is wanted. */
  #step(): boolean {
    const available = this.#end - this.#start;
    switch (this.#mode) {
      case IN_HEADER:
        return (
          available >= REQUEST_HEADER_BYTES && !this.#isLast && this.#header(this.#receiveAt + this.#start)
        );
      case IN_PAYLOAD:
        return available > 0 && this.#copyPayload(Math.min(available, this.#payloadLeft));
      case IN_DISCARD:
        return this.#discard(Math.min(available, this.#payloadLeft));
      default:
        return available > 0 && this.#negotiate();
    }
  }

  #receive(): void {
    this.#isReceiving = true;
    let at = this.#payloadAt;
    let flags = MSG_WAITALL;
    if (this.#mode === IN_PAYLOAD) {
      this.#start = 0;
      this.#end = 0;
      this.#askedBytes = this.#payloadLeft;
    } else {
      const kept = this.#end - this.#start;
      if (kept > 0 && this.#start > 0) {
        const from = this.#receiveAt + this.#start;
        this.#thread.memory.bytes.copyWithin(this.#receiveAt, from, from + kept);
      }
      this.#start = 0;
      this.#end = kept;
      const isHeaderAlone = this.#lastWasLarge && this.#mode === IN_HEADER && kept < REQUEST_HEADER_BYTES;
      at = this.#receiveAt + kept;
      flags = 0;
      this.#askedBytes = (isHeaderAlone ? REQUEST_HEADER_BYTES : RECEIVE_BYTES) - kept;
    }
    this.#thread.ring.receive(this.fd, at, this.#askedBytes, flags, this.#isDrained, this.index, TAG_RECEIVE);
  }

  /** A whole request header stands at `at`. False: parked, closed, or the last one. */
  #header(at: number): boolean {
    const { memory, slots } = this.#thread;
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
    // A session holds no more slots than it leaves free, so that those who never read leave some to the others.
    const mayTake = this.inFlightCount < IN_FLIGHT_LIMIT && this.inFlightCount < slots.freeCount;
    const request = mayTake ? slots.take() : NONE;
    if (request === NONE) return this.#park();
    slots.command[request] = Math.min(command, UNKNOWN_COMMAND);
    slots.offsetBytes[request] = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20);
    slots.lengthBytes[request] = view.getUint32(at + 24);
    slots.session[request] = this.index;
    slots.volume[request] = volume.index;
    slots.startedMs[request] = this.#thread.clockMs[0] as number;
    slots.buffer[request] = NONE;
    slots.charged[request] = 0;
    slots.replyBytes[request] = 0;
    const errno = checkRequest(
      slots,
      request,
      view.getUint16(at + 4),
      this.#clientBits,
      volume.core.sizeBytes,
    );
    if (errno === 0 && !this.#takeBuffer(request)) {
      // The header stays where it is: a parked session reads it again.
      slots.release(request);
      return this.#park();
    }
    this.#start += REQUEST_HEADER_BYTES;
    memory.bytes.copyWithin(memory.headerOffset(request) + 8, at + 8, at + 16);
    this.inFlightCount += 1;
    volume.inFlightCount += 1;
    if (command === NBD_CMD_WRITE) this.#beginWrite(request, errno);
    else this.#beginOther(request, command, errno, volume);
    return true;
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
    this.#lastWasLarge = length >= LARGE_PAYLOAD_BYTES;
    if (length === 0) {
      this.reply(request, errno);
      return;
    }
    this.#payloadRequest = request;
    this.#payloadSinceMs[0] = this.#thread.clockMs[0] as number;
    this.#payloadLeft = length;
    this.#payloadAt = slots.data[request] as number;
    this.#discardErrno = errno;
    this.#mode = errno === 0 ? IN_PAYLOAD : IN_DISCARD;
  }

  #beginOther(request: number, command: number, errno: number, volume: Volume): void {
    this.#lastWasLarge = false;
    const isEmpty = this.#thread.slots.lengthBytes[request] === 0 && command !== NBD_CMD_FLUSH;
    // CACHE is a hint: reading ahead is the page cache's business in buffered pools and nobody's in direct ones.
    if (errno !== 0 || isEmpty || command === NBD_CMD_CACHE) this.reply(request, errno);
    else if (command === NBD_CMD_BLOCK_STATUS) this.#blockStatus(request, volume);
    else volume.core.admit(request);
  }

  #copyPayload(byteCount: number): boolean {
    const from = this.#receiveAt + this.#start;
    this.#thread.memory.bytes.copyWithin(this.#payloadAt, from, from + byteCount);
    this.#start += byteCount;
    this.#payloadAt += byteCount;
    this.#payloadLeft -= byteCount;
    if (this.#payloadLeft > 0) return false;
    this.#payloadComplete();
    return true;
  }

  #discard(byteCount: number): boolean {
    this.#start += byteCount;
    this.#payloadLeft -= byteCount;
    if (this.#payloadLeft > 0) return false;
    const request = this.#payloadRequest;
    this.#payloadRequest = NONE;
    this.#mode = IN_HEADER;
    this.reply(request, this.#discardErrno);
    return true;
  }

  #payloadComplete(): void {
    const request = this.#payloadRequest;
    this.#payloadRequest = NONE;
    this.#mode = IN_HEADER;
    this.volume?.core.admit(request);
  }

  /** Whole blocks around the request; two more where the disk wants whole blocks and the request is not of whole ones. */
  #takeBuffer(request: number): boolean {
    const slots = this.#thread.slots;
    const command = slots.command[request] as number;
    const length = slots.lengthBytes[request] as number;
    if (command === NBD_CMD_BLOCK_STATUS) return this.#take(request, BLOCK_BYTES, 0);
    if ((command !== NBD_CMD_READ && command !== NBD_CMD_WRITE) || length === 0 || length > MAX_PAYLOAD_BYTES)
      return true;
    const inBlock = (slots.offsetBytes[request] as number) % BLOCK_BYTES;
    const wholeBytes = Math.ceil((inBlock + length) / BLOCK_BYTES) * BLOCK_BYTES;
    return this.#take(request, wholeBytes === length ? length : wholeBytes + 2 * BLOCK_BYTES, inBlock);
  }

  #take(request: number, byteCount: number, dataAt: number): boolean {
    const slots = this.#thread.slots;
    const buffer = this.#thread.memory.allocate(byteCount, this.#bytesHeld);
    if (buffer === NONE) return false;
    slots.buffer[request] = buffer;
    slots.data[request] = buffer + dataAt;
    slots.charged[request] = byteCount;
    this.#bytesHeld += byteCount;
    return true;
  }

  #park(): boolean {
    this.#thread.park(this);
    return false;
  }

  /** From the file system's own map; a write in flight may or may not show, as the protocol allows. */
  #blockStatus(request: number, volume: Volume): void {
    const slots = this.#thread.slots;
    const { view } = this.#thread.memory;
    const limit = ((slots.flags[request] as number) & FLAG_ONE_DESCRIPTOR) !== 0 ? 1 : STATUS_DESCRIPTORS;
    let offset = slots.offsetBytes[request] as number;
    const end = offset + (slots.lengthBytes[request] as number);
    let at = slots.data[request] as number;
    let count = 0;
    for (; offset < end && count < limit; count++) {
      let run: ReturnType<typeof native.nextRun>;
      try {
        run = native.nextRun(volume.dataFd, offset, end);
      } catch {
        // The map itself is read from the disk.
        this.reply(request, NBD_EIO);
        return;
      }
      view.setUint32(at, run.endOffset - offset);
      view.setUint32(at + 4, run.isData ? 0 : NBD_STATE_HOLE | NBD_STATE_ZERO);
      at += 8;
      offset = run.endOffset;
    }
    slots.replyBytes[request] = 8 * count;
    this.reply(request, 0);
  }

  // ---- replying

  /** The one reply of a request. */
  reply(request: number, errno: number): void {
    if (this.isClosing) {
      this.#release(request);
      this.#endIfDone();
      return;
    }
    this.#thread.slots.error[request] = errno;
    // A write's bytes have gone where they go: its buffer need not wait for the reply to leave.
    if (this.#thread.slots.command[request] === NBD_CMD_WRITE) this.#freeBuffer(request);
    this.#replies.push(request);
    this.#markDirty();
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

  #freeBuffer(request: number): void {
    const slots = this.#thread.slots;
    const buffer = slots.buffer[request] as number;
    if (buffer === NONE) return;
    this.#thread.memory.free(buffer);
    this.#bytesHeld -= slots.charged[request] as number;
    slots.buffer[request] = NONE;
    this.#thread.somethingFreed();
  }

  #release(request: number): void {
    const slots = this.#thread.slots;
    this.#freeBuffer(request);
    this.inFlightCount -= 1;
    if (this.volume !== undefined) this.volume.inFlightCount -= 1;
    slots.release(request);
    this.#thread.somethingFreed();
  }

  // ---- handshake

  #negotiate(): boolean {
    const negotiation = this.#negotiation;
    if (negotiation === undefined) return false;
    this.#start += negotiation.receive(this.#receiveAt + this.#start, this.#receiveAt + this.#end);
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
    this.#mode = IN_HEADER;
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
    return this.#mode === IN_HANDSHAKE;
  }

  /** Ends what takes too long. */
  checkDeadlines(nowMs: number, isMemoryShort: boolean): void {
    if (this.isClosing) return;
    const isStalled =
      (this.#replies.isSending && nowMs - (this.#replies.movedMs[0] as number) > SEND_STALL_LIMIT_MS) ||
      (this.#payloadRequest !== NONE && nowMs - (this.#payloadSinceMs[0] as number) > PAYLOAD_STALL_LIMIT_MS);
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
    if (!this.isClosing || this.#isReceiving || this.#isSending || this.#isFdClosed) return;
    if (this.#payloadRequest !== NONE) {
      this.#release(this.#payloadRequest);
      this.#payloadRequest = NONE;
    }
    for (let r = this.#replies.takeSent(); r !== NONE; r = this.#replies.takeSent()) this.#release(r);
    if (this.inFlightCount > 0) return;
    this.#isFdClosed = true;
    this.#thread.ring.close(this.fd, this.index, TAG_CLOSE);
    this.volume?.sessions.delete(this);
    this.#thread.sessionEnded(this);
    this.#options.onClosed?.();
  }
}
