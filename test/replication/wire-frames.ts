// One frame of every type, and how the wire tests send and hear it.

import { crc32c as crc32cOf } from '@node-rs/crc32';
import * as frames from '../../src/replication/frames.ts';
import { FrameFields, OFFSET, SEQUENCE, TIME, WATERMARK } from '../../src/replication/frames.ts';
import { FLAG_FUA, WRITE } from '../../src/replication/requests.ts';
import {
  type Crc32c,
  FrameReader,
  FrameWriter,
  HEADER_BYTES,
  WireBuffer,
} from '../../src/replication/wire.ts';
import { HEARER_ANY } from '../../src/replication/wire-types.ts';

/** An implementation that is not ours. */
export const crc32c: Crc32c = (bytes, offset, length, seed) =>
  crc32cOf(bytes.subarray(offset, offset + length), seed);

export interface Fields {
  readonly type: number;
  readonly flags?: number;
  readonly errno?: number;
  readonly epoch?: number;
  readonly lengthBytes?: number;
  readonly sequence?: number;
  readonly offset?: number;
  readonly watermark?: number;
  readonly time?: number;
}

export function fieldsOf(from: Fields): FrameFields {
  const fields = new FrameFields();
  fields.type = from.type;
  fields.flags = from.flags ?? 0;
  fields.errno = from.errno ?? 0;
  fields.epoch = from.epoch ?? 0;
  fields.lengthBytes = from.lengthBytes ?? 0;
  fields.numbers[SEQUENCE] = from.sequence ?? 0;
  fields.numbers[OFFSET] = from.offset ?? 0;
  fields.numbers[WATERMARK] = from.watermark ?? 0;
  fields.numbers[TIME] = from.time ?? 0;
  return fields;
}

const range = { epoch: 7, lengthBytes: 4096, offset: 2 ** 40 + 8192 };

/** What each type means by its fields, and a payload's length where one follows. */
export const SAMPLES: readonly (Fields & { readonly payloadBytes?: number })[] = [
  { type: frames.FRAME_HELLO, payloadBytes: 300 },
  { type: frames.FRAME_WELCOME, payloadBytes: 200 },
  { type: frames.FRAME_REFUSED, payloadBytes: 30 },
  {
    type: frames.FRAME_WRITE,
    ...range,
    sequence: 2 ** 33,
    watermark: 2 ** 33 - 5,
    flags: FLAG_FUA,
    payloadBytes: 4096,
  },
  { type: frames.FRAME_ZERO, ...range, lengthBytes: 0xffff_f000, sequence: 3, watermark: 2 },
  { type: frames.FRAME_COPY, ...range, sequence: 12, payloadBytes: 4096 },
  { type: frames.FRAME_COPY_ZERO, ...range, sequence: 13 },
  { type: frames.FRAME_FLUSH, epoch: 7, sequence: 4 },
  { type: frames.FRAME_BEAT, epoch: 7, watermark: 5, time: 123_456.75 },
  { type: frames.FRAME_EPOCH, epoch: 8, payloadBytes: 900 },
  { type: frames.FRAME_STAMPS, payloadBytes: 260 },
  { type: frames.FRAME_SETTLED, epoch: 7, sequence: 6 },
  { type: frames.FRAME_PROMOTE, payloadBytes: 900 },
  { type: frames.FRAME_DONE, epoch: 7, sequence: 3, errno: 28 },
  { type: frames.FRAME_COPIED, epoch: 7, sequence: 12 },
  { type: frames.FRAME_FLUSHED, epoch: 7, sequence: 4, errno: 5 },
  { type: frames.FRAME_GRANT, epoch: 7, time: 123_456.75 },
  { type: frames.FRAME_EPOCH_KEPT, epoch: 0xffff_ffff },
  { type: frames.FRAME_STAMPED, sequence: 1000 },
  { type: frames.FRAME_REQUEST, ...range, sequence: 77, errno: WRITE, payloadBytes: 4096 },
  { type: frames.FRAME_REPLY, lengthBytes: 512, sequence: 77, payloadBytes: 512 },
  { type: frames.FRAME_MOVED, payloadBytes: 11 },
  { type: frames.FRAME_REVOKED, epoch: 7 },
  { type: frames.FRAME_WAITING, epoch: 7 },
  { type: frames.FRAME_HERE, epoch: 7 },
];

export const PAYLOAD_CHECKSUM = 0x89ab_cdef | 0;

/** Both ends of one direction, past the handshake. */
export function agreedLink(hearer = HEARER_ANY): { writer: FrameWriter; reader: FrameReader } {
  const writer = new FrameWriter();
  const reader = new FrameReader(crc32c, hearer);
  writer.version = 1;
  reader.version = 1;
  return { writer, reader };
}

/** The header of the first frame of a connection. */
export function headerOf(from: Fields, payloadBytes = 0): Uint8Array {
  const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
  const { writer } = agreedLink();
  if (payloadBytes === 0) writer.encode(buffer, 0, fieldsOf(from));
  else writer.encodeSummed(buffer, 0, fieldsOf(from), payloadBytes, PAYLOAD_CHECKSUM);
  return buffer.bytes;
}

/** Makes altered bytes a header whose checksum is right. */
export function seal(header: Uint8Array): Uint8Array {
  new DataView(header.buffer, header.byteOffset).setUint32(0, crc32c(header, 4, HEADER_BYTES - 4, 0), true);
  return header;
}
