// Machines of one cluster that lose power, one, two or all of them: three guests, each with a kernel, a daemon and a disk
// that forgets (forgetful-disk.ts), and a volume with a copy on each. What is never cut is this machine, on the same wire:
// etcd, a daemon without a copy that uses the volume, and the client that checks it (test/support/history-client.ts).
// So every acknowledgement and every flush is known to somebody who survives, and no fourth guest takes its share of the
// processors.
//
// A round: load, the cut, the disks forget, the machines boot, all copies are in sync again. Then the client reads
// everything, and the data files of the copies are compared byte by byte.

import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '../../../src/core/units.ts';
import { ClusterVolume, type CommandNode, type VolumeExport } from '../../cluster/cluster-volume.ts';
import { Daemon, HOLDFAST, until } from '../../daemon/daemon.fixture.ts';
import { HistoryClient, type Load, type LoadReport, VolumeHistory } from '../../support/history-client.ts';
import { SECTOR_BYTES } from '../../support/sector-format.ts';
import { LabDaemon } from '../daemon.ts';
import { ForgetfulDisk } from '../forgetful-disk.ts';
import { Guest } from '../guest.ts';
import { HostStore } from '../host-store.ts';
import { mustRun } from '../machine.ts';
import { LabNetwork } from '../network.ts';
import type { CutReport } from '../platter.ts';
import { type Random, seededRandom } from '../random.ts';
import { type Fault, warmCompileCache } from './holdfast.ts';
import { mountPool, POOL_DIR } from './rig.ts';

const NODES = ['a', 'b', 'c'] as const;
const DISK_BYTES = 512 * MIB;
/** A physical one, and the client's: a smaller one would tear what the client judges whole. */
const DISK_SECTOR_BYTES = SECTOR_BYTES;
const VOLUME_SIZE = '32MiB';
const VOLUME = 'data';
const PORT = 7400;
const GUEST_LIFE_MS = 900_000;
const IN_SYNC_MS = 120_000;
/** Requests. */
const BEFORE_CUT = 150;
const AFTER_CUT = 50;
const EQUAL_MS = 60_000;
const ANSWERED_MS = 120_000;
/** Answers that were on their way to the client when the power went. */
const LAST_WORDS_MS = 300;
/** As a kernel's device has it: the client waits for its machines to boot. */
const PATIENCE_MS = 600_000;

/** How many machines lose power at once. */
export type CutKind = 'one' | 'two' | 'all';

export interface ClusterRound {
  readonly kind: CutKind;
  readonly cut: readonly string[];
  readonly requests: number;
  readonly lostPieces: number;
  readonly pauseMs: number;
  /** Everything wrong, in words; nothing more is to be asked of the rig then. */
  readonly violations: readonly string[];
}

export interface ClusterRigOptions {
  /** Chooses what is cut and when, what is written, and what the disks forget; the guests' timing is their own. */
  readonly seed: number;
  /** Of the three daemons whose machines are cut. */
  readonly faults?: readonly Fault[];
}

class Node {
  readonly name: string;
  /** With its prefix length; the same at every boot. */
  readonly address: string;
  readonly disk: ForgetfulDisk;
  guest: Guest | undefined;
  daemon: LabDaemon | undefined;

  constructor(name: string, address: string, disk: ForgetfulDisk) {
    this.name = name;
    this.address = address;
    this.disk = disk;
  }

  get machine(): Guest {
    if (this.guest === undefined) throw new Error(`node ${this.name} is off`);
    return this.guest;
  }
}

interface Parts {
  readonly dir: string;
  readonly resources: AsyncDisposableStack;
  readonly network: LabNetwork;
  readonly store: HostStore;
  readonly nodes: readonly Node[];
  readonly user: Daemon;
}

export class ClusterRig implements AsyncDisposable {
  readonly history = new VolumeHistory({ expectsPowerCuts: true });
  readonly #dir: string;
  readonly #resources: AsyncDisposableStack;
  readonly #random: Random;
  readonly #network: LabNetwork;
  readonly #store: HostStore;
  readonly #nodes: readonly Node[];
  readonly #user: CommandNode;
  readonly #volume = new ClusterVolume(VOLUME);
  readonly #env: Readonly<Record<string, string>>;
  #exported: VolumeExport | undefined;
  #client: HistoryClient | undefined;
  #exports = 0;
  #rounds = 0;

