// A cluster of three nodes with one volume, used by a checking client on one of them: on the node without a copy when
// it has two. What the client sees is judged sector by sector (test/support/history-client.ts).

import { expect } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';
import { HistoryClient, type Load, type LoadReport, VolumeHistory } from '../support/history-client.ts';
import { type ClusterNode, TestCluster } from './cluster.ts';
import { ClusterVolume, type ShownVolume, type VolumeExport } from './cluster-volume.ts';

export const NODES = ['a', 'b', 'c'];
/** Leaves the machine some room: there are five processes beside this one. */
const LOAD = { depth: 8, thinkMs: 5 };
/** Leases, a busy machine, and room. */
const ANSWERED_MS = 60_000;
const IN_SYNC_MS = 90_000;
/** Of the client, as a kernel's device has it: what waits is judged by the test. */
const PATIENCE_MS = 3_600_000;

export interface Copies {
  readonly primary: ClusterNode;
  /** The others that are in sync. */
  readonly others: readonly ClusterNode[];
}

export class VolumeUnderLoad implements AsyncDisposable {
  readonly cluster: TestCluster;
  readonly volume: ClusterVolume;
  readonly history = new VolumeHistory();
  /** Of three copies, the node where the volume was made. */
  readonly withoutCopy: ClusterNode;
  /** Where the client is. */
  user: ClusterNode;
  #exported: VolumeExport | undefined;
  #client: HistoryClient | undefined;
  #load: Load | undefined;
  #exportCount = 0;

  /** `options`: of `holdfast volume create`. */
  static async start(...options: string[]): Promise<VolumeUnderLoad> {
    return await VolumeUnderLoad.of(await TestCluster.start({ nodes: NODES }), ...options);
  }

  /** On a cluster of three, which goes with it. */
  static async of(cluster: TestCluster, ...options: string[]): Promise<VolumeUnderLoad> {
    try {
      const [first] = cluster.nodes;
      if (first === undefined) throw new Error('a cluster has nodes');
      const volume = await ClusterVolume.create(first, 'data', '--size', '16MiB', ...options);
      const { replicas } = await volume.show(first);
      await volume.untilInSync(first, replicas.length, IN_SYNC_MS);
      const user = cluster.nodes.find(({ name }) => replicas.every(({ node }) => node !== name)) ?? first;
      return new VolumeUnderLoad(cluster, volume, user);
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(cluster: TestCluster, volume: ClusterVolume, user: ClusterNode) {
    this.cluster = cluster;
    this.volume = volume;
    this.withoutCopy = user;
    this.user = user;
  }

  async show(): Promise<ShownVolume> {
    return await this.volume.show(this.user);
  }

  /** Its copies, once `count` are in sync. */
  async inSync(count: number): Promise<Copies> {
    const { primary, inSync } = await this.volume.untilInSync(this.user, count, IN_SYNC_MS);
    const others = inSync.filter((name) => name !== primary).map((name) => this.cluster.node(name));
    return { primary: this.cluster.node(primary), others };
  }

  /** The client begins, or goes on; on a node where it was not, the volume is taken there. */
  async begin(user = this.user): Promise<void> {
    if (this.#client === undefined || user !== this.user) {
      this.user = user;
      this.#exportCount += 1;
      this.#exported = await this.volume.exportAt(user, this.cluster.path(`${this.#exportCount}.sock`));
      const options = { socketPath: this.#exported.socketPath, exportName: this.volume.name };
      this.#client = await HistoryClient.connect(this.history, { ...options, replyTimeoutMs: PATIENCE_MS });
    }
    this.#load = this.client.load(LOAD);
    await this.goesOn();
  }

  get client(): HistoryClient {
    if (this.#client === undefined) throw new Error('the client has not begun');
    return this.#client;
  }

  get load(): Load {
    if (this.#load === undefined) throw new Error('the client has not begun');
    return this.#load;
  }

  /** Requests are answered, many more than can have been on their way. */
  async goesOn(): Promise<void> {
    const before = this.load.requests;
    try {
      await until('the client is answered', () => this.load.requests > before + 200, ANSWERED_MS);
    } catch (cause) {
      throw new Error(`${String(cause)}\n${await this.#account()}`, { cause });
    }
  }

  /** What all nodes say of the volume, and what their daemons logged last. */
  async #account(): Promise<string> {
    const accounts = this.cluster.nodes.map(async (node) => {
      const commands = ['show', 'explain', 'timeline'].map((command) => node.run('volume', command, 'data'));
      const said = (await Promise.all(commands)).map(({ stdout, stderr }) => stdout + stderr);
      return [`--- node ${node.name}`, ...said, ...node.daemon.lines.slice(-20)].join('\n');
    });
    return (await Promise.all(accounts)).join('\n');
  }

  /** Nothing is answered any more, for so long. */
  async expectWaiting(forMs: number): Promise<void> {
    // What is on its way may still come.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const before = this.load.requests;
    await new Promise((resolve) => setTimeout(resolve, forMs));
    expect(this.load.requests).toBe(before);
  }

  /** The client has seen no error so far, and finds everything as it has to be. */
  async expectNothingLost(): Promise<LoadReport> {
    const report = await this.load.stop();
    expect(report.brokenBy).toBeUndefined();
    expect(report.errors).toEqual(new Map());
    await this.expectRight();
    return report;
  }

  /** Every sector shows what it may. */
  async expectRight(): Promise<void> {
    await this.client.readAll();
    expect(this.history.complaints).toEqual([]);
  }

  /** The client is gone, with what it has asked for. */
  async leave(): Promise<void> {
    this.#client?.abandon();
    this.#client = undefined;
    await this.#load?.stop();
    this.#load = undefined;
    await this.#exported?.end();
    this.#exported = undefined;
  }

  /** What was done to the network is undone, and the client is silent. */
  async settle(): Promise<void> {
    await this.cluster.network.heal();
    await this.#load?.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client?.abandon();
    await this.#exported?.end();
    await this.cluster[Symbol.asyncDispose]();
  }
}
