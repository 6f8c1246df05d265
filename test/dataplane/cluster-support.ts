// Several nodes' storages in one process, with real pools, sockets and store: the data planes of a small cluster.

import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ClusterListener } from '../../src/control/channel/listener.ts';
import { RefusalLog } from '../../src/control/channel/refusal-log.ts';
import { RecordConfigs } from '../../src/control/config-store.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { createLogger } from '../../src/observe/log.ts';
import type { ReplicaEvent } from '../../src/replication/ports.ts';

const MIB = 2 ** 20;
export const VOLUME_BYTES = 64 * MIB;
/** Each is served by a thread of its own. */
const POOLS = ['p', 'q'];

export interface ClusterNode {
  readonly name: string;
  readonly storage: Storage;
  readonly listener: ClusterListener;
  readonly dataFile: (volumeId: string) => string;
}

export class DataPlanes {
  readonly nodes: ClusterNode[] = [];
  readonly events: (ReplicaEvent & { readonly volumeId: string; readonly node: string })[] = [];
  readonly records: VolumeRecords;
  readonly #store: LevelStore;
  readonly #directory: string;
  #volumes = 0;

  static async start(directory: string, count: number, ioMode: 'direct' | 'buffered'): Promise<DataPlanes> {
    const store = await LevelStore.open(join(directory, 'store'), { sync: false });
    const planes = new DataPlanes(directory, store);
    for (let index = 0; index < count; index++) await planes.#startNode(`n${index}`, ioMode);
    const addresses = new Map(planes.nodes.map(({ name, listener }) => [name, `127.0.0.1:${listener.port}`]));
    for (const { storage } of planes.nodes) storage.cluster.setNodeAddresses(addresses);
    return planes;
  }

  private constructor(directory: string, store: LevelStore) {
    this.#directory = directory;
    this.#store = store;
    this.records = new VolumeRecords(store);
  }

