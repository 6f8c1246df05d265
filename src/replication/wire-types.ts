// The types of frames in one table: which payload follows, which end of a link may hear it, and what a frame of
// the type must hold. Numbers of types keep their meaning in every version.
//
// Invariant: what passes faultOf() neither makes a receiver allocate beyond the limits here, nor reaches a role
// that has no word for it: a peer's wrong frame ends the link, never the process.

import { MAX_VOLUME_BYTES, MIB } from '../core/units.ts';
import * as frames from './frames.ts';
import { type FrameFields, OFFSET, SEQUENCE, TIME, WATERMARK } from './frames.ts';
import { FLUSH, WRITE } from './requests.ts';

/** Of one write, copy or read. */
export const MAX_DATA_BYTES = 32 * MIB;
export const MAX_CONTROL_BYTES = MIB;

// ---- what follows the header
export const PAYLOAD_NONE = 0;
/** lengthBytes of the request's range, for a request's buffer. */
export const PAYLOAD_DATA = 1;
/** The same in the REQUEST of a write and the REPLY to a read that went well; else nothing. */
export const PAYLOAD_MAYBE_DATA = 2;
/** A message: see wire-control.ts. */
export const PAYLOAD_CONTROL = 3;

// ---- who hears it: the ends of a link
/** The accepting end until its Hello came. */
export const HEARER_ACCEPTOR = 1;
/** The replica's end of a stream. */
export const HEARER_REPLICA = 2;
/** The primary's end of a stream. */
export const HEARER_PRIMARY = 4;
/** The primary's end of a session. */
export const HEARER_SERVER = 8;
/** The frontend's end of a session. */
export const HEARER_FRONTEND = 16;
export const HEARER_ANY = 31;

export interface FrameType {
  readonly type: number;
  readonly name: string;
  readonly payload: number;
  readonly hearers: number;
  /** The receiver hands it over with a slot of its RequestTable. A REPLY takes one only for its payload. */
  readonly takesRequest: boolean;
}

function frameType(
  type: number,
  name: string,
  payload: number,
  hearers: number,
  takesRequest = false,
): FrameType {
  return { type, name, payload, hearers, takesRequest };
}

export const FRAME_TYPES: readonly FrameType[] = [
  frameType(frames.FRAME_HELLO, 'HELLO', PAYLOAD_CONTROL, HEARER_ACCEPTOR),
  frameType(frames.FRAME_WELCOME, 'WELCOME', PAYLOAD_CONTROL, HEARER_PRIMARY | HEARER_FRONTEND),
  frameType(frames.FRAME_REFUSED, 'REFUSED', PAYLOAD_CONTROL, HEARER_PRIMARY | HEARER_FRONTEND),

  frameType(frames.FRAME_WRITE, 'WRITE', PAYLOAD_DATA, HEARER_REPLICA, true),
  frameType(frames.FRAME_ZERO, 'ZERO', PAYLOAD_NONE, HEARER_REPLICA, true),
  frameType(frames.FRAME_COPY, 'COPY', PAYLOAD_DATA, HEARER_REPLICA, true),
  frameType(frames.FRAME_COPY_ZERO, 'COPY_ZERO', PAYLOAD_NONE, HEARER_REPLICA, true),
  frameType(frames.FRAME_FLUSH, 'FLUSH', PAYLOAD_NONE, HEARER_REPLICA),
  frameType(frames.FRAME_BEAT, 'BEAT', PAYLOAD_NONE, HEARER_REPLICA),
  frameType(frames.FRAME_EPOCH, 'EPOCH', PAYLOAD_CONTROL, HEARER_REPLICA),
  frameType(frames.FRAME_STAMPS, 'STAMPS', PAYLOAD_CONTROL, HEARER_REPLICA),
  frameType(frames.FRAME_SETTLED, 'SETTLED', PAYLOAD_NONE, HEARER_REPLICA),
  frameType(frames.FRAME_PROMOTE, 'PROMOTE', PAYLOAD_CONTROL, HEARER_REPLICA),

  frameType(frames.FRAME_DONE, 'DONE', PAYLOAD_NONE, HEARER_PRIMARY),
  frameType(frames.FRAME_COPIED, 'COPIED', PAYLOAD_NONE, HEARER_PRIMARY),
  frameType(frames.FRAME_FLUSHED, 'FLUSHED', PAYLOAD_NONE, HEARER_PRIMARY),
  frameType(frames.FRAME_GRANT, 'GRANT', PAYLOAD_NONE, HEARER_PRIMARY),
  frameType(frames.FRAME_EPOCH_KEPT, 'EPOCH_KEPT', PAYLOAD_NONE, HEARER_PRIMARY),
  frameType(frames.FRAME_STAMPED, 'STAMPED', PAYLOAD_NONE, HEARER_PRIMARY),

  frameType(frames.FRAME_REQUEST, 'REQUEST', PAYLOAD_MAYBE_DATA, HEARER_SERVER, true),
  frameType(frames.FRAME_REPLY, 'REPLY', PAYLOAD_MAYBE_DATA, HEARER_FRONTEND, true),
  frameType(frames.FRAME_MOVED, 'MOVED', PAYLOAD_CONTROL, HEARER_FRONTEND),
  frameType(frames.FRAME_REVOKED, 'REVOKED', PAYLOAD_NONE, HEARER_FRONTEND),
  frameType(frames.FRAME_WAITING, 'WAITING', PAYLOAD_NONE, HEARER_FRONTEND),
  frameType(frames.FRAME_HERE, 'HERE', PAYLOAD_NONE, HEARER_SERVER),
];

