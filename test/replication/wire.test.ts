import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as frames from '../../src/replication/frames.ts';
import { FrameFields, OFFSET, SEQUENCE, TIME, WATERMARK } from '../../src/replication/frames.ts';
import { FLUSH, READ, WRITE, ZERO } from '../../src/replication/requests.ts';
import * as wire from '../../src/replication/wire.ts';
import {
  chooseVersion,
  FrameReader,
  FrameWriter,
  HEADER_BYTES,
  portableCrc32c,
  WireBuffer,
} from '../../src/replication/wire.ts';
import {
  bufferBytesOf,
  FRAME_TYPES,
  HEARER_ACCEPTOR,
  HEARER_ANY,
  isHeardBy,
  MAX_CONTROL_BYTES,
  MAX_DATA_BYTES,
  needsRequest,
  PAYLOAD_CONTROL,
  PAYLOAD_DATA,
  PAYLOAD_NONE,
  payloadOf,
} from '../../src/replication/wire-types.ts';
import { dump, flipBit } from './layout/bytes.ts';
import { agreedLink, crc32c, type Fields, fieldsOf, headerOf, SAMPLES, seal } from './wire-frames.ts';
import { GOLDEN } from './wire-golden.ts';

const names = new Map(FRAME_TYPES.map(({ type, name }) => [type, name]));
const write = { type: frames.FRAME_WRITE, lengthBytes: 4096, epoch: 7 } as const;

/** What a receiver of the first frame of a connection says to these bytes. */
function decodeFirst(bytes: Uint8Array, hearer = HEARER_ANY): number {
  return agreedLink(hearer).reader.decode(new WireBuffer(bytes), 0, new FrameFields());
}

/** A frame as a sender of ours would never send it. */
function forged(from: Fields, payloadBytes: number): Uint8Array {
  const header = headerOf({ type: frames.FRAME_FLUSH });
  const view = new DataView(header.buffer);
  const { numbers } = fieldsOf(from);
  header[7] = from.type;
  view.setUint16(10, from.errno ?? 0, true);
  view.setUint32(16, payloadBytes, true);
  view.setUint32(24, from.lengthBytes ?? 0, true);
  numbers.forEach((number, index) => view.setFloat64(32 + 8 * index, number, true));
  return seal(header);
}

describe('the bytes of a frame', () => {
  test('are these, for one frame of each type', () => {
    const rows = SAMPLES.map((sample) => [
      names.get(sample.type),
      ...dump(headerOf(sample, sample.payloadBytes)),
    ]);
    expect(rows).toEqual(GOLDEN);
  });

  test('cover every type that exists', () => {
    const types = Object.entries(frames)
      .filter(([name]) => name.startsWith('FRAME_'))
      .map(([name, type]) => [type, name.slice('FRAME_'.length)]);
    expect(FRAME_TYPES.map(({ type, name }) => [type, name])).toEqual(types);
    expect(SAMPLES.map(({ type }) => type)).toEqual(FRAME_TYPES.map(({ type }) => type));
  });
});

const valid = fc.constantFrom(...SAMPLES).chain((sample) => {
  const count = fc.oneof(fc.nat(1000), fc.maxSafeNat());
  const base = fc.record({
    flags: fc.nat(255),
    errno: fc.nat(0xffff),
    epoch: fc.nat(0xffff_ffff),
    lengthBytes: fc.oneof(fc.integer({ min: 1, max: 8192 }), fc.integer({ min: 1, max: MAX_DATA_BYTES })),
    sequence: count,
    offset: fc.nat(2 ** 45),
    watermark: count,
    time: fc.double({ noNaN: true, noDefaultInfinity: true }),
    controlBytes: fc.integer({ min: 1, max: MAX_CONTROL_BYTES }),
    kind: fc.nat(FLUSH),
    isRead: fc.boolean(),
  });
  return base.map(({ controlBytes, kind, isRead, ...drawn }) => {
    const fields = { ...drawn, type: sample.type };
    if (sample.type === frames.FRAME_REQUEST) {
      return { fields: { ...fields, errno: kind }, payloadBytes: kind === WRITE ? fields.lengthBytes : 0 };
    }
    if (sample.type === frames.FRAME_REPLY) {
      const reply = isRead ? { ...fields, errno: 0 } : { ...fields, lengthBytes: 0 };
      return { fields: reply, payloadBytes: reply.lengthBytes };
    }
    const payload = payloadOf(sample.type);
    const dataBytes = payload === PAYLOAD_DATA ? fields.lengthBytes : 0;
    return { fields, payloadBytes: payload === PAYLOAD_CONTROL ? controlBytes : dataBytes };
  });
});

