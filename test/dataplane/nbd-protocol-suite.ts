// What the NBD protocol demands of every server, as a suite: nbdkit passes it, so it asks for nothing of
// our own invention, and ours must.

import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  askOption,
  CMD,
  CMD_FLAG,
  ERR,
  EXPORT_FLAG,
  greet,
  infoData,
  metaContextData,
  NbdClient,
  NbdSocket,
  type NegotiateOptions,
  negotiate,
  OPT,
  optionBytes,
  REP,
  type Request,
  readOptionReplies,
  requestBytes,
} from '../support/nbd-client.ts';
import { CellModel } from '../support/nbd-model.ts';
import type { NbdServer } from '../support/nbd-programs.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const LARGEST_BYTES = 32 * MIB;

/** Bytes that differ at every place and with every seed. */
export function pattern(byteCount: number, seed: number): Buffer {
  const block = Buffer.alloc(Math.min(byteCount, 4096 + 32));
  for (let at = 0, round = 0; at < block.length; at += 32, round += 1) {
    createHash('sha256').update(`${seed}/${round}`).digest().copy(block, at);
  }
  const bytes = Buffer.alloc(byteCount, block.subarray(0, Math.max(1, block.length)));
  return bytes;
}

/** The server has at least 96 MiB. Everything in it may be overwritten. */
export function nbdProtocolSuite(name: string, start: () => Promise<NbdServer>): void {
  describe(`NBD protocol: ${name}`, () => {
    let server: NbdServer;
    beforeAll(async () => {
      server = await start();
    });
    afterAll(async () => {
      await server.stop();
    });

    const connect = (options: NegotiateOptions = {}) =>
      NbdClient.connect(server.socketPath, server.exportName, options);

    async function withClient<T>(
      options: NegotiateOptions,
      use: (client: NbdClient) => Promise<T>,
    ): Promise<T> {
      const client = await connect(options);
      try {
        return await use(client);
      } finally {
        client.destroy();
      }
    }

    async function withSocket<T>(use: (socket: NbdSocket) => Promise<T>): Promise<T> {
      const socket = await NbdSocket.connect(server.socketPath);
      try {
        return await use(socket);
      } finally {
        socket.destroy();
      }
    }

    describe('negotiation', () => {
      test('GO and EXPORT_NAME, with and without the padding, tell the same size and flags', async () => {
        const facts = [];
        for (const how of ['go', 'exportName'] as const) {
          for (const noZeroes of [true, false]) {
            facts.push(await withClient({ how, noZeroes }, (client) => Promise.resolve(client.facts)));
          }
        }
        for (const { sizeBytes, flags } of facts) {
          expect(sizeBytes).toBe(server.sizeBytes);
          expect(flags).toBe(facts[0]?.flags);
          expect(flags & EXPORT_FLAG.hasFlags).toBe(EXPORT_FLAG.hasFlags);
          expect(flags & EXPORT_FLAG.df).toBe(0);
        }
      });

      test('GO gives block sizes that fit together when it is asked for them', async () => {
        const { blockSizes } = await withClient({}, (client) => Promise.resolve(client.facts));
        if (blockSizes === undefined) return;
        const { minimum, preferred, maximum } = blockSizes;
        expect(Number.isInteger(Math.log2(minimum))).toBe(true);
        expect(Number.isInteger(Math.log2(preferred))).toBe(true);
        expect(preferred).toBeGreaterThanOrEqual(Math.max(512, minimum));
        expect(maximum % minimum).toBe(0);
        expect(maximum).toBeGreaterThanOrEqual(MIB);
      });

      test('LIST names the export', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          const replies = await askOption(socket, OPT.list);
          const names = replies
            .filter(({ type }) => type === REP.server)
            .map(({ data }) => data.toString('utf8', 4, 4 + data.readUInt32BE(0)));
          expect(names).toContain(server.exportName);
        });
      });

      test('INFO tells what GO tells and can be followed by it', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          const info = await askOption(socket, OPT.info, infoData(server.exportName));
          const go = await askOption(socket, OPT.go, infoData(server.exportName));
          const exportInfo = (replies: typeof go) => replies.find(({ data }) => data.length === 12)?.data;
          expect(exportInfo(info)?.readBigUInt64BE(2)).toBe(BigInt(server.sizeBytes));
          expect(exportInfo(go)).toEqual(exportInfo(info));
        });
      });

      test('ABORT is acknowledged and the connection closed', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          expect((await askOption(socket, OPT.abort)).at(-1)?.type).toBe(REP.ack);
          expect(await socket.readToEnd()).toHaveLength(0);
        });
      });

      test('TLS and unknown options are refused and the negotiation goes on', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          expect((await askOption(socket, OPT.startTls)).at(-1)?.type).toBeGreaterThan(REP.error);
          expect((await askOption(socket, 0x7ffe, Buffer.alloc(100))).at(-1)?.type).toBe(0x80000001);
          expect((await askOption(socket, OPT.go, infoData(server.exportName))).at(-1)?.type).toBe(REP.ack);
        });
      });

      test('malformed options are refused and the negotiation goes on', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          const malformed: [number, Buffer][] = [
            [OPT.list, Buffer.alloc(1)],
            [OPT.go, Buffer.alloc(3)],
            [OPT.go, Buffer.concat([infoData(server.exportName), Buffer.alloc(1)])],
            [OPT.structuredReply, Buffer.alloc(7)],
          ];
          for (const [option, data] of malformed) {
            expect((await askOption(socket, option, data)).at(-1)?.type).toBeGreaterThan(REP.error);
          }
          expect((await askOption(socket, OPT.go, infoData(server.exportName))).at(-1)?.type).toBe(REP.ack);
        });
      });

      test('metadata contexts can be listed and selected after structured replies, not before', async () => {
        await withSocket(async (socket) => {
          await greet(socket);
          const data = metaContextData(server.exportName, ['base:allocation']);
          expect((await askOption(socket, OPT.setMetaContext, data)).at(-1)?.type).toBeGreaterThan(REP.error);
          expect((await askOption(socket, OPT.structuredReply)).at(-1)?.type).toBe(REP.ack);
          for (const query of ['base:allocation', 'base:']) {
            const listed = await askOption(
              socket,
              OPT.listMetaContext,
              metaContextData(server.exportName, [query]),
            );
            expect(listed.map(({ data: context }) => context.toString('utf8', 4))).toEqual([
              'base:allocation',
              '',
            ]);
          }
          const foreign = metaContextData(server.exportName, ['x-nobody:knows']);
          expect(await askOption(socket, OPT.listMetaContext, foreign)).toHaveLength(1);
          expect(await askOption(socket, OPT.setMetaContext, data)).toHaveLength(2);
        });
      });

      test('options and the first request may come in one piece, or byte by byte', async () => {
        const bytes = Buffer.concat([
          Buffer.from([0, 0, 0, 3]),
          optionBytes(OPT.structuredReply),
          optionBytes(OPT.go, infoData(server.exportName)),
          requestBytes({ type: CMD.read, offset: 0, length: 512 }, 1n),
          requestBytes({ type: CMD.disconnect }, 2n),
        ]);
        for (const pieceBytes of [bytes.length, 1]) {
          await withSocket(async (socket) => {
            await socket.read(18);
            for (let at = 0; at < bytes.length; at += pieceBytes)
              await socket.write(bytes.subarray(at, at + pieceBytes));
            await readOptionReplies(socket, OPT.structuredReply);
            await readOptionReplies(socket, OPT.go);
            const reply = await socket.readToEnd();
            expect(reply.readUInt32BE(0)).toBe(0x668e33ef);
            expect(reply.length).toBeGreaterThanOrEqual(20);
          });
        }
      });
    });

    describe.each([
      ['simple replies', {}],
      ['structured replies', { structuredReplies: true }],
    ] satisfies [string, NegotiateOptions][])('%s', (_, options) => {
      test('what is written reads back, at every size and alignment', async () => {
        await withClient(options, async (client) => {
          const sizes = [1, 511, 512, 513, 4095, 4096, 4097, 8192, 65_535, 65_536, MIB, MIB + 1];
          const offsets = [0, 1, 511, 512, 4095, 4096, 4097, 3 * MIB - 7];
          for (const [index, size] of sizes.entries()) {
            for (const offset of offsets) {
              const bytes = pattern(size, index * 100 + offset);
              await client.write(offset, bytes);
              expect(bytes.equals(await client.read(offset, size))).toBe(true);
            }
          }
        });
      });

      test('an unaligned write leaves its neighbours as they were', async () => {
        await withClient(options, async (client) => {
          const before = pattern(16 * KIB, 1);
          for (const [offset, size] of [
            [1, 1],
            [4095, 2],
            [511, 514],
            [4097, 8190],
            [100, 12_000],
          ] as const) {
            await client.write(8 * MIB, before);
            const bytes = pattern(size, 2);
            await client.write(8 * MIB + offset, bytes);
            const expected = Buffer.from(before);
            bytes.copy(expected, offset);
            expect(expected.equals(await client.read(8 * MIB, before.length))).toBe(true);
          }
        });
      });

      test('requests may be as large as 32 MiB', async () => {
        await withClient(options, async (client) => {
          const bytes = pattern(LARGEST_BYTES, 3);
          await client.write(MIB + 512, bytes);
          expect(bytes.equals(await client.read(MIB + 512, LARGEST_BYTES))).toBe(true);
        });
      });

      test('the last byte can be written and read', async () => {
        await withClient(options, async (client) => {
          await client.write(server.sizeBytes - 1, Buffer.from([0x5a]));
          expect(await client.read(server.sizeBytes - 1, 1)).toEqual(Buffer.from([0x5a]));
          const bytes = pattern(64 * KIB, 4);
          await client.write(server.sizeBytes - bytes.length, bytes);
          expect(bytes.equals(await client.read(server.sizeBytes - bytes.length, bytes.length))).toBe(true);
        });
      });

      test('hundreds of requests may be sent before the first reply is read', async () => {
        await withClient(options, async (client) => {
          const blocks = Array.from({ length: 300 }, (_, index) => pattern(4096, 1000 + index));
          const writes = blocks.map((payload, index) => ({
            type: CMD.write,
            offset: 16 * MIB + index * 4096,
            payload,
          }));
          for (const reply of await Promise.all(client.requestAll(writes))) expect(reply.error).toBe(0);
          const reads = blocks.map((_, index) => ({
            type: CMD.read,
            offset: 16 * MIB + index * 4096,
            length: 4096,
          }));
          const replies = await Promise.all(client.requestAll(reads));
          expect(replies.every((reply, index) => reply.data.equals(blocks[index] as Buffer))).toBe(true);
        });
      });

      test('a request may come byte by byte', async () => {
        await withClient(options, async (client) => {
          const payload = pattern(700, 5);
          expect((await client.requestSlowly({ type: CMD.write, offset: 77, payload })).error).toBe(0);
          const reply = await client.requestSlowly({ type: CMD.read, offset: 77, length: 700 });
          expect(payload.equals(reply.data)).toBe(true);
        });
      });

      test('FUA and FLUSH are accepted wherever they may stand', async () => {
        await withClient(options, async (client) => {
          const { flags } = client.facts;
          expect(flags & EXPORT_FLAG.flush).not.toBe(0);
          expect(flags & EXPORT_FLAG.fua).not.toBe(0);
          const fua = CMD_FLAG.fua;
          const requests: Request[] = [
            { type: CMD.write, flags: fua, offset: 4096, payload: pattern(4096, 6) },
            { type: CMD.write, flags: fua, offset: 10_000, payload: pattern(777, 6) },
            { type: CMD.writeZeroes, flags: fua, offset: 65_536, length: 4096 },
            { type: CMD.trim, flags: fua, offset: 1_048_576, length: 65_536 },
            { type: CMD.read, flags: fua, offset: 0, length: 4096 },
            { type: CMD.flush, flags: fua },
            { type: CMD.flush },
          ];
          for (const request of requests) {
            expect([request.type, (await client.request(request)).error]).toEqual([request.type, 0]);
          }
        });
      });

      test('TRIM changes nothing outside its range', async () => {
        await withClient(options, async (client) => {
          const bytes = pattern(512 * KIB, 7);
          for (const [offset, length] of [
            [0, 4096],
            [1, 4096],
            [4095, 100_000],
            [65_536, 131_072],
          ] as const) {
            await client.write(4 * MIB, bytes);
            await client.trim(4 * MIB + offset, length);
            const after = await client.read(4 * MIB, bytes.length);
            expect(after.subarray(0, offset).equals(bytes.subarray(0, offset))).toBe(true);
            expect(after.subarray(offset + length).equals(bytes.subarray(offset + length))).toBe(true);
          }
        });
      });

      test('WRITE_ZEROES zeroes exactly its range, with and without NO_HOLE', async () => {
        await withClient(options, async (client) => {
          const bytes = pattern(512 * KIB, 8);
          for (const flags of [0, CMD_FLAG.noHole, CMD_FLAG.fua, CMD_FLAG.noHole | CMD_FLAG.fua]) {
            for (const [offset, length] of [
              [0, 4096],
              [1, 1],
              [4095, 100_000],
              [65_536, 131_072],
            ] as const) {
              await client.write(5 * MIB, bytes);
              await client.writeZeroes(5 * MIB + offset, length, flags);
              const expected = Buffer.from(bytes).fill(0, offset, offset + length);
              expect(expected.equals(await client.read(5 * MIB, bytes.length))).toBe(true);
            }
          }
          await client.writeZeroes(0, server.sizeBytes);
          expect((await client.read(5 * MIB, MIB)).equals(Buffer.alloc(MIB))).toBe(true);
        });
      });

      test('CACHE succeeds where it is offered', async () => {
        await withClient(options, async (client) => {
          if ((client.facts.flags & EXPORT_FLAG.cache) === 0) return;
          expect((await client.request({ type: CMD.cache, offset: 4096, length: MIB })).error).toBe(0);
        });
      });

      test('requests past the end fail, change nothing, and the connection goes on', async () => {
        await withClient(options, async (client) => {
          const size = BigInt(server.sizeBytes);
          const tail = pattern(4096, 10);
          await client.write(server.sizeBytes - 4096, tail);
          const payload = Buffer.alloc(4096, 0xff);
          for (const offset of [
            size - 4095n,
            size,
            size + 4096n,
            2n ** 63n,
            2n ** 64n - 4096n,
            2n ** 64n - 1n,
          ]) {
            expect((await client.request({ type: CMD.read, offset, length: 4096 })).error).toBe(ERR.inval);
            expect((await client.request({ type: CMD.write, offset, payload })).error).toBe(ERR.nospc);
            const zeroes = await client.request({ type: CMD.writeZeroes, offset, length: 4096 });
            expect([ERR.nospc, ERR.inval]).toContain(zeroes.error);
            const trim = await client.request({ type: CMD.trim, offset, length: 4096 });
            expect([ERR.nospc, ERR.inval]).toContain(trim.error);
          }
          expect(tail.equals(await client.read(server.sizeBytes - 4096, 4096))).toBe(true);
        });
      });

      test('unknown commands and flags fail with EINVAL and the connection goes on', async () => {
        await withClient(options, async (client) => {
          for (const type of [9, 77, 0xffff])
            expect((await client.request({ type, length: 0 })).error).toBe(ERR.inval);
          const flags = 0x4000;
          expect((await client.request({ type: CMD.read, flags, length: 512 })).error).toBe(ERR.inval);
          const refused = await client.request({
            type: CMD.write,
            flags,
            offset: 0,
            payload: pattern(5000, 11),
          });
          expect(refused.error).toBe(ERR.inval);
          expect((await client.request({ type: CMD.flush, flags })).error).toBe(ERR.inval);
          await client.read(0, 512);
        });
      });

      test('BLOCK_STATUS without a metadata context fails with EINVAL', async () => {
        await withClient(options, async (client) => {
          expect((await client.request({ type: CMD.blockStatus, length: 65_536 })).error).toBe(ERR.inval);
        });
      });

      test('DISC is followed by the replies to everything sent before it, then by the end', async () => {
        const client = await connect(options);
        const requests = Array.from({ length: 64 }, (_, index) => ({
          type: CMD.write,
          offset: 20 * MIB + index * 65_536,
          payload: pattern(65_536, 12),
        }));
        const replies = client.requestAll(requests);
        client.socket.push(requestBytes({ type: CMD.disconnect }, 0n));
        // A server that goes down may say so instead of doing what is left.
        for (const reply of await Promise.all(replies)) expect([0, ERR.shutdown]).toContain(reply.error);
        expect(await client.socket.readToEnd()).toHaveLength(0);
        client.destroy();
      });
    });

    describe('structured replies only', () => {
      test('a read with DF comes in one piece, over holes as well', async () => {
        await withClient({ structuredReplies: true }, async (client) => {
          expect(client.facts.flags & EXPORT_FLAG.df).not.toBe(0);
          await client.writeZeroes(0, 64 * KIB);
          const bytes = pattern(4096, 13);
          await client.write(16 * KIB, bytes);
          const request = { type: CMD.read, flags: CMD_FLAG.df, offset: 0, length: 64 * KIB };
          const reply = await client.request(request);
          expect([reply.error, reply.contentChunks]).toEqual([0, 1]);
          expect(bytes.equals(reply.data.subarray(16 * KIB, 20 * KIB))).toBe(true);
        });
      });

      const allocation = { structuredReplies: true, allocation: true };

      test('BLOCK_STATUS never calls written bytes a hole or zero, and what it calls zero reads as zero', async () => {
        await withClient(allocation, async (client) => {
          await client.trim(0, 24 * MIB);
          for (const at of [0, 4 * MIB, 4 * MIB + 65_536, 9 * MIB - 4096])
            await client.write(at, pattern(4096, 14));
          await client.flush();
          const bytes = await client.read(0, 16 * MIB);
          const zero = Buffer.alloc(4096);
          for (let at = 0; at < bytes.length; ) {
            const extents = await client.blockStatus(at, bytes.length - at);
            for (const { lengthBytes, flags } of extents) {
              const end = Math.min(at + lengthBytes, bytes.length);
              if ((flags & 2) !== 0) {
                for (let block = at; block < end; block += zero.length) {
                  const length = Math.min(zero.length, end - block);
                  expect(bytes.compare(zero, 0, length, block, block + length)).toBe(0);
                }
              }
              at = end;
            }
          }
        });
      });

      test('BLOCK_STATUS with REQ_ONE tells of one extent', async () => {
        await withClient(allocation, async (client) => {
          await client.write(MIB, pattern(65_536, 15));
          const extents = await client.blockStatus(0, 16 * MIB, CMD_FLAG.reqOne);
          expect(extents).toHaveLength(1);
          expect((await client.blockStatus(MIB, 512, CMD_FLAG.reqOne))[0]).toEqual({
            lengthBytes: 512,
            flags: 0,
          });
        });
      });

      test('BLOCK_STATUS past the end fails with EINVAL', async () => {
        await withClient(allocation, async (client) => {
          const request = { type: CMD.blockStatus, offset: server.sizeBytes - 512, length: 1024 };
          expect((await client.request(request)).error).toBe(ERR.inval);
        });
      });
    });

    describe('several connections', () => {
      test('a write that was answered is read on every other connection, and FLUSH on any covers it', async () => {
        const clients = await Promise.all(Array.from({ length: 4 }, () => connect()));
        const [first] = clients;
        if (first === undefined || (first.facts.flags & EXPORT_FLAG.multiConn) === 0) return;
        for (let round = 0; round < 50; round += 1) {
          const writer = clients[round % 4] as NbdClient;
          const reader = clients[(round + 1) % 4] as NbdClient;
          const bytes = pattern(4096, 2000 + round);
          await writer.write(round * 1000, bytes);
          expect(bytes.equals(await reader.read(round * 1000, 4096))).toBe(true);
          await reader.flush();
        }
        for (const client of clients) client.destroy();
      });

      test('overlapping requests at random on several connections give only what could have been written', async () => {
        await fc.assert(
          fc.asyncProperty(operations, fc.integer({ min: 1, max: 4 }), async (list, connectionCount) => {
            const clients = await Promise.all(
              Array.from({ length: connectionCount }, (_, index) =>
                connect({ structuredReplies: index % 2 === 1 }),
              ),
            );
            try {
              expect(await runOperations(clients, list)).toEqual([]);
            } finally {
              for (const client of clients) client.destroy();
            }
          }),
          { numRuns: process.env['HOLDFAST_SOAK'] === undefined ? 40 : 1000 },
        );
      }, 600_000);
    });

    test('one connection reads and writes while others come and go', async () => {
      await withClient({}, async (client) => {
        for (let round = 0; round < 20; round += 1) {
          const passing = await NbdSocket.connect(server.socketPath);
          if (round % 3 !== 0) await negotiate(passing, server.exportName);
          if (round % 3 === 2) await passing.write(requestBytes({ type: CMD.read, length: MIB }, 9n));
          passing.destroy();
          await client.write(round * 4096, pattern(4096, round));
          expect(pattern(4096, round).equals(await client.read(round * 4096, 4096))).toBe(true);
        }
      });
    });
  });
}

