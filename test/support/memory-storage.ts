// NodeStorage in memory, for one purpose: to fail and to crash at each of its calls. What is on disk outlives the
// process (MemoryDisks), what is open does not (MemoryStorage). It keeps the promises of the interface, and
// breaks the test that relies on more.

import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../src/core/errors.ts';
import { invariant } from '../../src/core/invariant.ts';
import { GIB } from '../../src/core/units.ts';
import type { ServingStorage } from '../../src/control/served-volumes.ts';
import type { OpenFrontend } from '../../src/dataplane/cluster-storage.ts';
import type {
  ClosedPool,
  ExportHandle,
  NodeStorage,
  OpeningReport,
  PoolStatus,
  ReplicaSpec,
  ReplicaStatus,
  VolumeCounters,
} from '../../src/dataplane/node-storage.ts';
import type { Superblock } from '../../src/replication/layout/superblock.ts';

export interface MemoryReplica {
  spec: ReplicaSpec;
  /** undefined: unreadable. */
  superblock: Superblock | undefined;
  /** Something was written to it. */
  hasData?: boolean;
}

export class MemoryDisks {
  readonly replicas = new Map<string, MemoryReplica>();
  readonly pools = new Map<string, { totalBytes: number; overcommitRatio: number }>([
    ['default', { totalBytes: 100 * GIB, overcommitRatio: 2 }],
  ]);
  /** Not open though in `pools`, and their replicas not seen: by name, why. */
  readonly closed = new Map<string, string>();
  bootId = 'boot-1';

  /** The incarnations are redrawn at the next openings, as after a crash of the machine. */
  reboot(): void {
    this.bootId = randomBytes(4).toString('hex');
  }
}

export class MemoryStorage implements NodeStorage, ServingStorage {
  readonly disks: MemoryDisks;
  readonly openReplicas = new Set<string>();
  readonly frontends = new Map<string, OpenFrontend>();
  readonly configChanges: string[] = [];
  /** By pool: openings there wait for it. */
  readonly hung = new Map<string, Promise<void>>();
  opening = 0;
  openings = 0;
  mostOpening = 0;

  constructor(disks: MemoryDisks) {
    this.disks = disks;
  }

  async pools(): Promise<PoolStatus[]> {
    const open = [...this.disks.pools].filter(([name]) => !this.disks.closed.has(name));
    return open.map(([name, { totalBytes, overcommitRatio }]) => ({
      name,
      directory: `/pools/${name}`,
      ioMode: 'direct',
      totalBytes,
      availableBytes: totalBytes,
      reserveBytes: 0,
      provisionedBytes: [...this.disks.replicas.values()]
        .filter((replica) => replica.spec.pool === name)
        .reduce((sum, replica) => sum + replica.spec.sizeBytes, 0),
      overcommitRatio,
    }));
  }

  closedPools(): ClosedPool[] {
    return [...this.disks.closed].map(([name, problem]) => ({ name, directory: `/pools/${name}`, problem }));
  }

  async forgetPool(): Promise<void> {
    throw new HoldfastError('UNSUPPORTED', 'pools in memory are not forgotten');
  }

  async createReplica(spec: ReplicaSpec): Promise<void> {
    if (!this.disks.pools.has(spec.pool)) throw new HoldfastError('NOT_FOUND', `no pool ${spec.pool}`);
    const standing = this.disks.replicas.get(spec.volumeId);
    if (standing !== undefined) {
      if (JSON.stringify(standing.spec) === JSON.stringify(spec)) return;
      throw new HoldfastError('ALREADY_EXISTS', `replica ${spec.volumeId} exists`);
    }
    const superblock: Superblock = {
      volumeId: spec.volumeId,
      volumeName: spec.volumeName,
      replicaId: spec.replicaId,
      sizeBytes: spec.sizeBytes,
      lineage: spec.lineage,
      promisedEpoch: spec.epoch,
      incarnation: randomBytes(16).toString('hex'),
      lastInSyncIncarnation: null,
      earlierIncarnations: [],
      bootId: null,
      earlierBootIds: [],
      storedBootId: null,
      cleanMark: null,
      inSync: { epoch: 0, members: [] },
      attachmentNumber: 0,
      durability: spec.durability,
      failureMode: spec.failureMode,
      wrappedKey: null,
      fileSystemMade: null,
    };
    this.disks.replicas.set(spec.volumeId, { spec, superblock });
  }

  async deleteReplica(volumeId: string, pool: string): Promise<void> {
    if (this.disks.closed.has(pool)) throw new HoldfastError('UNAVAILABLE', `pool ${pool} is not open`);
    if (this.isReplicaOpen(volumeId)) throw new HoldfastError('CONFLICT', `replica ${volumeId} is open`);
    this.disks.replicas.delete(volumeId);
  }

