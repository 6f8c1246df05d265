// The one port for calls and links: real sockets, and everything that a stranger may do with them.

import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ControlClient } from '../../../src/control/channel/client.ts';
import { ClusterListener, SILENT_LIMIT } from '../../../src/control/channel/listener.ts';
import type { ControlHandlers } from '../../../src/control/channel/protocol.ts';
import { RefusalLog } from '../../../src/control/channel/refusal-log.ts';
import { ControlServer } from '../../../src/control/channel/server.ts';
import { ClusterKey } from '../../../src/control/cluster-key.ts';
import { eventually } from '../../dataplane/peers-support.ts';

const KEY = new ClusterKey(Buffer.from('the key of the first cluster: 1!'));
const CLUSTER = 'a'.repeat(32);

let logLines: { msg: string; level: number; address?: string }[];
let cleanups: (() => unknown)[];

const log = pino({ level: 'info' }, { write: (line: string) => void logLines.push(JSON.parse(line)) });

beforeEach(() => {
  logLines = [];
  cleanups = [];
});
afterEach(async () => {
  for (const clean of cleanups.reverse()) await clean();
});

/** Nothing else is asked for. */
const handlers = {
  hello: () =>
    Promise.resolve({
      node: 'b',
      nodeId: 'x',
      process: 'x',
      bootId: 'x',
      softwareVersion: 'x',
      control: { min: 1, max: 1 },
    }),
} as Partial<ControlHandlers> as ControlHandlers;

/** What a link has said from its first byte on; it is answered with the sum of all when it has said it all. */
function answerWithSum(fd: number, received: Uint8Array): void {
  const sum = createHash('sha256').update(received);
  const socket = new Socket({ fd, allowHalfOpen: true });
  cleanups.push(() => socket.destroy());
  socket.on('error', () => undefined);
  socket.on('data', (data: Buffer) => void sum.update(data));
  socket.on('end', () => socket.end(sum.digest()));
}

interface Served {
  readonly port: number;
  close(): Promise<void>;
}

async function serve(
  onLink: (fd: number, received: Uint8Array) => void = answerWithSum,
  port = 0,
): Promise<Served> {
  const refusals = new RefusalLog(log);
  const server = new ControlServer({ key: KEY, cluster: CLUSTER, node: 'b', handlers, log, refusals });
  const listener = await ClusterListener.listen({
    host: '127.0.0.1',
    port,
    onCall: (socket) => server.accept(socket),
    onLink,
    refusals,
  });
  const close = async (): Promise<void> => {
    listener.close();
    await server.close(0);
  };
  cleanups.push(close);
  return { port: listener.port, close };
}

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  cleanups.push(() => socket.destroy());
  socket.on('error', () => undefined).setNoDelay();
  await once(socket, 'connect');
  return socket;
}

/** Everything that comes until the other end closes. */
async function readToEnd(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (piece: Buffer) => pieces.push(piece));
  await new Promise((resolve) => socket.on('end', resolve).on('close', resolve));
  return Buffer.concat(pieces);
}

async function hello(port: number): Promise<unknown> {
  const client = new ControlClient({
    address: `127.0.0.1:${port}`,
    key: KEY,
    cluster: CLUSTER,
    from: 'a',
    to: 'b',
  });
  try {
    return await client.call('hello', {}, 5000);
  } finally {
    client.close();
  }
}

function descriptors(): string[] {
  return readdirSync('/proc/self/fd');
}

const sumOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('a link', () => {
  test.each([
    ['one byte after the other', 40, 1],
    ['half a greeting, and the rest later', 40, 20],
    ['all at once', 40, 40],
    ['more than a read takes', 4_000_000, 4_000_000],
    ['much, in pieces', 1_000_000, 70_000],
  ])('is passed on with every byte in order: %s', async (_, byteCount, pieceBytes) => {
    const { port } = await serve();
    const said = randomBytes(byteCount);
    said.write('HFpeer');
    const socket = await open(port);
    const answer = readToEnd(socket);
    for (let at = 0; at < said.length; at += pieceBytes) {
      socket.write(said.subarray(at, at + pieceBytes));
      await sleep(2);
    }
    socket.end();
    expect((await answer).toString('hex')).toBe(sumOf(said));
    expect(logLines).toEqual([]);
  });

  test('is passed on at its first byte, under a descriptor of its own, as rings want it', async () => {
    const { promise, resolve } = Promise.withResolvers<{ fd: number; received: Uint8Array }>();
    const { port } = await serve((fd, received) => resolve({ fd, received }));
    const socket = await open(port);
    socket.write('H');
    const { fd, received } = await promise;
    expect(received).toEqual(new Uint8Array([0x48]));
    expect(received.buffer.byteLength).toBe(1);
    const flags = Number.parseInt(
      /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '',
      8,
    );
    expect(flags & 0o4000).toBe(0); // O_NONBLOCK
    expect(flags & 0o2000000).toBe(0o2000000); // O_CLOEXEC
    answerWithSum(fd, received);
    const answer = readToEnd(socket);
    socket.end('Fpeer');
    expect((await answer).toString('hex')).toBe(sumOf(Buffer.from('HFpeer')));
  });

  test('costs one descriptor, and none when it is over', async () => {
    const fds: number[] = [];
    const { port } = await serve((fd) => void fds.push(fd));
    const before = descriptors().length;
    const sockets = await Promise.all(Array.from({ length: 100 }, () => open(port)));
    for (const socket of sockets) socket.write('HFpeer');
    await eventually(
      async () => fds.length,
      (count) => count === 100,
    );
    // Our own ends count, too.
    expect(descriptors().length).toBe(before + 200);
    for (const fd of fds) closeSync(fd);
    await Promise.all(sockets.map((socket) => readToEnd(socket.resume())));
    for (const socket of sockets) socket.destroy();
    const after = async () => descriptors().length;
    expect(await eventually(after, (count) => count <= before)).toBe(before);
  });
});

describe('calls', () => {
  test('are answered beside links', async () => {
    const { port } = await serve();
    const link = async (): Promise<boolean> => {
      const said = randomBytes(300_000);
      said.write('HFpeer');
      const socket = await open(port);
      const answer = readToEnd(socket);
      socket.end(said);
      return (await answer).toString('hex') === sumOf(said);
    };
    const answers = await Promise.all(
      Array.from({ length: 60 }, async (_, index) => (index % 2 === 0 ? await link() : await hello(port))),
    );
    expect(answers).toEqual(
      answers.map((_, index) => (index % 2 === 0 ? true : expect.objectContaining({ node: 'b' }))),
    );
  });

  test('are answered when their bytes come one after the other', async () => {
    const { port } = await serve();
    const proxy = createServer((client) => {
      const target = connect(port, '127.0.0.1');
      cleanups.push(() => target.destroy());
      target.on('error', () => undefined).setNoDelay();
      target.on('data', (data: Buffer) => client.write(data)).on('close', () => client.destroy());
      const said: number[] = [];
      const dripping = setInterval(() => {
        const byte = said.shift();
        if (byte !== undefined) target.write(Buffer.from([byte]));
      }, 1);
      client.on('error', () => undefined).on('data', (data: Buffer) => void said.push(...data));
      client.on('close', () => {
        clearInterval(dripping);
        target.destroy();
      });
    }).listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    cleanups.push(() => proxy.close());
    expect(await hello((proxy.address() as AddressInfo).port)).toMatchObject({ node: 'b' });
  });
});

