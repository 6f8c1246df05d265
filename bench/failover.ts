// How long a client waits when the primary of its volume goes: three nodes with network namespaces of their own, one
// replica beside the primary, the client on the third node, which has no copy, default timers. A round: load, the
// fault, the first answers after it, repair, both copies in sync again; the primary has then changed places. The
// client checks every sector (test/support/history-client.ts): a pause in which something was lost is none. Its phases
// are those of "holdfast volume timeline": until another copy takes over, until that serves, until the client is answered.
//
//   npm run bench -- failover [--quick] [--rounds N] [--faults kill,move] [--json FILE]
//
//   kill     the daemon is killed, and started again only after the pause
//   restart  the same, and started again at once, as a supervisor does
//   lose     its node is lost: nothing comes from it any more, and its daemon is killed
//   cut      its node is cut off from all others and from etcd, and lives
//   freeze   its daemon stands still (SIGSTOP) and goes on after the pause
//   stop     its daemon is stopped (SIGTERM), and started again after the pause
//   move     no fault: the primary is handed over (holdfast volume move)
//   other    the daemon of the other copy is killed, and started again after the pause
//   leave    the daemon of the other copy is stopped (SIGTERM), and started again after the pause

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { type ClusterNode, TestCluster } from '../test/cluster/cluster.ts';
import { ClusterVolume } from '../test/cluster/cluster-volume.ts';
import { HistoryClient, VolumeHistory } from '../test/support/history-client.ts';
import type { Pause } from '../test/support/pauses.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { median } from './support/statistics.ts';

const FAULTS = {
  kill: { medianMs: 6000, worstMs: 10_000 },
  restart: { medianMs: 3000, worstMs: 3000 },
  lose: { medianMs: 6000, worstMs: 10_000 },
  cut: { medianMs: 6000, worstMs: 10_000 },
  freeze: { medianMs: 6000, worstMs: 10_000 },
  stop: { medianMs: 100, worstMs: 100 },
  move: { medianMs: 100, worstMs: 100 },
  other: { medianMs: 2000, worstMs: 3000 },
  leave: { medianMs: 100, worstMs: 100 },
} as const;
type Fault = keyof typeof FAULTS;
/** After these the primary is where it was, or may be. */
const STAYS: readonly Fault[] = ['restart', 'other', 'leave'];

const NODES = ['a', 'b', 'c'];
const SIZE = '64MiB';
const BEFORE_MS = 2000;
/** Without an end of the pause by then the round has failed. */
const PAUSE_LIMIT_MS = 60_000;
/** Answers again for so long: the pause is over. */
const AFTER_MS = 1500;
/** About 1000 requests a second: the machine's two cores are not what is measured. */
const LOAD = { depth: 4, thinkMs: 4, mostSectors: 4, pausesFromMs: 50 };

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    faults: { type: 'string', default: Object.keys(FAULTS).join(',') },
    json: { type: 'string' },
  },
});
const rounds = Number(values.rounds ?? (values.quick ? 2 : 20));
const faults = values.faults.split(',').filter((name): name is Fault => name in FAULTS);
if (!(rounds >= 1) || faults.length === 0)
  throw new Error('--rounds is a number from 1; for --faults see the head of bench/failover.ts');

interface Round {
  readonly fault: Fault;
  readonly from: string;
  readonly to: string;
  readonly pauseMs: number;
  readonly phases: Phases | undefined;
}

interface Phases {
  /** From the last answer on: the primary's lease is over (or it gave its place away), and another copy takes over. */
  readonly suspectedMs: number;
  /** It serves; what was in doubt may still be rewritten. */
  readonly servesMs: number;
  /** The client has an answer. */
  readonly answeredMs: number;
}

interface Timeline {
  readonly lines: readonly { at: string; node: string; what: string; text: string }[];
}

class FailoverBench {
  readonly #cluster: TestCluster;
  readonly #volume: ClusterVolume;
  readonly #client: HistoryClient;
  /** The node on which the client is. */
  readonly #observer: ClusterNode;

  constructor(cluster: TestCluster, volume: ClusterVolume, client: HistoryClient, observer: ClusterNode) {
    this.#cluster = cluster;
    this.#volume = volume;
    this.#client = client;
    this.#observer = observer;
  }

  async run(fault: Fault): Promise<Round> {
    const shown = await this.#volume.untilInSync(this.#observer, 2);
    const primary = this.#cluster.node(shown.primary);
    const other = this.#cluster.node(shown.inSync.find((name) => name !== primary.name) ?? '');
    const load = this.#client.load(LOAD);
    await sleep(BEFORE_MS);
    const before = load.requests;
    await this.#strike(fault, primary, other);
    await this.#untilServed(() => load.requests, before);
    const { longestPause, errors, brokenBy } = await load.stop();
    if (brokenBy !== undefined || errors.size > 0)
      throw new Error(`the client saw errors: ${[...errors.keys()].join(', ')}`, { cause: brokenBy });
    const { primary: to } = await this.#volume.show(this.#observer);
    if (to === primary.name && !STAYS.includes(fault)) throw new Error(`node ${to} still has the primary`);
    const phases = await this.#phases(longestPause, to);
    await this.#repair(fault, fault === 'other' || fault === 'leave' ? other : primary);
    return { fault, from: primary.name, to, pauseMs: longestPause.ms, phases };
  }

