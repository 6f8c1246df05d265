import { chmod, chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ClusterKey, createKeyFile } from '../../src/control/cluster-key.ts';

let directory: string;
let path: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-key-'));
  path = join(directory, 'key');
});
afterEach(async () => {
  await rm(directory, { recursive: true });
});

async function derived(content: string | Uint8Array): Promise<string> {
  await writeFile(path, content, { mode: 0o600 });
  return (await ClusterKey.read(path)).derive('control').toString('hex');
}

test('the same key is read from raw bytes, hex and base64, with and without a newline', async () => {
  const bytes = fc.uint8Array({ minLength: 32, maxLength: 80 }).map((array) => Buffer.from(array));
  await fc.assert(
    fc.asyncProperty(bytes, async (key) => {
      // What a person would call text is not what this is about.
      fc.pre(!/^[\x20-\x7e\n]*$/.test(key.toString('latin1')));
      const expected = new ClusterKey(key).derive('control').toString('hex');
      const forms = [key.toString('hex'), key.toString('base64')];
      for (const form of forms) {
        expect(await derived(form)).toBe(expected);
        expect(await derived(`${form}\n`)).toBe(expected);
      }
      expect(await derived(Buffer.concat([key, Buffer.from('\n')]))).toBe(expected);
      if (key.at(-1) !== 0x0a || key.length === 32) expect(await derived(key)).toBe(expected);
    }),
    { numRuns: 100 },
  );
  expect(await derived(`${'0f'.repeat(32)}\r\n`)).toBe(await derived('0F'.repeat(32)));
  const key = new ClusterKey(Buffer.alloc(32, 1));
  expect(key.derive('peers')).not.toEqual(key.derive('control'));
});

test('a passphrase of 32 characters is taken as it is, one of 31 is refused, with a newline or without', async () => {
  expect(await derived('correct horse battery staple 32!')).toMatch(/^[0-9a-f]{64}$/);
  for (const text of [
    '',
    '\n',
    'too short',
    'correct horse battery staple 31',
    'correct horse battery staple 31\n',
  ]) {
    await expect(derived(text)).rejects.toThrow(/holds \d+ bytes, and a key has 32 or more/);
  }
});

test.each([0o640, 0o604, 0o620, 0o644])(
  'a key file with mode %o is refused with what to type',
  async (mode) => {
    await createKeyFile(path);
    await chmod(path, mode);
    await expect(ClusterKey.read(path)).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining(`type "chmod 600 ${path}"`),
    });
  },
);

test.skipIf(process.geteuid?.() !== 0)('a key file of another user is refused (needs root)', async () => {
  await createKeyFile(path);
  await chown(path, 12345, 12345);
  await expect(ClusterKey.read(path)).rejects.toThrow(`type "chown 0 ${path}"`);
});

test('a missing key, a directory and a huge file are refused', async () => {
  await expect(ClusterKey.read(path)).rejects.toThrow(/holdfast cluster keygen/);
  await expect(ClusterKey.read(directory)).rejects.toMatchObject({ code: 'INVALID' });
  await writeFile(path, Buffer.alloc(5000, 1), { mode: 0o600 });
  await expect(ClusterKey.read(path)).rejects.toThrow(/is no file with a key/);
});

test('keygen makes a private file with 32 bytes in base64, and never overwrites one', async () => {
  await createKeyFile(path);
  const text = await readFile(path, 'utf8');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(Buffer.from(text, 'base64')).toHaveLength(32);
  await expect(createKeyFile(path)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  expect(await readFile(path, 'utf8')).toBe(text);
  await createKeyFile(`${path}2`);
  expect(await readFile(`${path}2`, 'utf8')).not.toBe(text);
});

test('a key shows nothing of itself when it is printed, logged or part of an error', async () => {
  const key = new ClusterKey(Buffer.from('correct horse battery staple 32!'));
  expect(inspect(key, { showHidden: true, depth: 5 })).not.toMatch(/correct|63 6f 72/);
  expect(JSON.stringify({ key })).toBe('{"key":{}}');
  const short = await derived('hunter2').catch((error: unknown) => inspect(error, { depth: 9 }));
  expect(short).not.toContain('hunter2');
});
