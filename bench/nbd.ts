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
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { parseSize } from '../src/cli/values.ts';
import { fill, fillFile, type Job, runJob, runJobOnFile, warm } from './support/fio.ts';
import { type Daemon, startDaemon } from './support/holdfast.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import {
  DISK,
  type Mode,
  type NbdJob,
  OURS,
  OURS_MANY,
  type Placement,
  printJob,
  printVerdicts,
  Results,
  type Sample,
} from './support/nbd-report.ts';
import { PEERS, type Server } from './support/peers.ts';
import { cpuMicros, placeProcesses } from './support/processes.ts';
import { withScratch } from './support/scratch.ts';

const JOBS: readonly NbdJob[] = [
  { name: '4k random read QD32', pattern: 'randread', blockBytes: 4096, depth: 32, goal: 1.5 },
  { name: '4k random write QD32', pattern: 'randwrite', blockBytes: 4096, depth: 32, goal: 1.2 },
  { name: '128k read QD16', pattern: 'read', blockBytes: 131_072, depth: 16, goal: 1.2 },
  { name: '128k write QD16', pattern: 'write', blockBytes: 131_072, depth: 16, goal: 1.2 },
  { name: '4k random read QD1', pattern: 'randread', blockBytes: 4096, depth: 1, goal: 1 },
  { name: '4k random write QD1', pattern: 'randwrite', blockBytes: 4096, depth: 1, goal: 1 },
];
/** These also run on four volumes at once, one fio job each. */
const MANY_VOLUMES_JOBS = JOBS.filter(({ depth }) => depth === 32);
const VOLUMES = 4;
const PROCESSORS: Readonly<Record<Placement, { server: string; fio: string | undefined }>> = {
  free: { server: '0-1023', fio: undefined },
  pinned: { server: '0', fio: '1' },
};

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
const results = new Results();

/** What one left dirty is not written out during the next one's turn. */
function settle(job: Job, directory: string): void {
  if (job.pattern.endsWith('write')) execFileSync('sync', ['--file-system', directory]);
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
  return { ...figures, cpuMicrosPerRequest: (cpuMicros(pid) - before) / figures.requests };
}

async function exportVolumes(mode: Mode, daemon: Daemon): Promise<string[]> {
  const uris: string[] = [];
  for (let index = 0; index < VOLUMES; index += 1) {
    const name = `${mode}${index}`;
    await daemon.createVolume(name, mode, sizeBytes);
    uris.push(await daemon.exportVolume(name));
  }
  return uris;
}

async function startPeers(mode: Mode, directory: string, started: Server[]): Promise<void> {
  for (const peer of PEERS[mode].filter(({ name }) => new RegExp(values.peers).test(name))) {
    const image = join(directory, `${peer.name.replaceAll(/\W+/g, '-')}.img`);
    execFileSync('fallocate', ['--length', String(sizeBytes), image]);
    started.push(await peer.start(directory, image));
  }
}

async function runMode(mode: Mode, directory: string, daemon: Daemon): Promise<void> {
  const volumes = await exportVolumes(mode, daemon);
  const peers: Server[] = [];
  const diskImage = join(directory, 'disk.img');
  try {
    await startPeers(mode, directory, peers);
    for (const uri of [...volumes, ...peers.map((peer) => peer.uri)]) {
      await fill(uri, sizeBytes, mode === 'buffered' ? 4096 : 2 ** 20);
      if (mode === 'buffered') await warm(uri, sizeBytes);
    }
    if (mode === 'direct') await fillFile(diskImage, sizeBytes);
    for (const placement of placements) {
      for (const job of jobs) {
        for (let round = 0; round < rounds; round += 1) {
          await runRound({ mode, placement, job, round, directory, daemon, volumes, peers, diskImage });
        }
        printJob(results.of(mode, placement, job.name));
      }
    }
  } finally {
    for (const peer of peers) await peer.stop();
  }
}

interface Round {
  readonly mode: Mode;
  readonly placement: Placement;
  readonly job: NbdJob;
  readonly round: number;
  readonly directory: string;
  readonly daemon: Daemon;
  readonly volumes: readonly string[];
  readonly peers: readonly Server[];
  readonly diskImage: string;
}

async function runRound({ mode, placement, job, round, directory, daemon, ...rest }: Round): Promise<void> {
  const { volumes, peers, diskImage } = rest;
  const add = (server: string, sample: Sample): void =>
    results.add(mode, placement, job.name, server, sample);
  const turns: { server: string; run: () => Promise<Sample> }[] = [
    { server: OURS, run: () => measure(daemon.pid, job, volumes.slice(0, 1), placement) },
    ...peers.map(({ name, pid, uri }) => ({ server: name, run: () => measure(pid, job, [uri], placement) })),
  ];
  if (mode === 'direct') {
    turns.push({
      server: DISK,
      run: async () => {
        const figures = await runJobOnFile(job, diskImage, sizeBytes, seconds, PROCESSORS[placement].fio);
        return { ...figures, cpuMicrosPerRequest: Number.NaN };
      },
    });
  }
  if (MANY_VOLUMES_JOBS.includes(job)) {
    turns.push({ server: OURS_MANY, run: () => measure(daemon.pid, job, volumes, placement) });
  }
  // Another one begins in every round.
  for (const index of turns.keys()) {
    const turn = turns[(index + round) % turns.length];
    if (turn === undefined) continue;
    add(turn.server, await turn.run());
    settle(job, directory);
  }
}

await withScratch(async (directory) => {
  const machine = describeMachine(directory);
  printMachine(machine);
  console.log(
    `workload    fio nbd engine over a Unix socket, ${VOLUMES} volumes and one image a peer of ${sizeBytes} bytes, ` +
      `${rounds} rounds of ${seconds} s in turns, no flushes`,
  );
  const pools = { buffered: 'buffered', direct: 'direct' } as const;
  const daemon = await startDaemon({ directory: join(directory, 'holdfast'), pools });
  try {
    for (const mode of modes) await runMode(mode, directory, daemon);
  } finally {
    await daemon.stop();
  }
  const goals = results.verdicts(jobs);
  printVerdicts(goals);
  if (values.json !== undefined) {
    const report = { machine, rounds, seconds, sizeBytes, results: results.all, goals };
    writeFileSync(values.json, JSON.stringify(report, null, 2));
  }
}, resolve(values.directory));
