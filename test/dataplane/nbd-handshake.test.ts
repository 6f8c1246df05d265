// The negotiation without sockets: what is answered byte by byte, and that no input whatever makes it
// throw, grow, or depend on how the bytes arrived.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ALLOCATION_CONTEXT_ID,
  type ExportInfo,
  Handshake,
  type HandshakeHost,
  MAX_OPTION_DATA_BYTES,
  MAX_OPTIONS,
} from '../../src/dataplane/nbd/handshake.ts';

const IHAVEOPT = '49484156454f5054';
const REPLY_MAGIC = '0003e889045565a9';
const HELLO = `4e42444d41474943${IHAVEOPT}0003`;

const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
};
const REP = { ack: 1, server: 2, info: 3, metaContext: 4 };
const ERR = {
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  unknown: 0x80000006,
  tooBig: 0x80000009,
};
const FLAG_DF = 1 << 7;

const data: ExportInfo = {
  name: 'data',
  sizeBytes: 5 * 2 ** 40 + 4096,
  transmissionFlags: 0b1111_1110_1101,
  minimumBlockBytes: 1,
  preferredBlockBytes: 4096,
  maximumPayloadBytes: 32 * 2 ** 20,
  description: 'a volume',
};

function hostOf(...infos: ExportInfo[]): HandshakeHost {
  return {
    find: (name) => infos.find((info) => info.name === name),
    names: () => infos.map((info) => info.name),
  };
}

function hex(value: number, bytes: number): string {
  return value.toString(16).padStart(bytes * 2, '0');
}

function textHex(text: string): string {
  return Buffer.from(text, 'utf8').toString('hex');
}

function counted(text: string): string {
  return hex(Buffer.byteLength(text), 4) + textHex(text);
}

function option(number: number, dataHex = ''): string {
  return IHAVEOPT + hex(number, 4) + hex(dataHex.length / 2, 4) + dataHex;
}

function reply(number: number, type: number, dataHex = ''): string {
  return REPLY_MAGIC + hex(number, 4) + hex(type, 4) + hex(dataHex.length / 2, 4) + dataHex;
}

function infoData(name: string, requests: number[] = []): string {
  return counted(name) + hex(requests.length, 2) + requests.map((request) => hex(request, 2)).join('');
}

function metaData(name: string, queries: string[]): string {
  return counted(name) + hex(queries.length, 4) + queries.map(counted).join('');
}

/** Sends client flags 3 and the options in one piece. */
function negotiate(host: HandshakeHost, ...pieces: string[]): { handshake: Handshake; output: string } {
  const handshake = new Handshake(host);
  expect(Buffer.from(handshake.takeOutput()).toString('hex')).toBe(HELLO);
  const input = Buffer.from(['00000003', ...pieces].join(''), 'hex');
  const consumed = handshake.receive(input, 0, input.length);
  if (handshake.state === 'negotiating') expect(consumed).toBe(input.length);
  return { handshake, output: Buffer.from(handshake.takeOutput()).toString('hex') };
}

interface OptionReply {
  option: number;
  type: number;
  data: Buffer;
}

/** Parses option replies; throws when the output is anything else. */
function parseReplies(output: string): OptionReply[] {
  const bytes = Buffer.from(output, 'hex');
  const replies: OptionReply[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.toString('hex', at, at + 8) !== REPLY_MAGIC) throw new Error(`no reply magic at ${at}`);
    const end = at + 20 + bytes.readUInt32BE(at + 16);
    if (end > bytes.length) throw new Error('a reply is cut short');
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      data: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return replies;
}

function repliesTo(host: HandshakeHost, ...pieces: string[]): OptionReply[] {
  return parseReplies(negotiate(host, ...pieces).output);
}