  static async create(options: ClusterRigOptions): Promise<ClusterRig> {
    const resources = new AsyncDisposableStack();
    try {
      const dir = await mkdtemp(join(tmpdir(), 'holdfast-cluster-rig-'));
      resources.defer(() => rm(dir, { recursive: true, force: true }));
      const network = resources.use(await LabNetwork.create({ hasHost: true }));
      execFileSync(HOLDFAST, ['cluster', 'keygen', join(dir, 'key')]);
      warmCompileCache(join(dir, 'compile-cache'));
      const nodes: Node[] = [];
      for (const name of NODES) {
        const disk = resources.use(await ForgetfulDisk.create(DISK_BYTES, DISK_SECTOR_BYTES));
        nodes.push(new Node(name, network.takeAddress(), disk));
      }
      const store = resources.use(await HostStore.start(network, join(dir, 'etcd')));
      const flags = daemonFlags('user', network.hostAddress, store.address, dir);
      const user = new Daemon(join(dir, 'user'), flags, {}, network.hostLauncher);
      resources.defer(async () => void (await user.end('SIGKILL')));
      await user.serving();
      const rig = new ClusterRig({ dir, resources, network, store, nodes, user }, options);
      await rig.#makeVolume();
      return rig;
    } catch (error) {
      await resources.disposeAsync();
      throw error;
    }
  }

