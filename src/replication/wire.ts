// Frames as bytes: the header in front of every payload, its checks, and the agreement on a version. What the
// types mean: frames.ts; which payload they have: wire-types.ts; control messages: wire-control.ts.
//
//   offset size field            why
//   0      4    checksum         CRC-32C of bytes 4 to 63
//   4      2    magic            'HF': another program's bytes are not believed
//   6      1    version          the one agreed on; HANDSHAKE_VERSION in Hello, Welcome and Refused
//   7      1    type             see wire-types.ts
//   8      1    flags            of the request
//   9      1    wireFlags        1: payloadChecksum holds
//   10     2    errno            positive, 0 for none; in a REQUEST its kind
//   12     4    frameNumber      1 for the first frame of a connection and direction, then one more each, modulo 2^32
//   16     4    payloadBytes     that follow the header
//   20     4    payloadChecksum  CRC-32C of them
//   24     4    lengthBytes      of the request's range
//   28     4    epoch
//   32     8    sequence         f64, as all that follow
//   40     8    offset           in bytes
//   48     8    watermark
//   56     8    time             in milliseconds
//
// Little endian throughout. Everything but bytes 8 to 11 and 24 to 63 keeps its place in every version to come:
// so does the payload's `wireVersion` of a Hello. All fields travel in every frame; what a type does not use is
// whatever stood there last, and no receiver looks at it.
//
// Neither encoding nor decoding allocates: a number beyond 31 bits is never an argument nor a result, and
// unsigned ones that may not fit (checksums, frame numbers) are kept as signed.
// A frame that fails any check ends the link: nothing behind it can be trusted to begin where it seems to.

import { crc32c, crc32cSigned } from '../core/crc32c.ts';
import { invariant } from '../core/invariant.ts';
import { FRAME_REFUSED, type FrameFields, OFFSET, SEQUENCE, TIME, WATERMARK } from './frames.ts';
import { FIELDS_BAD_LENGTH, FIELDS_OK, faultOf, HEARER_ANY, isHeardBy } from './wire-types.ts';

export const HEADER_BYTES = 64;

// ---- versions

export interface VersionRange {
  readonly min: number;
  readonly max: number;
}

/** What this program speaks. */
export const WIRE_VERSIONS: VersionRange = { min: 1, max: 1 };
/** Of the frames before the agreement, for good: any two versions can at least refuse each other. */
const HANDSHAKE_VERSION = 1;
const NOT_AGREED = 0;

/** The highest version that both speak; undefined: one side must be upgraded first. */
export function chooseVersion(ours: VersionRange, theirs: VersionRange): number | undefined {
  const version = Math.min(ours.max, theirs.max);
  return version >= Math.max(ours.min, theirs.min) ? version : undefined;
}

/** For the log of either end: who is to do what. */
export function tooFarApart(what: string, ours: VersionRange, theirs: VersionRange): string {
  const older = theirs.max < ours.min ? 'the other daemon' : 'this daemon';
  return (
    `it speaks versions ${theirs.min} to ${theirs.max} of ${what} and this daemon ${ours.min} to ${ours.max}: ` +
    `upgrade ${older}, which is too old for the other`
  );
}

// ---- checksums of payloads

/** CRC-32C of bytes [offset, offset + length), continuing from `seed` (0 at the start). As the addon's. */
export type Crc32c = (bytes: Uint8Array, offset: number, length: number, seed: number) => number;

/** The same without the addon, for whole pieces only. */
export function portableCrc32c(bytes: Uint8Array, offset: number, length: number, seed: number): number {
  invariant(seed === 0, 'the portable checksum starts from zero');
  return crc32c(bytes, offset, offset + length);
}

// ---- the header

/** Memory that frames are written to and read from. */
export class WireBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
}

const MAGIC = 0x4648;
const MAGIC_AT = 4;
const VERSION_AT = 6;
const TYPE_AT = 7;
const FLAGS_AT = 8;
const WIRE_FLAGS_AT = 9;
const ERRNO_AT = 10;
const FRAME_NUMBER_AT = 12;
const PAYLOAD_BYTES_AT = 16;
const PAYLOAD_CHECKSUM_AT = 20;
const LENGTH_AT = 24;
const EPOCH_AT = 28;
const SEQUENCE_AT = 32;
const OFFSET_AT = 40;
const WATERMARK_AT = 48;
const TIME_AT = 56;

