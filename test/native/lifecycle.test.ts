// How processes and threads that use the addon end: with everything open, in flight, blocked, or wrong.
// Each case runs in a child process, once with the addon as it ships and once built with the address and
// undefined-behaviour sanitizers. Needs g++ (for the second build) and a kernel that permits io_uring.

import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';

const CHILDREN = fileURLToPath(new URL('children/', import.meta.url));
const BUILD = fileURLToPath(new URL('../../native/build.sh', import.meta.url));
const SANITIZED_ADDON = fileURLToPath(new URL('../../native/build/holdfast-asan.node', import.meta.url));
const CHILD_TIMEOUT_MS = 60_000;

interface Ended {
  readonly code: number | string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function runChild(
  script: string,
  args: string[],
  { flags = [] as string[], env = {} as NodeJS.ProcessEnv },
): Promise<Ended> {
  return new Promise((resolve) => {
    const options = {
      timeout: CHILD_TIMEOUT_MS,
      killSignal: 'SIGKILL' as const,
      env: { ...process.env, ...env },
    };
    execFile(
      process.execPath,
      [...flags, `${CHILDREN}${script}`, ...args],
      options,
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : (error.code ?? error.signal ?? null), stdout, stderr });
      },
    );
  });
}

const LIVES: [name: string, exitCode: number, says?: string][] = [
  ['ring open', 0],
  ['requests in flight', 0],
  ['process.exit with requests in flight', 3],
  ['uncaught exception', 1],
  ['rings forgotten', 0],
  ['closed twice', 0],
  ['used after close', 0],
  ['buffer transferred, then the end', 0],
  ['child processes while requests are in flight', 0],
  ['kernel NBD calls unanswered', 3],
  ['worker terminated while it waits', 0],
  ['worker terminated while it polls', 0],
  ['process.exit while a worker waits', 3],
  ['process.exit in a worker', 0],
  ['exception in a worker', 0, 'thrown in the worker\n'],
  ['workers terminated at any moment', 0],
];

test('every end of life has its case here', () => {
  const source = readFileSync(`${CHILDREN}life.ts`, 'utf8');
  const names = [...source.matchAll(/^ {2}'(.+)': /gm)].map((match) => match[1]);
  expect(names).toEqual(LIVES.map(([name]) => name));
});

describe('the addon as it ships', () => {
  test.each(LIVES)('survives: %s', { timeout: CHILD_TIMEOUT_MS }, async (name, exitCode, says = '') => {
    const ended = await runChild('life.ts', [name], { flags: ['--expose-gc'] });
    expect(ended).toMatchObject({ code: exitCode, stdout: `${says}alive\n` });
    if (exitCode !== 1) expect(ended.stderr).toBe('');
  });
});

describe('the addon under sanitizers', () => {
  let env: NodeJS.ProcessEnv;

  beforeAll(() => {
    execFileSync(BUILD, ['--asan'], { stdio: 'inherit' });
    const runtime = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim();
    env = {
      LD_PRELOAD: runtime,
      // V8 keeps its heap to the end; that is no leak of ours.
      ASAN_OPTIONS: 'detect_leaks=0',
      UBSAN_OPTIONS: 'print_stacktrace=1',
      HOLDFAST_ADDON: SANITIZED_ADDON,
    };
  }, 120_000);

  test.each(LIVES)(
    'finds nothing in: %s',
    { timeout: CHILD_TIMEOUT_MS },
    async (name, exitCode, says = '') => {
      const ended = await runChild('life.ts', [name], { flags: ['--expose-gc'], env });
      expect(ended.stderr).not.toMatch(/Sanitizer|runtime error/);
      expect(ended).toMatchObject({ code: exitCode, stdout: `${says}alive\n` });
    },
  );

  test('really runs under them', async () => {
    const { stdout } = await runChild('loaded-libraries.ts', [], { env });
    expect(stdout).toMatch(/libasan/);
    expect(stdout).toContain(SANITIZED_ADDON);
  });
});

describe('enter', () => {
  const flags = ['--trace-gc', '--expose-gc', '--max-semi-space-size=1'];

  async function scavengesUnderLoad(args: string[]): Promise<number> {
    const ended = await runChild('steady-load.ts', args, { flags });
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    const load = /begin\n([\s\S]*)end/.exec(ended.stdout)?.[1];
    expect(load).toBeDefined();
    return [...(load ?? '').matchAll(/Scavenge|Mark-Compact/g)].length;
  }

  test('allocates nothing in a million calls', { timeout: CHILD_TIMEOUT_MS }, async () => {
    expect(await scavengesUnderLoad([])).toBe(0);
  });

  test('would be caught if it made one object a call', { timeout: CHILD_TIMEOUT_MS }, async () => {
    expect(await scavengesUnderLoad(['plant'])).toBeGreaterThan(0);
  });
});