// ---- random operations on cells that no block boundary respects

const CELL_BYTES = 100;
const CELL_COUNT = 400;
const CELLS_AT = 12 * MIB + 37;
const WORDS_PER_CELL = CELL_BYTES / 4;

type Operation = {
  readonly kind: 'read' | 'write' | 'zero' | 'trim' | 'flush' | 'settle';
  readonly from: number;
  readonly count: number;
  readonly connection: number;
  readonly fua: boolean;
};

const operations = fc.array(
  fc.record({
    kind: fc.oneof(
      { weight: 5, arbitrary: fc.constant('write' as const) },
      { weight: 5, arbitrary: fc.constant('read' as const) },
      {
        weight: 1,
        arbitrary: fc.constantFrom('zero' as const, 'trim' as const, 'flush' as const, 'settle' as const),
      },
    ),
    from: fc.nat(CELL_COUNT - 1),
    count: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 120 })),
    connection: fc.nat(3),
    fua: fc.boolean(),
  }) satisfies fc.Arbitrary<Operation>,
  { minLength: 20, maxLength: 150 },
);

/** Runs them with as much at once as the list allows and returns every complaint. */
async function runOperations(clients: readonly NbdClient[], list: readonly Operation[]): Promise<string[]> {
  const model = new CellModel(CELL_COUNT);
  const complaints: string[] = [];
  const [first] = clients;
  if (first === undefined) return ['no connection'];
  await first.writeZeroes(CELLS_AT, CELL_COUNT * CELL_BYTES);
  let running: Promise<void>[] = [];
  const settle = async () => {
    await Promise.all(running);
    running = [];
  };
  for (const [index, operation] of list.entries()) {
    if (operation.kind === 'settle' || running.length >= 32) await settle();
    if (operation.kind === 'settle') continue;
    const client = clients[operation.connection % clients.length] ?? first;
    running.push(runOperation(client, model, operation, index + 1, complaints));
  }
  await settle();
  for (const client of clients) {
    const everything = { kind: 'read' as const, from: 0, count: CELL_COUNT, connection: 0, fua: false };
    await runOperation(client, model, everything, 0, complaints);
  }
  return complaints;
}

