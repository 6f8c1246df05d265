// Our replication beside DRBD's: two lab guests (kernels of their own, a wire between them), each with one disk. On its
// first partition DRBD, protocol C, one peer; on its second a file system with a pool of direct replica files, a volume
// of one replica beside the primary, attached as a kernel nbd device. fio runs on the primaries' guest, libaio past the
// page cache, in turns. Both acknowledge a write when both disks have taken it; fdatasync reaches both disks' platters.
//
//   npm run bench -- drbd [--quick] [--rounds N] [--seconds N] [--size 256MiB] [--jobs REGEXP] [--directory DIR]
//                         [--daemon-flags='--busy-poll 0ms'] [--json FILE]
//
// A guest has one processor, and a system call costs several times what it costs on a real machine, and
// DRBD, in the kernel, makes none: figures compare within a run, not with those of other machines.

import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { z } from 'zod';
import { parseSize } from '../src/cli/values.ts';
import { MIB } from '../src/core/units.ts';
import { HOLDFAST, LabDaemon } from '../test/lab/daemon.ts';
import { Guest } from '../test/lab/guest.ts';
import { mustRun } from '../test/lab/machine.ts';
import { LabNetwork } from '../test/lab/network.ts';
import { DRBD_MODULE, startDrbd } from './support/drbd.ts';
import { type Figures, fillDevice, type Job, runJobOnDevice } from './support/fio.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { withScratch } from './support/scratch.ts';
import { median } from './support/statistics.ts';

interface DrbdJob extends Job {
  readonly isSynced: boolean;
  /** Ours over DRBD, by requests a second (at depth 1 that is the inverse of the mean latency). */
  readonly goal: number;
}

const WRITES: readonly Job[] = [
  { name: '4k random write QD1', pattern: 'randwrite', blockBytes: 4096, depth: 1 },
  { name: '4k random write QD32', pattern: 'randwrite', blockBytes: 4096, depth: 32 },
  { name: '128k write QD16', pattern: 'write', blockBytes: 131_072, depth: 16 },
];
const READS: readonly Job[] = [
  { name: '4k random read QD1', pattern: 'randread', blockBytes: 4096, depth: 1 },
  { name: '4k random read QD32', pattern: 'randread', blockBytes: 4096, depth: 32 },
  { name: '128k read QD16', pattern: 'read', blockBytes: 131_072, depth: 16 },
];
const JOBS: readonly DrbdJob[] = [
  ...WRITES.map((job) => ({ ...job, isSynced: false, goal: 1 })),
  ...WRITES.map((job) => ({ ...job, name: `${job.name}, fdatasync`, isSynced: true, goal: 1 })),
  ...READS.map((job) => ({ ...job, isSynced: false, goal: 0.8 })),
];
const KINDS = ['holdfast', 'DRBD'] as const;
type Kind = (typeof KINDS)[number];
type Devices = Readonly<Record<Kind, string>>;

const GUEST_MIB = 1024;
const GUEST_LIFE_MS = 3600_000;
const ETCD_PORT = 2379;
const LINK_PORT = 7400;
const SYNC_MS = 120_000;
/** DRBD's own notes at the end of its partition; and our pool's reserve, logs and file system. */
const DRBD_EXTRA_BYTES = 16 * MIB;
const POOL_EXTRA_BYTES = 512 * MIB;

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    jobs: { type: 'string', default: '' },
    directory: { type: 'string', default: '/var/tmp' },
    'daemon-flags': { type: 'string', default: '' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));
const seconds = Number(values.seconds ?? (values.quick ? 1 : 3));
const sizeBytes = parseSize(values.size ?? (values.quick ? '64MiB' : '256MiB')) ?? 0;
const jobs = JOBS.filter(({ name }) => new RegExp(values.jobs).test(name));
if (!(rounds >= 1 && seconds >= 1 && sizeBytes >= MIB && sizeBytes % MIB === 0))
  throw new Error(
    '--rounds and --seconds are numbers from 1, --size is whole MiB; see the head of bench/drbd.ts',
  );

