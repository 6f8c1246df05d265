// What an opening tells of the last serving, and what a serving leaves in the run directory.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE, LoneVolumes } from '../support/lone-volumes.ts';
import { NbdClient } from '../support/nbd-client.ts';

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
  // Served, and not opened only.
  const client = await NbdClient.connect(options.socketPath, options.exportName);
  await client.write(0, Buffer.alloc(4096, 1));
  child.kill('SIGKILL');
  await once(child, 'exit');
  client.destroy();
}

async function start(inRunDirectory: string): Promise<LoneVolumes> {
  storage = await createNodeStorage({
    nodeName: LONE_NODE,
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
  return await LoneVolumes.join(storage);
}

const windows = (): string[] => readdirSync(join(runDirectory, 'window'));

test("a killed daemon's window is found, a clean close leaves it whole, and it goes with the copy", async () => {
  await serveAndKill();
  expect(windows()).toHaveLength(1);
  const opened = await start(runDirectory);
  expect(await opened.open(VOLUME)).toEqual({ lastEnd: 'killed', isWindowIntact: true });
  // The same opening, for a later attachment.
  expect(await opened.open(VOLUME, 2)).toEqual({ lastEnd: 'killed', isWindowIntact: true });
  await opened.served(VOLUME);
  await opened.close(VOLUME);
  expect(await opened.open(VOLUME, 2)).toEqual({ lastEnd: 'clean', isWindowIntact: true });
  await opened.close(VOLUME);
  await storage?.deleteReplica(VOLUME, 'pool');
  expect(windows()).toEqual([]);
});

test('a daemon with another run directory finds no window, and says so', async () => {
  await serveAndKill();
  const opened = await start(join(runDirectory, 'other'));
  expect(await opened.open(VOLUME)).toEqual({ lastEnd: 'killed', isWindowIntact: false });
});
