// SIGKILL of a writing process, seen from outside: what it acknowledged before its end is there afterwards.

import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { LevelStore } from '../../src/control/level-store.ts';
import { compare, readLog } from '../lab-guests/store-check.ts';
import { keyName, valueAt } from '../lab-guests/store-pattern.ts';

const ROUNDS = 20;
const WRITER = new URL('../lab-guests/store-writer.ts', import.meta.url).pathname;

let parent: string;
let directory: string;
let child: ChildProcessByStdio<null, Readable, null> | undefined;

beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'holdfast-kill-'));
  directory = join(parent, 'store');
});

afterEach(async () => {
  child?.kill('SIGKILL');
  await rm(parent, { recursive: true });
});

/** Starts the writer, kills it `delayMs` after its `lineCount`th line, and returns all it printed. */
async function writeAndKill(lineCount: number, delayMs: number): Promise<string> {
  child = spawn(process.execPath, [WRITER, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
  const process_ = child;
  const ended = once(process_, 'close');
  let printed = '';
  let lines = 0;
  let isKilled = false;
  process_.stdout.setEncoding('utf8').on('data', (text: string) => {
    printed += text;
    lines += text.split('\n').length - 1;
    if (lines < lineCount || isKilled) return;
    isKilled = true;
    void sleep(delayMs).then(() => process_.kill('SIGKILL'));
  });
  const [, signal] = (await ended) as [number | null, string | null];
  expect(signal).toBe('SIGKILL');
  return printed;
}

test('a process killed at any of its writes has kept every write that it acknowledged, and none is a mixture', async () => {
  let log = '';
  for (let round = 0; round < ROUNDS; round += 1) {
    // The first rounds end at each of the first lines: making the store, its first write, the next.
    log += await writeAndKill(
      round < 10 ? round : (round * 37) % 400,
      round % 5 === 0 ? 0 : Math.random() * 5,
    );
    expect(await compare(directory, readLog(log)), `after kill ${round}`).toEqual([]);
  }
  expect(readLog(log).revision).toBeGreaterThan(ROUNDS * 10);
}, 60_000);

test('a process killed while it makes the store leaves a store or none, and the next one makes it', async () => {
  for (let round = 0; round < 10; round += 1) {
    const started = spawn(process.execPath, [WRITER, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
    child = started;
    const ended = once(started, 'close');
    // The moment between the first file of a store and the first line of its writer.
    await untilExists(parent);
    await sleep(round / 2);
    started.kill('SIGKILL');
    await ended;
    await (await LevelStore.open(directory)).close();
    expect(await readdir(parent)).toEqual(['store']);
    await rm(directory, { recursive: true });
  }
});

async function untilExists(place: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < 10_000; waitedMs += 1) {
    if ((await readdir(place)).length > 0) return;
    await sleep(1);
  }
  throw new Error(`nothing appeared in ${place}`);
}

test('the comparison notices a write that is missing and one that is a mixture', async () => {
  const store = await LevelStore.open(directory);
  await store.compareAndSwap(keyName(0), 0, valueAt(keyName(0), 5));
  await store.close();
  const identity = `identity ${store.identity}\n`;
  expect(await compare(directory, readLog(`${identity}${keyName(0)} 4 2\n${keyName(0)} 9 2`))).toEqual([]);
  expect(await compare(directory, readLog(`${identity}${keyName(0)} 6 2\n`))).toHaveLength(1);
  expect(await compare(directory, readLog(`${identity}${keyName(1)} 2 2\n`))).toHaveLength(2);
  expect(await compare(directory, readLog(`identity other\n${keyName(0)} 5 9\n`))).toHaveLength(2);

  const again = await LevelStore.open(directory);
  const entry = await again.get(keyName(0));
  await again.compareAndSwap(
    keyName(0),
    entry?.revision ?? 0,
    valueAt(keyName(0), 6).replace('"filler":"', '"filler":"0'),
  );
  await again.close();
  await expect(compare(directory, readLog(''))).rejects.toThrow(/mixture/);
});
