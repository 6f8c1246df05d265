// The checking client against a server that is right (nbdkit), while somebody else changes the disk behind its back.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HistoryClient, VolumeHistory } from './history-client.ts';
import { HistoryJournal, replayJournal } from './history-journal.ts';
import { NbdClient } from './nbd-client.ts';
import { type NbdServer, startNbdkitMemory } from './nbd-programs.ts';
import { SECTOR_BYTES } from './sector-format.ts';

const SECTORS = 2048;
const WRITES_ONLY = { read: 0, write: 1, fua: 0, flush: 0, zeroes: 0 };

let server: NbdServer;
let directory: string;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-history-'));
  server = await startNbdkitMemory(SECTORS * SECTOR_BYTES);
});

afterEach(async () => {
  await server.stop();
  rmSync(directory, { recursive: true, force: true });
});

async function client(history: VolumeHistory): Promise<HistoryClient> {
  return await HistoryClient.connect(history, server);
}

/** Writes to one sector only, then hands the raw disk to `change`, and returns what the judge says of it. */
async function tampered(
  change: (raw: NbdClient, next: () => Promise<void>) => Promise<void>,
): Promise<string[]> {
  const history = new VolumeHistory();
  const checking = await client(history);
  const raw = await NbdClient.connect(server.socketPath, server.exportName);
  const next = async (): Promise<void> => {
    const load = checking.load({ depth: 1, sectors: 1, mix: WRITES_ONLY });
    await sleep(20);
    expect(await load.stop()).toMatchObject({ brokenBy: undefined, errors: new Map() });
    await checking.readAll(2);
    expect(history.complaints).toEqual([]);
  };
  await next();
  await change(raw, next);
  await checking.readAll(2);
  await Promise.all([checking.disconnect(), raw.disconnect()]);
  return history.complaints.map(({ kind }) => kind);
}

test('clients one after another find nothing wrong with a server that is right', async () => {
  const history = new VolumeHistory();
  for (let count = 0; count < 3; count += 1) {
    const checking = await client(history);
    await checking.readAll();
    const load = checking.load({ depth: 16 });
    await sleep(300);
    const report = await load.stop();
    expect(report).toMatchObject({ brokenBy: undefined, errors: new Map() });
    expect(report.requests).toBeGreaterThan(100);
    await checking.flush();
    await checking.disconnect();
  }
  expect(history.complaints).toEqual([]);
  expect(history.unansweredWrites).toBe(0);
});

test('a lost write is found', async () => {
  const kinds = await tampered(async (raw, next) => {
    const before = await raw.read(0, SECTOR_BYTES);
    await next();
    await raw.write(0, before);
  });
  expect(kinds).toEqual(['old']);
});

test('a torn write is found', async () => {
  const kinds = await tampered(async (raw, next) => {
    const before = await raw.read(0, SECTOR_BYTES);
    await next();
    await raw.write(SECTOR_BYTES / 2, before.subarray(SECTOR_BYTES / 2));
  });
  expect(kinds).toEqual(['damaged']);
});

test('a write that went to the wrong place is found', async () => {
  const kinds = await tampered(async (raw) => {
    await raw.write(SECTOR_BYTES, await raw.read(0, SECTOR_BYTES));
  });
  expect(kinds).toEqual(['damaged']);
});

test('a sector that is empty again is found', async () => {
  const kinds = await tampered(async (raw) => await raw.writeZeroes(0, SECTOR_BYTES));
  expect(kinds).toEqual(['old']);
});

test('what a former client was not answered may be there for the next one, or not, and does not come back', async () => {
  const history = new VolumeHistory();
  const raw = await NbdClient.connect(server.socketPath, server.exportName);
  const first = await client(history);
  const load = first.load({ depth: 32, mix: WRITES_ONLY, sectors: 8, mostSectors: 4 });
  await sleep(100);
  first.abandon();
  expect((await load.ended).brokenBy).toBeInstanceOf(Error);
  expect(history.unansweredWrites).toBeGreaterThan(0);
  const second = await client(history);
  await second.readAll(8);
  expect(history.complaints).toEqual([]);
  const seen = await raw.read(0, 8 * SECTOR_BYTES);
  const next = second.load({ depth: 4, mix: WRITES_ONLY, sectors: 8, mostSectors: 8 });
  await sleep(100);
  await next.stop();
  await second.readAll(8);
  expect(history.complaints).toEqual([]);
  await raw.write(0, seen);
  await second.readAll(8);
  expect(history.complaints.length).toBeGreaterThan(0);
  await Promise.all([second.disconnect(), raw.disconnect()]);
});

test('a pause of the server is measured, with its time', async () => {
  const checking = await client(new VolumeHistory());
  const load = checking.load({ depth: 4, pausesFromMs: 1200 });
  await sleep(100);
  const stoppedAt = Date.now();
  process.kill(server.pid, 'SIGSTOP');
  await sleep(2000);
  process.kill(server.pid, 'SIGCONT');
  await sleep(100);
  const { longestPause, pauses } = await load.stop();
  await checking.disconnect();
  expect(longestPause.ms).toBeGreaterThan(1800);
  expect(Math.abs(longestPause.startedAt.getTime() - stoppedAt)).toBeLessThan(600);
  expect(pauses).toEqual([longestPause]);
});

test('its journal, judged again, gives the same complaints', async () => {
  const path = join(directory, 'journal');
  const journal = new HistoryJournal(path);
  const history = new VolumeHistory({ onEvent: journal.append, expectsPowerCuts: true });
  const checking = await client(history);
  const load = checking.load({ depth: 16, sectors: 256 });
  await sleep(300);
  await load.stop();
  const raw = await NbdClient.connect(server.socketPath, server.exportName);
  await raw.write(0, Buffer.alloc(8 * SECTOR_BYTES, 'x'));
  await checking.readAll(256);
  history.powerCut();
  await raw.writeZeroes(0, 256 * SECTOR_BYTES);
  await checking.readAll(256);
  journal.close();
  await Promise.all([checking.disconnect(), raw.disconnect()]);
  expect(new Set(history.complaints.map(({ kind }) => kind))).toEqual(new Set(['damaged', 'old']));
  expect(replayJournal(path, { expectsPowerCuts: true }).complaints).toEqual(history.complaints);
});
