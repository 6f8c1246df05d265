// Filling a copy: two daemons and etcd on this machine's loopback.
//
//   npm run bench -- resync [--quick] [--rounds N] [--size 1GiB] [--absence SECONDS] [--mode buffered|direct]
//                           [--only full,holes,sequential,random,foreground,neighbour] [--load SECONDS] [--directory DIR] [--json FILE]
//
//   full        a volume that is full gets a second copy (holdfast volume set-replicas), beside nbdcopy of the same
//               bytes over the same loopback into a new file behind nbdkit and qemu-nbd, in turns; both flush
//   holes       the same with 4 KiB of data and 4 KiB of nothing in turns, as a file system under load leaves it
//   sequential  a copy's daemon is killed, an eighth of the volume is written from end to end within --absence, the
//               daemon comes back: data sent over data missed
//   random      the same with as many 4 KiB blocks at random as make a 64th of the volume
//   foreground  a copy that lacks the whole volume comes back while a client reads and writes 4 KiB at random, 70 and 30 of
//               100, depth 4, for --load: its latency before the copy's return, during the resync, and with both in sync; the
//               volume has 4 GiB, with --quick 2, unless --size says otherwise, so that the resync outlasts the client
//   neighbour   the same with a client of another volume, which has one copy, beside the primary
//
// After each copying both files are compared.

import { execFile, execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import Table from 'cli-table3';
import type { VolumeView } from '../src/cli/api-schema.ts';
import { parseSize } from '../src/cli/values.ts';
import { MIB } from '../src/core/units.ts';
import { type Figures, fill, type Job, runJob, type Writing, writePart } from './support/fio.ts';
import { LoopbackCluster, takePort, untilListening } from './support/loopback-cluster.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { end, start } from './support/processes.ts';
import { withScratch } from './support/scratch.ts';
import { median } from './support/statistics.ts';

const run = promisify(execFile);

const BLOCK_BYTES = 4096;
const LOOK_EVERY_MS = 25;
const IN_SYNC_MS = 300_000;
/** Extents cool, so that a copy lacks what is written while it is away and nothing else. */
const QUIET_MS = 12_000;
const COPY_OF_NBDCOPY = 0.7;
const HOLES_MEGABYTES_PER_SECOND = 100;
const SENT_OVER_MISSED = 1.2;
const SLOWED_BY = 1.3;
const OURS = 'holdfast';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    size: { type: 'string' },
    absence: { type: 'string' },
    mode: { type: 'string', default: 'buffered' },
    only: { type: 'string', default: 'full,holes,sequential,random,foreground,neighbour' },
    load: { type: 'string' },
    directory: { type: 'string', default: '/var/tmp' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));
const sizeBytes = parseSize(values.size ?? (values.quick ? '256MiB' : '1GiB')) ?? 0;
const foregroundBytes = parseSize(values.size ?? (values.quick ? '2GiB' : '4GiB')) ?? 0;
const absenceSeconds = Number(values.absence ?? (values.quick ? 5 : 60));
const loadSeconds = Number(values.load ?? (values.quick ? 4 : 10));
const mode = values.mode === 'direct' ? 'direct' : 'buffered';
const cases = values.only.split(',');
if (
  !(rounds >= 1 && absenceSeconds >= 1 && loadSeconds >= 1 && sizeBytes >= 64 * MIB && sizeBytes % MIB === 0)
)
  throw new Error(
    '--rounds, --absence and --load are numbers from 1, --size is whole MiB from 64MiB; see the head of bench/resync.ts',
  );

interface Copying {
  /** From the order to the flushed copy. */
  readonly seconds: number;
  /** Ours: from the first byte. */
  readonly copyingSeconds: number;
  /** Ours: what went over the wire of the volume's bytes. */
  readonly sentBytes: number;
}

interface Absence {
  readonly missedBytes: number;
  readonly sentBytes: number;
  /** From the start of the daemon that was away. */
  readonly seconds: number;
}