  /** undefined: the timeline does not tell them. */
  async #phases({ startedAt, ms }: Pause, to: string): Promise<Phases | undefined> {
    const { lines } = await this.#observer.json<Timeline>('volume', 'timeline', this.#volume.name);
    // One machine, one clock.
    const seen = lines
      .filter(({ node }) => node === to)
      .map(({ at, what, text }) => ({ what, text, ms: Date.parse(at) - startedAt.getTime() }))
      .filter((line) => line.ms > -100 && line.ms < ms + 100);
    const serves = seen.find(({ what, text }) => what === 'role' && text.includes('primary'))?.ms;
    if (serves === undefined) return undefined;
    const suspectedMs = seen.find(({ what }) => what === 'suspected')?.ms ?? serves;
    return { suspectedMs, servesMs: serves - suspectedMs, answeredMs: ms - serves };
  }

  async #strike(fault: Fault, primary: ClusterNode, other: ClusterNode): Promise<void> {
    switch (fault) {
      case 'kill':
        return await primary.kill();
      case 'restart':
        return await primary.restart();
      case 'lose':
        await this.#cluster.network.isolate(primary.name);
        return await primary.kill();
      case 'cut':
        return await this.#cluster.network.isolate(primary.name);
      case 'freeze':
        return primary.freeze();
      case 'stop':
        await primary.end();
        return;
      case 'move':
        await this.#observer.json('volume', 'move', this.#volume.name, other.name);
        return;
      case 'other':
        return await other.kill();
      case 'leave':
        await other.end();
        return;
    }
  }

  async #repair(fault: Fault, struck: ClusterNode): Promise<void> {
    if (fault === 'lose' || fault === 'cut') await this.#cluster.network.heal();
    if (['kill', 'lose', 'stop', 'other', 'leave'].includes(fault)) await struck.start();
    if (fault === 'freeze') struck.thaw();
  }

  /** The strike may come back before the pause has begun: what was answered in between does not end it. */
  async #untilServed(requests: () => number, before: number): Promise<void> {
    const deadlineMs = performance.now() + PAUSE_LIMIT_MS;
    let [last, since] = [before, performance.now()];
    // A node's death shows within a lease; looking for less would take the answers before it for those after.
    await sleep(AFTER_MS);
    for (;;) {
      await sleep(50);
      const now = requests();
      if (now === last) since = performance.now();
      if (now > last && performance.now() - since >= AFTER_MS) return;
      last = now;
      if (performance.now() > deadlineMs) throw new Error(`no answers ${PAUSE_LIMIT_MS} ms after the fault`);
    }
  }
}

function print(all: readonly Round[]): void {
  const table = new Table({
    head: ['fault', 'rounds', 'median ms', 'worst ms', 'goal', '', 'takes over', 'serves', 'answers'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'left', 'right', 'right', 'right'],
  });
  for (const fault of faults) {
    const ofFault = all.filter((round) => round.fault === fault);
    const pauses = ofFault.map(({ pauseMs }) => pauseMs);
    const [middle, worst] = [median(pauses), Math.max(...pauses)];
    const goal = FAULTS[fault];
    const isFine = middle <= goal.medianMs && worst <= goal.worstMs;
    const limits = `${goal.medianMs} / ${goal.worstMs}`;
    const known = ofFault.flatMap(({ phases }) => phases ?? []);
    const phase = (pick: (phases: Phases) => number): string =>
      known.length === 0 ? '' : `+${median(known.map(pick)).toFixed(0)}`;
    table.push([
      fault,
      pauses.length,
      middle.toFixed(0),
      worst.toFixed(0),
      limits,
      isFine ? 'met' : 'NOT MET',
      phase(({ suspectedMs }) => suspectedMs),
      phase(({ servesMs }) => servesMs),
      phase(({ answeredMs }) => answeredMs),
    ]);
  }
  console.log(table.toString());
}

async function main(): Promise<void> {
  const machine = describeMachine('/tmp');
  printMachine(machine);
  console.log(
    `workload    ${LOAD.depth} requests in flight, about ${1000 / LOAD.thinkMs} a second each, checked; ${rounds} rounds a fault`,
  );
  await using cluster = await TestCluster.start({ nodes: NODES });
  const volume = await ClusterVolume.create(cluster.node('a'), 'failover', '--size', SIZE, '--replicas', '1');
  const { replicas } = await volume.untilInSync(cluster.node('a'), 2);
  const observer = cluster.nodes.find(({ name }) => replicas.every(({ node }) => node !== name));
  if (observer === undefined) throw new Error('every node has a copy');
  const exported = await volume.exportAt(observer, join(observer.daemon.dataDir, 'failover.sock'));
  const history = new VolumeHistory();
  const client = await HistoryClient.connect(history, exported);
  const bench = new FailoverBench(cluster, volume, client, observer);
  const all: Round[] = [];
  for (const fault of faults) {
    for (let count = 0; count < rounds; count += 1) {
      const round = await bench.run(fault);
      all.push(round);
      console.log(
        `${fault.padEnd(8)} ${round.from} → ${round.to}  ${round.pauseMs.toFixed(0).padStart(6)} ms`,
      );
    }
  }
  await client.readAll();
  await client.disconnect();
  await exported.end();
  print(all);
  for (const { text } of history.complaints) console.log(`VIOLATION   ${text}`);
  console.log(`${history.complaints.length} violations`);
  if (values.json !== undefined)
    writeFileSync(values.json, JSON.stringify({ machine, rounds: all }, null, 2));
  if (history.complaints.length > 0) process.exitCode = 1;
}

await main();