const WIRE_FLAG_SUMMED = 1;

function versionOf(type: number, agreed: number): number {
  return type <= FRAME_REFUSED ? HANDSHAKE_VERSION : agreed;
}

/** One direction of one connection, sending. */
export class FrameWriter {
  /** Set once it is agreed; until then only Hello, Welcome and Refused can be sent. */
  version = NOT_AGREED;
  /** Of the last frame, as a signed number. */
  #frameNumber = 0;

  /** The header of a frame without payload. */
  encode(into: WireBuffer, at: number, fields: FrameFields): void {
    this.#put(into, at, fields, 0, 0, WIRE_FLAG_SUMMED);
  }

  /** `checksum`: the payload's, as a signed number. */
  encodeSummed(
    into: WireBuffer,
    at: number,
    fields: FrameFields,
    payloadBytes: number,
    checksum: number,
  ): void {
    this.#put(into, at, fields, payloadBytes, checksum, WIRE_FLAG_SUMMED);
  }

  /** For an operator who has switched the payloads' checksums off. */
  encodeUnsummed(into: WireBuffer, at: number, fields: FrameFields, payloadBytes: number): void {
    this.#put(into, at, fields, payloadBytes, 0, 0);
  }

  #put(
    into: WireBuffer,
    at: number,
    fields: FrameFields,
    payloadBytes: number,
    checksum: number,
    wireFlags: number,
  ): void {
    const { bytes, view } = into;
    const { type, numbers } = fields;
    const version = versionOf(type, this.version);
    invariant(isHeardBy(type, HEARER_ANY), 'a frame that is sent has a type');
    invariant(version !== NOT_AGREED, 'a version is agreed on before anything but the handshake is sent');
    invariant(
      faultOf(fields, payloadBytes) === FIELDS_OK,
      'a frame that is sent holds what its type asks for',
    );
    this.#frameNumber = (this.#frameNumber + 1) | 0;

    view.setUint16(at + MAGIC_AT, MAGIC, true);
    bytes[at + VERSION_AT] = version;
    bytes[at + TYPE_AT] = type;
    bytes[at + FLAGS_AT] = fields.flags;
    bytes[at + WIRE_FLAGS_AT] = wireFlags;
    view.setUint16(at + ERRNO_AT, fields.errno, true);
    view.setInt32(at + FRAME_NUMBER_AT, this.#frameNumber, true);
    view.setInt32(at + PAYLOAD_BYTES_AT, payloadBytes, true);
    view.setInt32(at + PAYLOAD_CHECKSUM_AT, checksum, true);
    view.setUint32(at + LENGTH_AT, fields.lengthBytes, true);
    view.setUint32(at + EPOCH_AT, fields.epoch, true);
    view.setFloat64(at + SEQUENCE_AT, numbers[SEQUENCE] as number, true);
    view.setFloat64(at + OFFSET_AT, numbers[OFFSET] as number, true);
    view.setFloat64(at + WATERMARK_AT, numbers[WATERMARK] as number, true);
    view.setFloat64(at + TIME_AT, numbers[TIME] as number, true);
    view.setInt32(at, crc32cSigned(bytes, at + MAGIC_AT, at + HEADER_BYTES), true);
  }
}

export const OK = 0;
export const TRUNCATED = 1;
export const BAD_MAGIC = 2;
export const BAD_CHECKSUM = 3;
export const BAD_VERSION = 4;
export const BAD_TYPE = 5;
export const BAD_NUMBER = 6;
export const BAD_LENGTH = 7;
export const BAD_FIELD = 8;

/** What a code of decode() says, for the log line of a link that ends. */
export const DECODE_TEXTS = [
  'the frame is whole',
  'fewer bytes than a header has',
  'these are not frames of Holdfast: another program answers there, or the stream lost its place',
  'the header was damaged on its way: check the network and the memory of both machines',
  'a frame of a version that was not agreed on',
  'a frame of a type that this end of the link never hears',
  'a frame was lost or came twice',
  'a frame announces a length that its type cannot have',
  'a frame holds a value that its type cannot have',
] as const;

