// One NBD connection in its transmission phase (the handshake comes first, see handshake.ts): bytes in,
// requests to the volume, replies out.
//
// Receiving: one receive at a time. Headers and small payloads come through the session's receive buffer;
// the rest of a payload is received straight into the request's own buffer. A request that finds no slot or
// no memory parks the session: it is not read until something is free, which is the back-pressure.
// Sending: replies queue up while a send is under way; then all of them leave in one sendmsg.
//
// Invariants: every request read gets exactly one reply unless the connection is gone; at most one receive
// and one send are in the ring; the descriptor is closed, and the index free again, only when neither is
// and nothing of the session is in flight.

import { FLAG_FAST_ZERO, FLAG_FUA, FLAG_NO_HOLE, FLUSH, NONE, READ, RequestQueue, WRITE, ZERO } from '../../replication/requests.ts';
import { BLOCK_BYTES } from '../../core/units.ts';
import { native } from '../native.ts';
import { isInterruption, MSG_WAITALL } from '../ring.ts';
import type { Thread } from '../thread.ts';
import { TAG_CLOSE, TAG_RECEIVE, TAG_SEND } from '../tags.ts';
import { IOVEC_AT, IOVEC_CAPACITY, MAX_PAYLOAD_BYTES, RECEIVE_BYTES } from '../thread-memory.ts';
import type { Volume } from '../volume.ts';
import { ALLOCATION_CONTEXT_ID, Handshake, type HandshakeHost } from './handshake.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
} from './protocol.ts';

const REQUEST_BYTES = 28;
const SIMPLE_BYTES = 16;
const CHUNK_BYTES = 20;
/** A session reads no further request while it has this many unanswered. */
const IN_FLIGHT_LIMIT = 256;
/** From this size on a payload is received straight into its buffer from the first byte. */
const DIRECT_RECEIVE_BYTES = 16 * 1024;
const STATUS_DESCRIPTORS = 256;
const HANDSHAKE_LIMIT_MS = 30_000;
const SEND_STALL_LIMIT_MS = 60_000;

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;
const EOVERFLOW = 75;

// What the next bytes are.
const IN_HANDSHAKE = 0;
const IN_HEADER = 1;
const IN_PAYLOAD = 2;
const IN_DISCARD = 3;

export interface SessionOptions {
  readonly readOnly: boolean;
  /** undefined: starts with a handshake. */
  readonly volume?: Volume;
  readonly host?: HandshakeHost;
  /** The volume behind a name that the handshake chose. */
  readonly resolve?: (exportName: string) => Volume | undefined;
  readonly onClosed?: () => void;
}

export class Session {
  readonly index: number;
  readonly fd: number;
  volume: Volume | undefined;
  /** Admitted to a volume, not yet released. */
  inFlightCount = 0;
  isClosing = false;
  isParked = false;
  readonly #thread: Thread;
  readonly #options: SessionOptions;
  readonly #openedAtMs: number;
  #handshake: Handshake | undefined;
  readonly #handshakeOutput: Uint8Array[] = [];
  #handshakeBuffer = NONE;
  #handshakeAt = 0;
  #structured = false;
  #hasAllocationContext = false;
  #mode = IN_HEADER;
  readonly #receiveAt: number;
  #start = 0;
  #end = 0;
  #isReceiving = false;
  #isHeld = false;
  #payloadRequest = NONE;
  /** Bytes of the payload (or of the discarded one) still to come, and where they go. */
  #payloadLeft = 0;
  #payloadAt = 0;
  #discardErrno = 0;
  #lastWasLarge = false;
  /** After DISC: answer what is in flight, then close. */
  #isLast = false;
  #bytesHeld = 0;
  readonly #outbox: RequestQueue;
  readonly #sending: RequestQueue;
  #isSending = false;
  #sendLeft = 0;
  readonly #sendStartedMs = new Float64Array(1);
  #iovFirst = 0;
  #iovCount = 0;
  readonly #messageAt: number;
  #isDirty = false;
  #isFdClosed = false;

  constructor(thread: Thread, index: number, fd: number, options: SessionOptions) {
    this.#thread = thread;
    this.index = index;
    this.fd = fd;
    this.#options = options;
    this.#receiveAt = thread.memory.receiveOffset(index);
    this.#messageAt = thread.memory.messageOffset(index);
    this.#outbox = new RequestQueue(thread.slots);
    this.#sending = new RequestQueue(thread.slots);
    this.#openedAtMs = thread.nowMs();
    this.volume = options.volume;
    if (options.host !== undefined) {
      this.#handshake = new Handshake(options.host);
      this.#mode = IN_HANDSHAKE;
    }
  }