/** Two partitions, in blocks that the host's file system has taken already. */
function makeDisk(directory: string, name: string): string {
  const path = join(directory, `${name}.disk`);
  const sizes = [sizeBytes + DRBD_EXTRA_BYTES, sizeBytes + POOL_EXTRA_BYTES];
  const totalMib = sizes.reduce((sum, size) => sum + size, MIB) / MIB;
  execFileSync('dd', ['if=/dev/zero', `of=${path}`, 'bs=1M', `count=${totalMib}`, 'status=none']);
  const table = Buffer.alloc(512);
  let startBytes = MIB;
  for (const [index, partitionBytes] of sizes.entries()) {
    const entry = 446 + 16 * index;
    table.writeUInt8(0x83, entry + 4);
    table.writeUInt32LE(startBytes / 512, entry + 8);
    table.writeUInt32LE(partitionBytes / 512, entry + 12);
    startBytes += partitionBytes;
  }
  table.writeUInt16BE(0x55aa, 510);
  const file = openSync(path, 'r+');
  writeSync(file, table);
  closeSync(file);
  return path;
}

interface Side {
  readonly guest: Guest;
  readonly daemon: LabDaemon;
}

const shownSchema = z.object({ primary: z.string(), inSync: z.array(z.string()) });

/** The daemons are up, the volume is in sync, its primary and its device on the first guest; returns the device. */
async function startOurs(user: Guest, peer: Guest): Promise<string> {
  const etcd = `http://${peer.address}:${ETCD_PORT}`;
  peer.start(
    `exec etcd --data-dir /run/etcd --listen-client-urls ${etcd} --advertise-client-urls ${etcd} --log-level error`,
    { timeoutMs: GUEST_LIFE_MS },
  );
  await mustRun(
    user,
    `until etcdctl --endpoints ${etcd} endpoint health; do sleep 0.3; done >/run/etcd-health 2>&1`,
  );
  const key = await mustRun(user, [HOLDFAST, 'cluster', 'keygen']);
  const [here] = await Promise.all([user, peer].map((guest) => startDaemon(guest, peer, key)));
  if (here === undefined) throw new Error('no daemon was started');
  const { daemon } = here;
  await daemon.cli('volume', 'create', 'bench', '--size', String(sizeBytes), '--replicas', '1');
  const inSync = await untilShown(daemon, (shown) => shown.inSync.length === 2);
  if (inSync.primary !== user.name) {
    await daemon.cli('volume', 'move', 'bench', user.name);
    await untilShown(daemon, (shown) => shown.primary === user.name && shown.inSync.length === 2);
  }
  return (await mustRun(user, [HOLDFAST, 'volume', 'attach', 'bench', '--api', '/run/api.sock'])).trim();
}

async function startDaemon(guest: Guest, store: Guest, key: string): Promise<Side> {
  await mustRun(guest, 'mkfs.ext4 -q /dev/ubda2 && mkdir /mnt/disk && mount /dev/ubda2 /mnt/disk');
  await mustRun(guest, `umask 077; cat >/run/key <<'END'\n${key}\nEND`);
  const daemon = await LabDaemon.start(guest, {
    nodeName: guest.name,
    dataDir: '/mnt/disk/data',
    poolDir: '/mnt/disk/pool,io=direct',
    apiPath: '/run/api.sock',
    flags: [
      ['--store', `etcd://${store.address}:${ETCD_PORT}`, '--cluster-key', '/run/key'],
      ['--listen', `${guest.address}:${LINK_PORT}`],
      values['daemon-flags'].split(' ').filter((word) => word !== ''),
    ].flat(),
    env: { HOLDFAST_LOG_LEVEL: 'error' },
  });
  return { guest, daemon };
}

async function untilShown(
  daemon: LabDaemon,
  isSo: (shown: z.infer<typeof shownSchema>) => boolean,
): Promise<z.infer<typeof shownSchema>> {
  const deadlineMs = performance.now() + SYNC_MS;
  for (;;) {
    const shown = shownSchema.parse(await daemon.cli('volume', 'show', 'bench'));
    if (isSo(shown)) return shown;
    if (performance.now() > deadlineMs) throw new Error(`the volume stays ${JSON.stringify(shown)}`);
    await sleep(300);
  }
}

