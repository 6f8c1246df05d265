// The frames of a link, out of the bytes that come: a header with its seal, the slot that it needs, its payload or its
// message, one step after the other. What is whole goes to the link; what is damaged ends it.
//
// Invariants: nothing is taken and nobody hears of a frame before its header's seal is found right, nor of a message
// before its own; a payload is not delivered before its sum is.

import { BLOCK_BYTES } from '../../core/units.ts';
import { FRAME_REPLY, FrameFields, OFFSET } from '../../replication/frames.ts';
import { NONE } from '../../replication/requests.ts';
import { DECODE_TEXTS, FrameReader, HEADER_BYTES, OK } from '../../replication/wire.ts';
import * as types from '../../replication/wire-types.ts';
import { native } from '../native.ts';
import { LARGE_PAYLOAD_BYTES, type SocketReceiver } from '../socket-receiver.ts';
import { RECEIVE_BYTES } from '../thread-memory.ts';
import { isMessageSealed } from './control-seal.ts';
import { SEAL_BYTES, SEALED_HEADER_BYTES } from './link-memory.ts';
import type { Peers } from './peers.ts';

/** Of this much it hands over frames in one turn, then it is the others' turn. */
const TURN_BYTES = 256 * 1024;

const NOTHING = new Uint8Array();

const EXPECT_HEADER = 0;
const EXPECT_SLOT = 1;
const EXPECT_PAYLOAD = 2;
const EXPECT_MESSAGE = 3;

/** What a step came to: something was consumed, more bytes are needed, it is the others' turn, memory is short. */
export const STEP_DONE = 0;
export const STEP_MORE = 1;
export const STEP_TURN = 2;
export const STEP_MEMORY = 3;

export interface FrameTaker {
  /** `fields` are filled again after the call. `request`: as in LinkHost. */
  takeFrame(fields: FrameFields, request: number): void;
  takeMessage(type: number, message: Uint8Array): void;
  damaged(reason: string): void;
}

export class LinkFrames {
  key = NOTHING;
  readonly #peers: Peers;
  readonly #index: number;
  readonly #receiver: SocketReceiver;
  readonly #taker: FrameTaker;
  #reader: FrameReader;
  readonly #fields = new FrameFields();
  readonly #headerSeal = new Uint8Array(SEAL_BYTES);
  #expects = EXPECT_HEADER;
  #turnBytes = 0;
  #isHeaderAlone = false;
  /** The message under way, its seal included, and how much of it is there. */
  #message = NOTHING;
  #messageBytes = 0;

  constructor(peers: Peers, index: number, receiver: SocketReceiver, taker: FrameTaker) {
    this.#peers = peers;
    this.#index = index;
    this.#receiver = receiver;
    this.#taker = taker;
    this.#reader = new FrameReader(native.crc32cSigned, types.HEARER_ACCEPTOR);
  }

  /** The Hello has been read, in another thread. */
  skipHello(): void {
    this.#reader = new FrameReader(native.crc32cSigned, types.HEARER_ACCEPTOR, 1);
  }

  set hearer(hearer: number) {
    this.#reader.hearer = hearer;
  }

  set version(version: number) {
    this.#reader.version = version;
  }

  beginTurn(): void {
    this.#turnBytes = 0;
  }

