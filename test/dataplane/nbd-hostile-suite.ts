// Clients that break the rules, lie, stall, vanish, or come by the thousand: the right error or a closed
// connection for them, and nothing at all for anybody else. What the protocol leaves open is decided here.

import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  askOption,
  CMD,
  CMD_FLAG,
  ERR,
  EXPORT_FLAG,
  greet,
  infoData,
  NbdClient,
  NbdClosed,
  NbdSocket,
  type NegotiateOptions,
  negotiate,
  OPT,
  optionBytes,
  REP,
  requestBytes,
} from '../support/nbd-client.ts';
import type { HoldfastServer } from '../support/nbd-programs.ts';
import { pattern } from './nbd-protocol-suite.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const LARGEST_BYTES = 32 * MIB;
/** A request that waits for nobody is answered within this, also on a busy machine. */
const ANSWER_MS = 5000;

export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * KIB;
}

function descriptorCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** How many stay open: something may be opened now and then, and closed at once. */
export async function descriptorsAtRest(pid: number): Promise<number> {
  let fewest = descriptorCount(pid);
  for (let look = 0; look < 10; look += 1) {
    await sleep(20);
    fewest = Math.min(fewest, descriptorCount(pid));
  }
  return fewest;
}

/** So many at some moment soon: else that many more or fewer stay open. */
export async function expectDescriptors(pid: number, count: number): Promise<void> {
  await eventually(async () => descriptorCount(pid) === count, ANSWER_MS);
  expect(descriptorCount(pid)).toBe(count);
}

/** Waits until `isReached`, at most the given time; the caller's expectation then says what is wrong. */
export async function eventually(isReached: () => Promise<boolean>, timeoutMs = 10_000): Promise<boolean> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!(await isReached())) {
    if (performance.now() > deadlineMs) return false;
    await sleep(20);
  }
  return true;
}

