// The sending half of a link: frames are encoded where they wait, in the link's header memory, and at the end of a
// turn all of them leave in one sendmsg, payloads straight from the buffers of their slots.
//
// Invariants: at most one send is under way; a slot is held from push() until the kernel has taken its last byte, or
// until abandon(), which comes only when no send is under way.

import type { ControlMessage, FrameFields } from '../../replication/frames.ts';
import { NONE } from '../../replication/requests.ts';
import { FrameWriter, HEADER_BYTES, type VersionRange, type WireBuffer } from '../../replication/wire.ts';
import { encodeControl } from '../../replication/wire-control.ts';
import { native } from '../native.ts';
import { isInterruption } from '../ring.ts';
import { SendVector } from '../send-vector.ts';
import { TAG_LINK_SEND } from '../tags.ts';
import type { Thread } from '../thread.ts';
import { sealMessage, sumOfMessage, unsealedMessage } from './control-seal.ts';
import {
  HEADERS_AT,
  SEALED_HEADER_BYTES,
  SEND_QUEUE_FRAMES,
  STAGING_AT,
  STAGING_BYTES,
  VECTOR_AT,
} from './link-memory.ts';
import type { PeerSlots } from './peer-slots.ts';

const MASK = SEND_QUEUE_FRAMES - 1;
/** In one sendmsg, so that slots come back while the rest still waits. */
const BATCH_BYTES = 1024 * 1024;
/** More than a thread has buffers for: only control messages could reach it. */
const QUEUE_LIMIT_BYTES = 256 * 1024 * 1024;

/** Until there is a frame to send: strangers have none. */
const NOTHING = new Int32Array();

export class LinkSender {
  readonly writer = new FrameWriter();
  /** Frames are sent once it is there. */
  key: Uint8Array | undefined;
  isSending = false;
  readonly #thread: Thread;
  readonly #slots: PeerSlots;
  readonly #wire: WireBuffer;
  readonly #at: number;
  readonly #fd: number;
  readonly #index: number;
  readonly #isSummed: boolean;
  readonly #vector: SendVector;
  /** By place in the queue: the slot of a payload, or NONE; how many bytes follow the header. */
  #request = NOTHING;
  #payloadBytes = NOTHING;
  /** Control messages by place: rare. */
  readonly #messages = new Map<number, Uint8Array>();
  /** What precedes all frames. */
  readonly #raw: Uint8Array[] = [];
  /** The oldest that has not left, the first that is not in the vector, the next to come. Only ever rising. */
  #head = 0;
  #next = 0;
  #tail = 0;
  /** Headers before this one are sealed. */
  #sealed = 0;
  /** The message at #next, while it is sent piece by piece, and how far that is. */
  #message: Uint8Array | undefined;
  #messageAt = 0;
  #queuedBytes = 0;

  constructor(
    thread: Thread,
    slots: PeerSlots,
    wire: WireBuffer,
    index: number,
    fd: number,
    isSummed: boolean,
  ) {
    this.#thread = thread;
    this.#slots = slots;
    this.#wire = wire;
    this.#index = index;
    this.#fd = fd;
    this.#at = thread.memory.linkOffset(index);
    this.#isSummed = isSummed;
    this.#vector = new SendVector(thread, this.#at + VECTOR_AT);
  }

  get hasQueued(): boolean {
    return this.#raw.length > 0 || (this.key !== undefined && this.#next < this.#tail);
  }

  /** Nothing waits or is on its way that has a payload: what is left is small. */
  get isSmall(): boolean {
    return this.#queuedBytes === 0;
  }

  get isEmpty(): boolean {
    return !this.isSending && !this.hasQueued;
  }

  /** Before the first frame. */
  pushRaw(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#raw.push(bytes);
  }