describe('a stranger', () => {
  test.each([
    ['HTTP', 'GET / HTTP/1.1\r\nHost: b\r\n\r\n'],
    ['a zero', '\0'],
    ['SSH', 'SSH-2.0-OpenSSH_9.2\r\n'],
    ['a TLS alert', '\x15\x03\x03\x00\x02\x01\x00'],
    ['a megabyte of anything else', 'x'.repeat(1_000_000)],
  ])('that says %s is closed without a word, and logged once', async (_, text) => {
    const { port } = await serve();
    for (let i = 0; i < 3; i += 1) {
      const socket = await open(port);
      socket.write(text);
      expect(await readToEnd(socket)).toHaveLength(0);
    }
    expect(logLines).toEqual([expect.objectContaining({ level: 40, address: '127.0.0.1' })]);
    expect(await hello(port)).toMatchObject({ node: 'b' });
  });

  test('that says TLS and then nothing good gets an alert at most', async () => {
    const { port } = await serve();
    const socket = await open(port);
    socket.write(Buffer.concat([Buffer.from([0x16]), randomBytes(200_000)]));
    expect((await readToEnd(socket)).length).toBeLessThan(16);
    expect(await hello(port)).toMatchObject({ node: 'b' });
  });

  test('that never ends its TLS handshake is sent away, however busily it talks', {
    timeout: 20_000,
  }, async () => {
    const { port } = await serve();
    const socket = await open(port);
    const beganMs = performance.now();
    // The longest record that there is: what comes is right as far as it goes.
    const record = Buffer.from([0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3]);
    let at = 0;
    const dripping = setInterval(() => {
      socket.write(record.subarray(at, at + 1));
      at += 1;
    }, 500);
    cleanups.push(() => clearInterval(dripping));
    await readToEnd(socket);
    expect(performance.now() - beganMs).toBeLessThan(8000);
  });

  test('cannot keep daemons away by thousands of connections that say nothing', {
    timeout: 30_000,
  }, async () => {
    const { port } = await serve();
    let openCount = 0;
    for (let round = 0; round < 30; round += 1) {
      const sockets = await Promise.all(Array.from({ length: 100 }, () => open(port)));
      openCount += sockets.length;
      for (const socket of sockets) {
        socket.resume().on('close', () => {
          openCount -= 1;
        });
        socket.on('end', () => socket.destroy());
      }
    }
    const count = async (): Promise<number> => openCount;
    expect(await eventually(count, (left) => left <= SILENT_LIMIT)).toBe(SILENT_LIMIT);
    expect(await hello(port)).toMatchObject({ node: 'b' });
    const said = Buffer.from('HFpeer and more');
    const link = await open(port);
    const answer = readToEnd(link);
    link.end(said);
    expect((await answer).toString('hex')).toBe(sumOf(said));
    expect(await eventually(count, (left) => left === 0, 9000)).toBe(0);
    expect(logLines).toEqual([]);
  });

  test('that comes and goes without a word is not logged', async () => {
    const { port } = await serve();
    const [ended, reset] = [await open(port), await open(port)];
    const closed = readToEnd(ended);
    ended.end();
    reset.resetAndDestroy();
    expect(await closed).toHaveLength(0);
    expect(await hello(port)).toMatchObject({ node: 'b' });
    expect(logLines).toEqual([]);
  });
});

test('without a descriptor to be had a link is closed, which is logged once, and later ones are served', async () => {
  const { port } = await serve();
  const strangers = await Promise.all(Array.from({ length: 3 }, () => open(port)));
  const limit = /Max open files\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? '';
  const set = `prlimit --pid ${process.pid} --nofile`;
  // Started before, since without descriptors nothing can be.
  const limiter = spawn('sh', ['-c', `${set}=3: && echo limited && read line; ${set}=${limit}:`]);
  const restored = once(limiter, 'exit');
  await once(limiter.stdout, 'data');
  try {
    for (const stranger of strangers) {
      stranger.write('HFpeer');
      expect(await readToEnd(stranger)).toHaveLength(0);
    }
  } finally {
    limiter.stdin.end('\n');
    await restored;
  }
  expect(logLines).toEqual([expect.objectContaining({ level: 40, msg: expect.stringMatching(/accepted/) })]);
  const socket = await open(port);
  const answer = readToEnd(socket);
  socket.end('HFpeer');
  expect((await answer).toString('hex')).toBe(sumOf(Buffer.from('HFpeer')));
});

describe('closing', () => {
  test('sends silent ones away, frees the port at once, and leaves links alone', async () => {
    const first = await serve();
    const silent = await open(first.port);
    const link = await open(first.port);
    const answer = readToEnd(link);
    link.write('HFpeer');
    await hello(first.port);
    await first.close();
    expect(await readToEnd(silent)).toHaveLength(0);
    const second = await serve(answerWithSum, first.port);
    expect(await hello(second.port)).toMatchObject({ node: 'b' });
    link.end(' goes on');
    expect((await answer).toString('hex')).toBe(sumOf(Buffer.from('HFpeer goes on')));
  });

  test('does not wait for those who have not ended their TLS handshake', async () => {
    const { port, close } = await serve();
    const socket = await open(port);
    socket.write(Buffer.from([0x16, 3, 1]));
    await hello(port);
    const beganMs = performance.now();
    await close();
    expect(performance.now() - beganMs).toBeLessThan(2000);
    expect(await readToEnd(socket)).toHaveLength(0);
  });

  test('an address that is taken is refused with what to do', async () => {
    const { port } = await serve();
    await expect(serve(answerWithSum, port)).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringMatching(/another port/),
    });
  });
});
