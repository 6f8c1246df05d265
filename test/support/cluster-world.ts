// A cluster in one process: daemons that share a real etcd, each with its own disks, data-plane threads, control
// channel on loopback and keeper of its copies; everything but the edges. Lives on when one of them is stopped.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { vi } from 'vitest';
import { ClusterListener } from '../../src/control/channel/listener.ts';
import { PeerCalls } from '../../src/control/channel/peer-calls.ts';
import type { ControlHandlers } from '../../src/control/channel/protocol.ts';
import { RefusalLog } from '../../src/control/channel/refusal-log.ts';
import { replicaCalls } from '../../src/control/channel/replica-calls.ts';
import { ControlServer } from '../../src/control/channel/server.ts';
import { ClusterKey } from '../../src/control/cluster-key.ts';
import { RecordConfigs } from '../../src/control/config-store.ts';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { KeyedLock } from '../../src/control/keyed-lock.ts';
import { drawId } from '../../src/control/names.ts';
import { claimNodeName, NodeMembership, type NodeSelf } from '../../src/control/node-membership.ts';
import { Nodes } from '../../src/control/nodes.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { ReplicaKeeper } from '../../src/control/replica-keeper.ts';
import { Timelines } from '../../src/control/timeline.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { Volumes } from '../../src/control/volumes.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { silentLogger } from '../../src/observe/log.ts';

const KEY = new ClusterKey(Buffer.from('the key of a cluster in one process'));
const PEER_KEY = new Uint8Array(32).fill(7);
const NODE_LEASE_MS = 1500;
/** For one step of a daemon's end. */
const CLOSE_MS = 20_000;
export const soon = { timeout: 15_000, interval: 30 };

export class ClusterWorld {
  readonly #etcd: string;
  readonly #prefix: string;
  readonly directory: string;
  readonly daemons = new Map<string, TestDaemon>();
  #starts = 0;

  static async create(etcd: string): Promise<ClusterWorld> {
    return new ClusterWorld(etcd, `/test/${drawId()}`, await mkdtemp(join(tmpdir(), 'holdfast-cluster-')));
  }

  private constructor(etcd: string, prefix: string, directory: string) {
    this.#etcd = etcd;
    this.#prefix = prefix;
    this.directory = directory;
  }

