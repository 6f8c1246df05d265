// What an opening tells of the last serving, and what a serving leaves in the run directory.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';

const VOLUME = 'ab'.repeat(16);
let directory = '';
let runDirectory = '';
let storage: Storage | undefined;

beforeEach(() => {
  directory = mkdtempSync('/var/tmp/holdfast-opening-');
  runDirectory = mkdtempSync('/dev/shm/holdfast-opening-');
});

afterEach(async () => {
  await storage?.close();
  storage = undefined;
  for (const path of [directory, runDirectory]) rmSync(path, { recursive: true });
});

/** A process that makes the volume if need be, serves it, and is killed. */
async function serveAndKill(): Promise<void> {
  const options = {
    directory: join(directory, 'pool'),
    runDirectory,
    socketPath: join(directory, 'socket'),
    exportName: 'data',
    sizeBytes: 8 * 1024 * 1024,
    ioMode: 'buffered',
    volumeId: VOLUME,
  };
  const child = fork(
    join(import.meta.dirname, '../support/nbd-server.fixture.ts'),
    [JSON.stringify(options)],
    {
      timeout: 20_000,
      killSignal: 'SIGKILL',
    },
  );
  const [word] = (await once(child, 'message')) as [unknown];
  expect(word).toBe('ready');
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function start(inRunDirectory: string): Promise<Storage> {
  storage = await createNodeStorage({
    nodeName: 'test',
    runDirectory: inRunDirectory,
    pools: [{ name: 'pool', directory: join(directory, 'pool'), reserveBytes: 0, overcommitRatio: 1000 }],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  return storage;
}

const windows = (): string[] => readdirSync(join(runDirectory, 'window'));
const open = (epoch: number) => ({ volumeId: VOLUME, epoch, opening: VOLUME, attachmentNumber: 0 });

test("a killed daemon's window is found, and none is left by a clean close, whose volume opens clean", async () => {
  await serveAndKill();
  expect(windows()).toHaveLength(1);
  const opened = await start(runDirectory);
  expect(await opened.openVolume(open(2))).toEqual({ lastEnd: 'killed', isWindowIntact: true });
  // The same opening, in a later epoch.
  expect(await opened.openVolume(open(3))).toEqual({ lastEnd: 'killed', isWindowIntact: true });
  await opened.closeVolume(VOLUME);
  expect(windows()).toEqual([]);
  expect(await opened.openVolume(open(4))).toEqual({ lastEnd: 'clean', isWindowIntact: false });
});

test('a daemon with another run directory finds no window, and says so', async () => {
  await serveAndKill();
  const opened = await start(join(runDirectory, 'other'));
  expect(await opened.openVolume(open(2))).toEqual({ lastEnd: 'killed', isWindowIntact: false });
});
