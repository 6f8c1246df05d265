// `npm run demo:failover`: three nodes and etcd on one machine, each in a network namespace of its own; a volume with
// two replicas beside its primary, and fio, which verifies what it writes, on a node that is not the primary's. Under
// it the primary's daemon is killed, then the primary's node is cut off, then the primary is handed over. In the end
// everything is read back and the three copies are compared byte by byte. Ends non-zero if anything is off, and leaves
// nothing behind.
//   --seconds N   fio writes for about so long each time; 15 by default

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Listr } from 'listr2';
import { errorText } from '../src/core/errors.ts';
import { MIB } from '../src/core/units.ts';
import { type ClusterNode, TestCluster } from '../test/cluster/cluster.ts';
import { ClusterVolume, type ShownVolume } from '../test/cluster/cluster-volume.ts';
import { digestsOfCopies } from './demo/copies.ts';
import type { FioFigures } from './demo/fio.ts';
import { startNbdFio } from './demo/fio-nbd.ts';

const NODES = ['a', 'b', 'c'] as const;
const VOLUME_BYTES = 384 * MIB;
const PART_BYTES = 128 * MIB;
const WRITES_PER_SECOND = 1200;
const MOST_SECONDS = PART_BYTES / 4096 / WRITES_PER_SECOND;
const { values } = parseArgs({ options: { seconds: { type: 'string', default: '15' } } });
const SECONDS = Number(values.seconds);
const WRITES = SECONDS * WRITES_PER_SECOND;
/** Into fio's job: there is a before and an after. */
const FAULT_AFTER_MS = 4000;
const FIO_TIMEOUT_MS = 120_000;
/** Beyond these the demo fails. They are what docs/failover.md promises, not what is expected. */
const LONGEST_FAILOVER_MS = 10_000;
const LONGEST_HANDOVER_MS = 1000;

interface Act {
  readonly title: string;
  readonly longestMs: number;
  /** Done to the node that has the primary. */
  readonly fault: (primary: ClusterNode) => Promise<string>;
  readonly repair: (primary: ClusterNode) => Promise<void>;
}

interface Outcome {
  readonly title: string;
  readonly client: string;
  readonly from: string;
  readonly to: ShownVolume;
  readonly figures: FioFigures;
}

class FailoverDemo {
  readonly #startedAt = performance.now();
  readonly #cluster: TestCluster;
  readonly #acts: readonly Act[];
  #volume = new ClusterVolume('demo');
  readonly outcomes: Outcome[] = [];
  readonly events: string[] = [];

  constructor(cluster: TestCluster) {
    this.#cluster = cluster;
    this.#acts = [
      {
        title: 'the daemon of the primary is killed (SIGKILL)',
        longestMs: LONGEST_FAILOVER_MS,
        fault: async (primary) => {
          await primary.kill();
          return `SIGKILL to the daemon of node ${primary.name}`;
        },
        repair: (primary) => primary.start(),
      },
      {
        title: 'the node of the primary is cut off from all others and from etcd',
        longestMs: LONGEST_FAILOVER_MS,
        fault: async (primary) => {
          await cluster.network.isolate(primary.name);
          return `node ${primary.name} is cut off`;
        },
        repair: () => cluster.network.heal(),
      },
      {
        title: 'the primary is handed over (holdfast volume move)',
        longestMs: LONGEST_HANDOVER_MS,
        fault: async (primary) => {
          const target = this.#others(primary)[1]?.name ?? '';
          await primary.json('volume', 'move', this.#volume.name, target);
          return `volume move: the primary goes from node ${primary.name} to ${target}`;
        },
        repair: () => Promise.resolve(),
      },
    ];
  }

  async createVolume(): Promise<void> {
    const via = this.#cluster.node('a');
    const options = ['--size', String(VOLUME_BYTES), '--replicas', '2'];
    this.#volume = await ClusterVolume.create(via, this.#volume.name, ...options);
    await this.#allInSync(via);
  }

