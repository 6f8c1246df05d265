// Our NBD server beside its peers: fio's nbd engine over a Unix socket, every server with its own image on
// one file system, all running at once and measured in turns, so that what disturbs the machine disturbs
// all of them alike. Buffered pools stand beside servers that use the page cache, direct pools beside one
// that does not; nobody flushes, so durability is the same on both sides.
//
//   npm run bench -- nbd [--quick] [--rounds N] [--seconds N] [--size 1GiB] [--mode buffered|direct]
//                        [--placement free|pinned] [--jobs REGEXP] [--peers REGEXP] [--directory DIR] [--json FILE]
//
// Placement 'pinned': servers on processor 0, fio on processor 1; 'free': the scheduler decides.
//
// Buffered images are filled with 4 KiB writes through their own server. Why: ext4 gives a file that is
// written in large pieces large folios, and then every 4 KiB overwrite costs several times as much in the
// kernel, whatever the server: such a run measures ext4.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { parseSize } from '../src/cli/values.ts';
import { type Figures, fill, fillFile, type Job, runJob, runJobOnFile, warm } from './support/fio.ts';
import { type Daemon, startDaemon } from './support/holdfast.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { PEERS, type Server } from './support/peers.ts';
import { cpuMicros, placeProcesses } from './support/processes.ts';
import { median } from './support/statistics.ts';

type Mode = 'buffered' | 'direct';
type Placement = 'free' | 'pinned';

interface NbdJob extends Job {
  /** Ours over the best peer, by requests a second (at depth 1 that is the inverse of the mean latency). */
  readonly goal: number;
}

const JOBS: readonly NbdJob[] = [
  { name: '4k random read QD32', pattern: 'randread', blockBytes: 4096, depth: 32, goal: 1.5 },
  { name: '4k random write QD32', pattern: 'randwrite', blockBytes: 4096, depth: 32, goal: 1.2 },
  { name: '128k read QD16', pattern: 'read', blockBytes: 131_072, depth: 16, goal: 1.2 },
  { name: '128k write QD16', pattern: 'write', blockBytes: 131_072, depth: 16, goal: 1.2 },
  { name: '4k random read QD1', pattern: 'randread', blockBytes: 4096, depth: 1, goal: 1 },
  { name: '4k random write QD1', pattern: 'randwrite', blockBytes: 4096, depth: 1, goal: 1 },
];
/** These also run on four volumes at once, one fio job each. */
const FOUR_VOLUME_JOBS = JOBS.filter(({ depth, blockBytes }) => depth === 32 && blockBytes === 4096);
const OURS = 'holdfast';
/** Direct mode only: the same job on a file, without any server. Neither ours nor a peer: it is the ceiling. */
const DISK = 'the disk alone';
const VOLUMES = 4;
const PROCESSORS: Readonly<Record<Placement, { server: string; fio: string | undefined }>> = {
  free: { server: '0-1023', fio: undefined },
  pinned: { server: '0', fio: '1' },
};

interface Sample extends Figures {
  readonly cpuMicrosPerRequest: number;
}

interface Result {
  readonly mode: Mode;
  readonly placement: Placement;
  readonly job: string;
  readonly server: string;
  readonly rounds: Sample[];
}

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    mode: { type: 'string' },
    placement: { type: 'string' },
    jobs: { type: 'string', default: '' },
    peers: { type: 'string', default: '' },
    directory: { type: 'string', default: '/var/tmp' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));
const seconds = Number(values.seconds ?? (values.quick ? 1 : 3));
const sizeBytes = parseSize(values.size ?? (values.quick ? '256MiB' : '1GiB')) ?? 0;
const modes = (['buffered', 'direct'] as const).filter((mode) => (values.mode ?? mode) === mode);
const placements = (values.quick ? (['free'] as const) : (['free', 'pinned'] as const)).filter(
  (placement) => (values.placement ?? placement) === placement,
);
const jobs = JOBS.filter(({ name }) => new RegExp(values.jobs).test(name));
if (!(rounds >= 1 && seconds >= 1 && sizeBytes >= 2 ** 20) || modes.length === 0 || placements.length === 0) {
  throw new Error(
    '--rounds and --seconds are numbers from 1, --size is like 1GiB; see the head of bench/nbd.ts',
  );
}