  private constructor(parts: Parts, { seed, faults = [] }: ClusterRigOptions) {
    const { dir, resources, network, store, nodes, user } = parts;
    this.#dir = dir;
    this.#resources = resources;
    this.#network = network;
    this.#store = store;
    this.#nodes = nodes;
    this.#user = { name: 'user', daemon: user, json: (...words) => user.json(...words) };
    this.#random = seededRandom(seed);
    this.#env = {
      NODE_COMPILE_CACHE: join(dir, 'compile-cache'),
      ...(faults.length > 0 && { HOLDFAST_TEST: '1', HOLDFAST_TEST_FAULTS: faults.join(',') }),
    };
    for (const node of nodes) resources.defer(async () => await node.guest?.[Symbol.asyncDispose]());
  }

  async round(kind: CutKind): Promise<ClusterRound> {
    const load = await this.#begin();
    await this.#untilAnswered(load, BEFORE_CUT);
    await sleep(this.#random.below(2500));
    const cut = this.#choose(kind);
    const forgotten = await this.#cutPower(cut);
    // The client lives on and waits, unless nobody is left who knows what was not flushed.
    const broken = kind === 'all' ? await this.#endClient(load) : undefined;
    const epoch = kind === 'all' ? await this.#epochUnused() : 0;
    await Promise.all(cut.map((node) => this.#boot(node, false)));
    // Machines that were all off revoke the attachment that they find: the next one comes after that.
    if (kind === 'all')
      await this.#volume.untilShown(this.#user, 'a copy takes over', (now) => now.epoch > epoch, IN_SYNC_MS);
    const report = broken ?? (await this.#goOn(load));
    const violations = await this.#judge();
    if (kind !== 'all' && (report.brokenBy !== undefined || report.errors.size > 0))
      violations.push(
        `the client saw errors: ${[...report.errors.keys()].join(' ')} ${String(report.brokenBy)}`,
      );
    return {
      kind,
      cut: cut.map(({ name }) => name),
      requests: report.requests,
      lostPieces: forgotten.reduce((sum, { lostPieces }) => sum + lostPieces, 0),
      pauseMs: report.longestPause.ms,
      violations,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client?.abandon();
    await this.#exported?.end();
    await this.#resources.disposeAsync();
  }

  async #makeVolume(): Promise<void> {
    // No copy of it is to be where nothing is ever cut.
    await this.#user.json('node', 'cordon', 'user');
    await Promise.all(this.#nodes.map((node) => this.#boot(node, true)));
    await until('all nodes are alive', async () => await this.#allAlive(), IN_SYNC_MS);
    await ClusterVolume.create(this.#user, VOLUME, '--size', VOLUME_SIZE, '--replicas', '2');
    await this.#volume.untilInSync(this.#user, NODES.length, IN_SYNC_MS);
  }

  async #allAlive(): Promise<boolean> {
    await this.#expectDaemons();
    await sleep(500);
    const { nodes } = await this.#user.json<{ nodes: { alive: boolean }[] }>('node', 'ls');
    return nodes.filter(({ alive }) => alive).length > NODES.length;
  }

  async #boot(node: Node, isNew: boolean): Promise<void> {
    node.guest = await Guest.start({
      name: node.name,
      virtioDisks: [node.disk.socketPath],
      memoryMib: 768,
      shared: [this.#dir],
      network: this.#network,
      address: node.address,
      timeoutMs: GUEST_LIFE_MS,
    });
    await mountPool(node.guest, 'ext4', isNew);
    await this.#store.reachedFrom(node.guest);
    node.daemon = LabDaemon.launch(node.guest, {
      dataDir: `${POOL_DIR}/daemon`,
      poolDir: `${POOL_DIR}/replicas`,
      apiPath: '/run/holdfast.sock',
      flags: daemonFlags(node.name, node.machine.address ?? '', this.#store.address, this.#dir),
      env: this.#env,
    });
  }

  /** One that ended has said why, and waiting for it is no use. */
  async #expectDaemons(): Promise<void> {
    for (const { name, daemon } of this.#nodes)
      if (daemon?.isOver === true) throw new Error(`the daemon of ${name} ended:\n${await daemon.log()}`);
  }

  #choose(kind: CutKind): Node[] {
    if (kind === 'all') return [...this.#nodes];
    const chosen = this.#random.below(this.#nodes.length);
    return this.#nodes.filter((_, index) => (index === chosen) === (kind === 'one'));
  }

  async #cutPower(cut: readonly Node[]): Promise<CutReport[]> {
    await Promise.all(cut.map((node) => node.machine.cutPower()));
    return await Promise.all(
      cut.map(async (node) => {
        await node.guest?.[Symbol.asyncDispose]();
        node.guest = undefined;
        const forgotten = await node.disk.cut(this.#random);
        await node.disk.plugIn();
        return forgotten;
      }),
    );
  }

  async #begin(): Promise<Load> {
    this.#client ??= await this.#connect();
    // Many flushes, few, or none at all: each hides what the others show.
    const flush = [15, 3, 0][this.#rounds % 3] ?? 0;
    this.#rounds += 1;
    const mix = { read: 20, write: 60, fua: flush === 0 ? 0 : 5, flush, zeroes: 5 };
    return this.#client.load({
      depth: 8,
      thinkMs: 2,
      mix,
      random: () => this.#random.below(2 ** 30) / 2 ** 30,
    });
  }

  async #connect(): Promise<HistoryClient> {
    this.#exports += 1;
    const exported = await this.#volume.exportAt(this.#user, join(this.#dir, `${this.#exports}.sock`));
    this.#exported = exported;
    const { socketPath, exportName } = exported;
    return await HistoryClient.connect(this.history, { socketPath, exportName, replyTimeoutMs: PATIENCE_MS });
  }

  /** All machines are off. */
  async #endClient(load: Load): Promise<LoadReport> {
    await sleep(LAST_WORDS_MS);
    this.#client?.abandon();
    this.#client = undefined;
    const report = await load.stop();
    this.history.powerCut();
    await this.#exported?.end();
    return report;
  }

  /** Once the export that has ended is nobody's attachment any more, which is a change of the configuration too. */
  async #epochUnused(): Promise<number> {
    const look = async (): Promise<number | undefined> => {
      const words = ['volume', 'show', VOLUME] as const;
      const shown = await this.#user.json<{ epoch: number; attachment: { node: string } }>(...words);
      return shown.attachment.node === '' ? shown.epoch : undefined;
    };
    return (await until('nobody uses the volume', look, ANSWERED_MS)) as number;
  }

  async #goOn(load: Load): Promise<LoadReport> {
    await this.#untilAnswered(load, AFTER_CUT);
    return await load.stop();
  }

  async #untilAnswered(load: Load, count: number): Promise<void> {
    const before = load.requests;
    try {
      await until(`${count} answers`, () => load.requests > before + count, ANSWERED_MS);
    } catch (error) {
      const { stdout } = await this.#user.daemon.run('volume', 'explain', VOLUME);
      throw new Error(`${load.requests - before} answers\n${stdout}`, { cause: error });
    }
  }

  /** What the client reads, and the copies beside each other. */
  async #judge(): Promise<string[]> {
    this.#client ??= await this.#connect();
    await this.#client.readAll();
    const violations = this.history.complaints.map(({ text }) => text);
    try {
      // A copy that has just booted may be named still: it is filled first.
      await until('the copies are equal', async () => await this.#areEqual(), EQUAL_MS);
    } catch (error) {
      violations.push(String(error));
    }
    return violations;
  }

  async #areEqual(): Promise<boolean> {
    await this.#expectDaemons();
    const { inSync } = await this.#volume.untilInSync(this.#user, NODES.length, IN_SYNC_MS);
    const sum = `sha256sum < "$(find ${POOL_DIR} -name data)"`;
    const sums = await Promise.all(this.#nodes.map(async ({ machine }) => await mustRun(machine, sum)));
    return inSync.length === NODES.length && new Set(sums).size === 1;
  }
}

function daemonFlags(name: string, address: string, store: string, dir: string): string[] {
  const cluster = ['--store', `etcd://${store}`, '--cluster-key', join(dir, 'key')];
  return ['--node-name', name, '--listen', `${address}:${PORT}`, ...cluster];
}