  /** False: more is queued than any peer may leave unread. */
  push(fields: FrameFields, request: number): boolean {
    const payloadBytes = request === NONE ? 0 : fields.lengthBytes;
    if (!this.#hasRoom(payloadBytes)) return false;
    const place = this.#tail & MASK;
    const at = this.#headerAt(place);
    if (request === NONE) {
      this.writer.encode(this.#wire, at, fields);
    } else {
      this.#slots.hold(request);
      if (this.#isSummed) {
        const sum = this.#slots.checksum(request, payloadBytes);
        this.writer.encodeSummed(this.#wire, at, fields, payloadBytes, sum);
      } else {
        this.writer.encodeUnsummed(this.#wire, at, fields, payloadBytes);
      }
    }
    this.#request[place] = request;
    this.#payloadBytes[place] = payloadBytes;
    this.#queuedBytes += payloadBytes;
    this.#tail += 1;
    return true;
  }

  /** As push(). `fields`: to be filled and sent. */
  pushControl(fields: FrameFields, type: number, message: ControlMessage, versions: VersionRange): boolean {
    const bytes = encodeControl(type, message, this.writer.version, versions);
    if (!this.#hasRoom(bytes.length)) return false;
    const place = this.#tail & MASK;
    fields.type = type;
    fields.lengthBytes = 0;
    this.writer.encodeSummed(this.#wire, this.#headerAt(place), fields, bytes.length, sumOfMessage(bytes));
    this.#request[place] = NONE;
    this.#payloadBytes[place] = 0;
    this.#messages.set(this.#tail, unsealedMessage(bytes));
    this.#tail += 1;
    return true;
  }

  /** Puts what is queued, as far as the vector reaches, into one send. Nothing may be under way. */
  send(): void {
    this.#vector.clear();
    const raw = this.#raw[0];
    if (raw === undefined) this.#addFrames();
    else this.#addRaw(raw);
    this.isSending = true;
    this.#vector.prepare();
  }

  /** For SendBatch. */
  get vectorAt(): number {
    return this.#vector.at;
  }

  /** True: all of it left. Otherwise the rest is on its way (isSending), or the connection is broken. */
  sent(result: number): boolean {
    this.isSending = false;
    if (result < 0 && !isInterruption(result)) return false;
    if (result > 0) this.#vector.skip(result);
    if (this.#vector.leftBytes === 0) {
      if (this.#raw.length > 0) this.#raw.shift();
      this.#dropUntil(this.#next);
      return true;
    }
    // The socket is full: the ring waits until it is not.
    this.isSending = true;
    this.#vector.prepare();
    this.#thread.ring.sendMessage(this.#fd, this.#vector.at, this.#index, TAG_LINK_SEND);
    return false;
  }

  /** Lets everything go that has not left. */
  abandon(): void {
    this.#messages.clear();
    this.#message = undefined;
    this.#raw.length = 0;
    this.#next = this.#tail;
    this.#dropUntil(this.#tail);
  }

  #hasRoom(byteCount: number): boolean {
    if (this.#request === NOTHING) {
      this.#request = new Int32Array(SEND_QUEUE_FRAMES).fill(NONE);
      this.#payloadBytes = new Int32Array(SEND_QUEUE_FRAMES);
    }
    return this.#tail - this.#head < SEND_QUEUE_FRAMES && this.#queuedBytes + byteCount <= QUEUE_LIMIT_BYTES;
  }

  #headerAt(place: number): number {
    return this.#at + HEADERS_AT + place * SEALED_HEADER_BYTES;
  }

  #addRaw(bytes: Uint8Array): void {
    const at = this.#at + STAGING_AT;
    this.#thread.memory.bytes.set(bytes, at);
    this.#vector.add(at, bytes.length);
  }

  #addFrames(): void {
    const vector = this.#vector;
    while (this.#next < this.#tail && vector.roomCount >= 2 && vector.leftBytes < BATCH_BYTES) {
      if (this.#next >= this.#sealed) this.#seal();
      const place = this.#next & MASK;
      if (this.#messages.size > 0) {
        const message = this.#messages.get(this.#next);
        if (message !== undefined) {
          // The staging area holds one piece: it is the vector's last.
          this.#addPiece(place, message);
          return;
        }
      }
      vector.add(this.#headerAt(place), SEALED_HEADER_BYTES);
      const request = this.#request[place] as number;
      if (request !== NONE) {
        vector.add(this.#thread.slots.data[request] as number, this.#payloadBytes[place] as number);
      }
      this.#next += 1;
    }
  }

  /** Seals the headers from #next on, up to the end of the queue or of the memory. */
  #seal(): void {
    const place = this.#next & MASK;
    const count = Math.min(this.#tail - this.#next, SEND_QUEUE_FRAMES - place);
    const { bytes } = this.#thread.memory;
    native.seal(this.key as Uint8Array, bytes, this.#headerAt(place), HEADER_BYTES, count);
    this.#sealed = this.#next + count;
  }

  #addPiece(place: number, room: Uint8Array): void {
    const { bytes } = this.#thread.memory;
    let message = this.#message;
    if (message === undefined) {
      const at = this.#headerAt(place);
      this.#vector.add(at, SEALED_HEADER_BYTES);
      message = sealMessage(this.key as Uint8Array, bytes, at + HEADER_BYTES, room);
      this.#message = message;
      this.#messageAt = 0;
    }
    const piece = message.subarray(this.#messageAt, this.#messageAt + STAGING_BYTES);
    bytes.set(piece, this.#at + STAGING_AT);
    this.#vector.add(this.#at + STAGING_AT, piece.length);
    this.#messageAt += piece.length;
    if (this.#messageAt < message.length) return;
    this.#message = undefined;
    this.#messages.delete(this.#next);
    this.#next += 1;
  }

  #dropUntil(end: number): void {
    while (this.#head < end) {
      const place = this.#head & MASK;
      const request = this.#request[place] as number;
      if (request !== NONE) {
        this.#queuedBytes -= this.#payloadBytes[place] as number;
        this.#request[place] = NONE;
        this.#slots.release(request);
      }
      this.#head += 1;
    }
    if (this.#head < this.#tail) return;
    // The same few pages again and again, as long as the queue is short.
    this.#head = 0;
    this.#next = 0;
    this.#tail = 0;
    this.#sealed = 0;
  }
}