describe('choosing an export', () => {
  test('EXPORT_NAME answers size and flags without the zeroes the client waived', () => {
    const { handshake, output } = negotiate(hostOf(data), option(OPT.exportName, textHex('data')));
    expect(output).toBe(hex(data.sizeBytes, 8) + hex(data.transmissionFlags & ~FLAG_DF, 2));
    expect(handshake.state).toBe('done');
    expect(handshake.result).toEqual({
      exportName: 'data',
      structuredReplies: false,
      allocationContextId: 0,
    });
  });

  test('EXPORT_NAME sends 124 zeroes to a client that did not waive them', () => {
    const handshake = new Handshake(hostOf(data));
    handshake.takeOutput();
    const input = Buffer.from(`00000001${option(OPT.exportName, textHex('data'))}`, 'hex');
    handshake.receive(input, 0, input.length);
    const output = handshake.takeOutput();
    expect(output.length).toBe(8 + 2 + 124);
    expect([...output.subarray(10)].every((byte) => byte === 0)).toBe(true);
  });

  test('EXPORT_NAME of an unknown or over-long name closes, for it cannot report an error', () => {
    expect(negotiate(hostOf(data), option(OPT.exportName, textHex('nothing'))).handshake.state).toBe(
      'closed',
    );
    expect(negotiate(hostOf(data), option(OPT.exportName, '61'.repeat(4097))).handshake.state).toBe('closed');
    const skipped = option(OPT.exportName, '61'.repeat(MAX_OPTION_DATA_BYTES + 1));
    expect(negotiate(hostOf(data), skipped).handshake.state).toBe('closed');
  });

  test('GO always tells the export and, when asked, name, description and block sizes', () => {
    const { handshake, output } = negotiate(hostOf(data), option(OPT.go, infoData('data', [1, 2, 3, 77])));
    expect(output).toBe(
      reply(OPT.go, REP.info, `0000${hex(data.sizeBytes, 8)}${hex(data.transmissionFlags & ~FLAG_DF, 2)}`) +
        reply(OPT.go, REP.info, `0001${textHex('data')}`) +
        reply(OPT.go, REP.info, `0002${textHex('a volume')}`) +
        reply(OPT.go, REP.info, `0003${hex(1, 4)}${hex(4096, 4)}${hex(32 * 2 ** 20, 4)}`) +
        reply(OPT.go, REP.ack),
    );
    expect(handshake.state).toBe('done');
  });

  test('INFO answers like GO and the negotiation goes on', () => {
    const { handshake, output } = negotiate(hostOf(data), option(OPT.info, infoData('data')));
    expect(parseReplies(output).map(({ type }) => type)).toEqual([REP.info, REP.ack]);
    expect(handshake.state).toBe('negotiating');
  });

  test('an unknown export is refused and another one may be asked for', () => {
    const { handshake, output } = negotiate(
      hostOf(data),
      option(OPT.go, infoData('nothing')),
      option(OPT.go, infoData('data')),
    );
    expect(parseReplies(output).map(({ type }) => type)).toEqual([ERR.unknown, REP.info, REP.ack]);
    expect(handshake.state).toBe('done');
  });

  test('the empty name is the only export, and nothing where there are none or several', () => {
    const { handshake, output } = negotiate(hostOf(data), option(OPT.go, infoData('', [1])));
    expect(handshake.result?.exportName).toBe('data');
    expect(parseReplies(output)[1]?.data.toString('latin1', 2)).toBe('data');
    const others = [hostOf(), hostOf(data, { ...data, name: 'other' })];
    for (const host of others) {
      expect(repliesTo(host, option(OPT.go, infoData(''))).map(({ type }) => type)).toEqual([ERR.unknown]);
    }
  });

  test('the do-not-fragment flag is offered only with structured replies', () => {
    const plain = repliesTo(hostOf(data), option(OPT.info, infoData('data')))[0];
    expect((plain?.data.readUInt16BE(10) ?? 0) & FLAG_DF).toBe(0);
    const structured = repliesTo(
      hostOf(data),
      option(OPT.structuredReply),
      option(OPT.info, infoData('data')),
    )[1];
    expect(structured?.data.readUInt16BE(10)).toBe(data.transmissionFlags);
  });

  test('bytes after the end of the negotiation are left alone', () => {
    const handshake = new Handshake(hostOf(data));
    const input = Buffer.from(`00000003${option(OPT.go, infoData('data'))}25609513ffff`, 'hex');
    expect(handshake.receive(input, 0, input.length)).toBe(input.length - 6);
    expect(handshake.receive(input, input.length - 6, input.length)).toBe(0);
  });
});