  /** Starts to serve. `hold`: does not read before resume(). */
  start(hold: boolean): void {
    this.volume?.sessions.add(this);
    this.#isHeld = hold;
    if (this.#handshake !== undefined) this.#sendHandshake();
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
    if (this.isClosing || this.isParked || this.#isReceiving || this.#isHeld) {
      this.#closeIfDone();
      return;
    }
    while (this.#step()) if (this.isClosing || this.isParked) break;
    if (this.isClosing || this.isParked) {
      this.#closeIfDone();
      return;
    }
    if (this.#isLast) {
      if (this.inFlightCount === 0 && !this.#isSending) this.close();
      return;
    }
    this.#receive();
  }

  /** Consumes something of the receive buffer; false when more bytes are needed. */
  #step(): boolean {
    const available = this.#end - this.#start;
    switch (this.#mode) {
      case IN_HEADER:
        return available >= REQUEST_BYTES && !this.#isLast && this.#header(this.#receiveAt + this.#start);
      case IN_DISCARD: {
        const taken = Math.min(available, this.#payloadLeft);
        this.#start += taken;
        this.#payloadLeft -= taken;
        if (this.#payloadLeft > 0) return false;
        const request = this.#payloadRequest;
        this.#payloadRequest = NONE;
        this.#mode = IN_HEADER;
        this.reply(request, this.#discardErrno);
        return true;
      }
      case IN_PAYLOAD: {
        const taken = Math.min(available, this.#payloadLeft);
        if (taken === 0) return false;
        const from = this.#receiveAt + this.#start;
        this.#thread.memory.bytes.copyWithin(this.#payloadAt, from, from + taken);
        this.#start += taken;
        this.#payloadAt += taken;
        this.#payloadLeft -= taken;
        if (this.#payloadLeft > 0) return false;
        this.#payloadComplete();
        return true;
      }
      default:
        return available > 0 && this.#negotiate();
    }
  }

  #receive(): void {
    const ring = this.#thread.ring;
    this.#isReceiving = true;
    if (this.#mode === IN_PAYLOAD) {
      this.#start = 0;
      this.#end = 0;
      ring.receive(this.fd, this.#payloadAt, this.#payloadLeft, MSG_WAITALL, false, this.index, TAG_RECEIVE);
      return;
    }
    const kept = this.#end - this.#start;
    if (this.#start > 0) {
      if (kept > 0) {
        const from = this.#receiveAt + this.#start;
        this.#thread.memory.bytes.copyWithin(this.#receiveAt, from, from + kept);
      }
      this.#start = 0;
      this.#end = kept;
    }
    const limit = this.#lastWasLarge && this.#mode === IN_HEADER ? REQUEST_BYTES : RECEIVE_BYTES;
    const length = limit > kept ? limit - kept : RECEIVE_BYTES - kept;
    ring.receive(this.fd, this.#receiveAt + kept, length, 0, false, this.index, TAG_RECEIVE);
  }

  /** A whole request header stands at `at`. False: parked, closed, or nothing more to parse. */
  #header(at: number): boolean {
    const memory = this.#thread.memory;
    const view = memory.view;
    const slots = this.#thread.slots;
    const volume = this.volume;
    if (view.getUint32(at) !== NBD_REQUEST_MAGIC || volume === undefined) {
      this.close();
      return false;
    }
    const commandFlags = view.getUint16(at + 4);
    const command = view.getUint16(at + 6);
    const length = view.getUint32(at + 24);
    if (command === NBD_CMD_DISC) {
      this.#start += REQUEST_BYTES;
      this.#isLast = true;
      return false;
    }
    if (this.inFlightCount >= IN_FLIGHT_LIMIT) return this.#park();
    const request = slots.take();
    if (request === NONE) return this.#park();
    slots.offsetBytes[request] = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20);
    slots.lengthBytes[request] = length;
    slots.command[request] = command > 255 ? 255 : command;
    slots.session[request] = this.index;
    slots.volume[request] = volume.index;
    slots.startedMs[request] = this.#thread.clockMs[0] as number;
    slots.buffer[request] = NONE;
    slots.charged[request] = 0;
    slots.replyBytes[request] = 0;
    let errno = this.#check(request, command, commandFlags, volume);
    if (errno === 0 && !this.#takeBuffer(request, command)) {
      slots.release(request);
      return this.#park();
    }
    // The header is consumed only now: a parked session reads it again.
    this.#start += REQUEST_BYTES;
    // The cookie waits where the reply header will stand.
    const header = memory.headerOffset(request);
    memory.bytes.copyWithin(header + 8, at + 8, at + 16);
    this.inFlightCount += 1;
    volume.inFlightCount += 1;
    if (command === NBD_CMD_WRITE) {
      if (length > MAX_PAYLOAD_BYTES) {
        // Nobody drains gigabytes to be polite: the answer, then the end.
        this.#isLast = true;
        this.reply(request, EINVAL);
        return false;
      }
      this.#lastWasLarge = length >= DIRECT_RECEIVE_BYTES;
      this.#payloadRequest = request;
      this.#payloadLeft = length;
      this.#payloadAt = slots.data[request] as number;
      this.#discardErrno = errno;
      this.#mode = errno !== 0 ? IN_DISCARD : IN_PAYLOAD;
      if (length === 0) {
        this.#payloadRequest = NONE;
        this.#mode = IN_HEADER;
        this.reply(request, errno);
      }
      return true;
    }
    this.#lastWasLarge = false;
    if (errno !== 0 || (length === 0 && command !== NBD_CMD_FLUSH)) {
      if (errno === 0 && command === NBD_CMD_BLOCK_STATUS) errno = EINVAL;
      this.reply(request, errno);
      return true;
    }
    this.#submit(request, command, volume);
    return true;
  }

  #payloadComplete(): void {
    const request = this.#payloadRequest;
    this.#payloadRequest = NONE;
    this.#mode = IN_HEADER;
    const volume = this.volume;
    if (volume !== undefined) volume.core.admit(request);
  }

  #submit(request: number, command: number, volume: Volume): void {
    if (command === NBD_CMD_BLOCK_STATUS) {
      this.#blockStatus(request, volume);
    } else if (command === NBD_CMD_CACHE) {
      // Prefetching is a hint; reading ahead is the page cache's business in buffered pools and nobody's in direct ones.
      this.reply(request, 0);
    } else {
      volume.core.admit(request);
    }
  }

  /** Fills in kind and flags. Returns the errno of a request that must not reach the volume. */
  #check(request: number, command: number, flags: number, volume: Volume): number {
    const slots = this.#thread.slots;
    const offset = slots.offsetBytes[request] as number;
    const length = slots.lengthBytes[request] as number;
    let allowed = NBD_CMD_FLAG_FUA;
    let isWrite = false;
    switch (command) {
      case NBD_CMD_READ:
        slots.kind[request] = READ;
        if (this.#structured) allowed |= NBD_CMD_FLAG_DF;
        if (length > MAX_PAYLOAD_BYTES) return EOVERFLOW;
        break;
      case NBD_CMD_WRITE:
        slots.kind[request] = WRITE;
        isWrite = true;
        break;
      case NBD_CMD_TRIM:
        slots.kind[request] = ZERO;
        isWrite = true;
        break;
      case NBD_CMD_WRITE_ZEROES:
        slots.kind[request] = ZERO;
        allowed |= NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
        isWrite = true;
        break;
      case NBD_CMD_FLUSH:
        slots.kind[request] = FLUSH;
        slots.offsetBytes[request] = 0;
        slots.lengthBytes[request] = 0;
        return (flags & ~allowed) !== 0 ? EINVAL : 0;
      case NBD_CMD_CACHE:
        slots.kind[request] = READ;
        break;
      case NBD_CMD_BLOCK_STATUS:
        slots.kind[request] = READ;
        allowed |= NBD_CMD_FLAG_REQ_ONE;
        if (!this.#hasAllocationContext) return EINVAL;
        break;
      default:
        slots.kind[request] = READ;
        return EINVAL;
    }
    if ((flags & ~allowed) !== 0) return EINVAL;
    if (isWrite && this.#options.readOnly) return EPERM;
    if (offset + length > volume.core.sizeBytes) return command === NBD_CMD_WRITE || command === NBD_CMD_WRITE_ZEROES ? ENOSPC : EINVAL;
    let kept = 0;
    if ((flags & NBD_CMD_FLAG_FUA) !== 0) kept |= FLAG_FUA;
    if ((flags & NBD_CMD_FLAG_NO_HOLE) !== 0 && command === NBD_CMD_WRITE_ZEROES) kept |= FLAG_NO_HOLE;
    if ((flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && command === NBD_CMD_WRITE_ZEROES) kept |= FLAG_FAST_ZERO;
    if (command === NBD_CMD_BLOCK_STATUS && (flags & NBD_CMD_FLAG_REQ_ONE) !== 0) kept |= FLAG_NO_HOLE;
    slots.flags[request] = kept;
    return 0;
  }

  /** Whole blocks around the request; two more where the disk wants whole blocks and the request has not. */
  #takeBuffer(request: number, command: number): boolean {
    const offset = this.#thread.slots.offsetBytes[request] as number;
    const length = this.#thread.slots.lengthBytes[request] as number;
    if (command === NBD_CMD_BLOCK_STATUS) return this.#take(request, BLOCK_BYTES, 0);
    if ((command !== NBD_CMD_READ && command !== NBD_CMD_WRITE) || length === 0) return true;
    const inBlock = offset % BLOCK_BYTES;
    const wholeBytes = Math.ceil((inBlock + length) / BLOCK_BYTES) * BLOCK_BYTES;
    const isUnaligned = inBlock !== 0 || wholeBytes !== inBlock + length;
    return this.#take(request, isUnaligned ? wholeBytes + 2 * BLOCK_BYTES : wholeBytes, inBlock);
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

  // ---- replying

  /** The one reply of a request. */
  reply(request: number, errno: number): void {
    const slots = this.#thread.slots;
    if (this.isClosing) {
      this.#release(request);
      this.#closeIfDone();
      return;
    }
    slots.error[request] = errno;
    this.#outbox.push(request);
    this.#markDirty();
  }

  #markDirty(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.#thread.dirty(this);
  }

  /** At the end of a turn: everything that is ready leaves together. */
  flushOutbox(): void {
    this.#isDirty = false;
    if (this.#isSending || this.isClosing || this.#outbox.isEmpty) return;
    const { memory, ring, slots } = this.#thread;
    const words = memory.words;
    const iovecs = (this.#messageAt + IOVEC_AT) >> 2;
    let count = 0;
    let total = 0;
    while (!this.#outbox.isEmpty && count + 2 <= IOVEC_CAPACITY) {
      const request = this.#outbox.shift();
      this.#sending.push(request);
      const header = memory.headerOffset(request);
      const headerBytes = this.#writeHeader(request, header);
      ring.storeAddress(words, iovecs + 4 * count, header);
      words[iovecs + 4 * count + 2] = headerBytes;
      words[iovecs + 4 * count + 3] = 0;
      count += 1;
      total += headerBytes;
      const payload = slots.error[request] === 0 ? this.#payloadBytes(request) : 0;
      if (payload > 0) {
        ring.storeAddress(words, iovecs + 4 * count, slots.data[request] as number);
        words[iovecs + 4 * count + 2] = payload;
        words[iovecs + 4 * count + 3] = 0;
        count += 1;
        total += payload;
      }
    }
    this.#iovFirst = 0;
    this.#iovCount = count;
    this.#sendLeft = total;
    this.#sendStartedMs[0] = this.#thread.clockMs[0] as number;
    this.#sendMessage();
  }

  sent(result: number): void {
    this.#isSending = false;
    if (this.#handshakeBuffer !== NONE) {
      this.#handshakeSent(result);
      return;
    }
    if (isInterruption(result) && !this.isClosing) {
      this.#sendMessage();
      return;
    }
    if (result < 0 || this.isClosing) {
      this.close();
      return;
    }
    this.#sendLeft -= result;
    if (this.#sendLeft > 0) {
      if (result > 0) this.#sendStartedMs[0] = this.#thread.clockMs[0] as number;
      this.#skipSent(result);
      this.#sendMessage();
      return;
    }
    for (let request = this.#sending.shift(); request !== NONE; request = this.#sending.shift()) this.#release(request);
    if (!this.#outbox.isEmpty) this.#markDirty();
    if (this.#isLast && this.inFlightCount === 0) this.close();
  }

  #sendMessage(): void {
    const { memory, ring } = this.#thread;
    this.#isSending = true;
    const words = memory.words;
    const message = this.#messageAt >> 2;
    const iovecs = this.#messageAt + IOVEC_AT + 16 * this.#iovFirst;
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    words.fill(0, message, message + 14);
    ring.storeAddress(words, message + 4, iovecs);
    words[message + 6] = this.#iovCount - this.#iovFirst;
    ring.sendMessage(this.fd, this.#messageAt, this.index, TAG_SEND);
  }

  /** A send took only `byteCount` bytes: the message starts after them now. */
  #skipSent(byteCount: number): void {
    const words = this.#thread.memory.words;
    let left = byteCount;
    while (left > 0) {
      const iovec = ((this.#messageAt + IOVEC_AT) >> 2) + 4 * this.#iovFirst;
      const length = words[iovec + 2] as number;
      if (left >= length) {
        left -= length;
        this.#iovFirst += 1;
        continue;
      }
      const low = (words[iovec] as number) >>> 0;
      if (low + left >= 0x1_0000_0000) words[iovec + 1] = (words[iovec + 1] as number) + 1;
      words[iovec] = low + left;
      words[iovec + 2] = length - left;
      left = 0;
    }
  }

  #payloadBytes(request: number): number {
    const slots = this.#thread.slots;
    const command = slots.command[request] as number;
    if (command === NBD_CMD_READ) return slots.lengthBytes[request] as number;
    if (command === NBD_CMD_BLOCK_STATUS) return slots.replyBytes[request] as number;
    return 0;
  }

  #writeHeader(request: number, at: number): number {
    const view = this.#thread.memory.view;
    const slots = this.#thread.slots;
    const errno = slots.error[request] as number;
    const command = slots.command[request] as number;
    if (!this.#structured || (command !== NBD_CMD_READ && command !== NBD_CMD_BLOCK_STATUS)) {
      view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
      view.setUint32(at + 4, wireErrno(errno));
      return SIMPLE_BYTES;
    }
    view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, NBD_REPLY_FLAG_DONE);
    if (errno !== 0) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_ERROR);
      view.setUint32(at + 16, 6);
      view.setUint32(at + 20, wireErrno(errno));
      view.setUint16(at + 24, 0);
      return CHUNK_BYTES + 6;
    }
    if (command === NBD_CMD_BLOCK_STATUS) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_BLOCK_STATUS);
      view.setUint32(at + 16, 4 + (slots.replyBytes[request] as number));
      view.setUint32(at + 20, ALLOCATION_CONTEXT_ID);
      return CHUNK_BYTES + 4;
    }
    const length = slots.lengthBytes[request] as number;
    if (length === 0) {
      view.setUint16(at + 6, NBD_REPLY_TYPE_NONE);
      view.setUint32(at + 16, 0);
      return CHUNK_BYTES;
    }
    const offset = slots.offsetBytes[request] as number;
    view.setUint16(at + 6, NBD_REPLY_TYPE_OFFSET_DATA);
    view.setUint32(at + 16, 8 + length);
    view.setUint32(at + 20, Math.floor(offset / 0x1_0000_0000));
    view.setUint32(at + 24, offset >>> 0);
    return CHUNK_BYTES + 8;
  }

  /** Descriptors from the file system's own map; a write in flight may or may not show, as the protocol allows. */
  #blockStatus(request: number, volume: Volume): void {
    const slots = this.#thread.slots;
    const { view } = this.#thread.memory;
    const isOne = ((slots.flags[request] as number) & FLAG_NO_HOLE) !== 0;
    const limit = isOne ? 1 : STATUS_DESCRIPTORS;
    const end = (slots.offsetBytes[request] as number) + (slots.lengthBytes[request] as number);
    let offset = slots.offsetBytes[request] as number;
    let at = slots.data[request] as number;
    let count = 0;
    for (; offset < end && count < limit; count++) {
      const run = native.nextRun(volume.dataFd, offset, end);
      view.setUint32(at, run.endOffset - offset);
      view.setUint32(at + 4, run.isData ? 0 : NBD_STATE_HOLE | NBD_STATE_ZERO);
      at += 8;
      offset = run.endOffset;
    }
    slots.replyBytes[request] = 8 * count;
    this.reply(request, 0);
  }

  #release(request: number): void {
    const slots = this.#thread.slots;
    const buffer = slots.buffer[request] as number;
    if (buffer !== NONE) {
      this.#thread.memory.free(buffer);
      this.#bytesHeld -= slots.charged[request] as number;
      slots.buffer[request] = NONE;
    }
    this.inFlightCount -= 1;
    const volume = this.volume;
    if (volume !== undefined) volume.inFlightCount -= 1;
    slots.release(request);
    this.#thread.somethingFreed();
  }

  // ---- handshake

  #negotiate(): boolean {
    const handshake = this.#handshake;
    if (handshake === undefined) return false;
    const from = this.#receiveAt + this.#start;
    this.#start += handshake.receive(this.#thread.memory.bytes, from, this.#receiveAt + this.#end);
    this.#sendHandshake();
    if (handshake.state === 'negotiating') return this.#start < this.#end;
    const result = handshake.result;
    const volume = result === undefined ? undefined : this.#options.resolve?.(result.exportName);
    if (result === undefined || volume === undefined) {
      // The last answer (to ABORT, say) leaves first.
      this.#isLast = true;
      if (!this.#isSending) this.close();
      return false;
    }
    this.#handshake = undefined;
    this.#mode = IN_HEADER;
    this.#structured = result.structuredReplies;
    this.#hasAllocationContext = result.allocationContextId !== 0;
    this.volume = volume;
    volume.sessions.add(this);
    return true;
  }

  #sendHandshake(): void {
    const output = this.#handshake?.takeOutput();
    if (output !== undefined && output.length > 0) this.#handshakeOutput.push(output);
    const next = this.#isSending ? undefined : this.#handshakeOutput.shift();
    if (next === undefined) return;
    const { memory, ring } = this.#thread;
    const buffer = memory.allocate(next.length, 0);
    if (buffer === NONE) {
      this.close();
      return;
    }
    memory.bytes.set(next, buffer);
    this.#handshakeBuffer = buffer;
    this.#handshakeAt = buffer;
    this.#sendLeft = next.length;
    this.#sendStartedMs[0] = this.#thread.clockMs[0] as number;
    this.#isSending = true;
    ring.send(this.fd, buffer, next.length, this.index, TAG_SEND);
  }

  #handshakeSent(result: number): void {
    const { memory, ring } = this.#thread;
    this.#sendLeft -= Math.max(result, 0);
    if (this.#sendLeft > 0 && result > 0 && !this.isClosing) {
      this.#handshakeAt += result;
      this.#isSending = true;
      ring.send(this.fd, this.#handshakeAt, this.#sendLeft, this.index, TAG_SEND);
      return;
    }
    memory.free(this.#handshakeBuffer);
    this.#handshakeBuffer = NONE;
    // A request and DISC may have come in one piece with the last option: they are answered first.
    const isOver = this.#isLast && this.#handshakeOutput.length === 0 && this.inFlightCount === 0;
    if (this.#sendLeft > 0 || this.isClosing || isOver) {
      this.close();
      return;
    }
    this.#sendHandshake();
    if (!this.#isSending && !this.#outbox.isEmpty) this.#markDirty();
  }

  // ---- closing

  /** Time matters to it now. */
  get isTimed(): boolean {
    return this.#handshake !== undefined;
  }

  /** Once a second or so: ends what takes too long. */
  checkDeadlines(nowMs: number, isMemoryShort: boolean): void {
    if (this.isClosing) return;
    if (this.#handshake !== undefined && nowMs - this.#openedAtMs > HANDSHAKE_LIMIT_MS) this.close();
    else if (this.#isSending && isMemoryShort && nowMs - (this.#sendStartedMs[0] as number) > SEND_STALL_LIMIT_MS) this.close();
  }

  /** Ends the connection now; requests in flight run to their end unheard. */
  close(): void {
    if (!this.isClosing) {
      this.isClosing = true;
      native.shutdownSocket(this.fd);
      for (let r = this.#outbox.shift(); r !== NONE; r = this.#outbox.shift()) this.#release(r);
    }
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (!this.isClosing || this.#isReceiving || this.#isSending || this.#isFdClosed) return;
    // Only now can the kernel no longer touch the buffers of a half-received or half-sent request.
    if (this.#payloadRequest !== NONE) {
      this.#release(this.#payloadRequest);
      this.#payloadRequest = NONE;
    }
    for (let r = this.#sending.shift(); r !== NONE; r = this.#sending.shift()) this.#release(r);
    if (this.inFlightCount > 0) return;
    this.#isFdClosed = true;
    this.#thread.ring.close(this.fd, this.index, TAG_CLOSE);
    this.volume?.sessions.delete(this);
    this.#thread.sessionEnded(this);
    this.#options.onClosed?.();
  }
}

/** The protocol knows a handful of errors; their numbers are Linux's. */
function wireErrno(errno: number): number {
  switch (errno) {
    case 0:
    case EPERM:
    case 12: // ENOMEM
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case 95: // ENOTSUP
    case 108: // ESHUTDOWN
      return errno;
    default:
      return 5;
  }
}