const directory = mkdtempSync(join(resolve(values.directory), 'holdfast-bench-'));
const results: Result[] = [];

function resultOf(mode: Mode, placement: Placement, job: string, server: string): Result {
  const found = results.find(
    (result) =>
      result.mode === mode &&
      result.placement === placement &&
      result.job === job &&
      result.server === server,
  );
  if (found !== undefined) return found;
  const result: Result = { mode, placement, job, server, rounds: [] };
  results.push(result);
  return result;
}

async function measure(
  pid: number,
  job: Job,
  uris: readonly string[],
  placement: Placement,
): Promise<Sample> {
  const { server, fio } = PROCESSORS[placement];
  placeProcesses(pid, server);
  const before = cpuMicros(pid);
  const figures = await runJob(job, uris, sizeBytes, seconds, fio);
  const sample = { ...figures, cpuMicrosPerRequest: (cpuMicros(pid) - before) / figures.requests };
  // What this one left dirty is not written out during the next one's turn.
  if (job.pattern.endsWith('write')) execFileSync('sync', ['--file-system', directory]);
  return sample;
}

async function prepare(uri: string, mode: Mode): Promise<void> {
  await fill(uri, sizeBytes, mode === 'buffered' ? 4096 : 2 ** 20);
  if (mode === 'buffered') await warm(uri, sizeBytes);
}

async function runMode(mode: Mode, daemon: Daemon): Promise<void> {
  const uris: string[] = [];
  for (let index = 0; index < VOLUMES; index += 1) {
    const name = `${mode}${index}`;
    await daemon.createVolume(name, mode, sizeBytes);
    uris.push(await daemon.exportVolume(name));
  }
  const [first = ''] = uris;
  const ours: Server = { name: OURS, uri: first, pid: daemon.pid, stop: () => Promise.resolve() };
  const servers = [ours];
  const diskImage = join(directory, 'disk.img');
  try {
    if (mode === 'direct') await fillFile(diskImage, sizeBytes);
    for (const peer of PEERS[mode].filter(({ name }) => new RegExp(values.peers).test(name))) {
      const image = join(directory, `${peer.name.replaceAll(/\W+/g, '-')}.img`);
      execFileSync('fallocate', ['--length', String(sizeBytes), image]);
      servers.push(await peer.start(directory, image));
    }
    for (const uri of [...uris, ...servers.slice(1).map((server) => server.uri)]) await prepare(uri, mode);
    for (const placement of placements) {
      for (const job of jobs) {
        for (let round = 0; round < rounds; round += 1) {
          // Another one begins in every round.
          for (let turn = 0; turn < servers.length; turn += 1) {
            const server = servers[(turn + round) % servers.length] as Server;
            const sample = await measure(server.pid, job, [server.uri], placement);
            resultOf(mode, placement, job.name, server.name).rounds.push(sample);
          }
          if (mode === 'direct') {
            const figures = await runJobOnFile(job, diskImage, sizeBytes, seconds, PROCESSORS[placement].fio);
            resultOf(mode, placement, job.name, DISK).rounds.push({
              ...figures,
              cpuMicrosPerRequest: Number.NaN,
            });
          }
          if (FOUR_VOLUME_JOBS.includes(job)) {
            const sample = await measure(ours.pid, job, uris, placement);
            resultOf(mode, placement, job.name, `${OURS}, ${VOLUMES} volumes`).rounds.push(sample);
          }
        }
        printJob(mode, placement, job);
      }
    }
  } finally {
    for (const server of servers) await server.stop();
  }
}

