// The addon in a lab guest: the kernel's NBD driver over generic netlink, for real, and the ring on the
// guest's older kernel. One guest runs the whole sequence; the tests read what it saw.

import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

const SEQUENCE = fileURLToPath(new URL('../lab-guests/nbd-commands.ts', import.meta.url));
const LIFE = fileURLToPath(new URL('../native/children/life.ts', import.meta.url));
let guest: Guest;
let seen: Record<string, unknown>;

beforeAll(async () => {
  guest = await Guest.start({ modules: ['nbd max_part=0'], timeoutMs: 180_000 });
  seen = JSON.parse(await mustRun(guest, [process.execPath, SEQUENCE])) as Record<string, unknown>;
});

afterAll(async () => {
  await guest[Symbol.asyncDispose]();
});

function refused(code: string): unknown {
  return expect.objectContaining({ code, syscall: 'netlink' });
}

describe('the kernel’s NBD driver', () => {
  test('connects a device with its size, block size, write cache and identifier', () => {
    expect(seen).toMatchObject({
      'status before': { ok: [{ index: 0, connected: false }] },
      connect: { ok: 0 },
      status: { ok: [{ index: 0, connected: true }] },
      backend: 'volume/1',
      sectors: '16384',
      'block size': '4096',
      'write cache': 'write back',
      read: 'contents of the disk',
    });
  });

  test('refuses a device that is in use, and finds a free one when asked for any', () => {
    expect(seen).toMatchObject({ 'connect again': refused('EBUSY'), 'connect anywhere': { ok: 1 } });
    const { ok } = seen['all'] as { ok: { index: number; connected: boolean }[] };
    expect(ok.filter(({ connected }) => connected).map(({ index }) => index)).toEqual([0, 1]);
  });

  test('keeps requests while the server is dead and gives them to the next one of the same identifier', () => {
    expect(seen).toMatchObject({
      'answered without a server': 'not',
      'reconfigure as another': refused('EINVAL'),
      'reconfigure as nobody': refused('EINVAL'),
      reconfigure: { ok: null },
      'read after reconfigure': 'contents of the disk',
    });
  });

  test('says yes to a reconfigure of a live device and leaves the new socket aside', () => {
    expect(seen).toMatchObject({ 'reconfigure a live device': { ok: null }, 'connections taken then': 0 });
  });

  test('resizes a device in use', () => {
    expect(seen).toMatchObject({ resize: { ok: null }, 'sectors after resize': '32768' });
  });

  test('disconnects, twice without harm, and refuses what is not there', () => {
    expect(seen).toMatchObject({
      disconnect: { ok: null },
      'disconnect again': { ok: null },
      'status after': { ok: [{ index: 0, connected: false }] },
      'backend after': null,
      'reconfigure after': refused('EINVAL'),
      'bad socket': expect.objectContaining({ code: 'EBADF', syscall: 'fcntl' }),
      'disconnect unknown': refused('EINVAL'),
    });
  });
});

describe('a device in trouble', () => {
  test('has its lost requests sent again when the queue’s timer looks', () => {
    expect(seen).toMatchObject({
      'connect for a resend': { ok: 0 },
      'read that was lost': 'contents of the disk',
      'io_timeout after reconfigure': '1000',
    });
    expect(seen['resent within ms']).toBeLessThan(15_000);
  });

  test('is disconnected although its server takes no more', () => {
    expect(seen).toMatchObject({
      'disconnect of a stuck device': { ok: null },
      'write to it': expect.stringContaining('Input/output error'),
    });
    expect(seen['disconnected within ms']).toBeGreaterThan(4000);
    expect(seen['disconnected within ms']).toBeLessThan(20_000);
  });
});

describe('the ring on the guest’s kernel', () => {
  test.each([
    'requests in flight',
    'closed twice',
    'used after close',
    'worker terminated while it waits',
    'process.exit in a worker',
  ])('survives: %s', async (name) => {
    expect(await guest.run([process.execPath, LIFE, name])).toEqual({
      exitCode: 0,
      stdout: 'alive\n',
      stderr: '',
    });
  });
});