describe('a frame that was sent', () => {
  test('is heard as it was, at any place, and nothing beside it is touched', () => {
    const sequence = fc.array(fc.record({ frame: valid, at: fc.nat(100), checksum: fc.integer() }), {
      minLength: 1,
      maxLength: 10,
    });
    fc.assert(
      fc.property(sequence, (sent) => {
        const { writer, reader } = agreedLink();
        for (const { frame, at, checksum } of sent) {
          const { fields, payloadBytes } = frame;
          const buffer = new WireBuffer(new Uint8Array(at + HEADER_BYTES + 1).fill(9));
          const given = fieldsOf(fields);
          if (payloadBytes > 0) writer.encodeSummed(buffer, at, given, payloadBytes, checksum);
          else writer.encode(buffer, at, given);
          expect(buffer.bytes.subarray(0, at).every((byte) => byte === 9)).toBe(true);
          expect(buffer.bytes.at(-1)).toBe(9);
          const heard = new FrameFields();
          expect(reader.decode(buffer, at, heard)).toBe(wire.OK);
          expect(heard).toEqual(given);
          expect(reader.payloadBytes).toBe(payloadBytes);
        }
      }),
    );
  });

  test('is read inside a larger memory from its own place', () => {
    const memory = new ArrayBuffer(512);
    const inner = new WireBuffer(new Uint8Array(memory, 128, 256));
    const { writer, reader } = agreedLink();
    writer.encode(inner, 16, fieldsOf({ type: frames.FRAME_FLUSH, sequence: 5 }));
    const heard = new FrameFields();
    expect(reader.decode(new WireBuffer(new Uint8Array(memory, 144)), 0, heard)).toBe(wire.OK);
    expect(heard.numbers[SEQUENCE]).toBe(5);
  });

  test('must be the next one: a gap or a repetition is noticed', () => {
    const { writer, reader } = agreedLink();
    const sent = [1, 2, 3].map((sequence) => {
      const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
      writer.encode(buffer, 0, fieldsOf({ type: frames.FRAME_FLUSH, sequence }));
      return buffer;
    });
    const [first, second, third] = sent as [WireBuffer, WireBuffer, WireBuffer];
    const hear = (buffer: WireBuffer): number => reader.decode(buffer, 0, new FrameFields());
    expect([first, first, third, second, third].map(hear)).toEqual([
      wire.OK,
      wire.BAD_NUMBER,
      wire.BAD_NUMBER,
      wire.OK,
      wire.OK,
    ]);
  });

  test('must hold what its type asks for, or it is not sent', () => {
    const { writer } = agreedLink();
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    expect(() => writer.encodeSummed(buffer, 0, fieldsOf(write), 512, 0)).toThrow(/what its type asks for/);
    expect(() => writer.encode(buffer, 0, fieldsOf({ type: 99 }))).toThrow(/has a type/);
  });
});

describe('a damaged frame', () => {
  test('is noticed whichever single bit was flipped', () => {
    for (const sample of SAMPLES) {
      const header = headerOf(sample, sample.payloadBytes);
      expect(decodeFirst(header)).toBe(wire.OK);
      const codes = Array.from({ length: 8 * HEADER_BYTES }, (_, bit) => decodeFirst(flipBit(header, bit)));
      expect(new Set(codes)).toEqual(new Set([wire.BAD_MAGIC, wire.BAD_CHECKSUM]));
    }
  });

  test('is noticed whichever single bit of its payload was flipped, unless checksums are off', () => {
    const payload = Uint8Array.from({ length: 64 }, (_, index) => index);
    const { writer, reader } = agreedLink();
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    const fields = fieldsOf({ type: frames.FRAME_WRITE, lengthBytes: payload.length });
    writer.encodeSummed(buffer, 0, fields, payload.length, crc32c(payload, 0, payload.length, 0) | 0);
    reader.decode(buffer, 0, fields);
    expect(reader.isPayloadIntact(payload, 0)).toBe(true);
    for (let bit = 0; bit < 8 * payload.length; bit++) {
      expect(reader.isPayloadIntact(flipBit(payload, bit), 0)).toBe(false);
    }
    writer.encodeUnsummed(buffer, 0, fields, payload.length);
    expect(reader.decode(buffer, 0, fields)).toBe(wire.OK);
    expect(reader.isPayloadIntact(flipBit(payload, 5), 0)).toBe(true);
  });

  test('is refused when it is cut off anywhere', () => {
    const header = headerOf(write, 4096);
    for (let length = 0; length < HEADER_BYTES; length++) {
      expect(decodeFirst(header.slice(0, length))).toBe(wire.TRUNCATED);
    }
  });

  test('changes nothing of what the reader knows of the frame before', () => {
    const { writer, reader } = agreedLink();
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    writer.encodeSummed(buffer, 0, fieldsOf(write), 4096, 1);
    expect(reader.decode(buffer, 0, new FrameFields())).toBe(wire.OK);
    expect(reader.decode(new WireBuffer(new Uint8Array(HEADER_BYTES)), 0, new FrameFields())).toBe(
      wire.BAD_MAGIC,
    );
    expect(reader.payloadBytes).toBe(4096);
  });
});

