// Two data-plane threads with links between them over loopback TCP, and what goes over those.

import { connect as connectSocket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { native } from '../../src/dataplane/native.ts';
import * as frames from '../../src/replication/frames.ts';
import type { FrameFields } from '../../src/replication/frames.ts';
import {
  FRAME_TYPES,
  HEARER_FRONTEND,
  HEARER_PRIMARY,
  HEARER_REPLICA,
  HEARER_SERVER,
} from '../../src/replication/wire-types.ts';
import { SAMPLES } from '../replication/wire-frames.ts';
import { eventually, SESSION, Side, type SideOptions, STREAM } from './peers-support.ts';

/** Of a socket: below this loopback TCP waits for its timers. */
const SMALL_BUFFER_BYTES = 32 * 1024;

const sides: Side[] = [];

async function start(options: SideOptions = {}): Promise<Side> {
  const side = await Side.start(options);
  sides.push(side);
  return side;
}

async function startPair(options: SideOptions = {}): Promise<[Side, Side]> {
  const pair: [Side, Side] = [await start(options), await start(options)];
  await pair[1].listen();
  return pair;
}

afterEach(async () => {
  await Promise.all(sides.splice(0).map((side) => side.stop()));
});

/** Both sides have all slots and all memory back. */
async function expectNothingHeld(...of: Side[]): Promise<void> {
  for (const side of of) {
    const stats = await eventually(
      () => side.stats(),
      ({ freeRequests }) => freeRequests === 2048,
    );
    expect(stats.freeRequests).toBe(2048);
    expect(stats.freeBytes).toBe(128 * 1024 * 1024);
  }
}

const MESSAGES: Record<number, frames.ControlMessage> = {
  [frames.FRAME_EPOCH]: {
    config: (STREAM as frames.StreamHello).config,
    revision: 2,
    role: 'joining',
    unsettled: [],
  },
  [frames.FRAME_PROMOTE]: { config: (STREAM as frames.StreamHello).config, revision: 2 },
  [frames.FRAME_STAMPS]: { extent: 9, stamps: Array.from({ length: 64 }, (_, index) => index) },
  [frames.FRAME_MOVED]: { epoch: 9 },
};

describe.each([
  ['a stream', STREAM, HEARER_REPLICA, HEARER_PRIMARY],
  ['a session', SESSION, HEARER_SERVER, HEARER_FRONTEND],
] as const)('%s', (_, hello, acceptorHears, initiatorHears) => {
  test('carries every type of frame with its fields, payload or message, in order, both ways', async () => {
    const [a, b] = await startPair();
    await Promise.all([a, b].map((side) => side.ask({ type: 'set', isRecording: true })));
    const { link, type } = await a.connect(b.port, hello);
    expect(type).toBe(frames.FRAME_WELCOME);
    const far = (await b.stats()).accepted[0] ?? -1;
    for (const [from, to, number, hearer] of [
      [a, b, link, acceptorHears],
      [b, a, far, initiatorHears],
    ] as const) {
      const before = (await to.stats()).heard.length;
      const samples = SAMPLES.filter(
        (sample) =>
          sample.type > frames.FRAME_REFUSED &&
          ((FRAME_TYPES.find(({ type }) => type === sample.type)?.hearers ?? 0) & hearer) !== 0,
      );
      expect(samples.length).toBeGreaterThan(0);
      for (const sample of samples) {
        const message = MESSAGES[sample.type];
        if (message !== undefined) {
          await from.ask({ type: 'sendControl', link: number, frameType: sample.type, message });
          continue;
        }
        const { type, flags = 0, errno = 0, epoch = 0, lengthBytes = 0 } = sample;
        const numbers = [sample.sequence ?? 0, sample.offset ?? 0, sample.watermark ?? 0, sample.time ?? 0];
        const fields = { type, flags, errno, epoch, lengthBytes, numbers } as unknown as FrameFields & {
          numbers: number[];
        };
        await from.ask({ type: 'send', link: number, fields, payloadBytes: sample.payloadBytes ?? 0 });
      }
      const { heard } = await eventually(
        () => to.stats(),
        (stats) => stats.heard.length - before >= samples.length,
      );
      // What the other end answered on its own is none of ours.
      const received = heard
        .slice(before)
        .filter((one) => samples.some((sample) => sample.type === one.type));
      expect(received.slice(0, samples.length).map((one) => one.type)).toEqual(
        samples.map((one) => one.type),
      );
      for (const [index, sample] of samples.entries()) {
        const one = received[index];
        const message = MESSAGES[sample.type];
        if (message !== undefined) {
          expect(one?.message).toEqual(message);
          continue;
        }
        expect(one?.fields).toEqual({
          flags: sample.flags ?? 0,
          errno: sample.errno ?? 0,
          epoch: sample.epoch ?? 0,
          lengthBytes: sample.lengthBytes ?? 0,
          numbers: [sample.sequence ?? 0, sample.offset ?? 0, sample.watermark ?? 0, sample.time ?? 0],
        });
        if (sample.payloadBytes !== undefined)
          expect(one?.firstBytes).toEqual(new Array(8).fill(sample.type));
      }
    }
    await expectNothingHeld(a, b);
  });
});

test('100,000 writes of random sizes arrive byte for byte', { timeout: 120_000 }, async () => {
  const [a, b] = await startPair({ verify: true });
  const { link } = await a.connect(b.port);
  const figures = await a.run({ link, count: 100_000, depth: 64, minBytes: 512, maxBytes: 32 * 1024 });
  expect(figures).toMatchObject({ isWhole: true, doneCount: 100_000 });
  expect(await b.stats()).toMatchObject({ badCount: 0, receivedCount: 100_000 });
  await expectNothingHeld(a, b);
});

test('writes up to the largest arrive byte for byte through sockets that take a few KiB at a time', async () => {
  const [a, b] = await startPair({ verify: true, socketBufferBytes: SMALL_BUFFER_BYTES });
  const { link } = await a.connect(b.port);
  const figures = await a.run({ link, count: 100, depth: 16, minBytes: 512, maxBytes: 1024 * 1024 });
  expect(figures).toMatchObject({ isWhole: true });
  expect(await b.stats()).toMatchObject({ badCount: 0, receivedCount: 100 });
  await expectNothingHeld(a, b);
});

describe.each([
  ['over TCP', false],
  ['within a thread', true],
] as const)('a session %s', (_, isLocal) => {
  test.each([
    ['reads', true],
    ['writes', false],
  ] as const)('carries the bytes of %s', async (_name, isRead) => {
    const [a, b] = await startPair({ verify: true });
    const { link, type } = await a.connect(isLocal ? 'local' : b.port, SESSION);
    expect(type).toBe(frames.FRAME_WELCOME);
    const order = { link, count: 5000, depth: 32, minBytes: 512, maxBytes: 65_536, isRead };
    expect(await a.run(order)).toMatchObject({ isWhole: true, doneCount: 5000 });
    for (const side of [a, b]) expect(await side.stats()).toMatchObject({ badCount: 0 });
    await expectNothingHeld(a, b);
  });
});

test('a host that closes a link within a thread hears nothing more, and the other end is told once', async () => {
  const [a] = await startPair();
  const { link } = await a.connect('local', SESSION);
  const far = (await a.stats()).accepted[0];
  await a.ask({ type: 'close', link });
  const { closed } = await eventually(
    () => a.stats(),
    (stats) => stats.closed.length > 0,
  );
  expect(closed).toEqual([far]);
});

test('a message of many pieces passes whole between frames', async () => {
  const [a, b] = await startPair();
  await b.ask({ type: 'set', isRecording: true });
  const { link } = await a.connect(b.port);
  const config = (STREAM as frames.StreamHello).config;
  // The largest configuration that a message may hold would be a few KiB; its ids can be long.
  const replicas = Array.from({ length: 32 }, (_, index) => ({
    id: `${index}`.padStart(63, 'r'),
    node: `${index}`.padStart(255, 'n'),
    outSince: 7,
    needsFullCopy: true,
    bootId: 'b'.repeat(63),
    report: { incarnation: 'i'.repeat(63), descendsFrom: 'd'.repeat(63) },
  }));
  const id = replicas[0]?.id ?? '';
  const message = {
    config: {
      ...config,
      replicas,
      primary: { replicaId: id, opening: null },
      inSync: [{ replicaId: id, incarnation: null }],
    },
    revision: 5,
    role: 'member' as const,
    unsettled: [],
  };
  expect(JSON.stringify(message).length).toBeGreaterThan(17_000);
  await a.ask({ type: 'sendControl', link, frameType: frames.FRAME_EPOCH, message });
  await a.run({ link, count: 10, depth: 10, minBytes: 4096, maxBytes: 4096 });
  const { heard } = await b.stats();
  expect(heard[0]).toMatchObject({ type: frames.FRAME_EPOCH, message });
  expect(heard.slice(1).map(({ type }) => type)).toEqual(new Array(10).fill(frames.FRAME_WRITE));
});

test('who keeps what it is sent is not read any more, and nobody else waits for it', async () => {
  const [a, b] = await startPair({ verify: true });
  const c = await start({ verify: true });
  await c.listen();
  const { link: slow } = await a.connect(b.port);
  const { link: quick } = await a.connect(c.port);
  await b.ask({ type: 'set', isHoarding: true });
  // As many as a primary leaves unanswered, of a size that fills a good part of a thread's memory.
  const stalled = a.run({ link: slow, count: 400, depth: 256, minBytes: 262_144, maxBytes: 262_144 });
  const hoarded = await eventually(
    () => b.stats(),
    ({ hoardCount }) => hoardCount >= 100,
  );
  expect(hoarded.hoardCount).toBeGreaterThanOrEqual(100);
  const order = { link: quick, count: 5000, depth: 32, minBytes: 4096, maxBytes: 4096 };
  expect(await a.run(order)).toMatchObject({ isWhole: true });
  // The one that keeps everything still serves others.
  const { link: other } = await c.connect(b.port);
  await c.ask({ type: 'close', link: other });
  await a.ask({ type: 'close', link: slow });
  await b.ask({ type: 'set', isHoarding: false });
  void stalled;
  await expectNothingHeld(a, b, c);
});

test('a link that is closed in the middle of everything gives all slots back, on both sides', async () => {
  const [a, b] = await startPair({ socketBufferBytes: 4096 });
  for (let round = 0; round < 20; round++) {
    const { link } = await a.connect(b.port);
    const run = a.run({ link, count: 1_000_000, depth: 64, minBytes: 512, maxBytes: 262_144 });
    await new Promise((resolve) => setTimeout(resolve, 5 * round));
    const far = (await b.stats()).accepted.at(-1) ?? -1;
    if (round % 2 === 0) {
      await b.ask({ type: 'close', link: far });
      expect(await run).toMatchObject({ isWhole: false });
    } else {
      await a.ask({ type: 'close', link });
      const { closed } = await eventually(
        () => b.stats(),
        (stats) => stats.closed.includes(far),
      );
      expect(closed).toContain(far);
    }
  }
  await expectNothingHeld(a, b);
});

test('a connection for a volume of another thread is served there', async () => {
  const acceptor = await start({ volumeIds: [] });
  const server = await start({ verify: true });
  const client = await start({ verify: true });
  const port = await acceptor.listen();
  acceptor.onHandOver = (connection) => void server.ask({ type: 'adopt', connection });
  const { link, type } = await client.connect(port);
  expect(type).toBe(frames.FRAME_WELCOME);
  const order = { link, count: 2000, depth: 32, minBytes: 512, maxBytes: 32_768 };
  expect(await client.run(order)).toMatchObject({ isWhole: true });
  expect(await server.stats()).toMatchObject({ receivedCount: 2000, badCount: 0 });
  await expectNothingHeld(acceptor, server, client);
});

test('a peer that cannot be reached ends in linkClosed', async () => {
  const [a] = await startPair();
  const closedPort = 1;
  expect(await a.connect(closedPort)).toMatchObject({ type: 0 });
  expect((await a.stats()).events).toMatchObject([{ type: 'unreachable', peer: '127.0.0.1:1' }]);
});

test('a peer that never answers a connect ends in linkClosed, and gives way to closeLink at once', async () => {
  const [a] = await startPair();
  // Its queue is full and nobody accepts: the kernel does not answer any more.
  const { fd, port } = native.listenTcp('127.0.0.1', 0, 1);
  const fillers = Array.from({ length: 4 }, () => connectSocket(port, '127.0.0.1'));
  for (const filler of fillers) filler.on('error', () => undefined);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const waiting = a.connect(port);
  void a.connect(port);
  const { opened } = await eventually(
    () => a.stats(),
    (stats) => stats.opened.length === 2,
  );
  await a.ask({ type: 'close', link: opened[1] ?? -1 });
  expect(await waiting).toMatchObject({ type: 0, link: opened[0] });
  const { closed, events } = await a.stats();
  expect(closed).toEqual([opened[0]]);
  expect(events).toMatchObject([{ type: 'unreachable', reason: expect.stringContaining('no answer') }]);
  for (const filler of fillers) filler.destroy();
  native.close(fd);
});

test.each([
  ['4k at depth 32', 4096, 100_000],
  ['128k at depth 32', 131_072, 10_000],
] as const)('writes of %s are fast and allocate nothing', async (name, bytes, count) => {
  const [a, b] = await startPair();
  const { link } = await a.connect(b.port);
  const order = { link, depth: 32, minBytes: bytes, maxBytes: bytes };
  await a.run({ ...order, count: count / 5 });
  const before = await b.stats();
  const figures = await a.run({ ...order, count });
  const after = await b.stats();
  const rate = figures.doneCount / figures.seconds;
  console.log(
    `${name}: ${Math.round(rate)} writes/s, ${Math.round((rate * bytes) / 1e6)} MB/s, ` +
      `collections ${figures.collections} and ${after.collections - before.collections}`,
  );
  expect(figures.isWhole).toBe(true);
  // stats() itself allocates a little.
  expect(figures.collections).toBeLessThanOrEqual(1);
  expect(after.collections - before.collections).toBeLessThanOrEqual(1);
});

test('requests of a session within a thread allocate nothing', async () => {
  const [a] = await startPair();
  const { link } = await a.connect('local', SESSION);
  const order = { link, depth: 32, minBytes: 4096, maxBytes: 4096, isRead: true };
  await a.run({ ...order, count: 20_000 });
  const figures = await a.run({ ...order, count: 200_000 });
  console.log(`within a thread: ${Math.round(figures.doneCount / figures.seconds)} reads/s`);
  expect(figures.collections).toBeLessThanOrEqual(1);
});
