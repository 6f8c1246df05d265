// How long an application on /dev/nbdN waits when the daemon of its node is killed and its supervisor starts it again at
// once: the usual case. Two lab guests (kernels of their own, a wire between them) with a copy each, etcd beside them; fio
// works on the device, through the kernel's NBD driver, verifies what it reads, and logs when every request was answered.
// With the primary on the user's own node, and with the primary on the other one.
//
//   npm run bench -- failover-local [--quick] [--rounds N] [--cases here,there] [--json FILE]
//
// The phases are those of the daemon's log, one after the other: the process killed is gone, the next one runs (Node.js has
// started and loaded it), the store was reached and the pool is open, the volume has its primary, the device its connection, the application an answer.
// The daemons are those of an image: bundled, as they are deployed.
// A guest has one processor, and a system call costs several times what it costs on a real machine: so does a start.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { mustRun, quote, tail } from '../test/lab/machine.ts';
import { makeImage } from '../test/support/image.ts';
import { LocalCluster, type LogLine } from './support/local-cluster.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { withScratch } from './support/scratch.ts';
import { median } from './support/statistics.ts';

/** Where the primary is, by node: the device is on `a`. */
const CASES = { here: 'a', there: 'b' } as const;
type Case = keyof typeof CASES;
const GOAL_MS = 3000;
/** Writes. */
const BEFORE_KILL = 200;
const AFTER_MS = 1500;
const RECONNECT_MS = 60_000;
const SIZE = '64MiB';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    cases: { type: 'string', default: Object.keys(CASES).join(',') },
    directory: { type: 'string', default: '/var/tmp' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 2 : 20));
const cases = values.cases.split(',').filter((name): name is Case => name in CASES);
if (!(rounds >= 1) || cases.length === 0)
  throw new Error('--rounds is a number from 1; for --cases see the head of bench/failover-local.ts');

const PHASES = ['ended', 'process', 'store', 'volume', 'device', 'answer'] as const;
type Phases = Readonly<Record<(typeof PHASES)[number], number>>;

interface Round {
  readonly case: Case;
  readonly to: string;
  readonly pauseMs: number;
  readonly phases: Phases;
}

async function runRound(cluster: LocalCluster, directory: string, which: Case): Promise<Round> {
  await cluster.primaryTo(CASES[which]);
  const log = join(directory, 'latencies');
  const fio = cluster.user.start(fioCommand(cluster.device, log), { timeoutMs: 180_000 });
  await untilWritten(cluster);
  const linesBefore = (await cluster.log()).length;
  const killedAt = await cluster.killDaemon();
  const lines = await untilReconnected(cluster, linesBefore);
  await sleep(AFTER_MS);
  fio.kill('INT');
  const { exitCode, stdout, stderr } = await fio.ended;
  // 128: it was told to end.
  if (![0, 128].includes(exitCode) || /verify:|error=/.test(stderr))
    throw new Error(`the application saw an error: exit code ${exitCode}\n${tail(stdout)}\n${tail(stderr)}`);
  const { pauseMs, endedAt } = pauseAround(readFileSync(`${log}_clat.1.log`, 'utf8'), killedAt);
  const { primary } = await cluster.show();
  return { case: which, to: primary, pauseMs, phases: phasesOf(lines, killedAt, endedAt) };
}

function fioCommand(device: string, log: string): string {
  const words = [
    [
      'fio',
      '--name=app',
      `--filename=${device}`,
      '--ioengine=libaio',
      '--direct=1',
      '--iodepth=4',
      '--bs=4k',
    ],
    ['--rw=randwrite', '--verify=crc32c', '--verify_backlog=16', '--verify_fatal=1', '--rate_iops=150'],
    ['--time_based', '--runtime=150', '--norandommap=0', '--randrepeat=0', `--write_lat_log=${log}`],
    ['--log_avg_msec=0', '--log_unix_epoch=1'],
  ].flat();
  return `rm -f ${quote(log)}_*; exec ${words.map(quote).join(' ')}`;
}

/** fio has begun: by the device's count of writes (Documentation/block/stat). */
async function untilWritten({ user, device }: LocalCluster): Promise<void> {
  const count = `awk '{ print $5 }' /sys/block/${device.replace('/dev/', '')}/stat`;
  const script = `enough=$(( $(${count}) + ${BEFORE_KILL} )); until [ $(${count}) -gt $enough ]; do sleep 0.1; done`;
  await mustRun(user, script);
}

