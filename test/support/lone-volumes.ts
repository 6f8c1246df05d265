// The volumes of a storage that is alone, as a daemon with a store of its own serves them: a copy and its frontend each.
// Their configurations are in memory, and outlive the storage where a test hands them to the next one.

import { setTimeout as sleep } from 'node:timers/promises';
import type { ConfigStore } from '../../src/dataplane/cluster-storage.ts';
import type { OpeningReport } from '../../src/dataplane/node-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { attach, type StoredConfig, type VolumeConfig } from '../../src/replication/config.ts';
import type { Superblock } from '../../src/replication/layout/superblock.ts';
import type { ProposalOutcome, ReplicaEvent } from '../../src/replication/ports.ts';

/** The name of the storage's node. */
export const LONE_NODE = 'alone';

/** Of volumes that are all on one node. */
export class MemoryConfigs implements ConfigStore {
  readonly #configs = new Map<string, StoredConfig>();

  async read(volumeId: string): Promise<StoredConfig | 'gone'> {
    return this.#configs.get(volumeId) ?? 'gone';
  }

  async swap(volumeId: string, baseRevision: number, config: VolumeConfig): Promise<ProposalOutcome> {
    const current = this.#configs.get(volumeId);
    if (current?.revision !== baseRevision) return { type: 'conflict', current };
    const revision = baseRevision + 1;
    this.#configs.set(volumeId, { config, revision });
    return { type: 'committed', revision };
  }

  /** As it stands, or as it is made: attached to this node by at least this number. */
  attached(superblock: Superblock, attachmentNumber: number): VolumeConfig {
    const { volumeId } = superblock;
    let { config, revision } = this.#configs.get(volumeId) ?? { config: newConfig(superblock), revision: 0 };
    while (config.attachment.number < attachmentNumber) config = attach(config, LONE_NODE);
    revision += 1;
    this.#configs.set(volumeId, { config, revision });
    return config;
  }

  resized(volumeId: string, sizeBytes: number): void {
    const standing = this.#configs.get(volumeId);
    if (standing === undefined) return;
    this.#configs.set(volumeId, {
      config: { ...standing.config, sizeBytes: Math.max(standing.config.sizeBytes, sizeBytes) },
      revision: standing.revision + 1,
    });
  }
}

function newConfig({
  volumeId,
  replicaId,
  sizeBytes,
  lineage,
  promisedEpoch,
  durability,
}: Superblock): VolumeConfig {
  return {
    volumeId,
    sizeBytes,
    lineage,
    epoch: promisedEpoch,
    primary: { replicaId, opening: null },
    inSync: [{ replicaId, incarnation: null }],
    replicas: [
      { id: replicaId, node: LONE_NODE, outSince: null, needsFullCopy: false, bootId: null, report: null },
    ],
    attachment: { number: 0, node: LONE_NODE },
    durability,
    failureMode: 'soft',
  };
}

export class LoneVolumes {
  readonly events: (ReplicaEvent & { readonly volumeId: string })[] = [];
  readonly #storage: Storage;
  readonly #configs: MemoryConfigs;

  static async join(storage: Storage, configs = new MemoryConfigs(), startNumber = 1): Promise<LoneVolumes> {
    const volumes = new LoneVolumes(storage, configs);
    await storage.cluster.connectCluster({
      configs,
      peerKey: Buffer.alloc(32, 7),
      clusterId: 'alone',
      startNumber,
      onReplicaEvent: (event) => volumes.events.push(event),
    });
    return volumes;
  }

  private constructor(storage: Storage, configs: MemoryConfigs) {
    this.#storage = storage;
    this.#configs = configs;
  }

  /** The volume can be used when it resolves; what is asked of it may wait a moment longer. */
  async open(volumeId: string, attachmentNumber = 1): Promise<OpeningReport> {
    const { cluster } = this.#storage;
    const superblock = (await this.#storage.replica(volumeId))?.superblock;
    if (superblock === undefined) throw new Error(`there is no readable copy of volume ${volumeId}`);
    const { sizeBytes } = this.#configs.attached(superblock, attachmentNumber);
    const report = await cluster.openReplica(volumeId);
    cluster.configChanged(volumeId);
    await cluster.openFrontend({ volumeId, attachmentNumber, sizeBytes });
    return report;
  }

  /** Resolves when what is asked of it is answered. */
  async served(volumeId: string): Promise<void> {
    const deadlineMs = performance.now() + 10_000;
    while ((await this.#storage.cluster.frontendView(volumeId))?.isConnected !== true) {
      if (performance.now() > deadlineMs) throw new Error(`volume ${volumeId} is not served`);
      await sleep(10);
    }
  }

  async close(volumeId: string): Promise<void> {
    await this.#storage.cluster.closeFrontend(volumeId);
    await this.#storage.cluster.closeReplica(volumeId);
  }

  async resize(volumeId: string, sizeBytes: number): Promise<void> {
    await this.#storage.resizeReplica(volumeId, sizeBytes);
    this.#configs.resized(volumeId, sizeBytes);
    this.#storage.cluster.configChanged(volumeId);
    await this.#storage.cluster.growFrontend(volumeId, sizeBytes);
  }

  isOpen(volumeId: string): boolean {
    return this.#storage.cluster.isReplicaOpen(volumeId);
  }
}