  async #startNode(name: string, ioMode: 'direct' | 'buffered'): Promise<void> {
    const pools = POOLS.map((pool) => ({ name: pool, directory: join(this.#directory, name, pool) }));
    const runDirectory = join(this.#directory, `${name}-run`);
    for (const { directory } of pools) await mkdir(directory, { recursive: true });
    await mkdir(runDirectory, { recursive: true });
    const storage = await createNodeStorage({
      nodeName: name,
      runDirectory,
      threadCount: POOLS.length,
      busyPollMicros: 0,
      testFaults: new Set(),
      pools: pools.map((pool) => ({ ...pool, ioMode, reserveBytes: 0, overcommitRatio: 1000 })),
      onEvent: () => undefined,
      onDeath: (error) => {
        throw error;
      },
    });
    const configs = new RecordConfigs(this.records);
    await storage.cluster.connectCluster({
      configs: {
        read: (volumeId) => configs.read(volumeId),
        swap: async (volumeId, revision, config) => {
          const outcome = await configs.swap(volumeId, revision, config);
          this.changed(volumeId);
          return outcome;
        },
      },
      peerKey: Buffer.alloc(32, 7),
      clusterId: this.#store.identity,
      startNumber: 1,
      onReplicaEvent: (event) => this.events.push({ ...event, node: name }),
    });
    const listener = await ClusterListener.listen({
      host: '127.0.0.1',
      port: 0,
      onCall: (socket) => socket.destroy(),
      onLink: (fd, received) => storage.cluster.adoptPeer(fd, received),
      refusals: new RefusalLog(createLogger({ level: 'error', node: name })),
    });
    const dataFile = (volumeId: string): string => join(this.#directory, name, 'p', volumeId, 'data');
    this.nodes.push({ name, storage, listener, dataFile });
  }

  /** Every node hears that the record may be another one now. */
  changed(volumeId: string): void {
    for (const { storage } of this.nodes) storage.cluster.configChanged(volumeId);
  }

  node(index: number): ClusterNode {
    const node = this.nodes[index];
    if (node === undefined) throw new Error(`there is no node ${index}`);
    return node;
  }

  replicaId(index: number): string {
    return `${index}`.repeat(32);
  }

  /** With a copy on each of these nodes, the first being the primary, attached to `user`; nothing is open. */
  async createClosed(
    on: readonly number[],
    user: number,
    change: Partial<VolumeRecord> = {},
  ): Promise<VolumeRecord> {
    this.#volumes += 1;
    const id = `${this.#volumes}`.padStart(32, 'a');
    const record: VolumeRecord = {
      version: 2,
      id,
      name: `volume ${this.#volumes}`,
      state: 'ready',
      coordinator: null,
      sizeBytes: VOLUME_BYTES,
      targetSizeBytes: VOLUME_BYTES,
      lineage: 'f'.repeat(32),
      epoch: 1,
      primary: { replicaId: this.replicaId(on[0] ?? 0), opening: null },
      inSync: on.map((index) => ({ replicaId: this.replicaId(index), incarnation: null })),
      replicas: on.map((index) => ({
        id: this.replicaId(index),
        node: this.node(index).name,
        pool: 'p',
        outSince: null,
        needsFullCopy: false,
        bootId: null,
        report: null,
      })),
      attachment: { number: 1, node: this.node(user).name, readOnly: false, use: 'export' },
      durability: 'writeback',
      failureMode: 'soft',
      fileSystem: null,
      labels: {},
      ...change,
    };
    await this.records.insert(record);
    for (const index of on) await this.makeCopy(record, index);
    return record;
  }

  /** The same, and every copy is open. */
  async createVolume(
    on: readonly number[],
    user: number,
    change: Partial<VolumeRecord> = {},
  ): Promise<VolumeRecord> {
    const record = await this.createClosed(on, user, change);
    for (const index of on) await this.node(index).storage.cluster.openReplica(record.id);
    return record;
  }

  async makeCopy(record: VolumeRecord, index: number): Promise<void> {
    const { id, name, sizeBytes, lineage, epoch, durability, failureMode } = record;
    await this.node(index).storage.createReplica({
      volumeId: id,
      volumeName: name,
      replicaId: this.replicaId(index),
      pool: record.replicas.find((replica) => replica.id === this.replicaId(index))?.pool ?? 'p',
      sizeBytes,
      lineage,
      epoch,
      durability,
      failureMode: String(failureMode),
    });
  }

  /** The path of the socket. */
  async export({ id, name, sizeBytes, attachment }: VolumeRecord, user: number, part = 0): Promise<string> {
    const { storage } = this.node(user);
    await storage.cluster.openFrontend({ volumeId: id, attachmentNumber: attachment.number, sizeBytes });
    const path = join(this.#directory, `${id}-${user}-${part}.sock`);
    await storage.exportUnix(id, name, path);
    return path;
  }

  async until(what: string, isTrue: () => Promise<boolean>, limitMs = 20_000): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!(await isTrue())) {
      if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
      await sleep(50);
    }
  }

  async inSync(volumeId: string): Promise<string[]> {
    const { inSync } = await this.records.ready(volumeId);
    return inSync.map(({ replicaId }) => replicaId).sort();
  }

  untilInSync(volumeId: string, indexes: readonly number[], limitMs?: number): Promise<void> {
    const wanted = indexes.map((index) => this.replicaId(index)).sort();
    return this.until(
      `in sync: ${indexes.join(', ')}`,
      async () => JSON.stringify(await this.inSync(volumeId)) === JSON.stringify(wanted),
      limitMs,
    );
  }

  /** The bytes of these nodes' copies, closed in order first. */
  async contents(volumeId: string, indexes: readonly number[]): Promise<Buffer[]> {
    for (const { storage } of this.nodes) await storage.cluster.closeFrontend(volumeId);
    await Promise.all(indexes.map((index) => this.node(index).storage.cluster.closeReplica(volumeId)));
    return await Promise.all(indexes.map((index) => readFile(this.node(index).dataFile(volumeId))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { listener } of this.nodes) listener.close();
    await Promise.all(this.nodes.map(({ storage }) => storage.close()));
    await this.#store.close();
  }
}
