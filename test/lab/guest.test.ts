// The lab proves itself first: what the other tests build on is tried here. Needs the packages of
// requirements.ts; no root.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Guest } from './guest.ts';
import { HostMachine } from './host-machine.ts';
import { mustRun } from './machine.ts';
import { machineContract } from './machine-contract.ts';
import { LabNetwork } from './network.ts';

const GUEST_TIMEOUT_MS = 120_000;

describe('a guest', { timeout: 120_000 }, () => {
  let dir: string;
  let disk: string;
  let guest: Guest;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'holdfast-lab-test-'));
    disk = join(dir, 'disk');
    await (await open(disk, 'w')).close();
    await truncate(disk, 64 * 1024 * 1024);
    guest = await Guest.start({
      disks: [disk],
      shared: [dir],
      modules: ['nbd max_part=0 nbds_max=4'],
      timeoutMs: GUEST_TIMEOUT_MS,
    });
  });

  afterAll(async () => {
    await guest.stop();
    await rm(dir, { recursive: true, force: true });
  });

  machineContract(() => guest);

  test('runs the same Node.js as the tests', async () => {
    expect(await mustRun(guest, ['node', '-p', 'process.version'])).toBe(`${process.version}\n`);
  });

  test('has the modules that were asked for, and says so in its kernel log', async () => {
    expect(await mustRun(guest, 'ls -d /dev/nbd? | wc -l')).toBe('4\n');
    await mustRun(guest, 'echo "lab: a line of the test" >/dev/kmsg');
    await expect.poll(() => guest.kernelLog(), { timeout: 5_000 }).toContain('lab: a line of the test');
  });

  test('writes to the host in shared directories and nowhere else', async () => {
    const elsewhere = `/var/tmp/holdfast-lab-${process.pid}`;
    await mustRun(guest, `touch ${elsewhere}; echo shared >${dir}/file`);
    expect(existsSync(elsewhere)).toBe(false);
    expect(await readFile(join(dir, 'file'), 'utf8')).toBe('shared\n');
  });

  test('loses its page cache and nothing else when its power is cut', async () => {
    await using victim = await Guest.start({ name: 'victim', disks: [disk], timeoutMs: GUEST_TIMEOUT_MS });
    await mustRun(victim, 'mkfs.ext4 -q /dev/ubda && mount /dev/ubda /mnt && sync');
    await mustRun(victim, 'echo synced >/mnt/synced && sync -f /mnt/synced && echo lost >/mnt/lost');
    const running = victim.run('sleep 4711');
    const lost = expect(running).rejects.toThrow('died');
    await victim.cutPower();
    await lost;
    await expect(victim.run('true')).rejects.toThrow('not running');

    await mustRun(guest, 'mount /dev/ubda /mnt');
    expect(await mustRun(guest, 'cat /mnt/synced; cat /mnt/lost 2>/dev/null; umount /mnt')).toBe('synced\n');
  });
});

describe('this host', () => {
  let host: HostMachine;

  beforeAll(async () => {
    host = await HostMachine.create();
  });

  afterAll(async () => {
    await host[Symbol.asyncDispose]();
  });

  machineContract(() => host);
});

test('a guest ends with its owner and leaves nothing behind', { timeout: 120_000 }, async () => {
  const script = join(await mkdtemp(join(tmpdir(), 'holdfast-owner-')), 'owner.ts');
  await writeFile(
    script,
    `import { Guest } from ${JSON.stringify(join(import.meta.dirname, 'guest.ts'))};
     const guest = await Guest.start({ timeoutMs: 60_000 });
     process.stdout.write(guest.exchangeDir, () => process.kill(process.pid, 'SIGKILL'));`,
  );
  let exchangeDir = '';
  try {
    execFileSync(process.execPath, [script], { timeout: 40_000, encoding: 'utf8' });
  } catch (error) {
    exchangeDir = (error as { stdout: string }).stdout;
  }
  await rm(dirname(script), { recursive: true });
  expect(exchangeDir).toMatch(/holdfast-guest-/);
  const guestDir = dirname(exchangeDir);
  const processes = () => execFileSync('ps', ['axo', 'args'], { encoding: 'utf8' });
  await expect.poll(() => existsSync(guestDir), { timeout: 30_000 }).toBe(false);
  await expect.poll(processes, { timeout: 30_000 }).not.toContain(guestDir);
});

test('a guest does not outlive its time limit', { timeout: 60_000 }, async () => {
  await using guest = await Guest.start({ timeoutMs: 15_000 });
  await expect(guest.run('sleep 4711')).rejects.toThrow('died');
  expect(guest.isDead).toBe(true);
});

test('an abort signal cuts the power', { timeout: 60_000 }, async () => {
  const controller = new AbortController();
  await using guest = await Guest.start({ timeoutMs: GUEST_TIMEOUT_MS, signal: controller.signal });
  const running = expect(guest.run('sleep 4711')).rejects.toThrow('died');
  controller.abort();
  await running;
});

test('two guests reach each other until the network is cut, and again when it heals', {
  timeout: 120_000,
}, async () => {
  await using network = await LabNetwork.create();
  const options = { network, timeoutMs: GUEST_TIMEOUT_MS, memoryMib: 256 };
  const [first, second] = await Promise.all([
    Guest.start({ ...options, name: 'first' }),
    Guest.start({ ...options, name: 'second' }),
  ]);
  await using _first = first;
  await using _second = second;
  // Nobody listens there: a refusal is an answer, silence is none (124: `timeout` ended the attempt).
  const knock = ['timeout', '3', 'bash', '-c', `</dev/tcp/${second.address}/9`];
  const reaches = async () => (await first.run(knock)).exitCode === 1;
  expect(await reaches()).toBe(true);
  await second.cutNetwork();
  expect(await reaches()).toBe(false);
  await second.healNetwork();
  expect(await reaches()).toBe(true);
});