describe('bytes from a stranger', () => {
  test('end in a code, whatever they are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect([wire.TRUNCATED, wire.BAD_MAGIC, wire.BAD_CHECKSUM]).toContain(decodeFirst(bytes));
      }),
      { numRuns: 2000 },
    );
  });

  test('with every checksum right still announce nothing beyond the limits', () => {
    const prefix = { magic: fc.constant(0x4648), version: fc.constant(1) };
    const header = fc.record({
      ...prefix,
      type: fc.oneof(fc.constantFrom(...FRAME_TYPES.map(({ type }) => type)), fc.nat(255)),
      noise: fc.uint8Array({ minLength: 64, maxLength: 64 }),
      payloadBytes: fc.oneof(fc.nat(600), fc.nat(0xffff_ffff), fc.constant(0)),
      lengthBytes: fc.oneof(fc.nat(600), fc.nat(0xffff_ffff)),
      isQuiet: fc.boolean(),
      isEqual: fc.boolean(),
    });
    let understoodCount = 0;
    fc.assert(
      fc.property(header, (drawn) => {
        const bytes = drawn.isQuiet ? new Uint8Array(HEADER_BYTES) : drawn.noise.slice();
        const view = new DataView(bytes.buffer);
        view.setUint16(4, drawn.magic, true);
        bytes[6] = drawn.version;
        bytes[7] = drawn.type;
        view.setUint32(12, 1, true);
        view.setUint32(16, drawn.payloadBytes, true);
        view.setUint32(24, drawn.isEqual ? drawn.payloadBytes : drawn.lengthBytes, true);
        const { reader } = agreedLink();
        const fields = new FrameFields();
        const code = reader.decode(new WireBuffer(seal(bytes)), 0, fields);
        expect([wire.OK, wire.BAD_TYPE, wire.BAD_LENGTH, wire.BAD_FIELD]).toContain(code);
        if (code !== wire.OK) return;
        understoodCount += 1;
        const limit = payloadOf(fields.type) === PAYLOAD_CONTROL ? MAX_CONTROL_BYTES : MAX_DATA_BYTES;
        expect(reader.payloadBytes).toBeLessThanOrEqual(limit);
        if (needsRequest(fields)) expect(bufferBytesOf(fields)).toBeLessThanOrEqual(MAX_DATA_BYTES);
        for (const index of [SEQUENCE, OFFSET, WATERMARK]) {
          expect(Number.isSafeInteger(fields.numbers[index])).toBe(true);
        }
        expect(Number.isFinite(fields.numbers[TIME])).toBe(true);
      }),
      { numRuns: 5000 },
    );
    expect(understoodCount).toBeGreaterThan(200);
  });

  test.each<[string, Fields, number, number]>([
    ['a write whose payload is not its range', write, 512, wire.BAD_LENGTH],
    ['a write without payload', write, 0, wire.BAD_LENGTH],
    ['an empty write', { ...write, lengthBytes: 0 }, 0, wire.BAD_LENGTH],
    [
      'a write beyond the limit',
      { ...write, lengthBytes: MAX_DATA_BYTES + 1 },
      MAX_DATA_BYTES + 1,
      wire.BAD_LENGTH,
    ],
    ['a write of 4 GiB', { ...write, lengthBytes: 0xffff_ffff }, 0xffff_ffff, wire.BAD_LENGTH],
    ['a flush with payload', { type: frames.FRAME_FLUSH }, 1, wire.BAD_LENGTH],
    ['a zero without length', { type: frames.FRAME_ZERO }, 0, wire.BAD_LENGTH],
    ['a message without payload', { type: frames.FRAME_EPOCH }, 0, wire.BAD_LENGTH],
    ['a message beyond the limit', { type: frames.FRAME_EPOCH }, MAX_CONTROL_BYTES + 1, wire.BAD_LENGTH],
    [
      'a read beyond the limit',
      { type: frames.FRAME_REQUEST, errno: READ, lengthBytes: MAX_DATA_BYTES + 1 },
      0,
      wire.BAD_LENGTH,
    ],
    [
      'a zero request with payload',
      { type: frames.FRAME_REQUEST, errno: ZERO, lengthBytes: 512 },
      512,
      wire.BAD_LENGTH,
    ],
    [
      'a reply of an error with payload',
      { type: frames.FRAME_REPLY, errno: 5, lengthBytes: 512 },
      512,
      wire.BAD_LENGTH,
    ],
    [
      'a reply whose payload is not its length',
      { type: frames.FRAME_REPLY, lengthBytes: 512 },
      0,
      wire.BAD_LENGTH,
    ],
    ['a request of no kind', { type: frames.FRAME_REQUEST, errno: 4, lengthBytes: 512 }, 0, wire.BAD_FIELD],
    ['a negative offset', { ...write, offset: -1 }, 4096, wire.BAD_FIELD],
    ['half a byte of offset', { ...write, offset: 0.5 }, 4096, wire.BAD_FIELD],
    ['a range beyond the largest volume', { ...write, offset: 2 ** 46 - 4095 }, 4096, wire.BAD_FIELD],
    ['a sequence that is no number', { ...write, sequence: Number.NaN }, 4096, wire.BAD_FIELD],
    ['an endless watermark', { ...write, watermark: Infinity }, 4096, wire.BAD_FIELD],
    ['a time that is no number', { type: frames.FRAME_BEAT, time: Number.NaN }, 0, wire.BAD_FIELD],
  ])('are refused as %s', (_, fields, payloadBytes, code) => {
    expect(decodeFirst(forged(fields, payloadBytes))).toBe(code);
  });

  test('are refused when they set a wire flag that no version knows', () => {
    const header = headerOf(write, 4096);
    header[9] = 2;
    expect(decodeFirst(seal(header))).toBe(wire.BAD_FIELD);
  });
});