describe('the other options', () => {
  test('LIST names every export', () => {
    const host = hostOf(data, { ...data, name: 'größer' });
    expect(negotiate(host, option(OPT.list)).output).toBe(
      reply(OPT.list, REP.server, counted('data')) +
        reply(OPT.list, REP.server, counted('größer')) +
        reply(OPT.list, REP.ack),
    );
  });

  test('ABORT is acknowledged, then closed', () => {
    const { handshake, output } = negotiate(hostOf(data), option(OPT.abort), option(OPT.list));
    expect(output).toBe(reply(OPT.abort, REP.ack));
    expect(handshake.state).toBe('closed');
  });

  test('TLS is refused by policy, unknown options are unsupported, and the negotiation goes on', () => {
    const { handshake, output } = negotiate(
      hostOf(data),
      option(OPT.startTls),
      option(OPT.extendedHeaders),
      option(0xfffffffe, 'abcdef'),
    );
    expect(parseReplies(output).map(({ option: number, type }) => [number, type])).toEqual([
      [OPT.startTls, ERR.policy],
      [OPT.extendedHeaders, ERR.unsupported],
      [0xfffffffe, ERR.unsupported],
    ]);
    expect(handshake.state).toBe('negotiating');
  });

  test('malformed option data is invalid and changes nothing', () => {
    const malformed = [
      option(OPT.list, '00'),
      option(OPT.structuredReply, '00'),
      option(OPT.go, ''),
      option(OPT.go, `${hex(5, 4)}${textHex('data')}0000`),
      option(OPT.go, `${counted('data')}0002`),
      option(OPT.go, `${infoData('data')}00`),
      option(OPT.go, `${hex(0xffffffff, 4)}${textHex('data')}`),
      option(OPT.go, infoData('a'.repeat(4097))),
    ];
    const { handshake, output } = negotiate(hostOf(data), ...malformed);
    expect(parseReplies(output).map(({ type }) => type)).toEqual(malformed.map(() => ERR.invalid));
    expect(handshake.state).toBe('negotiating');
  });

  test('an over-long option is skipped and refused, and the next one is understood', () => {
    const { handshake, output } = negotiate(
      hostOf(data),
      option(OPT.go, '00'.repeat(MAX_OPTION_DATA_BYTES + 1)),
      option(OPT.go, infoData('data')),
    );
    expect(parseReplies(output).map(({ type }) => type)).toEqual([ERR.tooBig, REP.info, REP.ack]);
    expect(handshake.state).toBe('done');
  });

  test('a negotiation without end is closed', () => {
    const many = Array.from({ length: MAX_OPTIONS + 10 }, () => option(OPT.structuredReply));
    const { handshake, output } = negotiate(hostOf(data), ...many);
    expect(handshake.state).toBe('closed');
    expect(parseReplies(output)).toHaveLength(MAX_OPTIONS);
  });

  test.each([
    ['without fixed newstyle', '00000002'],
    ['with an unknown flag', '00000007'],
    ['with the highest flag', '80000003'],
  ])('client flags %s close the connection', (_, flags) => {
    const handshake = new Handshake(hostOf(data));
    const input = Buffer.from(flags + option(OPT.list), 'hex');
    handshake.receive(input, 0, input.length);
    expect(handshake.state).toBe('closed');
    expect(handshake.takeOutput().length).toBe(18);
  });

  test('a wrong option magic closes the connection', () => {
    const wrong = option(OPT.list).replace(IHAVEOPT, '49484156454f5055');
    expect(negotiate(hostOf(data), wrong).handshake.state).toBe('closed');
  });
});

