import { once } from 'node:events';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { awaitDaemon } from '../../src/cli/await-daemon.ts';

let directory: string;
let said: string[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-await-'));
  said = [];
});
afterEach(() => rm(directory, { recursive: true }));

const options = { patienceMs: 800, silentMs: 300, say: (text: string) => said.push(text) };
async function waitedMs(path: string, given = options): Promise<number> {
  const began = performance.now();
  await awaitDaemon(path, given);
  return performance.now() - began;
}
async function listen(path: string): Promise<AsyncDisposable> {
  const server = createServer((socket) => socket.end()).listen(path);
  await once(server, 'listening');
  return server;
}

test('a daemon that listens is not waited for, and neither is one whose directory is not there', async () => {
  const path = join(directory, 'api.sock');
  await using _ = await listen(path);
  const patient = { ...options, patienceMs: 5000, silentMs: 4000 };
  for (const given of [path, join(directory, 'no/api.sock')])
    expect(await waitedMs(given, patient)).toBeLessThan(4000);
  expect(said).toEqual([]);
});

test('a missing socket is waited for, with a word after a while, and given up in the end', async () => {
  const path = join(directory, 'api.sock');
  expect(await waitedMs(path)).toBeGreaterThanOrEqual(800);
  expect(said).toEqual([expect.stringMatching(`${path} yet; waiting up to 0.8 s`)]);
});

test('the wait ends as soon as somebody listens in place of the socket that a dead daemon left', async () => {
  const path = join(directory, 'api.sock');
  const dead = await listen(join(directory, 'dead.sock'));
  // Closing removes the name it was made under only.
  await rename(join(directory, 'dead.sock'), path);
  await dead[Symbol.asyncDispose]();
  const waiting = waitedMs(path, { ...options, patienceMs: 10_000 });
  await expect.poll(() => said.length, { timeout: 5000 }).toBe(1);
  await using _ = await listen(join(directory, 'new.sock'));
  await rename(join(directory, 'new.sock'), path);
  expect(await waiting).toBeLessThan(8000);
});