describe('the end of a link', () => {
  test('hears only the types that are meant for it', () => {
    for (let hearer = 1; hearer < HEARER_ANY; hearer *= 2) {
      for (const sample of SAMPLES) {
        const { hearers } = FRAME_TYPES.find(({ type }) => type === sample.type) ?? { hearers: 0 };
        const code = (hearers & hearer) === 0 ? wire.BAD_TYPE : wire.OK;
        expect(decodeFirst(headerOf(sample, sample.payloadBytes), hearer)).toBe(code);
      }
    }
  });

  test('hears nothing but a Hello before it came', () => {
    const heard = Array.from({ length: 256 }, (_, type) => type).filter((type) =>
      isHeardBy(type, HEARER_ACCEPTOR),
    );
    expect(heard).toEqual([frames.FRAME_HELLO]);
  });

  test('knows before the payload comes which slot and buffer it needs', () => {
    const table = SAMPLES.filter((sample) => needsRequest(fieldsOf(sample))).map((sample) => [
      names.get(sample.type),
      bufferBytesOf(fieldsOf(sample)),
    ]);
    expect(table).toEqual([
      ['WRITE', 4096],
      ['ZERO', 0],
      ['COPY', 4096],
      ['COPY_ZERO', 0],
      ['REQUEST', 4096],
      ['REPLY', 512],
    ]);
    const request = { type: frames.FRAME_REQUEST, lengthBytes: 0x8000_0000 };
    expect(bufferBytesOf(fieldsOf({ ...request, errno: ZERO }))).toBe(0);
    expect(bufferBytesOf(fieldsOf({ ...request, errno: READ, lengthBytes: 512 }))).toBe(512);
    expect(needsRequest(fieldsOf({ type: frames.FRAME_REPLY, errno: 5 }))).toBe(false);
  });

  test('knows for every type that exists whether a payload can follow', () => {
    const without = FRAME_TYPES.filter(({ type }) => payloadOf(type) === PAYLOAD_NONE);
    for (const { type } of without) {
      expect(decodeFirst(forged({ type, lengthBytes: 512 }, 512))).toBe(wire.BAD_LENGTH);
    }
    expect(without.length).toBe(14);
  });
});