  /** A new node, or one that was stopped. Returns when it is alive and the others know where it is. */
  async start(node: string, zone: string | null = null): Promise<TestDaemon> {
    this.#starts += 1;
    const daemon = await TestDaemon.start({
      node,
      zone,
      directory: join(this.directory, node),
      store: await EtcdStore.open({ endpoints: [this.#etcd], prefix: this.#prefix, timeoutMs: 2000 }),
      startNumber: this.#starts,
    });
    this.daemons.set(node, daemon);
    await vi.waitUntil(async () => (await daemon.nodes.find(node)).isAlive, soon);
    const addresses = new Map([...this.daemons].map(([name, { address }]) => [name, address]));
    for (const other of this.daemons.values()) other.storage.cluster.setNodeAddresses(addresses);
    return daemon;
  }

  /** As a stop by a person: everything is closed clean. Returns when the others know. */
  async stop(node: string): Promise<void> {
    await this.daemons.get(node)?.close();
    this.daemons.delete(node);
    const [other] = this.daemons.values();
    if (other !== undefined) await vi.waitUntil(async () => !(await other.nodes.find(node)).isAlive, soon);
  }

  async dispose(): Promise<void> {
    for (const daemon of this.daemons.values()) await daemon.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

interface TestDaemonOptions {
  readonly node: string;
  readonly zone: string | null;
  readonly directory: string;
  readonly store: EtcdStore;
  readonly startNumber: number;
}

export class TestDaemon {
  readonly node: string;
  readonly address: string;
  readonly store: EtcdStore;
  readonly nodes: Nodes;
  readonly records: VolumeRecords;
  readonly storage: Storage;
  readonly volumes: Volumes;
  readonly timelines: Timelines;
  /** What other daemons ask of this one goes through here: a test may put its own in the place of one. */
  readonly handlers: { -readonly [M in keyof ControlHandlers]: ControlHandlers[M] };
  readonly calls: PeerCalls;
  readonly #cleanups: readonly (() => unknown)[];

  static async start({ node, zone, directory, store, startNumber }: TestDaemonOptions): Promise<TestDaemon> {
    const cleanups: (() => unknown)[] = [() => store.close()];
    const records = new VolumeRecords(store);
    const nodes = new Nodes(store);
    const timelines = new Timelines();
    const locks = new KeyedLock();
    const self: NodeSelf = {
      name: node,
      id: `${Buffer.from(node).toString('hex')}${'0'.repeat(32)}`.slice(0, 32),
      zone,
      labels: {},
      softwareVersion: '1.2.3',
      wire: { control: { min: 1, max: 1 }, peer: { min: 1, max: 1 } },
      bootId: 'boot',
      process: drawId(),
      startedAt: new Date().toISOString(),
    };
    await claimNodeName(nodes, self, false);
    const storage = await openStorage(node, directory);
    cleanups.push(() => storage.close());
    await storage.cluster.connectCluster({
      configs: new RecordConfigs(records),
      peerKey: PEER_KEY,
      clusterId: store.identity,
      startNumber,
      onReplicaEvent: (event) => timelines.note(event),
    });
    const keeper = new ReplicaKeeper({
      node,
      records,
      storage,
      replication: storage.cluster,
      locks,
      log: silentLogger,
      onRecord: (record) => void volumes.recordChanged(record),
      onBroken: (error) => {
        throw error;
      },
    });
    const handlers = {
      ...replicaCalls({
        self,
        storage,
        records,
        locks,
        replication: storage.cluster,
        timelines,
        problemWith: (volumeId) => keeper.problemWith(volumeId),
        onMade: (volumeId) => keeper.look(volumeId),
      }),
    };
    const calls = new PeerCalls({ self: node, handlers, nodes, key: KEY, cluster: store.identity });
    cleanups.push(() => calls.close());
    const address = await listen({ node, handlers, storage, cluster: store.identity }, cleanups);
    const membership = new NodeMembership(store, nodes, self, storage, {
      isShared: true,
      address,
      log: silentLogger,
      leaseMs: NODE_LEASE_MS,
    });
    membership.start();
    cleanups.push(() => membership.close());
    const cluster = { nodes, calls };
    const volumes = new Volumes(store, storage, {
      node,
      maxVolumesPerNode: 100,
      replication: storage.cluster,
      cluster,
    });
    keeper.start();
    cleanups.push(() => keeper.close());
    return new TestDaemon(
      { node, address, store, nodes, records, storage, volumes, timelines, handlers, calls },
      cleanups,
    );
  }

  private constructor(
    parts: Pick<
      TestDaemon,
      | 'node'
      | 'address'
      | 'store'
      | 'nodes'
      | 'records'
      | 'storage'
      | 'volumes'
      | 'timelines'
      | 'handlers'
      | 'calls'
    >,
    cleanups: readonly (() => unknown)[],
  ) {
    this.node = parts.node;
    this.address = parts.address;
    this.store = parts.store;
    this.nodes = parts.nodes;
    this.records = parts.records;
    this.storage = parts.storage;
    this.volumes = parts.volumes;
    this.timelines = parts.timelines;
    this.handlers = parts.handlers;
    this.calls = parts.calls;
    this.#cleanups = cleanups;
  }

  async close(): Promise<void> {
    for (const clean of [...this.#cleanups].reverse()) {
      const isOver = Promise.resolve(clean()).then(() => true);
      const late = sleep(CLOSE_MS, false, { ref: false });
      if (!(await Promise.race([isOver, late])))
        throw new Error(`${this.node}: ${String(clean)} does not end`);
    }
  }

  /** The nodes of the copies in sync, the primary's first. */
  async inSync(volumeId: string): Promise<string[]> {
    const record = await this.records.ready(volumeId);
    const members = record.inSync.map(({ replicaId }) => replicaId);
    const nodes = record.replicas.filter(({ id }) => members.includes(id)).map(({ node }) => node);
    const primary = primaryOf(record);
    return [primary, ...nodes.filter((node) => node !== primary).sort()];
  }
}

export function primaryOf(record: VolumeRecord): string {
  return record.replicas.find(({ id }) => id === record.primary.replicaId)?.node ?? '';
}

async function openStorage(node: string, directory: string): Promise<Storage> {
  return await createNodeStorage({
    nodeName: node,
    runDirectory: join(directory, 'run'),
    pools: [{ name: 'pool', directory: join(directory, 'pool'), reserveBytes: 0, overcommitRatio: 1000 }],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
}

/** HOST:PORT of calls and links. */
async function listen(
  {
    node,
    handlers,
    storage,
    cluster,
  }: Pick<TestDaemon, 'node' | 'handlers' | 'storage'> & { cluster: string },
  cleanups: (() => unknown)[],
): Promise<string> {
  const refusals = new RefusalLog(silentLogger);
  const server = new ControlServer({ key: KEY, cluster, node, handlers, log: silentLogger, refusals });
  const listener = await ClusterListener.listen({
    host: '127.0.0.1',
    port: 0,
    onCall: (socket) => server.accept(socket),
    onLink: (fd, received) => storage.cluster.adoptPeer(fd, received),
    refusals,
  });
  cleanups.push(
    () => server.close(0),
    () => listener.close(),
  );
  return `127.0.0.1:${listener.port}`;
}
