// Strangers, other clusters, damaged and forged bytes, deaths: whatever happens on the wire, nothing wrong is delivered,
// the link ends with one line, and slots and memory come back.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, describe, expect, test } from 'vitest';
import { FRAME_REFUSED, FRAME_WELCOME } from '../../src/replication/frames.ts';
import { eventually, SESSION, Side, type SideOptions, STREAM } from './peers-support.ts';

const GREETING_BYTES = 40;
const PROOF_BYTES = 32;
const HANDSHAKE_BYTES = GREETING_BYTES + PROOF_BYTES;

const sides: Side[] = [];
const servers: Server[] = [];
const sockets: Socket[] = [];

async function start(options: SideOptions = {}): Promise<Side> {
  const side = await Side.start(options);
  sides.push(side);
  return side;
}

async function startListening(options: SideOptions = {}): Promise<Side> {
  const side = await start(options);
  await side.listen();
  return side;
}

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
  await Promise.all(sides.splice(0).map((side) => side.stop()));
});

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

/** What is to be done with bytes on their way to the listening side; `at`: how many went before. */
type Tamper = (bytes: Buffer, at: number, to: Socket) => Buffer;

/** Listens, passes on to `port`, and lets the first direction be tampered with. */
async function proxy(port: number, tamper: Tamper): Promise<number> {
  const server = createServer((client) => {
    const target = connect(port, '127.0.0.1');
    sockets.push(client, target);
    for (const socket of [client, target]) socket.on('error', () => undefined).setNoDelay();
    let at = 0;
    client.on('data', (bytes: Buffer) => {
      target.write(tamper(bytes, at, target));
      at += bytes.length;
    });
    target.on('data', (bytes: Buffer) => client.write(bytes));
    client.on('close', () => target.destroy());
    target.on('close', () => client.destroy());
  }).listen(0, '127.0.0.1');
  servers.push(server);
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

async function openRaw(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  sockets.push(socket);
  await once(socket, 'connect');
  return socket;
}

/** Everything that comes until the other end closes. */
async function readToEnd(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  await new Promise((resolve) => socket.once('close', resolve));
  return Buffer.concat(pieces);
}

const run = { count: 500, depth: 8, minBytes: 512, maxBytes: 32_768 };

describe('who does not belong', () => {
  test.each([
    ['another key', { key: 'x' }],
    ['another cluster', { clusterId: 'other' }],
  ] as const)('with %s is refused at both ends, and that is said once a minute', async (_, other) => {
    const a = await start(other);
    const b = await startListening();
    for (let attempt = 0; attempt < 10; attempt++) {
      expect(await a.connect(b.port)).toMatchObject({ type: 0 });
    }
    for (const side of [a, b]) {
      const { events } = await side.stats();
      expect(events.map(({ type }) => type)).toEqual(['refused']);
    }
    expect((await b.stats()).accepted).toEqual([]);
  });

  test('gets a greeting that differs every time, and nothing else', async () => {
    const b = await startListening();
    const greetings = new Set<string>();
    for (let attempt = 0; attempt < 3; attempt++) {
      const socket = await openRaw(b.port);
      const greeting = Buffer.concat([Buffer.from('HFpeer\x01\x00'), Buffer.alloc(32)]);
      socket.write(Buffer.concat([greeting, Buffer.alloc(PROOF_BYTES)]));
      const heard = await readToEnd(socket);
      expect(heard).toHaveLength(GREETING_BYTES);
      greetings.add(heard.toString('hex'));
    }
    expect(greetings.size).toBe(3);
  });

  test('and speaks another protocol gets nothing at all', async () => {
    const b = await startListening();
    const socket = await openRaw(b.port);
    socket.write('GET / HTTP/1.1\r\nHost: holdfast.example\r\n\r\n');
    expect(await readToEnd(socket)).toHaveLength(0);
  });

  test('gets nowhere by saying again what a daemon said', async () => {
    const said: Buffer[] = [];
    const a = await start();
    const b = await startListening();
    const port = await proxy(b.port, (bytes) => {
      said.push(Buffer.from(bytes));
      return bytes;
    });
    const { link, type } = await a.connect(port);
    expect(type).toBe(FRAME_WELCOME);
    await a.run({ ...run, link });
    const before = await b.stats();
    const socket = await openRaw(b.port);
    socket.write(Buffer.concat(said));
    // The greeting may be lost with the rest, since not all of this is read.
    expect((await readToEnd(socket)).length).toBeLessThanOrEqual(GREETING_BYTES);
    const after = await b.stats();
    expect(after.accepted).toEqual(before.accepted);
    expect(after.receivedCount).toBe(before.receivedCount);
  });

  test('gets nowhere by sending a daemon its own words back', async () => {
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => undefined).pipe(socket);
    }).listen(0, '127.0.0.1');
    servers.push(server);
    await once(server, 'listening');
    const a = await start();
    expect(await a.connect((server.address() as AddressInfo).port)).toMatchObject({ type: 0 });
    expect((await a.stats()).events).toMatchObject([{ type: 'refused' }]);
  });

  test('cannot keep others away by a thousand connections that say nothing', async () => {
    const a = await start();
    const b = await startListening();
    const strangers = await Promise.all(Array.from({ length: 1000 }, () => openRaw(b.port)));
    let openCount = strangers.length;
    for (const socket of strangers) socket.resume().on('close', () => (openCount -= 1));
    const startedMs = Date.now();
    const { link, type } = await a.connect(b.port);
    expect(type).toBe(FRAME_WELCOME);
    expect(Date.now() - startedMs).toBeLessThan(4000);
    expect(await a.run({ ...run, link })).toMatchObject({ isWhole: true });
    // Of the thread's memory they have nothing, and only some dozens of them are left.
    expect(await b.stats()).toMatchObject({ freeRequests: 2048, events: [] });
    expect(
      await eventually(
        async () => openCount,
        (count) => count <= 64,
      ),
    ).toBeLessThanOrEqual(64);
    expect(
      await eventually(
        async () => openCount,
        (count) => count === 0,
        9000,
      ),
    ).toBe(0);
  });
});