describe('the version', () => {
  test('is the highest that both speak', () => {
    const ranges = [
      [{ min: 1, max: 1 }, { min: 1, max: 1 }, 1],
      [{ min: 1, max: 3 }, { min: 2, max: 5 }, 3],
      [{ min: 2, max: 5 }, { min: 1, max: 2 }, 2],
      [{ min: 1, max: 2 }, { min: 3, max: 4 }, undefined],
      [{ min: 3, max: 4 }, { min: 1, max: 2 }, undefined],
      [{ min: 1, max: 4 }, { min: 3, max: 2 }, undefined],
    ] as const;
    for (const [ours, theirs, chosen] of ranges) expect(chooseVersion(ours, theirs)).toBe(chosen);
  });

  test('is agreed on before anything but the handshake is sent or heard', () => {
    const writer = new FrameWriter();
    const reader = new FrameReader(portableCrc32c, HEARER_ANY);
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    const flush = fieldsOf({ type: frames.FRAME_FLUSH });
    expect(() => writer.encode(buffer, 0, flush)).toThrow(/agreed on before/);
    expect(reader.decode(new WireBuffer(headerOf({ type: frames.FRAME_FLUSH })), 0, flush)).toBe(
      wire.BAD_VERSION,
    );
    const unversioned = headerOf({ type: frames.FRAME_FLUSH });
    unversioned[6] = 0;
    expect(reader.decode(new WireBuffer(seal(unversioned)), 0, flush)).toBe(wire.BAD_VERSION);
    writer.encodeSummed(buffer, 0, fieldsOf({ type: frames.FRAME_HELLO }), 10, 0);
    expect(reader.decode(buffer, 0, flush)).toBe(wire.OK);
  });

  test('stands in every frame, and a frame of another one is refused', () => {
    const { writer, reader } = agreedLink();
    writer.version = 2;
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    writer.encode(buffer, 0, fieldsOf({ type: frames.FRAME_FLUSH }));
    expect(reader.decode(buffer, 0, new FrameFields())).toBe(wire.BAD_VERSION);
    reader.version = 2;
    expect(reader.decode(buffer, 0, new FrameFields())).toBe(wire.OK);
  });

  test('of the handshake never changes: the two can always refuse each other', () => {
    const { writer, reader } = agreedLink(HEARER_ANY);
    writer.version = 9;
    const buffer = new WireBuffer(new Uint8Array(HEADER_BYTES));
    for (const type of [frames.FRAME_HELLO, frames.FRAME_WELCOME, frames.FRAME_REFUSED]) {
      writer.encodeSummed(buffer, 0, fieldsOf({ type }), 10, 0);
      expect(reader.decode(buffer, 0, new FrameFields())).toBe(wire.OK);
    }
  });
});

test('every code has a text for the log', () => {
  const codes = Object.entries(wire).filter(([name]) => /^(OK|TRUNCATED|BAD_)/.test(name));
  expect(codes.length).toBe(wire.DECODE_TEXTS.length);
  for (const [, code] of codes) expect(wire.DECODE_TEXTS[code as number]).toMatch(/^[a-z]/);
});

test('the portable checksum is the one of the standard', () => {
  expect(portableCrc32c(Buffer.from('..123456789'), 2, 9, 0)).toBe(0xe3069283);
});

describe('the path of a frame', () => {
  const flags = ['--expose-gc', '--max-semi-space-size=1'];

  async function collectionsUnderLoad(args: string[]): Promise<number> {
    const fixture = fileURLToPath(new URL('./wire-load.fixture.ts', import.meta.url));
    const { stdout } = await execa(process.execPath, [...flags, fixture, ...args], { timeout: 60_000 });
    return Number(/^(\d+) collections$/m.exec(stdout)?.[1]);
  }

  test('allocates nothing in a million frames', { timeout: 70_000 }, async () => {
    expect(await collectionsUnderLoad([])).toBe(0);
  });

  test('would be caught if it made one object a frame', { timeout: 70_000 }, async () => {
    expect(await collectionsUnderLoad(['plant'])).toBeGreaterThan(0);
  });
});