function printJob(mode: Mode, placement: Placement, job: NbdJob): void {
  const table = new Table({
    head: ['', 'IOPS', 'MB/s', 'p50 µs', 'p99 µs', 'CPU µs/request', 'ours / this'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  });
  const here = results.filter(
    (result) => result.mode === mode && result.placement === placement && result.job === job.name,
  );
  const ours = here.find(({ server }) => server === OURS);
  if (ours === undefined) return;
  const of = (result: Result, pick: (sample: Sample) => number, digits = 0): string =>
    median(result.rounds.map(pick)).toFixed(digits);
  for (const result of here) {
    table.push([
      result.server,
      of(result, (sample) => sample.iops),
      of(result, (sample) => sample.megabytesPerSecond),
      of(result, (sample) => sample.p50Micros, 1),
      of(result, (sample) => sample.p99Micros, 1),
      result.server === DISK ? '' : of(result, (sample) => sample.cpuMicrosPerRequest, 1),
      result.server.startsWith(OURS) ? '' : ratioOf(ours, [result]).toFixed(2),
    ]);
  }
  console.log(`\n${job.name}, ${mode}, ${placement}: median of ${ours.rounds.length} × ${seconds} s`);
  console.log(table.toString());
}

/** Round by round, ours over the best of the others; the median of that. */
function ratioOf(ours: Result, others: readonly Result[]): number {
  const iops = (result: Result, round: number): number => result.rounds[round]?.iops ?? Number.NaN;
  return median(
    ours.rounds.map((_, round) => iops(ours, round) / Math.max(...others.map((other) => iops(other, round)))),
  );
}

interface Verdict {
  readonly mode: Mode;
  readonly placement: Placement;
  readonly what: string;
  readonly ratio: number;
  readonly goal: number;
  /** What a server that costs nothing would have reached, where that is known. */
  readonly ceiling: number | undefined;
}

function verdicts(): Verdict[] {
  const found: Verdict[] = [];
  for (const mode of modes) {
    for (const placement of placements) {
      for (const job of jobs) {
        const here = results.filter(
          (result) => result.mode === mode && result.placement === placement && result.job === job.name,
        );
        const ours = here.find(({ server }) => server === OURS);
        const four = here.find(({ server }) => server.startsWith(`${OURS},`));
        const disk = here.find(({ server }) => server === DISK);
        const peers = here.filter(({ server }) => !server.startsWith(OURS) && server !== DISK);
        if (ours === undefined) continue;
        const place = { mode, placement };
        if (peers.length > 0) {
          const ceiling = disk === undefined ? undefined : ratioOf(disk, peers);
          const what = `${job.name} / best peer`;
          found.push({ ...place, what, ratio: ratioOf(ours, peers), goal: job.goal, ceiling });
        }
        if (four !== undefined) {
          found.push({
            ...place,
            what: `${job.name}, 4 volumes / 1`,
            ratio: ratioOf(four, [ours]),
            goal: 1,
            ceiling: undefined,
          });
        }
      }
    }
  }
  return found;
}

function printVerdicts(all: readonly Verdict[]): void {
  const table = new Table({
    head: ['', '', '', 'ratio', 'goal', '', 'disk alone'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'left', 'left', 'right', 'right', 'left', 'right'],
  });
  for (const { mode, placement, what, ratio, goal, ceiling } of all) {
    const verdict = ratio >= goal ? 'met' : 'NOT MET';
    table.push([
      mode,
      placement,
      what,
      ratio.toFixed(2),
      goal.toFixed(1),
      verdict,
      ceiling?.toFixed(2) ?? '',
    ]);
  }
  console.log('\nGoals (medians of the ratios of each round)');
  console.log(table.toString());
}

const machine = describeMachine(directory);
printMachine(machine);
console.log(
  `workload    fio nbd engine over a Unix socket, ${VOLUMES} volumes and one image a peer of ${sizeBytes} bytes, ` +
    `${rounds} rounds of ${seconds} s in turns, no flushes`,
);
const pools = { buffered: 'buffered', direct: 'direct' } as const;
const daemon = await startDaemon({ directory: join(directory, 'holdfast'), pools });
try {
  for (const mode of modes) await runMode(mode, daemon);
} finally {
  await daemon.stop();
  rmSync(directory, { recursive: true, force: true });
}
const goals = verdicts();
printVerdicts(goals);
if (values.json !== undefined) {
  writeFileSync(
    values.json,
    JSON.stringify({ machine, rounds, seconds, sizeBytes, results, goals }, null, 2),
  );
}