async function untilReconnected(cluster: LocalCluster, linesBefore: number): Promise<LogLine[]> {
  const deadlineMs = performance.now() + RECONNECT_MS;
  for (;;) {
    const lines = (await cluster.log()).slice(linesBefore);
    if (has(lines, 'device reconnected') && has(lines, 'serving')) return lines;
    if (performance.now() > deadlineMs)
      throw new Error(
        `the device has no connection:\n${lines.map((line) => JSON.stringify(line)).join('\n')}`,
      );
    await sleep(200);
  }
}

/** The longest time without an answer; fio's lines are: ended at (ms), latency (ns), … */
function pauseAround(log: string, killedAt: number): { pauseMs: number; endedAt: number } {
  const times = log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => Number(line.split(',')[0]))
    .sort((a, b) => a - b);
  let longest = { pauseMs: 0, endedAt: killedAt };
  for (const [index, endedAt] of times.entries()) {
    const pauseMs = endedAt - (times[index - 1] ?? endedAt);
    if (pauseMs > longest.pauseMs) longest = { pauseMs, endedAt };
  }
  return longest;
}

function has(lines: readonly LogLine[], msg: string): boolean {
  return lines.some((line) => line.msg === msg);
}

function phasesOf(lines: readonly LogLine[], killedAt: number, answeredAt: number): Phases {
  const at = (isIt: (line: LogLine) => boolean): number =>
    Date.parse(lines.find((line) => isIt(line))?.time ?? '') || Number.NaN;
  const serving = lines.find(({ msg }) => msg === 'serving');
  const process = Date.parse(serving?.time ?? '') - Number(serving?.['startMs']);
  const ended = at(({ msg }) => msg === 'ended');
  const store = at(({ msg }) => msg === 'the pool is open');
  const device = at(({ msg }) => msg === 'device reconnected');
  // With the primary elsewhere the copy here has no part in it.
  const own = at((line) => line.msg === 'the part of a copy has changed' && line['role'] === 'primary');
  const volume = own < device ? own : store;
  return {
    ended: ended - killedAt,
    process: process - ended,
    store: store - process,
    volume: volume - store,
    device: device - volume,
    answer: answeredAt - device,
  };
}

function print(all: readonly Round[]): void {
  const table = new Table({
    head: [
      'primary',
      'rounds',
      'median ms',
      'worst ms',
      `goal ${GOAL_MS}`,
      ...PHASES.map((name) => `+${name}`),
    ],
    style: { head: [], border: [], compact: true },
  });
  for (const which of cases) {
    const ofCase = all.filter((round) => round.case === which);
    const pauses = ofCase.map(({ pauseMs }) => pauseMs);
    const worst = Math.max(...pauses);
    table.push([
      which,
      pauses.length,
      median(pauses).toFixed(0),
      worst.toFixed(0),
      worst <= GOAL_MS ? 'met' : 'NOT MET',
      ...PHASES.map((name) => median(ofCase.map(({ phases }) => phases[name])).toFixed(0)),
    ]);
  }
  console.log(table.toString());
}

await withScratch(async (directory) => {
  const machine = describeMachine(directory);
  printMachine(machine);
  console.log(
    `workload    fio on the device, 4k random writes, verified, 150 a second; ${rounds} rounds a case`,
  );
  await using cluster = await LocalCluster.start({ directory, size: SIZE, program: makeImage(directory) });
  await mustRun(cluster.user, `dd if=/dev/zero of=${cluster.device} bs=1M count=64 oflag=direct status=none`);
  const all: Round[] = [];
  for (const which of cases) {
    for (let count = 0; count < rounds; count += 1) {
      const round = await runRound(cluster, directory, which);
      all.push(round);
      const phases = PHASES.map((name) => `${name} +${round.phases[name].toFixed(0)}`).join('  ');
      console.log(`${which.padEnd(6)} → ${round.to}  ${round.pauseMs.toFixed(0).padStart(6)} ms  ${phases}`);
    }
  }
  print(all);
  if (values.json !== undefined)
    writeFileSync(values.json, JSON.stringify({ machine, rounds: all }, null, 2));
}, values.directory);
