// In a guest: a daemon's data plane is killed while a direct write of its is still on its way to the disk, held
// back by dm-delay under that one block alone, and its successor starts at once. Prints what was seen as JSON.
//   late-writes.ts DISK DELAY_MS

import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CMD, NbdClient } from '../support/nbd-client.ts';
import type { ServerProcessOptions } from '../support/nbd-server.fixture.ts';

const [disk = '', delayWord = ''] = process.argv.slice(2);
const delayMs = Number(delayWord);
const BLOCK = 4096;
const SECTORS_PER_BLOCK = BLOCK / 512;
const VOLUME = 'ab'.repeat(16);
const MOUNT = '/run/slow';
const SOCKET = '/run/late.sock';

function dm(...words: string[]): void {
  // Without udev, device mapper makes its nodes itself.
  const env = { ...process.env, DM_DISABLE_UDEV: '1' };
  execFileSync('dmsetup', words, { stdio: ['ignore', 'ignore', 'inherit'], env });
}

/** The whole disk as it is, but for one slow block of 4 KiB; undefined: none. */
function table(slowBlock: number | undefined): string {
  const sectors = Number(readFileSync(`/sys/block/${disk.replace('/dev/', '')}/size`, 'utf8'));
  if (slowBlock === undefined) return `0 ${sectors} linear ${disk} 0`;
  const start = slowBlock * SECTORS_PER_BLOCK;
  const end = start + SECTORS_PER_BLOCK;
  // Reads, writes, flushes: only writes wait.
  const device = `${disk} ${start}`;
  return [
    `0 ${start} linear ${disk} 0`,
    `${start} ${SECTORS_PER_BLOCK} delay ${device} 0 ${device} ${delayMs} ${device} 0`,
    `${end} ${sectors - end} linear ${disk} ${end}`,
  ].join('\n');
}

/** Where the file system put a file's first block. */
function firstBlockOf(path: string): number {
  const listing = execFileSync('filefrag', ['-v', `-b${BLOCK}`, path], { encoding: 'utf8' });
  const extent = /^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\./m.exec(listing);
  if (extent === null) throw new Error(`no first extent in:\n${listing}`);
  return Number(extent[1]);
}

async function serve(): Promise<ChildProcess> {
  rmSync(SOCKET, { force: true });
  const options: ServerProcessOptions = {
    directory: `${MOUNT}/pool`,
    socketPath: SOCKET,
    exportName: 'late',
    sizeBytes: 64 * 1024 * 1024,
    ioMode: 'direct',
    volumeId: VOLUME,
  };
  const child = fork(new URL('../support/nbd-server.fixture.ts', import.meta.url), [JSON.stringify(options)]);
  await once(child, 'message');
  return child;
}

async function readByte(client: NbdClient): Promise<number> {
  return (await client.read(0, BLOCK))[0] ?? -1;
}

dm('create', 'slow', '--table', table(undefined));
execFileSync('mkfs.ext4', ['-q', '/dev/mapper/slow']);
mkdirSync(MOUNT);
execFileSync('mount', ['/dev/mapper/slow', MOUNT]);

// The slow block's writes take DELAY_MS, on a machine that may be busy.
const patience = { replyTimeoutMs: 4 * delayMs };

const first = await serve();
let client = await NbdClient.connect(SOCKET, 'late', patience);
await client.write(0, Buffer.alloc(BLOCK, 1));
await client.flush();
const slowBlock = firstBlockOf(`${MOUNT}/pool/${VOLUME}/data`);
dm('suspend', '--noflush', 'slow');
dm('reload', 'slow', '--table', table(slowBlock));
dm('resume', 'slow');
// The extent is hot: this write goes straight to the disk, where it waits.
void client.request({ type: CMD.write, offset: 0, payload: Buffer.alloc(BLOCK, 2) }).catch(() => undefined);
await sleep(300);
first.kill('SIGKILL');
await once(first, 'exit');
const killedAt = performance.now();
client.destroy();

const second = await serve();
const servedAfterMs = Math.round(performance.now() - killedAt);
client = await NbdClient.connect(SOCKET, 'late', patience);
const foundAtStart = await readByte(client);
await client.write(0, Buffer.alloc(BLOCK, 3));
await sleep(delayMs + 1000);
const foundAtEnd = await readByte(client);
await client.disconnect();
const ended = once(second, 'exit');
second.send('stop');
await ended;
console.log(JSON.stringify({ servedAfterMs, foundAtStart, foundAtEnd }));