describe('metadata contexts', () => {
  const set = (...queries: string[]) => option(OPT.setMetaContext, metaData('data', queries));
  const list = (...queries: string[]) => option(OPT.listMetaContext, metaData('data', queries));
  const found = (number: number, id: number) =>
    reply(number, REP.metaContext, hex(id, 4) + textHex('base:allocation')) + reply(number, REP.ack);

  test('base:allocation is selected by SET and reported by GO', () => {
    const { handshake, output } = negotiate(
      hostOf(data),
      option(OPT.structuredReply),
      set('qemu:dirty-bitmap:x', 'base:allocation'),
      option(OPT.exportName, textHex('data')),
    );
    expect(output.startsWith(reply(OPT.structuredReply, REP.ack) + found(OPT.setMetaContext, 1))).toBe(true);
    expect(handshake.result).toEqual({
      exportName: 'data',
      structuredReplies: true,
      allocationContextId: ALLOCATION_CONTEXT_ID,
    });
  });

  test.each([
    ['no query', []],
    ['the namespace', ['base:']],
    ['the full name', ['base:allocation']],
  ])('LIST with %s shows base:allocation and selects nothing', (_, queries) => {
    const { handshake, output } = negotiate(
      hostOf(data),
      option(OPT.structuredReply),
      list(...queries),
      option(OPT.go, infoData('data')),
    );
    expect(output).toContain(found(OPT.listMetaContext, 0));
    expect(handshake.result?.allocationContextId).toBe(0);
  });

  test('SET with no query, a namespace or a foreign name selects nothing', () => {
    for (const queries of [[], ['base:'], ['base:allocations'], ['x-other:thing']]) {
      const { handshake, output } = negotiate(
        hostOf(data),
        option(OPT.structuredReply),
        set('base:allocation'),
        set(...queries),
        option(OPT.go, infoData('data')),
      );
      expect(parseReplies(output)[3]).toMatchObject({ option: OPT.setMetaContext, type: REP.ack });
      expect(handshake.result?.allocationContextId).toBe(0);
    }
  });

  test('both are invalid before structured replies, and unknown for an unknown export', () => {
    expect(repliesTo(hostOf(data), set('base:allocation'), list())).toMatchObject([
      { type: ERR.invalid },
      { type: ERR.invalid },
    ]);
    const foreign = metaData('nothing', ['base:allocation']);
    const replies = repliesTo(
      hostOf(data),
      option(OPT.structuredReply),
      option(OPT.setMetaContext, foreign),
      option(OPT.listMetaContext, foreign),
    );
    expect(replies.slice(1).map(({ type }) => type)).toEqual([ERR.unknown, ERR.unknown]);
  });

  test('a failed SET and a SET for another export select nothing', () => {
    const other = { ...data, name: 'other' };
    const failed = negotiate(
      hostOf(data),
      option(OPT.structuredReply),
      set('base:allocation'),
      option(OPT.setMetaContext, '00'),
      option(OPT.go, infoData('data')),
    );
    expect(failed.handshake.result?.allocationContextId).toBe(0);
    const elsewhere = negotiate(
      hostOf(data, other),
      option(OPT.structuredReply),
      set('base:allocation'),
      option(OPT.go, infoData('other')),
    );
    expect(elsewhere.handshake.result).toMatchObject({ exportName: 'other', allocationContextId: 0 });
  });
});

// ---- any input

const names = fc.constantFrom('data', 'other', '', 'nothing', 'x'.repeat(5000));
const queries = fc.constantFrom('base:allocation', 'base:', 'qemu:x', '');
const someOption = fc.oneof(
  fc
    .tuple(fc.constantFrom(OPT.info, OPT.go), names, fc.array(fc.nat(5), { maxLength: 5 }))
    .map(([number, name, requests]) => option(number, infoData(name, requests))),
  fc
    .tuple(
      fc.constantFrom(OPT.listMetaContext, OPT.setMetaContext),
      names,
      fc.array(queries, { maxLength: 3 }),
    )
    .map(([number, name, asked]) => option(number, metaData(name, asked))),
  fc
    .constantFrom(OPT.list, OPT.structuredReply, OPT.startTls, OPT.extendedHeaders)
    .map((number) => option(number)),
  names.map((name) => option(OPT.exportName, textHex(name))),
  fc.constant(option(OPT.abort)),
  fc.nat(20_000).map((length) => option(OPT.list, '00'.repeat(length))),
  fc
    .tuple(fc.nat(12), fc.uint8Array({ maxLength: 40 }))
    .map(([number, bytes]) => option(number, Buffer.from(bytes).toString('hex'))),
);
const session = fc
  .tuple(fc.constantFrom('00000001', '00000003'), fc.array(someOption, { maxLength: 12 }))
  .map(([flags, options]) => Buffer.from(flags + options.join('') + '25609513', 'hex'));