  async replicas(): Promise<ReplicaStatus[]> {
    return [...this.disks.replicas.keys()].filter((id) => this.#isSeen(id)).map((id) => this.#status(id));
  }

  async replica(volumeId: string): Promise<ReplicaStatus | undefined> {
    return this.#isSeen(volumeId) ? this.#status(volumeId) : undefined;
  }

  #isSeen(volumeId: string): boolean {
    const replica = this.disks.replicas.get(volumeId);
    return replica !== undefined && !this.disks.closed.has(replica.spec.pool);
  }

  async hasData(volumeId: string): Promise<boolean> {
    this.superblockOf(volumeId);
    return this.disks.replicas.get(volumeId)?.hasData ?? false;
  }

  // ---- replication: nothing is replicated, it shows what was asked

  async openReplica(volumeId: string): Promise<OpeningReport> {
    this.opening += 1;
    this.openings += 1;
    this.mostOpening = Math.max(this.mostOpening, this.opening);
    try {
      await this.hung.get(this.disks.replicas.get(volumeId)?.spec.pool ?? '');
      const superblock = this.superblockOf(volumeId);
      const hasRebooted =
        !this.isReplicaOpen(volumeId) &&
        superblock.bootId !== null &&
        superblock.bootId !== this.disks.bootId;
      this.#write(volumeId, { bootId: this.disks.bootId, cleanMark: null });
      this.openReplicas.add(volumeId);
      return { lastEnd: hasRebooted ? 'rebooted' : 'clean', isWindowIntact: false };
    } finally {
      this.opening -= 1;
    }
  }

  async closeReplica(volumeId: string): Promise<void> {
    if (!this.openReplicas.delete(volumeId)) return;
    this.#write(volumeId, { cleanMark: { epoch: this.superblockOf(volumeId).promisedEpoch } });
  }

  isReplicaOpen(volumeId: string): boolean {
    return this.openReplicas.has(volumeId);
  }

  configChanged(volumeId: string): void {
    this.configChanges.push(volumeId);
  }

  async openFrontend(frontend: OpenFrontend): Promise<void> {
    const standing = this.frontends.get(frontend.volumeId);
    invariant(
      standing === undefined || standing.attachmentNumber < frontend.attachmentNumber,
      'a frontend is opened once for an attachment, and never for an older one',
    );
    this.frontends.set(frontend.volumeId, frontend);
  }

  async closeFrontend(volumeId: string): Promise<void> {
    this.frontends.delete(volumeId);
  }

  isFrontendOpen(volumeId: string): boolean {
    return this.frontends.has(volumeId);
  }

  async growFrontend(volumeId: string, sizeBytes: number): Promise<void> {
    const standing = this.frontends.get(volumeId);
    if (standing === undefined) throw new HoldfastError('CONFLICT', `no frontend of ${volumeId} is open`);
    this.frontends.set(volumeId, { ...standing, sizeBytes });
  }

  // ---- the rest

  async resizeReplica(volumeId: string, sizeBytes: number): Promise<void> {
    if (this.superblockOf(volumeId).sizeBytes < sizeBytes) this.#write(volumeId, { sizeBytes });
  }

  async updateSuperblock(
    volumeId: string,
    change: Partial<Pick<Superblock, 'fileSystemMade' | 'attachmentNumber' | 'promisedEpoch'>>,
  ): Promise<void> {
    this.superblockOf(volumeId);
    this.#write(volumeId, change);
  }

  async exportUnix(): Promise<ExportHandle> {
    throw notHere();
  }
  async connectKernel(): Promise<number> {
    throw notHere();
  }
  async disconnectKernel(): Promise<void> {
    throw notHere();
  }
  async counters(): Promise<VolumeCounters> {
    throw notHere();
  }

  async close(): Promise<void> {
    for (const volumeId of this.openReplicas) await this.closeReplica(volumeId);
  }

  superblockOf(volumeId: string): Superblock {
    const superblock = this.disks.replicas.get(volumeId)?.superblock;
    if (superblock === undefined) throw new HoldfastError('NOT_FOUND', `no readable replica ${volumeId}`);
    return superblock;
  }

  #status(volumeId: string): ReplicaStatus {
    const replica = this.disks.replicas.get(volumeId);
    invariant(replica !== undefined, 'the replica is on disk');
    return {
      volumeId,
      pool: replica.spec.pool,
      superblock: replica.superblock,
      problem: replica.superblock === undefined ? 'its checksum is wrong' : undefined,
      isOpen: this.isReplicaOpen(volumeId),
      allocatedBytes: 0,
    };
  }

  #write(volumeId: string, change: Partial<Superblock>): void {
    const replica = this.disks.replicas.get(volumeId);
    if (replica?.superblock !== undefined) replica.superblock = { ...replica.superblock, ...change };
  }
}

function notHere(): HoldfastError {
  return new HoldfastError('UNSUPPORTED', 'no bytes move in memory storage');
}