/** One direction of one connection, receiving. */
export class FrameReader {
  /** Set once it is agreed; until then only Hello, Welcome and Refused are heard. */
  version = NOT_AGREED;
  /** HEARER_ of wire-types.ts: which end this is. An acceptor sets it by its Hello. */
  hearer: number;
  /** Of the last frame that was OK: bytes that follow it. */
  payloadBytes = 0;
  #payloadChecksum = 0;
  #isSummed = false;
  /** Of the last frame that was OK, as a signed number. */
  #frameNumber = 0;
  readonly #crc32c: Crc32c;

  /**
   * `payloadCrc32c`: headers are too short to be worth a call into the addon. `framesRead`: by another reader of the
   * same connection before, for one that was handed over after its Hello.
   */
  constructor(payloadCrc32c: Crc32c, hearer: number, framesRead = 0) {
    this.#crc32c = payloadCrc32c;
    this.hearer = hearer;
    this.#frameNumber = framesRead;
  }

  /** Reads the header at `at`. Only after OK do `fields` and `payloadBytes` count; after all else the link ends. */
  decode(from: WireBuffer, at: number, fields: FrameFields): number {
    const { bytes, view } = from;
    if (at + HEADER_BYTES > bytes.length) return TRUNCATED;
    if (view.getUint16(at + MAGIC_AT, true) !== MAGIC) return BAD_MAGIC;
    const checksum = crc32cSigned(bytes, at + MAGIC_AT, at + HEADER_BYTES);
    if (view.getInt32(at, true) !== checksum) return BAD_CHECKSUM;
    const type = bytes[at + TYPE_AT] as number;
    const version = bytes[at + VERSION_AT] as number;
    if (version === NOT_AGREED || version !== versionOf(type, this.version)) return BAD_VERSION;
    if (!isHeardBy(type, this.hearer)) return BAD_TYPE;
    const frameNumber = (this.#frameNumber + 1) | 0;
    if (view.getInt32(at + FRAME_NUMBER_AT, true) !== frameNumber) return BAD_NUMBER;

    const wireFlags = bytes[at + WIRE_FLAGS_AT] as number;
    // Signed: an absurd length is negative, and no type has one.
    const payloadBytes = view.getInt32(at + PAYLOAD_BYTES_AT, true);
    readFields(from, at, fields);
    const fault = faultOf(fields, payloadBytes);
    if (fault !== FIELDS_OK) return fault === FIELDS_BAD_LENGTH ? BAD_LENGTH : BAD_FIELD;
    if ((wireFlags & ~WIRE_FLAG_SUMMED) !== 0) return BAD_FIELD;

    this.#frameNumber = frameNumber;
    this.payloadBytes = payloadBytes;
    this.#payloadChecksum = view.getInt32(at + PAYLOAD_CHECKSUM_AT, true);
    this.#isSummed = (wireFlags & WIRE_FLAG_SUMMED) !== 0;
    return OK;
  }

  /** Whether the last frame's payload, which begins at `at`, is the one that was sent. */
  isPayloadIntact(bytes: Uint8Array, at: number): boolean {
    if (!this.#isSummed) return true;
    return (this.#crc32c(bytes, at, this.payloadBytes, 0) | 0) === this.#payloadChecksum;
  }
}

function readFields(from: WireBuffer, at: number, fields: FrameFields): void {
  const { bytes, view } = from;
  const { numbers } = fields;
  fields.type = bytes[at + TYPE_AT] as number;
  fields.flags = bytes[at + FLAGS_AT] as number;
  fields.errno = view.getUint16(at + ERRNO_AT, true);
  fields.lengthBytes = view.getUint32(at + LENGTH_AT, true);
  fields.epoch = view.getUint32(at + EPOCH_AT, true);
  numbers[SEQUENCE] = view.getFloat64(at + SEQUENCE_AT, true);
  numbers[OFFSET] = view.getFloat64(at + OFFSET_AT, true);
  numbers[WATERMARK] = view.getFloat64(at + WATERMARK_AT, true);
  numbers[TIME] = view.getFloat64(at + TIME_AT, true);
}