/** A valid session with some of its bytes changed. */
const mutated = fc
  .tuple(session, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }))
  .map(([bytes, changes]) => {
    const copy = Buffer.from(bytes);
    for (const [position, value] of changes) copy[position % copy.length] = value;
    return copy;
  });

interface Outcome {
  output: string;
  consumed: number;
  state: string;
  result: unknown;
}

/** Feeds `bytes` cut after the given lengths (repeated to the end), with output taken after each piece. */
function run(bytes: Buffer, pieceLengths: readonly number[]): Outcome {
  const handshake = new Handshake(hostOf(data, { ...data, name: 'other' }));
  const output = [Buffer.from(handshake.takeOutput())];
  let consumed = 0;
  for (let piece = 0; consumed < bytes.length && handshake.state === 'negotiating'; piece += 1) {
    const length = pieceLengths[piece % pieceLengths.length] ?? bytes.length;
    // A buffer of its own, overwritten after use: the handshake must keep no reference.
    const own = Buffer.concat([Buffer.from('!'), bytes.subarray(consumed, consumed + length)]);
    consumed += handshake.receive(own, 1, own.length);
    own.fill(0xee);
    output.push(Buffer.from(handshake.takeOutput()));
  }
  return {
    output: Buffer.concat(output).toString('hex'),
    consumed,
    state: handshake.state,
    result: handshake.result,
  };
}

describe('any input', () => {
  test('how the bytes are cut into pieces changes nothing', () => {
    fc.assert(
      fc.property(mutated, fc.array(fc.integer({ min: 1, max: 600 }), { minLength: 1 }), (bytes, pieces) => {
        expect(run(bytes, pieces)).toEqual(run(bytes, [bytes.length]));
      }),
    );
  });

  test('bytes may arrive one at a time', () => {
    fc.assert(
      fc.property(session, (bytes) => {
        expect(run(bytes, [1])).toEqual(run(bytes, [bytes.length]));
      }),
      { numRuns: 20 },
    );
  });

  test('garbage after the client flags never throws and is answered with well-formed replies only', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (garbage) => {
        const outcome = run(Buffer.concat([Buffer.from('00000003', 'hex'), garbage]), [garbage.length + 4]);
        parseReplies(outcome.output.slice(HELLO.length));
        expect(outcome.state === 'done').toBe(outcome.result !== undefined);
      }),
    );
  });

  test('every option before the last is answered by well-formed replies that end with an acknowledgement or an error', () => {
    fc.assert(
      fc.property(mutated, (bytes) => {
        const outcome = run(bytes, [bytes.length]);
        const after = outcome.output.slice(HELLO.length);
        // EXPORT_NAME's answer has no frame: 10 bytes, or 134 with the zeroes.
        const tail = [0, 20, 268].find((length) => {
          try {
            parseReplies(after.slice(0, after.length - length));
            return true;
          } catch {
            return false;
          }
        });
        expect(tail).toBeDefined();
        const last = parseReplies(after.slice(0, after.length - (tail ?? 0))).at(-1);
        if (last !== undefined) expect(last.type === REP.ack || last.type >= 0x80000000).toBe(true);
      }),
    );
  });

  test('gigabytes of one option cost no memory', () => {
    const handshake = new Handshake(hostOf(data));
    handshake.takeOutput();
    const start = Buffer.from(`00000003${IHAVEOPT}00000007ffffffff`, 'hex');
    handshake.receive(start, 0, start.length);
    const piece = new Uint8Array(1 << 20);
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 4096; count += 1) handshake.receive(piece, 0, piece.length);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
    // 2^32 - 1 bytes were announced: the last of them ended the option, and one more byte begins the next.
    expect(parseReplies(Buffer.from(handshake.takeOutput()).toString('hex'))).toMatchObject([
      { type: ERR.tooBig },
    ]);
    expect(handshake.state).toBe('negotiating');
  });
});
