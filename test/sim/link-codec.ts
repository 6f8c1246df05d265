// What links carry: frames as the bytes that the production wire format makes of them, and back. Headers and
// control messages are complete; of a data payload each block travels as the four bytes that tell its content
// here, under the production checksum, so that long runs stay cheap.

import { crc32cSigned } from '../../src/core/crc32c.ts';
import { invariant } from '../../src/core/invariant.ts';
import { BLOCK_BYTES } from '../../src/core/units.ts';
import {
  type ControlMessage,
  FRAME_HELLO,
  FRAME_WELCOME,
  FrameFields,
  type Hello,
} from '../../src/replication/frames.ts';
import {
  chooseVersion,
  DECODE_TEXTS,
  FrameReader,
  FrameWriter,
  HEADER_BYTES,
  OK,
  WireBuffer,
  WIRE_VERSIONS,
} from '../../src/replication/wire.ts';
import {
  decodeControl,
  encodeControl,
  helloVersions,
  welcomeVersion,
} from '../../src/replication/wire-control.ts';
import {
  HEARER_ACCEPTOR,
  HEARER_FRONTEND,
  HEARER_PRIMARY,
  HEARER_REPLICA,
  HEARER_SERVER,
  PAYLOAD_CONTROL,
  payloadOf,
} from '../../src/replication/wire-types.ts';

const CARRIED_BLOCK_BYTES = 4;
/** Room of the parcels that are used again; rarer, larger ones are made as needed. */
const POOLED_BYTES = HEADER_BYTES + 64 * CARRIED_BLOCK_BYTES;

/** One frame on its way. */
export interface Parcel {
  readonly wire: WireBuffer;
  /** Of `wire`: what belongs to the frame. */
  lengthBytes: number;
}

/** One direction of one link: who sends keeps the writer, who receives the reader. */
export class Lane {
  readonly writer = new FrameWriter();
  readonly reader: FrameReader;
  lastArrivalMs = 0;
  /** Arrived as far as the cut, or before the other end was accepted. null: the end of the link. */
  held: (Parcel | null)[] = [];
  /** A frame of it was lost, repeated, damaged or out of its place: what fails its checks is no wonder. */
  isFaulted = false;

  constructor(reader: FrameReader) {
    this.reader = reader;
  }
}

/** Why the link ends. */
export interface Damage {
  readonly text: string;
  /** An intact frame was refused: what this end does not understand, the other one should not have sent. */
  readonly isOfHeader: boolean;
}

