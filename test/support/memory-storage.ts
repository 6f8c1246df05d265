// NodeStorage in memory, for one purpose: to fail and to crash at each of its calls. What is on disk outlives the
// process (MemoryDisks), what is open does not (MemoryStorage). It keeps the promises of the interface, and
// breaks the test that relies on more.

import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../src/core/errors.ts';
import { invariant } from '../../src/core/invariant.ts';
import { GIB } from '../../src/core/units.ts';
import type {
  ClosedPool,
  ExportHandle,
  NodeStorage,
  OpeningReport,
  OpenVolume,
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

export class MemoryStorage implements NodeStorage {
  readonly disks: MemoryDisks;
  readonly open = new Map<string, OpenVolume>();

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
      bootId: null,
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
    if (this.isOpen(volumeId)) throw new HoldfastError('CONFLICT', `replica ${volumeId} is open`);
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

  async openVolume(open: OpenVolume): Promise<OpeningReport> {
    const superblock = this.superblockOf(open.volumeId);
    invariant(
      open.epoch >= superblock.promisedEpoch,
      'a replica is opened in an epoch not below its promise',
    );
    invariant(open.attachmentNumber >= superblock.attachmentNumber, 'an attachment number never goes back');
    const rebooted =
      !this.isOpen(open.volumeId) && superblock.bootId !== null && superblock.bootId !== this.disks.bootId;
    this.#write(open.volumeId, {
      promisedEpoch: open.epoch,
      attachmentNumber: open.attachmentNumber,
      bootId: this.disks.bootId,
      ...(rebooted && superblock.cleanMark === null ? { incarnation: randomBytes(16).toString('hex') } : {}),
      cleanMark: null,
    });
    this.open.set(open.volumeId, open);
    return { lastEnd: rebooted ? 'rebooted' : 'clean', isWindowIntact: false };
  }

  async closeVolume(volumeId: string): Promise<void> {
    const open = this.open.get(volumeId);
    if (open === undefined) return;
    this.open.delete(volumeId);
    this.#write(volumeId, { cleanMark: { epoch: open.epoch } });
  }

  isOpen(volumeId: string): boolean {
    return this.open.has(volumeId);
  }

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
    for (const volumeId of this.open.keys()) await this.closeVolume(volumeId);
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
      isOpen: this.isOpen(volumeId),
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
