// A cluster of real daemons with a real etcd, each on a host of its own (network.ts) with directories of its own, and
// what may happen to them: death, standing still, and the ways between them cut.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { type CommandResult, Daemon, HOLDFAST, until } from '../daemon/daemon.fixture.ts';
import { type Changes, environmentOf, type Place } from './changed-daemon.ts';
import { type Cut, ClusterNetwork } from './network.ts';

const STORE = 'store';
const STORE_START_MS = 15_000;
const STOPPED_MS = 20_000;
const PORT = 7400;

export interface ClusterOptions {
  readonly nodes: readonly string[];
  /** For every daemon. */
  readonly args?: readonly string[];
  /** As which program every daemon runs, at first. */
  readonly changes?: Changes;
  /** Before a node's daemon is started for the first time. What it opens closes with the cluster. */
  readonly prepare?: (node: ClusterNode) => Promise<AsyncDisposable>;
}

export class TestCluster implements AsyncDisposable {
  readonly network: ClusterNetwork;
  readonly etcd: StoreHost;
  readonly nodes: readonly ClusterNode[];
  readonly #directories: readonly [string, string];
  readonly #prepared: AsyncDisposable[] = [];

  /** All daemons serve, and each takes the others for alive. */
  static async start({ nodes, args = [], changes, prepare }: ClusterOptions): Promise<TestCluster> {
    const network = await ClusterNetwork.create([STORE, ...nodes]);
    const directories = [
      await mkdtemp(join(tmpdir(), 'holdfast-cluster-')),
      await mkdtemp('/dev/shm/holdfast-cluster-'),
    ] as const;
    const cluster = new TestCluster(network, directories, nodes, args);
    try {
      await cluster.etcd.start();
      await execa(HOLDFAST, ['cluster', 'keygen', join(directories[0], 'key')]);
      for (const node of cluster.nodes) {
        node.changes = changes;
        if (prepare !== undefined) cluster.#prepared.push(await prepare(node));
      }
      await Promise.all(cluster.nodes.map((node) => node.start()));
      for (const node of cluster.nodes) {
        await until(
          `${node.name} takes all for alive`,
          async () => (await node.alive()).length === nodes.length,
        );
      }
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  private constructor(
    network: ClusterNetwork,
    directories: readonly [string, string],
    nodes: readonly string[],
    args: readonly string[],
  ) {
    const [directory, runDirectory] = directories;
    this.network = network;
    this.#directories = directories;
    this.etcd = new StoreHost(network, join(directory, 'etcd'));
    const store = `etcd://${this.etcd.address}`;
    const common = ['--store', store, '--cluster-key', join(directory, 'key'), ...args];
    this.nodes = nodes.map((name) => new ClusterNode(network, name, directory, runDirectory, common));
  }

  node(name: string): ClusterNode {
    const node = this.nodes.find((one) => one.name === name);
    if (node === undefined) throw new Error(`no node "${name}" in this cluster`);
    return node;
  }

  /** Of a file in the directory that goes with the cluster. */
  path(name: string): string {
    return join(this.#directories[0], name);
  }

  async cutFromStore(name: string, how?: Cut): Promise<void> {
    await this.network.cut(name, STORE, how);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.nodes) await node.kill();
    await this.etcd.kill();
    await this.network[Symbol.asyncDispose]();
    for (const prepared of this.#prepared) await prepared[Symbol.asyncDispose]();
    for (const directory of this.#directories) await rm(directory, { recursive: true, force: true });
  }
}

/** One node, whose daemon may be there or not. */
export class ClusterNode {
  readonly name: string;
  readonly #launcher: readonly string[];
  readonly #directory: string;
  readonly #runDirectory: string;
  readonly #args: readonly string[];
  /** As which program its daemon is started next: as it is by default. */
  changes: Changes | undefined;
  #daemon: Daemon | undefined;

  constructor(
    network: ClusterNetwork,
    name: string,
    directory: string,
    runDirectory: string,
    args: readonly string[],
  ) {
    this.name = name;
    this.#launcher = network.launcher(name);
    this.#directory = join(directory, name);
    this.#runDirectory = join(runDirectory, name);
    this.#args = ['--node-name', name, '--listen', `${network.addressOf(name)}:${PORT}`, ...args];
  }

  /** The daemon that runs, or ran last. */
  get daemon(): Daemon {
    if (this.#daemon === undefined) throw new Error(`node "${this.name}" was never started`);
    return this.#daemon;
  }

  get poolDirectory(): string {
    return join(this.#directory, 'pools/default');
  }

  get #stopFile(): string {
    return `${this.#directory}.stop`;
  }

  /** Resolves when it serves. */
  async start(): Promise<void> {
    const { changes } = this;
    const changed = changes === undefined ? {} : environmentOf({ stopFile: this.#stopFile, ...changes });
    const env = { HOLDFAST_RUN_DIR: this.#runDirectory, ...changed };
    this.#daemon = new Daemon(this.#directory, this.#args, env, this.#launcher);
    await this.#daemon.serving();
  }

  /** SIGKILL, also of one that stands still; resolves when it is gone. */
  async kill(): Promise<void> {
    await this.#daemon?.end('SIGKILL');
  }

  async end(): Promise<number | null> {
    return await this.daemon.end('SIGTERM');
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  /** It does nothing any more, and its connections stand. */
  freeze(): void {
    this.daemon.process.kill('SIGSTOP');
  }

  /** Resolves when it stands still there. Its program has to be a changed one, and it to be a primary under load. */
  async freezeAt(place: Place): Promise<void> {
    await writeFile(this.#stopFile, place);
    const { pid } = this.daemon.process;
    const isStopped = (): boolean => /^State:\tT/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    await until(`${this.name} stands still ${place} a look at its lease`, isStopped, STOPPED_MS);
  }

  thaw(): void {
    this.daemon.process.kill('SIGCONT');
  }

  async run(...args: string[]): Promise<CommandResult> {
    return await this.daemon.run(...args);
  }

  async json<T>(...args: string[]): Promise<T> {
    return await this.daemon.json<T>(...args);
  }

  /** The names of those that it takes for alive. */
  async alive(): Promise<string[]> {
    const { nodes } = await this.json<{ nodes: { name: string; alive: boolean }[] }>('node', 'ls');
    return nodes.filter(({ alive }) => alive).map(({ name }) => name);
  }

  /** Why it cannot reach another, or nothing. */
  async problemWith(name: string): Promise<string> {
    return (await this.json<{ problem: string }>('node', 'show', name)).problem;
  }
}

/** etcd, alone on its host. */
export class StoreHost {
  readonly address: string;
  readonly #network: ClusterNetwork;
  readonly #directory: string;
  #process: ChildProcess | undefined;

  constructor(network: ClusterNetwork, directory: string) {
    this.#network = network;
    this.#directory = directory;
    this.address = `${network.addressOf(STORE)}:2379`;
  }

  async start(): Promise<void> {
    const url = `http://${this.address}`;
    const [program = '', ...launcher] = this.#network.launcher(STORE);
    const args = [
      ['--data-dir', this.#directory, '--listen-client-urls', url, '--advertise-client-urls', url],
      ['--log-level', 'error', '--logger', 'zap', '--log-outputs', 'stderr'],
      // Nothing here survives the machine, so nothing is synced.
      ['--heartbeat-interval', '10', '--election-timeout', '100', '--unsafe-no-fsync'],
    ];
    const child = spawn(program, [...launcher, 'etcd', ...args.flat()], { stdio: 'ignore' });
    this.#process = child;
    await until('etcd answers', async () => await this.#answers(), STORE_START_MS);
  }

  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  freeze(): void {
    this.#process?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process?.kill('SIGCONT');
  }

  async #answers(): Promise<boolean> {
    const [program = '', ...launcher] = this.#network.launcher(STORE);
    const command = [...launcher, 'etcdctl', '--endpoints', this.address, 'endpoint', 'health'];
    const { exitCode } = await execa(program, command, { env: { ETCDCTL_API: '3' }, reject: false });
    return exitCode === 0;
  }
}