export class LinkCodec {
  readonly #free: Parcel[] = [];
  readonly #fields = new FrameFields();
  readonly #control = new FrameFields();
  /** Of the payload that is being checked. */
  #carriedBytes = 0;
  readonly #crc32c = (bytes: Uint8Array, offset: number): number =>
    crc32cSigned(bytes, offset, offset + this.#carriedBytes);

  /** The lanes of a new link: from who opens it, and back to it. */
  lanes(): [Lane, Lane] {
    return [
      new Lane(new FrameReader(this.#crc32c, HEARER_ACCEPTOR)),
      new Lane(new FrameReader(this.#crc32c, HEARER_PRIMARY)),
    ];
  }

  #take(lengthBytes: number): Parcel {
    const pooled = lengthBytes <= POOLED_BYTES ? this.#free.pop() : undefined;
    const parcel = pooled ?? {
      wire: new WireBuffer(new Uint8Array(Math.max(lengthBytes, POOLED_BYTES))),
      lengthBytes,
    };
    parcel.lengthBytes = lengthBytes;
    return parcel;
  }

  release(parcel: Parcel): void {
    if (parcel.wire.bytes.length === POOLED_BYTES) this.#free.push(parcel);
  }

  copyOf(parcel: Parcel): Parcel {
    const copy = this.#take(parcel.lengthBytes);
    copy.wire.bytes.set(parcel.wire.bytes.subarray(0, parcel.lengthBytes));
    return copy;
  }

  encode(lane: Lane, fields: FrameFields, payload: Int32Array | undefined): Parcel {
    if (payload === undefined) {
      const parcel = this.#take(HEADER_BYTES);
      lane.writer.encode(parcel.wire, 0, fields);
      return parcel;
    }
    const parcel = this.#take(HEADER_BYTES + payload.length * CARRIED_BLOCK_BYTES);
    const { bytes, view } = parcel.wire;
    for (let block = 0; block < payload.length; block++)
      view.setInt32(HEADER_BYTES + block * CARRIED_BLOCK_BYTES, payload[block] as number, true);
    const checksum = crc32cSigned(bytes, HEADER_BYTES, parcel.lengthBytes);
    lane.writer.encodeSummed(parcel.wire, 0, fields, payload.length * BLOCK_BYTES, checksum);
    return parcel;
  }

  /** `answers`: the lane back, whose frames the sender hears. */
  encodeControl(lane: Lane, answers: Lane, type: number, message: ControlMessage): Parcel {
    const json = encodeControl(type, message, lane.writer.version);
    const parcel = this.#take(HEADER_BYTES + json.length);
    parcel.wire.bytes.set(json, HEADER_BYTES);
    if (type === FRAME_HELLO)
      answers.reader.hearer = (message as Hello).kind === 'stream' ? HEARER_PRIMARY : HEARER_FRONTEND;
    this.#control.type = type;
    const checksum = crc32cSigned(json, 0, json.length);
    lane.writer.encodeSummed(parcel.wire, 0, this.#control, json.length, checksum);
    return parcel;
  }

  /** Hands the frame over, or says why it cannot be believed. Its fields are good until the next one. */
  decode(
    lane: Lane,
    answers: Lane,
    { wire, lengthBytes }: Parcel,
    framed: (fields: FrameFields, payload: Int32Array | undefined) => void,
    controlled: (type: number, message: ControlMessage) => void,
  ): Damage | undefined {
    const { reader } = lane;
    const fields = this.#fields;
    const code = reader.decode(wire, 0, fields);
    if (code !== OK) return { text: DECODE_TEXTS[code] as string, isOfHeader: true };
    this.#carriedBytes = lengthBytes - HEADER_BYTES;
    if (!reader.isPayloadIntact(wire.bytes, HEADER_BYTES))
      return { text: 'the payload was damaged on its way', isOfHeader: false };
    if (payloadOf(fields.type) === PAYLOAD_CONTROL) {
      const json = wire.bytes.subarray(HEADER_BYTES, lengthBytes);
      const message = decodeControl(fields.type, json);
      agree(lane, answers, fields.type, message, json);
      controlled(fields.type, message);
      return undefined;
    }
    invariant(
      reader.payloadBytes / BLOCK_BYTES === this.#carriedBytes / CARRIED_BLOCK_BYTES,
      'a payload has the length that its header says',
    );
    framed(fields, reader.payloadBytes === 0 ? undefined : this.#payloadOf(wire));
    return undefined;
  }

  #payloadOf(wire: WireBuffer): Int32Array {
    const values = new Int32Array(this.#carriedBytes / CARRIED_BLOCK_BYTES);
    for (let block = 0; block < values.length; block++)
      values[block] = wire.view.getInt32(HEADER_BYTES + block * CARRIED_BLOCK_BYTES, true);
    return values;
  }
}

/** What the shell around the core does with the first message of either side. */
function agree(lane: Lane, answers: Lane, type: number, message: ControlMessage, json: Uint8Array): void {
  if (type === FRAME_HELLO) {
    lane.reader.hearer = (message as Hello).kind === 'stream' ? HEARER_REPLICA : HEARER_SERVER;
    const version = chooseVersion(WIRE_VERSIONS, helloVersions(json));
    invariant(version !== undefined, 'both ends speak the same version');
    lane.reader.version = version;
    answers.writer.version = version;
  } else if (type === FRAME_WELCOME) {
    const version = welcomeVersion(json);
    lane.reader.version = version;
    answers.writer.version = version;
  }
}