async function runOperation(
  client: NbdClient,
  model: CellModel,
  operation: Operation,
  id: number,
  complaints: string[],
): Promise<void> {
  const { from } = operation;
  const to = Math.min(CELL_COUNT, from + operation.count);
  const offset = CELLS_AT + from * CELL_BYTES;
  const length = (to - from) * CELL_BYTES;
  const flags = operation.fua ? CMD_FLAG.fua : 0;
  switch (operation.kind) {
    case 'write': {
      const payload = Buffer.alloc(length);
      for (let at = 0; at < length; at += 4) payload.writeUInt32BE(id, at);
      const ended = model.write(from, to, id);
      await client.write(offset, payload, flags);
      return ended();
    }
    case 'zero': {
      const ended = model.write(from, to, 0);
      await client.writeZeroes(offset, length, flags);
      return ended();
    }
    case 'trim': {
      const ended = model.write(from, to, 0, true);
      await client.trim(offset, length, flags);
      return ended();
    }
    case 'flush':
      return client.flush();
    case 'read': {
      const check = model.read(from, to);
      const bytes = await client.read(offset, length);
      // Each word of a cell by itself: the protocol does not promise that a cell is written in one go.
      for (let word = 0; word < WORDS_PER_CELL; word += 1) {
        const values = Array.from({ length: to - from }, (_, cell) =>
          bytes.readUInt32BE(cell * CELL_BYTES + word * 4),
        );
        complaints.push(...check(values));
      }
      return;
    }
    case 'settle':
      return;
  }
}