test('a daemon whose versions of the wire are too far away is refused, and told so', async () => {
  const a = await start({ versions: { min: 2, max: 3 } });
  const b = await startListening();
  expect(await a.connect(b.port)).toMatchObject({ type: FRAME_REFUSED });
  // Either log says which of them is to be upgraded.
  const reasons = async (side: Side): Promise<string[]> =>
    (await side.stats()).events.flatMap((event) => (event.type === 'refused' ? [event.reason] : []));
  expect(await reasons(b)).toEqual([expect.stringMatching(/versions 2 to 3 .* 1 to 1: upgrade this daemon/)]);
  expect(await reasons(a)).toEqual([
    expect.stringMatching(/versions 1 to 1 .* 2 to 3: upgrade the other daemon/),
  ]);
});

test('a daemon whose handshake is too far away is refused, and told which versions are spoken here', async () => {
  const b = await startListening();
  const socket = await openRaw(b.port);
  const received: Buffer[] = [];
  socket.on('data', (bytes: Buffer) => received.push(bytes));
  const ended = once(socket, 'end');
  const [newest, oldest] = [9, 8];
  socket.write(Buffer.concat([Buffer.from('HFpeer'), Buffer.from([newest, oldest]), randomBytes(32)]));
  await ended;
  const greeting = Buffer.concat(received);
  expect(greeting.subarray(0, 8)).toEqual(Buffer.concat([Buffer.from('HFpeer'), Buffer.from([1, 1])]));
  expect(greeting).toHaveLength(40);
  expect((await b.stats()).events).toMatchObject([
    {
      type: 'refused',
      reason: expect.stringMatching(/versions 8 to 9 .* 1 to 1: upgrade this daemon/) as string,
    },
  ]);
});

