// What replication costs: a volume of three copies beside a volume of one copy, on the same three daemons of one
// machine, the client on the primary's node, measured in turns. fio's nbd engine over a Unix socket, nobody flushing.
// Three copies on two cores do three times the work: the goals say how much of that may show.
//
//   npm run bench -- replication [--quick] [--rounds N] [--seconds N] [--size 256MiB] [--jobs REGEXP] [--idle N]
//                                [--json FILE]
//
// Then the cost of idle volumes: `--idle` replicated ones (20 by default, 0: none), processor time of the daemons and
// packets that leave the nodes (those to etcd among them), beside those of the same daemons without volumes.

import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { parseSize } from '../src/cli/values.ts';
import { type ClusterNode, TestCluster } from '../test/cluster/cluster.ts';
import { ClusterVolume, type VolumeExport } from '../test/cluster/cluster-volume.ts';
import { type Figures, fill, type Job, runJob } from './support/fio.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { cpuMicros } from './support/processes.ts';
import { median } from './support/statistics.ts';

interface ReplicationJob extends Job {
  /** Three copies over one, by requests a second (at depth 1 that is the inverse of the mean latency). */
  readonly goal: number;
}

const JOBS: readonly ReplicationJob[] = [
  { name: '4k random write QD1', pattern: 'randwrite', blockBytes: 4096, depth: 1, goal: 1 / 2 },
  { name: '4k random write QD32', pattern: 'randwrite', blockBytes: 4096, depth: 32, goal: 1 / 3 },
  { name: '128k write QD16', pattern: 'write', blockBytes: 131_072, depth: 16, goal: 1 / 3 },
  { name: '4k random read QD1', pattern: 'randread', blockBytes: 4096, depth: 1, goal: 0.9 },
  { name: '4k random read QD32', pattern: 'randread', blockBytes: 4096, depth: 32, goal: 0.9 },
  { name: '128k read QD16', pattern: 'read', blockBytes: 131_072, depth: 16, goal: 0.9 },
];
const COPIES = { 'one copy': 0, 'three copies': 2 } as const;
type Kind = keyof typeof COPIES;
const KINDS = Object.keys(COPIES) as Kind[];

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    jobs: { type: 'string', default: '' },
    idle: { type: 'string' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));
const seconds = Number(values.seconds ?? (values.quick ? 1 : 3));
const sizeBytes = parseSize(values.size ?? (values.quick ? '64MiB' : '256MiB')) ?? 0;
const idleVolumes = Number(values.idle ?? (values.quick ? 5 : 20));
const idleSeconds = values.quick ? 5 : 20;
const jobs = JOBS.filter(({ name }) => new RegExp(values.jobs).test(name));
if (!(rounds >= 1 && seconds >= 1 && sizeBytes >= 2 ** 20 && idleVolumes >= 0))
  throw new Error(
    '--rounds, --seconds and --idle are numbers, --size is like 1GiB; see the head of bench/replication.ts',
  );

interface Sample extends Figures {
  /** Of all daemons. */
  readonly cpuMicrosPerRequest: number;
}

interface Result {
  readonly job: string;
  readonly goal: number;
  readonly samples: Readonly<Record<Kind, Sample[]>>;
}

function cpuOfAll(nodes: readonly ClusterNode[]): number {
  return nodes.reduce((sum, { daemon }) => sum + cpuMicros(daemon.process.pid ?? 0), 0);
}

async function measure(nodes: readonly ClusterNode[], job: Job, uri: string): Promise<Sample> {
  const before = cpuOfAll(nodes);
  const figures = await runJob(job, [uri], sizeBytes, seconds, undefined);
  return { ...figures, cpuMicrosPerRequest: (cpuOfAll(nodes) - before) / figures.requests };
}

async function runJobs(cluster: TestCluster, uris: Readonly<Record<Kind, string>>): Promise<Result[]> {
  const results: Result[] = [];
  for (const job of jobs) {
    const samples: Record<Kind, Sample[]> = { 'one copy': [], 'three copies': [] };
    for (let round = 0; round < rounds; round += 1) {
      // Another one begins in every round.
      for (const kind of round % 2 === 0 ? KINDS : KINDS.toReversed()) {
        samples[kind].push(await measure(cluster.nodes, job, uris[kind]));
        // What one left dirty is not written out during the next one's turn.
        if (job.pattern.endsWith('write')) execFileSync('sync', ['--file-system', '/tmp']);
      }
    }
    const result = { job: job.name, goal: job.goal, samples };
    printResult(result);
    results.push(result);
  }
  return results;
}

function ratioOf({ samples }: Result): number {
  const one = samples['one copy'];
  return median(samples['three copies'].map(({ iops }, round) => iops / (one[round]?.iops ?? Number.NaN)));
}

