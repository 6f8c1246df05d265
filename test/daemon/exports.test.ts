import { existsSync } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Child, type Daemon, until, Workplace } from './daemon.fixture.ts';

let place: Workplace;
let daemon: Daemon;

beforeEach(async () => {
  place = await Workplace.create();
  daemon = await place.serving();
  await daemon.json('volume', 'create', 'data', '--size', '64MiB');
});
afterEach(() => place.dispose());

function uri(socket: string, name = 'data'): string {
  return `nbd+unix:///${name}?socket=${socket}`;
}

async function serve(socket: string, ...args: string[]): Promise<Child> {
  const child = place.child(['volume', 'export', 'data', '--unix', socket, '--api', daemon.api, ...args]);
  await until('the export is ready', () => child.lines.length > 0 || child.process.exitCode !== null);
  return child;
}

async function pattern(action: 'read' | 'write', byte: string, socket: string): Promise<string> {
  const commands = [`${action} -P ${byte} 1M 2M`, ...(action === 'write' ? ['flush'] : [])];
  const args = commands.flatMap((command) => ['-c', command]);
  const { all } = await execa('qemu-io', ['-f', 'raw', ...args, uri(socket)], { all: true, timeout: 20_000 });
  return all;
}

/** A connection to the export that says nothing; resolves when the other side ends it. */
function idleClient(socket: string): { ended: Promise<void>; end: () => void } {
  const client = connect(socket);
  client.resume();
  client.on('error', () => {});
  const ended = new Promise<void>((resolve) => client.once('close', () => resolve()));
  return { ended, end: () => client.destroy() };
}

test('a volume is served under its name to any NBD client, and what was written is read', async () => {
  const socket = place.path('nbd.sock');
  const child = await serve(socket, '--json');
  expect(JSON.parse(child.lines[0] ?? '')).toEqual({
    volumeId: expect.stringMatching(/^[0-9a-f]{32}$/),
    exportName: 'data',
    unixPath: socket,
    sizeBytes: 2 ** 26,
  });
  expect((await stat(socket)).mode & 0o777).toBe(0o600);
  const { stdout } = await execa('nbdinfo', ['--json', uri(socket)], { timeout: 20_000 });
  expect(JSON.parse(stdout).exports[0]).toMatchObject({ 'export-name': 'data', 'export-size': 2 ** 26 });
  await pattern('write', '0x5a', socket);
  await pattern('read', '0x5a', socket);
  await expect(pattern('read', '0x5b', socket)).rejects.toThrow();
  await child.end('SIGTERM');
});

test.each(['SIGINT', 'SIGTERM'] as const)('%s ends the export and the command, cleanly', async (signal) => {
  const socket = place.path('nbd.sock');
  const child = await serve(socket);
  expect(await child.end(signal)).toBe(0);
  await until('the socket is gone', () => !existsSync(socket));
  await until(
    'the volume is free',
    async () => (await daemon.run('volume', 'delete', 'data')).exitCode === 0,
  );
});

test('the export ends with its command, SIGKILL included, and its clients with it', async () => {
  const socket = place.path('nbd.sock');
  const child = await serve(socket);
  const client = idleClient(socket);
  await until(
    'the volume is open',
    async () => (await daemon.json<{ serving: boolean }>('volume', 'show', 'data')).serving,
  );
  child.process.kill('SIGKILL');
  await until('the socket is gone', () => !existsSync(socket));
  await client.ended;
  await until(
    'the volume is closed',
    async () => !(await daemon.json<{ serving: boolean }>('volume', 'show', 'data')).serving,
  );
});

test('a volume that is exported is not deleted, and its explanation says so', async () => {
  const child = await serve(place.path('nbd.sock'));
  const refused = await daemon.run('volume', 'delete', 'data');
  expect(refused.exitCode).toBe(76);
  expect(refused.stderr).toContain('end its exports');
  const { stdout } = await daemon.run('volume', 'explain', 'data');
  expect(stdout).toContain('exported on 1 socket');
  await child.end('SIGTERM');
});

test('two exports of one volume serve the same bytes, and the last one closes it', async () => {
  const [first, second] = [place.path('1.sock'), place.path('2.sock')];
  const children = [await serve(first), await serve(second)];
  await pattern('write', '0x11', first);
  await pattern('read', '0x11', second);
  await children[0]?.end('SIGTERM');
  await pattern('read', '0x11', second);
  await children[1]?.end('SIGTERM');
  await until(
    'the volume is closed',
    async () => !(await daemon.json<{ serving: boolean }>('volume', 'show', 'data')).serving,
  );
});

test('a path that is taken, no volume and no directory are refused before anything is served', async () => {
  const socket = place.path('nbd.sock');
  const child = await serve(socket);
  const again = await serve(socket);
  expect(await again.end()).toBe(76);
  await writeFile(place.path('precious'), 'precious');
  expect(await (await serve(place.path('precious'))).end()).toBe(76);
  expect(await (await serve(place.path('no/such/directory.sock'))).end()).toBe(64);
  expect((await daemon.run('volume', 'export', 'nothing', '--unix', place.path('x.sock'))).exitCode).toBe(66);
  await pattern('write', '0x01', socket);
  await child.end('SIGTERM');
});

test("a daemon's graceful stop ends the export with a reason", async () => {
  const child = await serve(place.path('nbd.sock'));
  expect(await daemon.end('SIGTERM')).toBe(0);
  expect(await child.end()).toBe(69);
  expect(child.lines.at(-1)).toContain('was stopped');
});

test("a killed daemon's successor replaces the socket and serves what was flushed", async () => {
  const socket = place.path('nbd.sock');
  const child = await serve(socket);
  await pattern('write', '0x77', socket);
  expect(await daemon.end('SIGKILL')).toBeNull();
  expect(await child.end()).toBe(69);
  expect(existsSync(socket)).toBe(true);
  daemon = await place.serving();
  const next = await serve(socket);
  await pattern('read', '0x77', socket);
  expect(await next.end('SIGTERM')).toBe(0);
});
