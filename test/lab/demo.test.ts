// The demo on a host whose kernel has nbd, which it then uses: however it ends, it leaves nothing there. The host is
// a guest.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REPOSITORY } from './daemon.ts';
import { Guest } from './guest.ts';
import { type Job, mustRun } from './machine.ts';

let guest: Guest;
let before: string;

/** What a demo could leave: the kernel's module and devices, mounts, processes, files. */
const TRACES = [
  'grep -o ^nbd /proc/modules; cat /sys/block/nbd*/backend 2>/dev/null',
  'cut -d" " -f1,2 /proc/mounts',
  'ps axo args | grep -E "^[^ ]*(node|fio|sleep) .*(holdfast|demo)" | grep -v grep',
  'ls -d /run/demo-tmp/* /var/tmp/* /dev/shm/* /run/holdfast* 2>/dev/null',
].join('; ');

beforeAll(async () => {
  guest = await Guest.start({
    name: 'demohost',
    memoryMib: 1536,
    timeoutMs: 600_000,
  });
  // This machine's own temporary files show through.
  await mustRun(guest, 'mkdir /run/demo-tmp && mount -t tmpfs tmpfs /var/tmp');
  before = await mustRun(guest, `${TRACES}; true`);
}, 60_000);
afterAll(async () => await guest?.[Symbol.asyncDispose]());

function startDemo(): Job {
  return guest.start(['node', `${REPOSITORY}/scripts/demo.ts`], {
    timeoutMs: 180_000,
    env: { TMPDIR: '/run/demo-tmp' },
  });
}

/** Resolves once the demo has come so far. */
async function reached(demo: Job, condition: string): Promise<void> {
  const over = demo.ended.then(() => 'over');
  const there = mustRun(guest, `until ${condition}; do sleep 0.1; done`, { timeoutMs: 150_000 });
  there.catch(() => undefined); // raced against the end of the demo
  if ((await Promise.race([over, there])) === 'over') {
    throw new Error(`the demo ended early:\n${await demo.stdout()}\n${await demo.stderr()}`);
  }
}

const PLACE = '/var/tmp/holdfast-demo-*';
const MOMENTS = [
  ['before there is a daemon', `[ -d ${PLACE} ]`],
  ['while the volume is mounted', `grep -q ${'/holdfast-demo-.*/target'} /proc/mounts`],
  [
    'while the application writes and the daemon is dead',
    // The pid of the first daemon is kept: the next one follows at once.
    `[ -s ${PLACE}/target/interrupted ] && pid=\${pid:-$(pgrep -f "[m]ain.ts daemon")} && [ -n "$pid" ] && ! kill -0 $pid`,
  ],
] as const;

describe('a demo', { timeout: 200_000 }, () => {
  test.each(MOMENTS)('that is told to end %s leaves nothing', async (_, condition) => {
    const demo = startDemo();
    await reached(demo, condition);
    demo.kill('TERM');
    expect(await demo.ended).toMatchObject({ exitCode: 143, stdout: expect.not.stringContaining('Done in') });
    expect(await mustRun(guest, `${TRACES}; true`)).toBe(before);
  });

  test('that is let alone shows a pause and no error, and leaves nothing', async () => {
    const { exitCode, stdout, stderr } = await startDemo().ended;
    expect(exitCode, `${stdout}\n${stderr}`).toBe(0);
    expect(stdout).toMatch(/killed with [1-9]\d* requests in flight and answered again \d+\.\d s later/);
    expect(stdout).toMatch(
      /a pause of \d+\.\d s and no error; every block verified, the file system is clean/,
    );
    expect(stdout.trimEnd()).toMatch(/\nDone in \d+ s; nothing is left behind\.$/);
    expect(await mustRun(guest, `${TRACES}; true`)).toBe(before);
  });

  test('whose application dies says so, and leaves nothing', async () => {
    const demo = startDemo();
    await reached(demo, 'pkill -KILL -x fio');
    expect(await demo.ended).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('The demo failed'),
    });
    expect(await mustRun(guest, `${TRACES}; true`)).toBe(before);
  });
});