  acts(): { title: string; task: () => Promise<void> }[] {
    return this.#acts.map((act, index) => ({
      title: `fio on another node, and under it: ${act.title}`,
      task: () => this.#play(act, index),
    }));
  }

  async #play(act: Act, index: number): Promise<void> {
    const shown = await this.#allInSync(this.#cluster.node('a'));
    const primary = this.#cluster.node(shown.primary);
    const [client] = this.#others(primary);
    if (client === undefined) throw new Error('there is no other node');
    const exported = await this.#volume.exportAt(client, this.#socketPath(client));
    const job = { uri: exported.uri, offsetBytes: index * PART_BYTES, writes: WRITES };
    const fio = startNbdFio({ ...job, writesPerSecond: WRITES_PER_SECOND, step: 'write' }, FIO_TIMEOUT_MS);
    try {
      this.#note(`fio writes on node ${client.name}; primary on ${primary.name}, epoch ${shown.epoch}`);
      await Promise.race([sleep(FAULT_AFTER_MS), fio.ended]);
      this.#note(await act.fault(primary));
      const figures = await fio.ended;
      const to = await this.#volume.show(client);
      this.#note(
        `fio is through: primary on ${to.primary}, epoch ${to.epoch}, in sync ${to.inSync.join(', ')}`,
      );
      await exported.end();
      this.outcomes.push({ title: act.title, client: client.name, from: primary.name, to, figures });
      if (to.primary === primary.name) throw new Error(`node ${primary.name} still has the primary`);
      if (figures.maxMs > act.longestMs)
        throw new Error(`a write waited for ${Math.round(figures.maxMs)} ms, above ${act.longestMs} ms`);
      await act.repair(primary);
      await this.#allInSync(client);
      this.#note('all three copies are in sync');
    } finally {
      fio.kill();
      await exported.end();
    }
  }

  /** By each node once, whatever it took over or lost. */
  async verify(): Promise<void> {
    for (const [index, node] of this.#cluster.nodes.entries()) {
      const exported = await this.#volume.exportAt(node, this.#socketPath(node));
      try {
        const job = { uri: exported.uri, offsetBytes: index * PART_BYTES, writes: WRITES };
        const fio = startNbdFio(
          { ...job, writesPerSecond: WRITES_PER_SECOND, step: 'check' },
          FIO_TIMEOUT_MS,
        );
        const { requests } = await fio.ended;
        if (requests < WRITES) throw new Error(`fio has verified ${requests} of ${WRITES} blocks`);
      } finally {
        await exported.end();
      }
    }
  }

  async timeline(): Promise<string> {
    const { stdout, stderr } = await this.#cluster.node('a').run('volume', 'timeline', this.#volume.name);
    return `${stdout}${stderr}`.trimEnd();
  }

  async stopAndCompare(): Promise<void> {
    for (const node of this.#cluster.nodes) {
      const exitCode = await node.end();
      if (exitCode !== 0) throw new Error(`the daemon of node ${node.name} ended with ${exitCode}`);
    }
    const copies = await digestsOfCopies(this.#cluster.nodes.map((node) => node.daemon.dataDir));
    if (copies.length !== NODES.length)
      throw new Error(`there are ${copies.length} copies, not ${NODES.length}`);
    const distinct = new Set(copies.map(({ digest }) => digest));
    if (distinct.size > 1)
      throw new Error(
        `the copies differ:\n${copies.map(({ path, digest }) => `${digest} ${path}`).join('\n')}`,
      );
  }

  logs(): string {
    const logOf = ({ name, daemon }: ClusterNode): string =>
      `--- node ${name}\n${daemon.lines.slice(-30).join('\n')}`;
    return this.#cluster.nodes.map(logOf).join('\n');
  }

  async #allInSync(via: ClusterNode): Promise<ShownVolume> {
    return await this.#volume.untilInSync(via, NODES.length);
  }

  #others(node: ClusterNode): ClusterNode[] {
    return this.#cluster.nodes.filter((other) => other !== node);
  }

  #socketPath({ daemon }: ClusterNode): string {
    return `${daemon.dataDir}/demo.sock`;
  }

  #note(text: string): void {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    this.events.push(`${seconds.toFixed(1).padStart(7)} s  ${text}`);
  }
}