interface Result {
  readonly job: string;
  readonly goal: number;
  readonly isWrite: boolean;
  readonly samples: Readonly<Record<Kind, Figures[]>>;
}

async function runAll(user: Guest, devices: Devices): Promise<Result[]> {
  const results: Result[] = [];
  for (const job of jobs) {
    const samples: Record<Kind, Figures[]> = { holdfast: [], DRBD: [] };
    for (let round = 0; round < rounds; round += 1) {
      // Another one begins in every round.
      for (const kind of round % 2 === 0 ? KINDS : KINDS.toReversed()) {
        const on = { device: devices[kind], sizeBytes, seconds, isSynced: job.isSynced };
        samples[kind].push(await runJobOnDevice(user, job, on));
        // What one left in the host's page cache is not written out during the next one's turn.
        execFileSync('sync', ['--file-system', resolve(values.directory)]);
      }
    }
    const isWrite = job.pattern.endsWith('write');
    const result = { job: job.name, goal: job.goal, isWrite, samples };
    printResult(result);
    results.push(result);
  }
  return results;
}

function ratioOf({ samples }: Result): number {
  return median(samples.holdfast.map(({ iops }, round) => iops / (samples.DRBD[round]?.iops ?? Number.NaN)));
}

function isMet(result: Result): boolean {
  const ratio = ratioOf(result);
  return result.isWrite ? ratio > result.goal : ratio >= result.goal;
}

function printResult(result: Result): void {
  const table = new Table({
    head: ['', 'IOPS', 'MB/s', 'p50 µs', 'p99 µs'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right'],
  });
  for (const kind of KINDS) {
    const middle = (pick: (figures: Figures) => number, digits = 0): string =>
      median(result.samples[kind].map(pick)).toFixed(digits);
    table.push([
      kind,
      middle(({ iops }) => iops),
      middle(({ megabytesPerSecond }) => megabytesPerSecond, 1),
      middle(({ p50Micros }) => p50Micros),
      middle(({ p99Micros }) => p99Micros),
    ]);
  }
  console.log(`\n${result.job}: medians of ${rounds} rounds`);
  console.log(table.toString());
  console.log(`holdfast / DRBD ${ratioOf(result).toFixed(2)}, ${goalText(result)}`);
}

function goalText(result: Result): string {
  const goal = `${result.isWrite ? 'more than' : 'at least'} ${result.goal.toFixed(1)}`;
  return `goal ${goal}: ${isMet(result) ? 'met' : 'NOT MET'}`;
}

await withScratch(async (directory) => {
  const machine = describeMachine(directory);
  printMachine(machine);
  console.log(
    `workload    two lab guests, fio libaio direct on /dev/drbd0 and /dev/nbdN of ${sizeBytes} bytes, ` +
      `${rounds} rounds of ${seconds} s in turns`,
  );
  const signals = new AbortController();
  process.once('exit', () => signals.abort());
  await using network = await LabNetwork.create();
  const start = (name: string): Promise<Guest> =>
    Guest.start({
      name,
      memoryMib: GUEST_MIB,
      modules: ['nbd max_part=0 nbds_max=8', DRBD_MODULE],
      disks: [makeDisk(directory, name)],
      network,
      timeoutMs: GUEST_LIFE_MS,
      signal: signals.signal,
    });
  await using user = await start('a');
  await using peer = await start('b');
  console.log(`guests      Linux ${(await mustRun(user, ['uname', '-r'])).trim()}, one processor each`);
  const drbd = await startDrbd({ user, peer, disk: '/dev/ubda1' });
  const devices = { holdfast: await startOurs(user, peer), DRBD: drbd };
  for (const kind of KINDS) await fillDevice(user, devices[kind], sizeBytes);
  const results = await runAll(user, devices);
  console.log('\nGoals (medians of the ratios of each round)');
  for (const result of results)
    console.log(`${result.job.padEnd(34)} ${ratioOf(result).toFixed(2).padStart(6)}  ${goalText(result)}`);
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ machine, results }, null, 2));
}, resolve(values.directory));
