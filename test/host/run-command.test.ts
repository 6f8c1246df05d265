import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { runCommand } from '../../src/host/run-command.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-command-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const sh = (script: string, options: Partial<Parameters<typeof runCommand>[2]> = {}) =>
  runCommand('sh', ['-c', script], { timeoutMs: 10_000, ...options });

function isRunning(pid: number): boolean {
  try {
    // A zombie has ended; its parent, the machine's first process, may take its time.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describe('a command', () => {
  test('gives its output, in the C locale, with nothing on standard input', async () => {
    const { exitCode, stdout, stderr } = await sh('cat; echo "$LC_ALL"; echo words >&2');
    expect([exitCode, stdout.toString(), stderr]).toEqual([0, 'C\n', 'words']);
  });

  test('that fails is IO with its exit code and what it said', async () => {
    await expect(sh('echo no such luck >&2; exit 7')).rejects.toMatchObject({
      code: 'IO',
      details: { exitCode: 7 },
      message: expect.stringContaining('no such luck'),
    });
  });

  test('may have other exit codes that are answers', async () => {
    expect(await sh('exit 2', { exitCodes: [0, 2] })).toMatchObject({ exitCode: 2 });
  });

  test('that dies of a signal is IO', async () => {
    await expect(sh('kill -9 $$')).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining('SIGKILL'),
    });
  });

  test('that is not installed is UNSUPPORTED', async () => {
    const run = runCommand('holdfast-no-such-command', [], { timeoutMs: 1000 });
    await expect(run).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  });

  test('that is late is killed with everything it started', async () => {
    const file = join(directory, 'pids');
    const script = `sh -c 'echo $$ >> ${file}; exec sleep 60' & echo $$ >> ${file}; wait`;
    await expect(sh(script, { timeoutMs: 500 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    await setTimeout(100);
    const pids = readFileSync(file, 'utf8').trim().split('\n').map(Number);
    expect(pids).toHaveLength(2);
    expect(pids.filter(isRunning)).toEqual([]);
  });

  test('that left its group and keeps the pipes open does not hold up the caller', async () => {
    const file = join(directory, 'pid');
    const script = `setsid sh -c 'echo $$ > ${file}; exec sleep 60' & sleep 0.2; wait`;
    const began = performance.now();
    await expect(sh(script, { timeoutMs: 600 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    expect(performance.now() - began).toBeLessThan(8000);
    process.kill(Number(readFileSync(file, 'utf8')), 'SIGKILL');
  });

  test('with more output than is wanted is not blocked by it', async () => {
    const { stdout } = await sh('head -c 1000000 /dev/zero; echo end >&2', { maxOutputBytes: 1000 });
    expect(stdout).toHaveLength(1000);
  });
});
