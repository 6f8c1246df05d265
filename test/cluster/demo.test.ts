// `npm run demo:failover`, which proves itself what it shows: here it runs to its end, and is told to end on the way.
// It leaves nothing behind either way. Needs root, for the network.

import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, test } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';

const DEMO = join(import.meta.dirname, '../../scripts/demo-failover.ts');
const RUN_MS = 300_000;

/** What belongs to the process: its namespaces carry its id, its directories are in its own place for such. */
async function run(
  temporary: string,
  untilSeen?: string,
): Promise<{ exitCode: number | undefined; all: string }> {
  const demo = execa(process.execPath, [DEMO, '--seconds', '8'], {
    env: { TMPDIR: temporary },
    all: true,
    reject: false,
    timeout: RUN_MS,
    stdin: 'ignore',
  });
  if (untilSeen !== undefined) {
    let [seen, isOver] = ['', false];
    void demo.then(() => {
      isOver = true;
    });
    demo.all.on('data', (data: Buffer) => {
      seen += data.toString();
    });
    await until(untilSeen, () => seen.includes(untilSeen) || isOver, RUN_MS);
    demo.kill('SIGTERM');
  }
  const { exitCode, all } = await demo;
  const { stdout } = await execa('ip', ['netns', 'list']);
  expect(stdout).not.toContain(`-${demo.pid}-`);
  expect(await readdir(temporary)).toEqual([]);
  return { exitCode, all };
}

describe.skipIf(process.geteuid?.() !== 0)('the failover demo (needs root)', () => {
  test('shows a kill, a partition and a handover without an error, and leaves nothing behind', async () => {
    const { exitCode, all } = await inTemporary((directory) => run(directory));
    expect(all).toMatch(/No error reached fio, every block verified, the three copies are equal/);
    expect(exitCode).toBe(0);
  });

  test('leaves nothing behind when it is told to end while fio writes', async () => {
    const { exitCode, all } = await inTemporary((directory) => run(directory, '❯ fio on another node'));
    expect(all).toMatch(/Interrupted: taking everything away/);
    expect(exitCode).toBe(143);
  });
});

async function inTemporary<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-demo-test-'));
  try {
    return await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
