// Listening sockets, pairs and eventfds, seen from Node's own network code and from /proc.

import { once } from 'node:events';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isNativeError, native } from '../../src/dataplane/native.ts';
import { OP, TestRing } from './test-ring.ts';

let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'holdfast-native-'));
});

afterAll(() => {
  rmSync(dir, { recursive: true });
});

function flagsOf(fd: number): number {
  const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0';
  return Number.parseInt(flags, 8);
}

function isCloseOnExec(fd: number): boolean {
  return (flagsOf(fd) & 0o2000000) !== 0;
}

function connectAndGreet(target: { path: string } | { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(target, () => socket.end('hello', resolve));
    socket.once('error', reject);
  });
}

async function acceptGreeting(
  listenFd: number,
  target: Parameters<typeof connectAndGreet>[0],
): Promise<string> {
  using ring = new TestRing();
  await connectAndGreet(target);
  const fd = ring.run({ opcode: OP.accept, fd: listenFd });
  const length = ring.run({ opcode: OP.recv, fd, address: ring.arena.address, length: 64 });
  native.close(fd);
  return ring.bytes.toString('latin1', 0, length);
}

describe('listenUnix', () => {
  test('listens with the mode asked for, whatever the umask', async () => {
    const path = join(dir, 'socket');
    const umask = process.umask(0o077);
    const fd = native.listenUnix(path, 0o666, 8);
    process.umask(umask);
    expect(statSync(path).mode & 0o777).toBe(0o666);
    expect(isCloseOnExec(fd)).toBe(true);
    expect(await acceptGreeting(fd, { path })).toBe('hello');
    native.close(fd);
  });

  test('refuses a path that exists and leaves it there', () => {
    const path = join(dir, 'taken');
    writeFileSync(path, 'mine');
    expect(() => native.listenUnix(path, 0o600, 8)).toThrow('EADDRINUSE');
    expect(readFileSync(path, 'utf8')).toBe('mine');
  });

  test('refuses a path that does not fit, before it makes anything', () => {
    const path = join(dir, 'x'.repeat(108));
    expect(() => native.listenUnix(path, 0o600, 8)).toThrow('ENAMETOOLONG');
    expect(existsSync(path)).toBe(false);
    expect(() => native.listenUnix('', 0o600, 8)).toThrow(TypeError);
    expect(() => native.listenUnix('a\0b', 0o600, 8)).toThrow(TypeError);
  });
});

describe('listenTcp', () => {
  test.each(['127.0.0.1', '::1'])('picks a port on %s and listens there', async (host) => {
    const { fd, port } = native.listenTcp(host, 0, 8);
    expect(port).toBeGreaterThan(0);
    expect(isCloseOnExec(fd)).toBe(true);
    expect(await acceptGreeting(fd, { host, port })).toBe('hello');
    expect(() => native.listenTcp(host, port, 8)).toThrow('EADDRINUSE');
    native.close(fd);
    native.close(native.listenTcp(host, port, 8).fd);
  });

  test('takes addresses and no names', () => {
    expect(() => native.listenTcp('localhost', 0, 8)).toThrow(TypeError);
    expect(() => native.listenTcp('192.0.2.1', 0, 8)).toThrow('EADDRNOTAVAIL');
  });
});

describe('descriptors', () => {
  test('of a pair are connected, close on exec, and hold as much as was asked for', () => {
    const [left, right] = native.socketPair(4 << 20);
    expect([isCloseOnExec(left), isCloseOnExec(right)]).toEqual([true, true]);
    native.setSocketBuffers(left, 1 << 20);
    native.shutdownSocket(left);
    native.shutdownSocket(left);
    native.close(left);
    native.shutdownSocket(right);
    native.close(right);
  });

  test('tell when either end of a connection is gone', () => {
    for (const end of [native.close, native.shutdownSocket]) {
      for (const side of [0, 1] as const) {
        const pair = native.socketPair(0);
        expect(native.isSocketConnected(pair[0])).toBe(true);
        end(pair[side]);
        expect(native.isSocketConnected(pair[(1 - side) as 0 | 1])).toBe(false);
        for (const fd of end === native.close ? [pair[1 - side] ?? -1] : pair) native.close(fd);
      }
    }
    expect(() => native.isSocketConnected(1 << 20)).toThrow('EBADF');
  });

  test('that are not sockets are refused with the kernel’s word', () => {
    const fd = native.eventFd();
    expect(isCloseOnExec(fd)).toBe(true);
    expect(() => native.setNoDelay(fd)).toThrow('ENOTSOCK');
    expect(() => native.shutdownSocket(fd)).toThrow('ENOTSOCK');
    native.close(fd);
    expect(() => native.close(fd)).toThrow('EBADF');
  });

  test('have a second descriptor that blocks and outlives the first', async () => {
    using ring = new TestRing();
    const listening = native.listenTcp('127.0.0.1', 0, 8);
    const client = connect(listening.port, '127.0.0.1');
    await once(client, 'connect');
    const first = ring.run({ opcode: OP.accept, fd: listening.fd });
    // As Node leaves its own.
    const owner = new Socket({ fd: first });
    const fd = native.duplicateSocket(first);
    owner.destroy();
    expect(isCloseOnExec(fd)).toBe(true);
    expect(flagsOf(fd) & 0o4000).toBe(0); // O_NONBLOCK
    expect(native.isSocketConnected(fd)).toBe(true);
    await new Promise((resolve) => client.write('later', resolve));
    expect(ring.run({ opcode: OP.recv, fd, address: ring.arena.address, length: 64 })).toBe(5);
    client.destroy();
    for (const one of [fd, listening.fd]) native.close(one);
    const event = native.eventFd();
    expect(() => native.duplicateSocket(event)).toThrow(TypeError);
    native.close(event);
  });

  test('get TCP_NODELAY only when they are TCP', () => {
    const { fd } = native.listenTcp('127.0.0.1', 0, 1);
    native.setNoDelay(fd);
    native.close(fd);
    const [left, right] = native.socketPair(0);
    expect(() => native.setNoDelay(left)).toThrow('setsockopt');
    native.close(left);
    native.close(right);
  });

  test('that are files are never taken for eventfds', () => {
    const path = join(dir, 'precious');
    writeFileSync(path, 'precious');
    const fd = openSync(path, 'r+');
    expect(() => native.signalEventFd(fd)).toThrow(TypeError);
    native.close(fd);
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  test('count the signals of an eventfd', () => {
    using ring = new TestRing();
    const fd = native.eventFd();
    for (let i = 0; i < 3; i++) native.signalEventFd(fd);
    expect(ring.run({ opcode: OP.read, fd, address: ring.arena.address, length: 8 })).toBe(8);
    expect(ring.bytes.readBigUInt64LE(0)).toBe(3n);
    native.close(fd);
  });
});

describe('a native error', () => {
  test('carries code, errno and the system call', () => {
    try {
      native.close(1 << 20);
      expect.unreachable();
    } catch (error) {
      expect(isNativeError(error, 'EBADF')).toBe(true);
      expect(error).toMatchObject({ code: 'EBADF', errno: 9, syscall: 'close' });
    }
  });
});