interface Foreground {
  readonly before: Figures;
  readonly during: Figures;
  readonly after: Figures;
  /** Of the resync while the client worked. */
  readonly resyncBytes: number;
  readonly resyncSeconds: number;
  /** From the client's end to the copy in sync. */
  readonly restSeconds: number;
}

const CLIENT: Job = { name: 'mixed', pattern: 'randrw', blockBytes: BLOCK_BYTES, depth: 4 };

class ResyncBench {
  readonly #cluster: LoopbackCluster;
  readonly #directory: string;

  constructor(cluster: LoopbackCluster, directory: string) {
    this.#cluster = cluster;
    this.#directory = directory;
  }

  /** One copy, on this node; returns its id and the URI under which it is exported. */
  async createVolume(name: string, ofBytes = sizeBytes): Promise<{ id: string; uri: string }> {
    const { api } = this.#cluster.daemon('a');
    const { id, primary } = await api.call('CreateVolume', {
      name,
      sizeBytes: ofBytes,
      pool: '',
      replicas: 0,
      durability: '',
      failureMode: '',
      labels: {},
    });
    if (primary !== 'a') throw new Error(`the first copy is on ${primary}`);
    return { id, uri: await this.#cluster.daemon('a').exportVolume(name) };
  }

  /** A second copy is made, filled, compared, and removed. */
  async fillNewCopy(volume: string, id: string): Promise<Copying> {
    const { api } = this.#cluster.daemon('a');
    const orderedMs = performance.now();
    await api.call('SetReplicas', { volume, replicas: 1 });
    let beganMs = 0;
    const shown = await this.#untilInSync(volume, 2, (now) => {
      const { resyncBytesLeft, resyncBytesSent } = secondaryOf(now);
      if (beganMs === 0 && resyncBytesLeft + resyncBytesSent > 0) beganMs = performance.now();
    });
    const endMs = performance.now();
    this.#compare(this.#cluster.dataFile('a', id), this.#cluster.dataFile('b', id));
    await api.call('SetReplicas', { volume, replicas: 0 });
    return {
      seconds: (endMs - orderedMs) / 1000,
      copyingSeconds: (endMs - beganMs) / 1000,
      sentBytes: secondaryOf(shown).resyncBytesSent,
    };
  }

  /** nbdcopy from the primary's own file into a new file behind a server. */
  async nbdcopy(server: (port: number, image: string) => readonly string[], id: string): Promise<Copying> {
    const image = join(this.#directory, 'image');
    const file = openSync(image, 'w');
    ftruncateSync(file, sizeBytes);
    closeSync(file);
    const port = await takePort();
    const [program = '', ...args] = server(port, image);
    // Whoever looks whether it listens is told off by the server, on its standard error.
    const child = start(program, args, { stdio: 'ignore' });
    const source = this.#cluster.dataFile('a', id);
    try {
      await untilListening(port);
      const startMs = performance.now();
      await run('nbdcopy', ['--flush', source, `nbd://127.0.0.1:${port}`], { timeout: 600_000 });
      const seconds = (performance.now() - startMs) / 1000;
      this.#compare(source, image);
      return { seconds, copyingSeconds: seconds, sentBytes: Number.NaN };
    } finally {
      await end(child);
      rmSync(image);
    }
  }

  /** Two copies in sync; one goes away, the other is written, and the first comes back. */
  async absence(volume: string, id: string, uri: string, writing: Writing): Promise<Absence> {
    const { api } = this.#cluster.daemon('a');
    await api.call('SetReplicas', { volume, replicas: 1 });
    await this.#untilInSync(volume, 2);
    await sleep(QUIET_MS);
    const before = secondaryOf(await api.call('GetVolume', { volume })).resyncBytesSent;
    await this.#cluster.killNode('b');
    await this.#untilInSync(volume, 1);
    await writePart(uri, sizeBytes, { ...writing, seconds: absenceSeconds });
    const startMs = performance.now();
    await this.#cluster.startNode('b');
    const shown = await this.#untilInSync(volume, 2);
    const seconds = (performance.now() - startMs) / 1000;
    this.#compare(this.#cluster.dataFile('a', id), this.#cluster.dataFile('b', id));
    await api.call('SetReplicas', { volume, replicas: 0 });
    const sentBytes = secondaryOf(shown).resyncBytesSent - before;
    return { missedBytes: writing.totalBytes, sentBytes, seconds };
  }

  /** A client, of this volume or of another one, beside nobody, beside a resync of this one, and with two copies in sync. */
  async foreground(volume: string, id: string, uri: string, clientUri: string): Promise<Foreground> {
    const { api } = this.#cluster.daemon('a');
    const work = (): Promise<Figures> => runJob(CLIENT, [clientUri], foregroundBytes, loadSeconds, undefined);
    await api.call('SetReplicas', { volume, replicas: 1 });
    await this.#untilInSync(volume, 2);
    await this.#cluster.killNode('b');
    await this.#untilInSync(volume, 1);
    await fill(uri, foregroundBytes, MIB);
    await work();
    const before = await work();
    const sent = async (): Promise<number> =>
      secondaryOf(await api.call('GetVolume', { volume })).resyncBytesSent;
    const sentBefore = await sent();
    await this.#cluster.startNode('b');
    const deadlineMs = performance.now() + IN_SYNC_MS;
    while ((await sent()) === sentBefore) {
      if (performance.now() > deadlineMs) throw new Error('no resync begins');
      await sleep(LOOK_EVERY_MS);
    }
    const [startBytes, startMs] = [await sent(), performance.now()];
    const during = await work();
    const [endBytes, endMs] = [await sent(), performance.now()];
    const shown = await api.call('GetVolume', { volume });
    if (shown.inSync.length === 2)
      throw new Error('the resync was over before the client: use a larger --size');
    await this.#untilInSync(volume, 2);
    const restSeconds = (performance.now() - endMs) / 1000;
    const after = await work();
    this.#compare(this.#cluster.dataFile('a', id), this.#cluster.dataFile('b', id));
    await api.call('SetReplicas', { volume, replicas: 0 });
    const resyncSeconds = (endMs - startMs) / 1000;
    return { before, during, after, resyncBytes: endBytes - startBytes, resyncSeconds, restSeconds };
  }

  async #untilInSync(
    volume: string,
    count: number,
    onLook: (shown: VolumeView) => void = () => {},
  ): Promise<VolumeView> {
    const { api } = this.#cluster.daemon('a');
    const deadlineMs = performance.now() + IN_SYNC_MS;
    for (;;) {
      const shown = await api.call('GetVolume', { volume });
      onLook(shown);
      if (shown.inSync.length === count) return shown;
      if (performance.now() > deadlineMs) throw new Error(`${volume} stays ${JSON.stringify(shown)}`);
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** Both as long as the volume, and equal. */
  #compare(one: string, other: string): void {
    if (statSync(one).size !== statSync(other).size) throw new Error(`${one} and ${other} differ in length`);
    execFileSync('cmp', [one, other]);
    execFileSync('sync', ['--file-system', this.#directory]);
  }
}

function secondaryOf({ replicas }: VolumeView): VolumeView['replicas'][number] {
  const replica = replicas.find(({ role }) => role === 'secondary');
  if (replica === undefined) throw new Error('the volume has one copy only');
  return replica;
}

const SERVERS: Readonly<Record<string, (port: number, image: string) => readonly string[]>> = {
  'nbdcopy to nbdkit': (port, image) =>
    [['nbdkit', '--foreground', '--ipaddr', '127.0.0.1', '--port', String(port), 'file', image]].flat(),
  'nbdcopy to qemu-nbd': (port, image) =>
    [
      ['qemu-nbd', '--format=raw', '--persistent', '--shared=16', '--cache=writeback', '--bind=127.0.0.1'],
      [`--port=${port}`, image],
    ].flat(),
};

type Samples = ReadonlyMap<string, Copying[]>;

async function copyInTurns(bench: ResyncBench, volume: string, id: string): Promise<Samples> {
  const samples = new Map<string, Copying[]>([OURS, ...Object.keys(SERVERS)].map((name) => [name, []]));
  const names = [...samples.keys()];
  for (let round = 0; round < rounds; round += 1) {
    // Another one begins in every round.
    for (const index of names.keys()) {
      const name = names[(index + round) % names.length] ?? '';
      const server = SERVERS[name];
      const copying = server === undefined ? bench.fillNewCopy(volume, id) : bench.nbdcopy(server, id);
      samples.get(name)?.push(await copying);
    }
  }
  return samples;
}

function megabytesPerSecond(dataBytes: number, seconds: readonly number[]): number {
  return median(seconds.map((each) => dataBytes / each / 1e6));
}

/** Ours over the better of the others, round by round, by `seconds`. */
function ratioOf(samples: Samples, seconds: (copying: Copying) => number): number {
  const ours = samples.get(OURS) ?? [];
  const best = (round: number): number =>
    Math.min(...Object.keys(SERVERS).map((name) => samples.get(name)?.[round]?.seconds ?? Number.NaN));
  return median(ours.map((copying, round) => best(round) / seconds(copying)));
}

function printCopying(title: string, dataBytes: number, samples: Samples): void {
  const table = new Table({
    head: ['', 'MB/s', 'MB/s from the first byte', 's', 'sent / data'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right'],
  });
  for (const [name, all] of samples) {
    const isOurs = name === OURS;
    table.push([
      name,
      megabytesPerSecond(
        dataBytes,
        all.map(({ seconds }) => seconds),
      ).toFixed(0),
      isOurs
        ? megabytesPerSecond(
            dataBytes,
            all.map(({ copyingSeconds }) => copyingSeconds),
          ).toFixed(0)
        : '',
      median(all.map(({ seconds }) => seconds)).toFixed(2),
      isOurs ? median(all.map(({ sentBytes }) => sentBytes / dataBytes)).toFixed(2) : '',
    ]);
  }
  console.log(`\n${title}: ${dataBytes / MIB} MiB of data, medians of ${rounds} rounds`);
  console.log(table.toString());
}

function verdict(isMet: boolean): string {
  return isMet ? 'met' : 'NOT MET';
}

async function runFull(bench: ResyncBench): Promise<unknown> {
  const { id, uri } = await bench.createVolume('full');
  await fill(uri, sizeBytes, MIB);
  const samples = await copyInTurns(bench, 'full', id);
  printCopying('full copy', sizeBytes, samples);
  const ratio = ratioOf(samples, ({ copyingSeconds }) => copyingSeconds);
  const ordered = ratioOf(samples, ({ seconds }) => seconds);
  console.log(
    `holdfast / better nbdcopy ${ratio.toFixed(2)} (from the order on ${ordered.toFixed(2)}), ` +
      `goal ${COPY_OF_NBDCOPY}: ${verdict(ratio >= COPY_OF_NBDCOPY)}`,
  );
  return {
    case: 'full',
    dataBytes: sizeBytes,
    ratio,
    ratioFromOrder: ordered,
    samples: Object.fromEntries(samples),
  };
}

async function runHoles(bench: ResyncBench): Promise<unknown> {
  const { id, uri } = await bench.createVolume('holes');
  const dataBytes = sizeBytes / 2;
  const writing = { pattern: 'sequential', blockBytes: BLOCK_BYTES, skipBytes: BLOCK_BYTES } as const;
  await writePart(uri, sizeBytes, { ...writing, totalBytes: dataBytes });
  const samples = await copyInTurns(bench, 'holes', id);
  printCopying('4k data, 4k holes', dataBytes, samples);
  const rate = megabytesPerSecond(
    dataBytes,
    (samples.get(OURS) ?? []).map(({ copyingSeconds }) => copyingSeconds),
  );
  console.log(
    `holdfast ${rate.toFixed(0)} MB/s of data, goal ${HOLES_MEGABYTES_PER_SECOND}: ` +
      verdict(rate >= HOLES_MEGABYTES_PER_SECOND),
  );
  return { case: 'holes', dataBytes, megabytesPerSecond: rate, samples: Object.fromEntries(samples) };
}

async function runAbsence(bench: ResyncBench, name: 'sequential' | 'random'): Promise<unknown> {
  const { id, uri } = await bench.createVolume(name);
  await fill(uri, sizeBytes, MIB);
  const isSequential = name === 'sequential';
  const absence = await bench.absence(name, id, uri, {
    pattern: name,
    blockBytes: isSequential ? 131_072 : BLOCK_BYTES,
    totalBytes: isSequential ? sizeBytes / 8 : sizeBytes / 64,
  });
  const ratio = absence.sentBytes / absence.missedBytes;
  const goal = isSequential ? `goal ${SENT_OVER_MISSED}: ${verdict(ratio <= SENT_OVER_MISSED)}` : 'no goal';
  console.log(
    `\nabsence of ${absenceSeconds} s, ${name} writes: ${(absence.missedBytes / MIB).toFixed(1)} MiB missed, ` +
      `${(absence.sentBytes / MIB).toFixed(1)} MiB sent, in sync ${absence.seconds.toFixed(1)} s after the start\n` +
      `sent / missed ${ratio.toFixed(2)}, ${goal}`,
  );
  return { case: name, ...absence, ratio };
}

async function runForeground(bench: ResyncBench, name: 'foreground' | 'neighbour'): Promise<unknown> {
  const { id, uri } = await bench.createVolume(name, foregroundBytes);
  await fill(uri, foregroundBytes, MIB);
  let clientUri = uri;
  if (name === 'neighbour') {
    ({ uri: clientUri } = await bench.createVolume('client', foregroundBytes));
    await fill(clientUri, foregroundBytes, MIB);
  }
  const found = await bench.foreground(name, id, uri, clientUri);
  const table = new Table({
    head: ['microseconds', 'read p50', 'p99', 'write p50', 'p99', 'reads / s'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right'],
  });
  const row = (name: string, { p50Micros, p99Micros, writes, iops }: Figures): void => {
    const figures = [p50Micros, p99Micros, writes.p50Micros, writes.p99Micros, iops];
    table.push([name, ...figures.map((figure) => figure.toFixed(0))]);
  };
  row('copy away', found.before);
  row('copy being filled', found.during);
  row('both in sync', found.after);
  const whose = name === 'foreground' ? 'of the volume' : 'of another volume';
  console.log(`\n4k random reads and writes ${whose}, depth 4, for ${loadSeconds} s each`);
  console.log(table.toString());
  const slowed = (than: Figures): number =>
    Math.max(found.during.p99Micros / than.p99Micros, found.during.writes.p99Micros / than.writes.p99Micros);
  const ratio = slowed(found.before);
  console.log(
    `resync meanwhile ${(found.resyncBytes / found.resyncSeconds / 1e6).toFixed(1)} MB/s, in sync ` +
      `${found.restSeconds.toFixed(1)} s after the client's end\n` +
      `p99 / p99 with the copy away ${ratio.toFixed(2)} (with both in sync ${slowed(found.after).toFixed(2)}), ` +
      `goal ${SLOWED_BY}: ${verdict(ratio <= SLOWED_BY)}`,
  );
  return { case: name, ...found, ratio, ratioOfInSync: slowed(found.after) };
}

await withScratch(async (directory) => {
  const machine = describeMachine(directory);
  printMachine(machine);
  console.log(`workload    two daemons and etcd on loopback, ${mode} pools, volumes of ${sizeBytes} bytes`);
  const cluster = await LoopbackCluster.start(join(directory, 'cluster'), ['a', 'b'], mode);
  const results: unknown[] = [];
  try {
    const bench = new ResyncBench(cluster, directory);
    if (cases.includes('full')) results.push(await runFull(bench));
    if (cases.includes('holes')) results.push(await runHoles(bench));
    if (cases.includes('sequential')) results.push(await runAbsence(bench, 'sequential'));
    if (cases.includes('random')) results.push(await runAbsence(bench, 'random'));
    if (cases.includes('foreground')) results.push(await runForeground(bench, 'foreground'));
    if (cases.includes('neighbour')) results.push(await runForeground(bench, 'neighbour'));
  } finally {
    await cluster.stop();
  }
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ machine, results }, null, 2));
}, resolve(values.directory));