// The same by type, for the path of a frame. A type that does not exist has no hearers.
const payloads = new Uint8Array(256);
const hearersOf = new Uint8Array(256);
const withRequest = new Uint8Array(256);
for (const { type, payload, hearers, takesRequest } of FRAME_TYPES) {
  payloads[type] = payload;
  hearersOf[type] = hearers;
  withRequest[type] = takesRequest ? 1 : 0;
}

export function payloadOf(type: number): number {
  return payloads[type] as number;
}

export function isHeardBy(type: number, hearer: number): boolean {
  return ((hearersOf[type] as number) & hearer) !== 0;
}

/** Whether this frame, decoded, is handed over with a request slot; bufferBytesOf() says how large a buffer. */
export function needsRequest(fields: FrameFields): boolean {
  if (fields.type === frames.FRAME_REPLY) return fields.lengthBytes > 0;
  return withRequest[fields.type] === 1;
}

/** Of a decoded frame that needs a request: how many bytes its payload, or the answer's, will fill. */
export function bufferBytesOf(fields: FrameFields): number {
  if (payloadOf(fields.type) === PAYLOAD_NONE) return 0;
  // Of a REQUEST that is neither write nor read the length may exceed any buffer.
  return fields.type === frames.FRAME_REQUEST && fields.errno > WRITE ? 0 : fields.lengthBytes;
}

// ---- what a frame must hold

export const FIELDS_OK = 0;
export const FIELDS_BAD_LENGTH = 1;
export const FIELDS_BAD_VALUE = 2;

/** Checks lengths, then values. The type must exist. */
export function faultOf(fields: FrameFields, payloadBytes: number): number {
  if (!isLengthRight(fields, payloadBytes)) return FIELDS_BAD_LENGTH;
  return areValuesRight(fields) ? FIELDS_OK : FIELDS_BAD_VALUE;
}

function isLengthRight(fields: FrameFields, payloadBytes: number): boolean {
  const length = fields.lengthBytes;
  switch (payloadOf(fields.type)) {
    case PAYLOAD_DATA:
      return payloadBytes === length && length > 0 && length <= MAX_DATA_BYTES;
    case PAYLOAD_CONTROL:
      return payloadBytes > 0 && payloadBytes <= MAX_CONTROL_BYTES;
    case PAYLOAD_MAYBE_DATA:
      if (fields.type === frames.FRAME_REPLY) {
        return payloadBytes === length && length <= MAX_DATA_BYTES && (fields.errno === 0 || length === 0);
      }
      // A read's length counts as well: its answer will need the buffer.
      if (fields.errno <= WRITE && !(length > 0 && length <= MAX_DATA_BYTES)) return false;
      return payloadBytes === (fields.errno === WRITE ? length : 0);
    default:
      return payloadBytes === 0 && (length > 0 || !hasRange(fields));
  }
}

function areValuesRight(fields: FrameFields): boolean {
  const { numbers } = fields;
  if (fields.type === frames.FRAME_REQUEST && fields.errno > FLUSH) return false;
  if (!isCount(numbers[SEQUENCE] as number) || !isCount(numbers[WATERMARK] as number)) return false;
  if (!isCount(numbers[OFFSET] as number) || !Number.isFinite(numbers[TIME] as number)) return false;
  return !hasRange(fields) || (numbers[OFFSET] as number) + fields.lengthBytes <= MAX_VOLUME_BYTES;
}

function hasRange(fields: FrameFields): boolean {
  if (withRequest[fields.type] === 0 || fields.type === frames.FRAME_REPLY) return false;
  return fields.type !== frames.FRAME_REQUEST || fields.errno !== FLUSH;
}

function isCount(value: number): boolean {
  return value >= 0 && value <= Number.MAX_SAFE_INTEGER && Math.floor(value) === value;
}