function tasks(demo: FailoverDemo): Listr {
  return new Listr(
    [
      {
        title: 'Create a volume with two replicas; all three copies in sync',
        task: () => demo.createVolume(),
      },
      ...demo.acts(),
      { title: 'fio reads everything back, from each node', task: () => demo.verify() },
      {
        title: 'The timeline, as the daemons tell it',
        task: async () => void demo.events.push('', await demo.timeline()),
      },
      { title: 'Stop the daemons; compare the three copies byte by byte', task: () => demo.stopAndCompare() },
    ],
    // No fixed-width screen where nobody looks: one line per step.
    { fallbackRenderer: 'simple', rendererOptions: { collapseSubtasks: false } },
  );
}

function printOutcomes({ outcomes, events }: FailoverDemo): void {
  console.log('\nTimeline\n');
  for (const event of events) console.log(event);
  console.log(
    `\n4k random writes at ${WRITES_PER_SECOND} a second, queue depth 16, verified with crc32c, over NBD from another node\n`,
  );
  for (const { title, client, from, to, figures } of outcomes) {
    console.log(`${title}: primary ${from} → ${to.primary}, client on ${client}`);
    console.log(
      `    ${figures.requests.toLocaleString('en')} writes, no error; longest wait ${Math.round(figures.maxMs)} ms ` +
        `(p99 ${figures.p99Ms.toFixed(1)} ms)`,
    );
  }
}

/** One that is told to end takes everything away first; told again, it goes on with that. */
function cleanUpOnSignals(opening: Promise<TestCluster>): { isInterrupted: boolean } {
  const state = { isInterrupted: false };
  const cleanUp = async (exitCode: number): Promise<void> => {
    if (state.isInterrupted) return;
    state.isInterrupted = true;
    console.error('\nInterrupted: taking everything away.');
    try {
      await (await opening)[Symbol.asyncDispose]();
    } catch (error) {
      console.error(`That failed: ${errorText(error)}`);
    }
    process.exit(exitCode);
  };
  process.on('SIGINT', () => void cleanUp(130)).on('SIGTERM', () => void cleanUp(143));
  process.on('SIGHUP', () => void cleanUp(129));
  return state;
}

async function main(): Promise<void> {
  if (!Number.isInteger(SECONDS) || SECONDS < 6 || SECONDS > MOST_SECONDS)
    throw new Error(`--seconds is a whole number from 6 to ${Math.floor(MOST_SECONDS)}`);
  if (process.geteuid?.() !== 0) {
    console.error(
      'The nodes need network namespaces of their own: run this as root (sudo npm run demo:failover).',
    );
    process.exitCode = 1;
    return;
  }
  const started = performance.now();
  console.log('Starting etcd and three daemons…');
  const opening = TestCluster.start({ nodes: NODES });
  const signals = cleanUpOnSignals(opening);
  await using cluster = await opening;
  const demo = new FailoverDemo(cluster);
  try {
    await tasks(demo).run();
    printOutcomes(demo);
    console.log(
      `\nNo error reached fio, every block verified, the three copies are equal.\n` +
        `Done in ${Math.round((performance.now() - started) / 1000)} s; nothing is left behind.`,
    );
  } catch (error) {
    if (signals.isInterrupted) return await new Promise(() => undefined); // the clean-up ends the process
    console.error(`\nThe demo failed: ${errorText(error)}\n\n${demo.events.join('\n')}\n\n${demo.logs()}`);
    process.exitCode = 1;
  }
}

await main();