  /** How many bytes to receive, 0: as many as come. `isAlone`: what follows the next frame is not to be read. */
  wantedBytes(isAlone: boolean): number {
    if (!isAlone && !this.#isHeaderAlone) return 0;
    if (this.#expects !== EXPECT_MESSAGE) return SEALED_HEADER_BYTES;
    return Math.min(this.#message.length - this.#messageBytes, RECEIVE_BYTES);
  }

  step(): number {
    const receiver = this.#receiver;
    switch (this.#expects) {
      case EXPECT_HEADER:
        return receiver.availableBytes < SEALED_HEADER_BYTES ? STEP_MORE : this.#header(receiver.at);
      case EXPECT_SLOT:
        return this.#takeSlot();
      case EXPECT_PAYLOAD:
        return receiver.takePayload() ? this.#payloadComplete() : STEP_MORE;
      default:
        return this.#fillMessage() ? this.#messageComplete() : STEP_MORE;
    }
  }

  #header(at: number): number {
    const { thread, wire } = this.#peers;
    if (this.#turnBytes >= TURN_BYTES) return STEP_TURN;
    if (!native.isSealed(this.key, thread.memory.bytes, at, HEADER_BYTES)) {
      return this.#damaged(
        'a frame does not bear the seal of this connection: damaged, or not of the other end',
      );
    }
    const fields = this.#fields;
    const code = this.#reader.decode(wire, at, fields);
    if (code !== OK) return this.#damaged(DECODE_TEXTS[code] ?? '');
    const { payloadBytes } = this.#reader;
    this.#receiver.consume(SEALED_HEADER_BYTES);
    this.#turnBytes += payloadBytes + SEALED_HEADER_BYTES;
    this.#isHeaderAlone = false;
    if (types.payloadOf(fields.type) === types.PAYLOAD_CONTROL) {
      this.#headerSeal.set(thread.memory.bytes.subarray(at + HEADER_BYTES, at + SEALED_HEADER_BYTES));
      this.#message = new Uint8Array(payloadBytes + SEAL_BYTES);
      this.#messageBytes = 0;
      this.#expects = EXPECT_MESSAGE;
    } else if (types.needsRequest(fields)) {
      this.#expects = EXPECT_SLOT;
    } else {
      this.#taker.takeFrame(fields, NONE);
    }
    return STEP_DONE;
  }

  #takeSlot(): number {
    const fields = this.#fields;
    const { hearer, payloadBytes } = this.#reader;
    const { slots, thread } = this.#peers;
    // Where a read's answer came from is not said: its bytes may begin anywhere.
    const inBlock = fields.type === FRAME_REPLY ? 0 : (fields.numbers[OFFSET] as number) % BLOCK_BYTES;
    const bufferBytes = types.bufferBytesOf(fields);
    const request = slots.takeForLink(this.#index, inBlock, bufferBytes, hearer !== types.HEARER_SERVER);
    if (request === NONE) return STEP_MEMORY;
    if (payloadBytes === 0) {
      this.#expects = EXPECT_HEADER;
      this.#taker.takeFrame(fields, request);
      return STEP_DONE;
    }
    this.#isHeaderAlone = payloadBytes >= LARGE_PAYLOAD_BYTES;
    this.#receiver.expectPayload(request, payloadBytes, thread.slots.data[request] as number);
    this.#expects = EXPECT_PAYLOAD;
    return STEP_DONE;
  }

  #payloadComplete(): number {
    const { memory, slots } = this.#peers.thread;
    const request = this.#receiver.payloadRequest;
    if (!this.#reader.isPayloadIntact(memory.bytes, slots.data[request] as number)) {
      return this.#damaged(
        'a payload was damaged on its way: check the network and the memory of both machines',
      );
    }
    this.#receiver.endPayload();
    this.#expects = EXPECT_HEADER;
    this.#taker.takeFrame(this.#fields, request);
    return STEP_DONE;
  }

  /** Takes what the receive buffer has of the message. True: it is complete. */
  #fillMessage(): boolean {
    const receiver = this.#receiver;
    const byteCount = Math.min(receiver.availableBytes, this.#message.length - this.#messageBytes);
    const { bytes } = this.#peers.thread.memory;
    this.#message.set(bytes.subarray(receiver.at, receiver.at + byteCount), this.#messageBytes);
    receiver.consume(byteCount);
    this.#messageBytes += byteCount;
    return this.#messageBytes === this.#message.length;
  }

  #messageComplete(): number {
    const message = this.#message;
    this.#message = NOTHING;
    this.#expects = EXPECT_HEADER;
    if (!isMessageSealed(this.key, this.#headerSeal, message)) {
      return this.#damaged(
        'a message does not bear the seal of this connection: damaged, or not of the other end',
      );
    }
    this.#taker.takeMessage(this.#fields.type, message.subarray(0, message.length - SEAL_BYTES));
    return STEP_DONE;
  }

  #damaged(reason: string): number {
    this.#taker.damaged(reason);
    return STEP_MORE;
  }
}
