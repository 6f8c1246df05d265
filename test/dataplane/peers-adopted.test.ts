// Links whose connections were accepted on the main thread, beside calls (control/channel/listener.ts), and go from
// there to a thread, and from that one to the thread that has the volume.

import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { ClusterListener } from '../../src/control/channel/listener.ts';
import { RefusalLog } from '../../src/control/channel/refusal-log.ts';
import { FRAME_WELCOME } from '../../src/replication/frames.ts';
import { eventually, SESSION, Side, type SideOptions, STREAM } from './peers-support.ts';

const GREETING_BYTES = 40;

const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

async function start(options: SideOptions = {}): Promise<Side> {
  const side = await Side.start(options);
  cleanups.push(() => side.stop());
  return side;
}

/** The port of a main thread whose links go to `side`. */
async function listenFor(side: Side): Promise<number> {
  const listener = await ClusterListener.listen({
    host: '127.0.0.1',
    port: 0,
    onCall: (socket) => void socket.destroy(),
    onLink: (fd, received) => void side.ask({ type: 'adoptRaw', fd, received }),
    refusals: new RefusalLog(pino({ level: 'silent' })),
  });
  cleanups.push(() => listener.close());
  return listener.port;
}

/** Passes on to `port`: the first `headBytes` by themselves, the rest a moment later. */
async function delayAfter(headBytes: number, port: number): Promise<number> {
  const server = createServer((client) => {
    const target = connect(port, '127.0.0.1');
    for (const socket of [client, target]) socket.on('error', () => undefined).setNoDelay();
    cleanups.push(() => [client, target].map((socket) => socket.destroy()));
    let isFirst = true;
    client.on('data', (bytes: Buffer) => {
      if (!isFirst) {
        target.write(bytes);
        return;
      }
      isFirst = false;
      target.write(bytes.subarray(0, headBytes));
      client.pause();
      setTimeout(() => {
        target.write(bytes.subarray(headBytes));
        client.resume();
      }, 30);
    });
    target.pipe(client);
    client.on('close', () => target.destroy());
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

async function openRaw(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  cleanups.push(() => socket.destroy());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

async function readToEnd(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  await new Promise((resolve) => socket.on('close', resolve));
  return Buffer.concat(pieces);
}

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

test.each([1, 7, GREETING_BYTES - 1, GREETING_BYTES])(
  'a connection of whose greeting %i bytes were read elsewhere is served as any other',
  async (headBytes) => {
    const server = await start({ verify: true });
    const client = await start({ verify: true });
    const port = await delayAfter(headBytes, await listenFor(server));
    const { link, type } = await client.connect(port);
    expect(type).toBe(FRAME_WELCOME);
    const order = { link, count: 2000, depth: 32, minBytes: 512, maxBytes: 65_536 };
    expect(await client.run(order)).toMatchObject({ isWhole: true });
    expect(await server.stats()).toMatchObject({ receivedCount: 2000, badCount: 0 });
    await expectNothingHeld(server, client);
  },
);

test('connections for volumes of other threads go on there, many at once, and the first thread keeps nothing', async () => {
  const gate = await start({ volumeIds: [] });
  const servers = {
    first: await start({ volumeIds: ['first'], verify: true }),
    second: await start({ volumeIds: ['second'], verify: true }),
  };
  const client = await start({ verify: true });
  gate.onHandOver = (connection) =>
    void servers[connection.hello.volumeId as keyof typeof servers].ask({ type: 'adopt', connection });
  const port = await listenFor(gate);
  const links = await Promise.all(
    Array.from({ length: 40 }, async (_, index) => {
      const volumeId = index % 2 === 0 ? 'first' : 'second';
      return await client.connect(port, { ...(index % 4 < 2 ? STREAM : SESSION), volumeId });
    }),
  );
  expect(links.map(({ type }) => type)).toEqual(links.map(() => FRAME_WELCOME));
  const figures = await Promise.all(
    links.map(({ link }, index) =>
      client.run({
        link,
        count: 200,
        depth: 8,
        minBytes: 512,
        maxBytes: 16_384,
        ...(index % 4 < 2 ? {} : { isRead: index % 8 < 4 }),
      }),
    ),
  );
  expect(figures.filter(({ isWhole }) => !isWhole)).toEqual([]);
  for (const server of Object.values(servers)) {
    expect(await server.stats()).toMatchObject({ receivedCount: 4000, badCount: 0 });
  }
  expect(await gate.stats()).toMatchObject({ receivedCount: 0, accepted: [], closed: [], events: [] });
  // What ends there, ends: no descriptor of it was left in the thread that accepted it.
  for (const { link } of links) await client.ask({ type: 'close', link });
  for (const server of Object.values(servers)) {
    const { closed } = await eventually(
      () => server.stats(),
      (stats) => stats.closed.length === 20,
    );
    expect(closed).toHaveLength(20);
  }
  await expectNothingHeld(gate, client, ...Object.values(servers));
});

test('who says more than a greeting before it is answered gets nothing', async () => {
  const server = await start();
  const port = await listenFor(server);
  const socket = await openRaw(port);
  socket.write(Buffer.concat([Buffer.from('HFpeer\x01\x00'), Buffer.alloc(33)]));
  expect(await readToEnd(socket)).toHaveLength(0);
  expect((await server.stats()).events).toMatchObject([{ type: 'refused' }]);
});

test('who does not hold the key, or says half a greeting, is refused as by a thread that listens', async () => {
  const server = await start();
  const other = await start({ key: 'x' });
  const port = await listenFor(server);
  expect(await other.connect(port)).toMatchObject({ type: 0 });
  expect((await server.stats()).events).toMatchObject([{ type: 'refused', peer: '127.0.0.1' }]);
  const half = await openRaw(port);
  half.write('HFpe');
  const beganMs = performance.now();
  expect(await readToEnd(half)).toHaveLength(0);
  expect(performance.now() - beganMs).toBeLessThan(8000);
});

test('a connection that comes while the thread stops is closed at once', async () => {
  const server = await Side.start();
  const client = await start();
  const port = await listenFor(server);
  const { link } = await client.connect(port);
  // Slots that a volume still has keep the thread.
  await server.ask({ type: 'set', isHoarding: true });
  void client.run({ link, count: 10, depth: 10, minBytes: 4096, maxBytes: 4096 });
  const { hoardCount } = await eventually(
    () => server.stats(),
    (stats) => stats.hoardCount === 10,
  );
  expect(hoardCount).toBe(10);
  const stopped = server.stop();
  const late = await openRaw(port);
  late.write('HFpeer');
  const beganMs = performance.now();
  expect(await readToEnd(late)).toHaveLength(0);
  expect(performance.now() - beganMs).toBeLessThan(2000);
  await server.ask({ type: 'set', isHoarding: false });
  await stopped;
});