/** `handshakeLimitMs`: how long the server lets a negotiation take. */
export function nbdHostileSuite(
  name: string,
  start: () => Promise<HoldfastServer>,
  { handshakeLimitMs }: { readonly handshakeLimitMs: number },
): void {
  describe(`hostile NBD clients: ${name}`, () => {
    let server: HoldfastServer;
    let descriptors = 0;
    beforeAll(async () => {
      server = await start();
      // Whatever is opened lazily is open after the first connection.
      const client = await NbdClient.connect(server.socketPath, server.exportName);
      await client.write(0, pattern(4096, 0));
      await client.disconnect();
      await atRest();
      descriptors = await descriptorsAtRest(server.pid);
    });
    afterAll(async () => {
      await server.stop();
    });
    afterEach(async () => {
      for (const connection of opened.splice(0)) connection.destroy();
      // Nothing that a test did may outlive its connections.
      await atRest();
      const { volume, thread } = await server.counters();
      expect({ inFlight: volume.inFlight, sessions: thread.sessions }).toEqual({ inFlight: 0, sessions: 0 });
      expect(thread.freeRequests).toBe(freeRequestsAtRest);
      await expectDescriptors(server.pid, descriptors);
    });

    let freeRequestsAtRest = 0;
    const atRest = async (): Promise<void> => {
      await eventually(async () => {
        const { volume, thread } = await server.counters();
        freeRequestsAtRest = Math.max(freeRequestsAtRest, thread.freeRequests);
        return volume.inFlight === 0 && thread.sessions === 0;
      });
    };

    /** Closed after the test, also when it fails. */
    const opened: { destroy(): void }[] = [];

    async function open(): Promise<NbdSocket> {
      const socket = await NbdSocket.connect(server.socketPath);
      opened.push(socket);
      return socket;
    }

    async function connect(options: NegotiateOptions = {}): Promise<NbdClient> {
      const client = await NbdClient.connect(server.socketPath, server.exportName, options);
      opened.push(client);
      return client;
    }

    /** Asks something small on a connection of its own; fails when it is not answered soon. */
    async function expectService(): Promise<void> {
      const startedAt = performance.now();
      const client = await connect();
      await client.write(MIB, pattern(4096, 21));
      expect(pattern(4096, 21).equals(await client.read(MIB, 4096))).toBe(true);
      await client.flush();
      client.destroy();
      expect(performance.now() - startedAt).toBeLessThan(ANSWER_MS);
    }

    /** The server ends the connection; what it says before is returned. */
    async function expectEnd(socket: NbdSocket, timeoutMs = ANSWER_MS): Promise<Buffer> {
      const rest = await socket.readToEnd(timeoutMs);
      socket.destroy();
      return rest;
    }

    async function negotiated(): Promise<NbdSocket> {
      const socket = await open();
      await negotiate(socket, server.exportName);
      return socket;
    }

    describe('negotiation', () => {
      test('an unknown export is refused by GO and INFO and ends EXPORT_NAME', async () => {
        const socket = await open();
        await greet(socket);
        for (const option of [OPT.info, OPT.go]) {
          expect((await askOption(socket, option, infoData('nothing'))).at(-1)?.type).toBe(0x80000006);
        }
        await socket.write(optionBytes(OPT.exportName, Buffer.from('nothing')));
        expect(await expectEnd(socket)).toHaveLength(0);
      });

      test('the empty name is the only export', async () => {
        const client = await NbdClient.connect(server.socketPath, '');
        expect(client.facts.sizeBytes).toBe(server.sizeBytes);
        await client.disconnect();
      });

      test('TLS is refused by policy', async () => {
        const socket = await open();
        await greet(socket);
        expect((await askOption(socket, OPT.startTls)).at(-1)?.type).toBe(0x80000002);
        socket.destroy();
      });

      test.each([
        ['unknown client flags', Buffer.from([0, 0, 0, 7])],
        ['no fixed newstyle', Buffer.from([0, 0, 0, 0])],
        ['a wrong option magic', Buffer.concat([Buffer.from([0, 0, 0, 3]), Buffer.alloc(16, 0x41)])],
        ['a request before the negotiation', requestBytes({ type: CMD.read, length: 512 }, 1n)],
      ])('%s: the connection is closed', async (_, bytes) => {
        const socket = await open();
        await socket.read(18);
        await socket.write(bytes);
        expect(await expectEnd(socket)).toHaveLength(0);
        await expectService();
      });

      test('an option of a megabyte is refused and forgotten, and the negotiation goes on', async () => {
        const socket = await open();
        await greet(socket);
        const replies = await askOption(socket, OPT.go, Buffer.alloc(MIB));
        expect(replies.map(({ type }) => type)).toEqual([0x80000009]);
        expect((await askOption(socket, OPT.go, infoData(server.exportName))).at(-1)?.type).toBe(REP.ack);
        socket.destroy();
      });

      test('a negotiation of a thousand options ends', async () => {
        const socket = await open();
        await greet(socket);
        for (let option = 0; option < 1000; option += 1) socket.push(optionBytes(OPT.list));
        await expectEnd(socket);
      });

      test('a negotiation that is cut anywhere leaves nothing behind', async () => {
        const whole = Buffer.concat([
          Buffer.from([0, 0, 0, 3]),
          optionBytes(OPT.structuredReply),
          optionBytes(OPT.go, infoData(server.exportName, [0, 1, 2, 3])),
          requestBytes({ type: CMD.write, payload: Buffer.alloc(4096) }, 1n).subarray(0, 1000),
        ]);
        for (let length = 0; length < whole.length; length += length < 100 ? 7 : 97) {
          const socket = await open();
          await socket.write(whole.subarray(0, length));
          if (length % 2 === 0) socket.endWriting();
          else socket.destroy();
        }
        await expectService();
      });

      test(
        'a negotiation that trickles or stands still is ended by its deadline, however it is fed',
        async () => {
          const silent = await open();
          const trickling = await open();
          await trickling.read(18);
          await trickling.write(Buffer.from([0, 0, 0, 3]));
          const startedAt = performance.now();
          const header = optionBytes(OPT.list, Buffer.alloc(8192));
          const feed = (async () => {
            for (let at = 0; !trickling.isEnded && at < header.length; at += 1) {
              await trickling.write(header.subarray(at, at + 1));
              await sleep(250);
            }
          })();
          await silent.readToEnd(handshakeLimitMs + 10_000);
          await trickling.readToEnd(handshakeLimitMs + 10_000);
          await feed;
          expect(performance.now() - startedAt).toBeGreaterThan(handshakeLimitMs / 2);
          expect(performance.now() - startedAt).toBeLessThan(handshakeLimitMs + 10_000);
          silent.destroy();
          trickling.destroy();
          // A session that got through in time is not ended by it.
          await expectService();
        },
        handshakeLimitMs + 30_000,
      );
    });

    describe('transmission', () => {
      test('a wrong request magic closes the connection', async () => {
        const socket = await negotiated();
        await socket.write(Buffer.alloc(28, 0x42));
        expect(await expectEnd(socket)).toHaveLength(0);
        await expectService();
      });

      test('what was asked before a wrong magic is not confused with it', async () => {
        const socket = await negotiated();
        const good = requestBytes({ type: CMD.write, offset: 0, payload: pattern(4096, 22) }, 7n);
        await socket.write(Buffer.concat([good, Buffer.alloc(28)]));
        const rest = await expectEnd(socket);
        expect([0, 16]).toContain(rest.length);
      });

      test('a write beyond the largest payload is refused and ends the connection, its payload unread', async () => {
        for (const length of [LARGEST_BYTES + 1, 2 ** 31, 2 ** 32 - 1]) {
          const socket = await negotiated();
          await socket.write(requestBytes({ type: CMD.write, length }, 8n));
          const rest = await expectEnd(socket);
          expect(rest).toHaveLength(16);
          expect(rest.readUInt32BE(4)).toBe(ERR.inval);
        }
        await expectService();
      });

      test('a read beyond the largest payload is refused and the connection goes on', async () => {
        for (const structuredReplies of [false, true]) {
          const client = await connect({ structuredReplies });
          for (const length of [LARGEST_BYTES + 1, 64 * MIB, 2 ** 32 - 1]) {
            const { error } = await client.request({ type: CMD.read, offset: 0, length });
            expect([ERR.inval, ERR.overflow]).toContain(error);
          }
          expect(await client.read(0, 4096)).toHaveLength(4096);
          client.destroy();
        }
      });

      test('a write past the end with its payload in many pieces is answered once and the stream stays in step', async () => {
        const client = await connect();
        const payload = pattern(3 * MIB + 11, 23);
        const offset = server.sizeBytes - MIB;
        const [late, next] = client.requestAll([
          { type: CMD.write, offset, payload },
          { type: CMD.read, offset: 0, length: 512 },
        ]);
        expect((await late)?.error).toBe(ERR.nospc);
        expect((await next)?.error).toBe(0);
        client.destroy();
      });

      test('requests of no length are answered and change nothing', async () => {
        const client = await connect();
        for (const type of [CMD.read, CMD.write, CMD.trim, CMD.writeZeroes, CMD.cache]) {
          const { error } = await client.request({ type, offset: 4096, length: 0 });
          expect([0, ERR.inval]).toContain(error);
        }
        expect(await client.read(0, 512)).toHaveLength(512);
        client.destroy();
      });

      test('flags that do not belong to a command are refused, and its payload is not taken for requests', async () => {
        const client = await connect();
        // A payload that looks like requests.
        const fake = Buffer.concat(
          Array.from({ length: 64 }, (_, index) =>
            requestBytes({ type: CMD.writeZeroes, offset: 0, length: 4096 }, BigInt(index)),
          ),
        );
        await client.write(0, pattern(4096, 24));
        const refused = await client.request({ type: CMD.write, flags: CMD_FLAG.reqOne, payload: fake });
        expect(refused.error).toBe(ERR.inval);
        expect(pattern(4096, 24).equals(await client.read(0, 4096))).toBe(true);
        const flags = CMD_FLAG.df;
        expect((await client.request({ type: CMD.read, flags, length: 512 })).error).toBe(ERR.inval);
        client.destroy();
      });

      test('requests with the same cookie are each answered', async () => {
        const socket = await negotiated();
        const request = requestBytes({ type: CMD.flush }, 5n);
        await socket.write(Buffer.concat([request, request, request]));
        for (let reply = 0; reply < 3; reply += 1) {
          const bytes = await socket.read(16);
          expect([bytes.readUInt32BE(4), bytes.readBigUInt64BE(8)]).toEqual([0, 5n]);
        }
        socket.destroy();
      });

      test('all that was sent before DISC is done and answered without error', async () => {
        const client = await connect();
        const requests = Array.from({ length: 200 }, (_, index) => ({
          type: CMD.write,
          offset: 20 * MIB + index * 65_536,
          payload: pattern(65_536, index),
          flags: index % 20 === 0 ? CMD_FLAG.fua : 0,
        }));
        const replies = client.requestAll(requests);
        client.socket.push(requestBytes({ type: CMD.disconnect }, 0n));
        for (const reply of await Promise.all(replies)) expect(reply.error).toBe(0);
        await expectEnd(client.socket);
        const reader = await connect();
        expect(pattern(65_536, 199).equals(await reader.read(20 * MIB + 199 * 65_536, 65_536))).toBe(true);
        reader.destroy();
      });

      test('what comes after DISC is not looked at', async () => {
        const client = await connect();
        await client.write(0, pattern(4096, 25));
        client.socket.push(
          Buffer.concat([
            requestBytes({ type: CMD.disconnect }, 0n),
            requestBytes({ type: CMD.writeZeroes, offset: 0, length: 4096 }, 1n),
          ]),
        );
        expect(await expectEnd(client.socket)).toHaveLength(0);
        const reader = await connect();
        expect(pattern(4096, 25).equals(await reader.read(0, 4096))).toBe(true);
        reader.destroy();
      });

      test('a client that vanishes with hundreds of requests in flight leaves nothing behind', async () => {
        for (let round = 0; round < 10; round += 1) {
          const client = await connect({ structuredReplies: round % 2 === 0 });
          const requests = Array.from({ length: 200 }, (_, index) =>
            index % 3 === 0
              ? {
                  type: CMD.write,
                  offset: index * 65_536,
                  payload: pattern(65_536, index),
                  flags: CMD_FLAG.fua,
                }
              : { type: CMD.read, offset: index * 4096, length: 128 * KIB },
          );
          for (const reply of client.requestAll(requests)) reply.catch(() => undefined);
          if (round % 3 === 0) await sleep(2);
          client.destroy();
        }
        await expectService();
      });

      test('a client that vanishes in the middle of a payload writes nothing', async () => {
        const client = await connect();
        const before = pattern(2 * MIB, 26);
        await client.write(0, before);
        for (const sentBytes of [0, 1, 100_000, MIB, 2 * MIB - 1]) {
          const socket = await negotiated();
          const request = requestBytes(
            { type: CMD.write, offset: 0, payload: Buffer.alloc(2 * MIB, 0xff) },
            3n,
          );
          await socket.write(request.subarray(0, 28 + sentBytes));
          socket.destroy();
          await sleep(20);
        }
        expect(before.equals(await client.read(0, before.length))).toBe(true);
        client.destroy();
      });

      test('a client that closes its sending side is let go', async () => {
        const socket = await negotiated();
        socket.endWriting();
        await expectEnd(socket);
      });
    });

    describe('crowds and stalls', () => {
      test('a thousand idle connections cost little, and one more works among them', async () => {
        const beforeBytes = residentBytes(server.pid);
        const idle: NbdSocket[] = [];
        for (let index = 0; index < 1000; index += 1) {
          const socket = await open();
          // A third says nothing, a third stops half-way, a third is ready and idle.
          if (index % 3 === 1) await greet(socket);
          if (index % 3 === 2) await negotiate(socket, server.exportName);
          idle.push(socket);
        }
        await expectService();
        const perConnectionBytes = (residentBytes(server.pid) - beforeBytes) / 1000;
        expect(perConnectionBytes).toBeLessThan(64 * KIB);
        for (const socket of idle) socket.destroy();
        await atRest();
        await expectService();
      }, 60_000);

      test('more connections than there is room for are refused, and room comes back', async () => {
        const sockets: NbdSocket[] = [];
        let refused = 0;
        for (let index = 0; index < 3000 && refused < 10; index += 1) {
          const socket = await open();
          sockets.push(socket);
          const hello = await socket.read(18, ANSWER_MS).catch((error: unknown) => {
            if (error instanceof NbdClosed) return undefined;
            throw error;
          });
          if (hello === undefined) refused += 1;
        }
        expect(refused).toBe(10);
        for (const socket of sockets) socket.destroy();
        await atRest();
        await expectService();
      }, 60_000);

      test('a client that never reads its replies stalls only itself, within bounded memory', async () => {
        const beforeBytes = residentBytes(server.pid);
        const deaf: NbdSocket[] = [];
        for (let index = 0; index < 8; index += 1) {
          const socket = await negotiated();
          const requests = Array.from({ length: 500 }, (_, request) =>
            requestBytes({ type: CMD.read, offset: request * 65_536, length: MIB }, BigInt(request)),
          );
          socket.push(Buffer.concat(requests));
          deaf.push(socket);
        }
        await sleep(500);
        for (let round = 0; round < 5; round += 1) await expectService();
        // 4000 MiB were asked for. What is held is a part of the server's fixed memory, whoever asks.
        expect(residentBytes(server.pid) - beforeBytes).toBeLessThan(300 * MIB);
        for (const socket of deaf) socket.destroy();
      });

      test('clients that stop in the middle of a payload stall only themselves', async () => {
        const stalled: NbdSocket[] = [];
        for (let index = 0; index < 200; index += 1) {
          const socket = await negotiated();
          const request = requestBytes({ type: CMD.write, offset: 0, payload: Buffer.alloc(MIB) }, 1n);
          await socket.write(request.subarray(0, 28 + 40_000));
          stalled.push(socket);
        }
        for (let round = 0; round < 5; round += 1) await expectService();
        for (const socket of stalled) socket.destroy();
      }, 60_000);

      test('clients that stop in the middle of the largest payloads do not keep others from large requests', async () => {
        const stalled: NbdSocket[] = [];
        for (let index = 0; index < 4; index += 1) {
          const socket = await negotiated();
          const request = requestBytes({ type: CMD.write, offset: 0, length: LARGEST_BYTES }, 1n);
          await socket.write(request);
          await socket.write(Buffer.alloc(100_000));
          stalled.push(socket);
        }
        await expectService();
        // There is room for a few of them; who takes it and stands still loses it.
        const client = await connect({ replyTimeoutMs: 60_000 });
        const bytes = pattern(8 * MIB, 27);
        await client.write(32 * MIB, bytes);
        expect(bytes.equals(await client.read(32 * MIB, bytes.length))).toBe(true);
        client.destroy();
        for (const socket of stalled) socket.destroy();
      }, 120_000);

      test('a client that floods with requests does not starve another', async () => {
        const flood = await connect();
        const requests = Array.from({ length: 20_000 }, (_, index) => ({
          type: CMD.read,
          offset: (index % 1000) * 4096,
          length: 4096,
        }));
        const replies = Promise.all(flood.requestAll(requests));
        const other = await connect();
        const startedAt = performance.now();
        for (let round = 0; round < 20; round += 1) await other.read(round * 4096, 4096);
        expect(performance.now() - startedAt).toBeLessThan(ANSWER_MS);
        for (const reply of await replies) expect(reply.error).toBe(0);
        flood.destroy();
        other.destroy();
      }, 60_000);

      test('a flood of overlapping writes is done in order, without losing the connection', async () => {
        const client = await connect();
        const requests = Array.from({ length: 3000 }, (_, index) => ({
          type: CMD.write,
          offset: (index % 7) * 1000,
          payload: Buffer.alloc(5000, index % 251),
          flags: index % 100 === 0 ? CMD_FLAG.fua : 0,
        }));
        for (const reply of await Promise.all(client.requestAll(requests))) expect(reply.error).toBe(0);
        // The last write of all covers [4000, 9000): 2999 % 7 = 3 begins at 3000.
        const last = 2999;
        const at = (last % 7) * 1000;
        expect(Buffer.alloc(5000, last % 251).equals(await client.read(at, 5000))).toBe(true);
        client.destroy();
      }, 60_000);
    });

    test('it offers everything that this suite relies on', async () => {
      const client = await connect({ structuredReplies: true });
      const { flags } = client.facts;
      const names = ['flush', 'fua', 'trim', 'writeZeroes', 'df', 'multiConn', 'cache'] as const;
      for (const flag of names) expect([flag, flags & EXPORT_FLAG[flag]]).not.toEqual([flag, 0]);
      expect(flags & EXPORT_FLAG.readOnly).toBe(0);
      client.destroy();
    });
  });
}