test('a daemon that speaks newer versions too is spoken to in ours', async () => {
  const a = await start({ versions: { min: 1, max: 3 } });
  const b = await startListening();
  const { link, type } = await a.connect(b.port);
  expect(type).toBe(FRAME_WELCOME);
  expect(await a.run({ ...run, link })).toMatchObject({ isWhole: true });
});

describe('on the way', () => {
  const places = [
    ...Array.from({ length: 9 }, (_, index) => 9 * index),
    // The Hello: its header, its seal, its text and the text's seal; then frames and their payloads.
    ...Array.from({ length: 40 }, (_, index) => HANDSHAKE_BYTES + 17 * index),
    ...Array.from({ length: 40 }, (_, index) => 1_000 + 48_611 * index),
  ];

  test('a flipped bit anywhere ends the link, and nothing wrong is delivered', async () => {
    const a = await start({ verify: true });
    const b = await startListening({ verify: true });
    let place = -1;
    const port = await proxy(b.port, (bytes, at) => {
      if (place < at || place >= at + bytes.length) return bytes;
      const changed = Buffer.from(bytes);
      changed[place - at] = (changed[place - at] as number) ^ (1 << (place & 7));
      return changed;
    });
    for (place of places) {
      const { link, type } = await a.connect(port);
      if (type === FRAME_WELCOME) expect(await a.run({ ...run, link })).toMatchObject({ isWhole: false });
    }
    place = -1;
    const { link } = await a.connect(port);
    expect(await a.run({ ...run, link })).toMatchObject({ isWhole: true });
    expect(await b.stats()).toMatchObject({ badCount: 0 });
    await expectNothingHeld(a, b);
  });

  test('bytes that are repeated, left out or put in from elsewhere end the link', async () => {
    const a = await start({ verify: true });
    const b = await startListening({ verify: true });
    const AFTER = 200_000;
    let recorded = Buffer.alloc(0);
    let isDone = false;
    let how: Tamper = (bytes) => bytes;
    const port = await proxy(b.port, (bytes, at, to) => {
      if (at === 0) isDone = false;
      if (isDone || at < AFTER) return bytes;
      isDone = true;
      return how(bytes, at, to);
    });
    const ways: Tamper[] = [
      (bytes) => {
        recorded = Buffer.from(bytes);
        return Buffer.concat([bytes, bytes]);
      },
      () => Buffer.alloc(0),
      (bytes) => Buffer.concat([recorded, bytes]),
      (bytes) => Buffer.concat([Buffer.alloc(72), bytes]),
    ];
    for (how of ways) {
      const { link } = await a.connect(port);
      expect(await a.run({ ...run, link })).toMatchObject({ isWhole: false });
    }
    const { badCount, events } = await eventually(
      () => b.stats(),
      (stats) => stats.events.length >= ways.length,
    );
    expect(badCount).toBe(0);
    expect(events.map(({ type }) => type)).toEqual(ways.map(() => 'ended'));
    await expectNothingHeld(a, b);
  });
});

test('a daemon that is killed under load is noticed at once, and its writes give everything back', async () => {
  const fixture = fileURLToPath(new URL('./peers-process.fixture.ts', import.meta.url));
  for (let round = 0; round < 3; round++) {
    const child = execa(process.execPath, [fixture], { reject: false });
    const port = Number(await once(child.stdout, 'data'));
    const a = await start();
    const { link } = await a.connect(port, round === 2 ? SESSION : STREAM);
    const isRead = round === 2 ? { isRead: true } : {};
    const figures = a.run({ link, count: 1e9, depth: 64, minBytes: 4096, maxBytes: 65_536, ...isRead });
    await new Promise((resolve) => setTimeout(resolve, 100 + 50 * round));
    const killedMs = Date.now();
    child.kill('SIGKILL');
    expect(await figures).toMatchObject({ isWhole: false });
    expect(Date.now() - killedMs).toBeLessThan(3000);
    await child;
    await expectNothingHeld(a);
  }
});