function printResult(result: Result): void {
  const table = new Table({
    head: ['', 'IOPS', 'MB/s', 'p50 µs', 'p99 µs', 'CPU µs/request'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right'],
  });
  for (const kind of KINDS) {
    const middle = (pick: (sample: Sample) => number, digits = 0): string =>
      median(result.samples[kind].map(pick)).toFixed(digits);
    table.push([
      kind,
      middle(({ iops }) => iops),
      middle(({ megabytesPerSecond }) => megabytesPerSecond),
      middle(({ p50Micros }) => p50Micros, 1),
      middle(({ p99Micros }) => p99Micros, 1),
      middle(({ cpuMicrosPerRequest }) => cpuMicrosPerRequest, 1),
    ]);
  }
  const ratio = ratioOf(result);
  const verdict = ratio >= result.goal ? 'met' : 'NOT MET';
  console.log(`\n${result.job}: medians of ${rounds} rounds`);
  console.log(table.toString());
  console.log(`three copies / one copy ${ratio.toFixed(2)}, goal ${result.goal.toFixed(2)}: ${verdict}`);
}

interface Idle {
  readonly volumes: number;
  /** Of one core, all daemons together. */
  readonly cpuFraction: number;
  readonly packetsPerSecond: number;
}

/** Packets that have left the nodes. */
function packetsOf(cluster: TestCluster): number {
  return cluster.nodes.reduce((sum, { name }) => {
    const [program = '', ...words] = cluster.network.launcher(name);
    const path = '/proc/thread-self/net/dev';
    const text = execFileSync(program, [...words, 'cat', path], { encoding: 'utf8' });
    const [, counters = ''] = /^\s*eth0:(.*)$/m.exec(text) ?? [];
    return sum + Number(counters.trim().split(/\s+/)[9]);
  }, 0);
}

async function idleFor(cluster: TestCluster, volumes: number): Promise<Idle> {
  await sleep(3000); // until what has just happened has cooled down
  const before = { cpu: cpuOfAll(cluster.nodes), packets: packetsOf(cluster), ms: performance.now() };
  await sleep(idleSeconds * 1000);
  const ms = performance.now() - before.ms;
  return {
    volumes,
    cpuFraction: (cpuOfAll(cluster.nodes) - before.cpu) / (ms * 1000),
    packetsPerSecond: (packetsOf(cluster) - before.packets) / (ms / 1000),
  };
}

function printIdle(all: readonly Idle[]): void {
  console.log(`\nIdle, three daemons together, ${idleSeconds} s`);
  const table = new Table({
    head: ['replicated volumes', '% of a core', 'packets/s'],
    style: { head: [], border: [], compact: true },
    colAligns: ['right', 'right', 'right'],
  });
  for (const { volumes, cpuFraction, packetsPerSecond } of all)
    table.push([volumes, (cpuFraction * 100).toFixed(2), packetsPerSecond.toFixed(1)]);
  console.log(table.toString());
}

async function makeVolume(cluster: TestCluster, name: string, copies: number): Promise<ClusterVolume> {
  const via = cluster.node('a');
  const options = ['--size', String(sizeBytes), '--replicas', String(copies)];
  const volume = await ClusterVolume.create(via, name, ...options);
  await volume.untilInSync(via, copies + 1);
  return volume;
}

async function exportAtPrimary(cluster: TestCluster, volume: ClusterVolume): Promise<VolumeExport> {
  const node = cluster.node((await volume.show(cluster.node('a'))).primary);
  return await volume.exportAt(node, join(node.daemon.dataDir, `${volume.name}.sock`));
}

const machine = describeMachine('/tmp');
printMachine(machine);
console.log(
  `workload    fio nbd engine over a Unix socket on the primary's node, volumes of ${sizeBytes} bytes, ` +
    `${rounds} rounds of ${seconds} s in turns, no flushes`,
);
await using cluster = await TestCluster.start({ nodes: ['a', 'b', 'c'] });
const idle: Idle[] = [];
if (idleVolumes > 0) idle.push(await idleFor(cluster, 0));
const exports: VolumeExport[] = [];
const uris: Record<Kind, string> = { 'one copy': '', 'three copies': '' };
for (const kind of KINDS) {
  const exported = await exportAtPrimary(
    cluster,
    await makeVolume(cluster, kind.replace(' ', '-'), COPIES[kind]),
  );
  exports.push(exported);
  uris[kind] = exported.uri;
  await fill(exported.uri, sizeBytes, 2 ** 20);
}
const results = await runJobs(cluster, uris);
for (const exported of exports) await exported.end();
for (let index = 0; index < idleVolumes; index += 1)
  await exportAtPrimary(cluster, await makeVolume(cluster, `idle${index}`, 2));
if (idleVolumes > 0) idle.push(await idleFor(cluster, idleVolumes));
printIdle(idle);
if (values.json !== undefined)
  writeFileSync(values.json, JSON.stringify({ machine, results, idle }, null, 2));
