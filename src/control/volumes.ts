// The volumes of this daemon: VolumeService, and what the daemon itself needs beside it (opening, repair,
// explanations). Joins the operations, each in a file of its own, with their locks: one operation at a time
// for each volume and name; a second one from an edge is told BUSY, the daemon's own opening and closing wait.

import type { AttachmentVerdict } from '../core/attachment-verdict.ts';
import { HoldfastError } from '../core/errors.ts';
import { didYouMean } from '../core/nearest.ts';
import type { NodeStorage } from '../dataplane/node-storage.ts';
import { attachmentVerdict } from './attachment-verdict.ts';
import { makeNamedCopies, requireCluster } from './change-copies.ts';
import type { ClusterContext } from './cluster-context.ts';
import { type CollectedTimeline, collectTimeline } from './collect-timeline.ts';
import { createVolume } from './create-volume.ts';
import { deleteVolume, removeVolume } from './delete-volume.ts';
import { explainInCluster } from './explain-cluster.ts';
import { explainPlaces } from './explain-places.ts';
import { acquireForExport, endUncounted, isLeftoverExport, releaseExport } from './export-volume.ts';
import { chooseFileSystem, fileSystemMade, requireFileSystemFinished } from './file-system-of-volume.ts';
import { forcePromotion } from './force-promotion.ts';
import { KeyedLock } from './keyed-lock.ts';
import { type CopyLook, lookAtCopies } from './look-at-copies.ts';
import { movePrimary } from './move-primary.ts';
import type { CopyFacts, CopyStep } from './next-copy-step.ts';
import { isVolumeId } from './names.ts';
import { capacityOf, forgetPool, largestVolumeBytes } from './pools.ts';
import { type Problem, problemsOf, unfinishedOf } from './problems.ts';
import { publishVolume, renewAttachment, unpublishByHand, unpublishVolume } from './publish-volume.ts';
import type { FileSystemType, VolumeRecord } from './records.ts';
import { readmitCopy } from './readmit-copy.ts';
import { type RepairReport, repair } from './repair.ts';
import { findUnfinished, type Unfinished } from './repair-cluster.ts';
import { resizeVolume } from './resize-volume.ts';
import { ServedVolumes, type ServingStorage } from './served-volumes.ts';
import { type ReplicasSet, setFailureMode, setReplicas } from './set-replicas.ts';
import type { Store } from './store.ts';
import { takeCopySteps } from './take-copy-steps.ts';
import { nameLock, primaryReplica, requireOwn, type VolumeContext } from './volume-context.ts';
import { VolumeRecords, volumeNotFound } from './volume-records.ts';
import type { CopyLeft, CreateVolume, PoolCapacity, VolumeService } from './volume-service.ts';

export interface VolumesOptions {
  readonly node: string;
  /** undefined: the first of the node's pools. */
  readonly defaultPool?: string | undefined;
  readonly maxVolumesPerNode: number;
  /** The storage's. */
  readonly replication: ServingStorage;
  /** undefined: this daemon is alone with its store. */
  readonly cluster?: ClusterContext | undefined;
}

export class Volumes implements VolumeService {
  readonly #context: VolumeContext;

  constructor(store: Store, storage: NodeStorage, options: VolumesOptions) {
    const records = new VolumeRecords(store);
    const { node, replication, cluster } = options;
    this.#context = {
      node,
      defaultPool: options.defaultPool,
      maxVolumesPerNode: options.maxVolumesPerNode,
      storage,
      records,
      served: new ServedVolumes({ node, records, storage, replication, isAlone: cluster === undefined }),
      locks: new KeyedLock(),
      exportCounts: new Map(),
      cluster,
    };
  }

  // ---- VolumeService

  async create(request: CreateVolume): Promise<VolumeRecord> {
    return await this.#alone(
      nameLock(request.name),
      `volume "${request.name}"`,
      async () => await createVolume(this.#context, request),
    );
  }

  async get(volumeId: string): Promise<VolumeRecord> {
    return await this.#context.records.ready(volumeId);
  }

  /** An id wins over a name that looks like one: nobody can take over a volume's commands by a choice of name. */
  async find(nameOrId: string): Promise<VolumeRecord> {
    const { records } = this.#context;
    const byId = isVolumeId(nameOrId) ? await records.read(nameOrId) : undefined;
    if (byId?.state === 'ready') return byId;
    const claim = await records.claim(nameOrId);
    const byName = claim && (await records.read(claim.value.id));
    if (byName?.state === 'ready') return byName;
    const names = (await this.list()).map((record) => record.name);
    throw new HoldfastError(
      'NOT_FOUND',
      `There is no volume "${nameOrId}".${didYouMean(nameOrId, names)} "holdfast volume ls" shows those there are.`,
    );
  }

  async list(): Promise<VolumeRecord[]> {
    return (await this.#context.records.list()).filter((record) => record.state === 'ready');
  }

  /** Copies beside the primary. The caller is told of copies that are still on the disks of nodes that are away. */
  async setReplicas(volumeId: string, count: number): Promise<ReplicasSet> {
    return await this.#aloneWith(volumeId, async () => await setReplicas(this.#context, volumeId, count));
  }

  /** CONFLICT when requests would have to wait from then on. */
  async setFailureMode(volumeId: string, failureMode: VolumeRecord['failureMode']): Promise<VolumeRecord> {
    return await this.#aloneWith(
      volumeId,
      async () => await setFailureMode(this.#context, volumeId, failureMode),
    );
  }

  /** The primary gives its place to the copy on that node; requests pause for milliseconds. CONFLICT, TIMEOUT. */
  async movePrimary(volumeId: string, node: string): Promise<VolumeRecord> {
    return await this.#aloneWith(volumeId, async () => await movePrimary(this.#context, volumeId, node));
  }

  /** As the last resort: this copy is the volume from now on, and what it lacks is lost. `statedOff`: by a person. */
  async forcePromotion(volumeId: string, node: string, statedOff: readonly string[]): Promise<VolumeRecord> {
    return await this.#aloneWith(
      volumeId,
      async () => await forcePromotion(this.#context, volumeId, node, statedOff),
    );
  }

  /** A copy that is held out is taken up at once. CONFLICT when it is not held out. */
  async readmit(record: VolumeRecord, node: string): Promise<void> {
    await readmitCopy(this.#context, record, node);
  }

  /** What all daemons saw of its replication. */
  async timeline(record: VolumeRecord): Promise<CollectedTimeline> {
    return await collectTimeline(this.#context, record);
  }

  /** Its copies as they are in this moment; undefined: alone with its store, where the storage tells as much. */
  async lookAtCopies(record: VolumeRecord): Promise<readonly CopyLook[] | undefined> {
    return await lookAtCopies(this.#context, record);
  }

  async resize(volumeId: string, sizeBytes: number): Promise<VolumeRecord> {
    return await this.#aloneWith(
      volumeId,
      async () => await resizeVolume(this.#context, volumeId, sizeBytes),
    );
  }

  async delete(volumeId: string): Promise<readonly CopyLeft[]> {
    return await this.#aloneWithName(
      volumeId,
      async (name) => await deleteVolume(this.#context, volumeId, name),
    );
  }

  async publish(volumeId: string, node: string, readOnly: boolean): Promise<VolumeRecord> {
    return await this.#aloneWith(
      volumeId,
      async () => await publishVolume(this.#context, volumeId, node, readOnly),
    );
  }

  /** As `publish`, for use by hand: CONFLICT while a file system is being made on it. */
  async publishByHand(volumeId: string, node: string, readOnly: boolean): Promise<VolumeRecord> {
    return await this.#aloneWith(
      volumeId,
      async () => await publishVolume(this.#context, volumeId, node, readOnly, requireFileSystemFinished),
    );
  }

  async unpublish(volumeId: string, node: string | null): Promise<void> {
    await this.#aloneWith(volumeId, async () => await unpublishVolume(this.#context, volumeId, node));
  }

  /** As `unpublish` from this node; `force`: from another that is not alive any more, too. */
  async unpublishByHand(volumeId: string, force: boolean): Promise<void> {
    await this.#aloneWith(volumeId, async () => await unpublishByHand(this.#context, volumeId, force));
  }

  async renewAttachment(volumeId: string, node: string): Promise<VolumeRecord> {
    return await this.#aloneWith(volumeId, async () => await renewAttachment(this.#context, volumeId, node));
  }

  async chooseFileSystem(volumeId: string, type: FileSystemType): Promise<VolumeRecord> {
    return await this.#aloneWith(volumeId, async () => await chooseFileSystem(this.#context, volumeId, type));
  }

  async fileSystemMade(volumeId: string): Promise<VolumeRecord> {
    return await this.#aloneWith(volumeId, async () => await fileSystemMade(this.#context, volumeId));
  }

  async capacity(pool?: string): Promise<PoolCapacity[]> {
    return await capacityOf(this.#context, pool);
  }

  async largestVolumeBytes(pool?: string): Promise<number> {
    return await largestVolumeBytes(this.#context, pool);
  }

  /**
   * The next pool of that name may be another one. CONFLICT while it is open or, unless `force`, while volumes
   * have their copy there.
   */
  async forgetPool(pool: string, force: boolean): Promise<void> {
    await forgetPool(this.#context, pool, force);
  }

  /** INVALID when this daemon is alone with its store. */
  requireCluster(what: string): void {
    requireCluster(this.#context, what);
  }

  // ---- for the housekeeping

  /** What is left of a volume that is half made or half deleted goes. Ready or gone: nothing. */
  async finishRemoval(volumeId: string): Promise<readonly CopyLeft[]> {
    return await this.#aloneWithName(volumeId, async (name) => {
      const record = await this.#context.records.read(volumeId);
      return record?.state === 'ready' ? [] : await removeVolume(this.#context, volumeId, name);
    });
  }

  /** The steps to copies on nodes that stay that can be taken now. */
  async takeCopySteps(volumeId: string, facts: CopyFacts): Promise<readonly CopyStep[]> {
    return await this.#aloneWith(volumeId, async () => await takeCopySteps(this.#context, volumeId, facts));
  }

  async makeNamedCopies(volumeId: string): Promise<void> {
    await this.#aloneWith(volumeId, async () => {
      await makeNamedCopies(this.#context, await this.#context.records.ready(volumeId));
    });
  }

  // ---- for the daemon

  /** In a cluster, once, before anything else is asked of this object: what an earlier process of this node left. */
  async findUnfinished(): Promise<Unfinished[]> {
    return await findUnfinished(this.#context);
  }

  /** Alone with its store: once, before anything else is asked of this object. */
  async repair(): Promise<RepairReport> {
    return await repair(this.#context);
  }

  /** A record as it stands now. What is used here follows it; what is left of exports is given back. */
  async recordChanged(record: VolumeRecord): Promise<void> {
    const { served } = this.#context;
    // The lock only where there is something to do: an edge that comes meanwhile would be told BUSY.
    if (!served.isBehind(record) && !isLeftoverExport(this.#context, record)) return;
    await this.#context.locks.run(record.id, async () => {
      await served.tell(record);
      await endUncounted(this.#context, record.id);
    });
  }

  /**
   * One more user (a device): the volume is open when it resolves. CORRUPT when a person must decide
   * first; BUSY while a dead daemon's requests may still land; CONFLICT unless it is published here.
   */
  async acquire(volumeId: string): Promise<VolumeRecord> {
    return await this.#context.locks.run(volumeId, async () => {
      requireOwn(this.#context, await this.#context.records.ready(volumeId));
      return await this.#context.served.acquire(volumeId);
    });
  }

  /** One user fewer, also when it fails; the last one closes the volume. Once for every acquire. */
  async release(volumeId: string): Promise<void> {
    await this.#context.locks.run(volumeId, async () => await this.#context.served.release(volumeId));
  }

  /** A device or an export of this node uses it. */
  isUsedHere(volumeId: string): boolean {
    return this.#context.served.userCount(volumeId) > 0;
  }

  /** After a release that failed: closes the volume unless somebody uses it. Any number of times. */
  async closeUnused(volumeId: string): Promise<void> {
    await this.#context.locks.run(volumeId, async () => await this.#context.served.closeUnused(volumeId));
  }

  /** What is open here is served as the record says now: its attachment, its size. */
  async follow(volumeId: string): Promise<void> {
    const { locks, records, served } = this.#context;
    await locks.run(volumeId, async () => await served.tell(await records.ready(volumeId)));
  }

  /** Like acquire, for an export: CONFLICT while the volume is published, which it then cannot be. */
  async acquireForExport(volumeId: string): Promise<VolumeRecord> {
    return await this.#context.locks.run(
      volumeId,
      async () => await acquireForExport(this.#context, volumeId),
    );
  }

  /** Once for every acquireForExport. */
  async releaseExport(volumeId: string): Promise<void> {
    await this.#context.locks.run(volumeId, async () => await releaseExport(this.#context, volumeId));
  }

  /** What may be done with a device of this attachment, or a mount of it, found after a restart. */
  async attachmentVerdict(volumeId: string, attachmentNumber: number): Promise<AttachmentVerdict> {
    return await attachmentVerdict(this.#context, volumeId, attachmentNumber);
  }

  /** What is wrong with a volume, in any state, and what to do about it; empty when nothing is. */
  async explain(volumeId: string): Promise<Problem[]> {
    const { node, records, storage, cluster } = this.#context;
    const closed = storage.closedPools();
    // The copy before the record: what an open copy has promised by then a sound store knows.
    const replica = cluster === undefined ? await storage.replica(volumeId) : undefined;
    const record = await records.read(volumeId);
    if (record === undefined) throw volumeNotFound(volumeId);
    if (cluster !== undefined) {
      const found = await explainInCluster(this.#context, cluster, record);
      return [...found, ...(await explainPlaces(this.#context, cluster, record))];
    }
    const home = primaryReplica(record).node;
    if (home !== node) {
      const problem = `Its copy is on node "${home}"; this daemon is "${node}" and cannot see it.`;
      return [{ problem, nextStep: 'Ask the daemon of that node.' }, ...unfinishedOf(record)];
    }
    if (record.state !== 'ready') return unfinishedOf(record);
    return [...unfinishedOf(record), ...problemsOf(record, replica, closed)];
  }

  /** Nothing is left of the volume: nothing is done. */
  async #aloneWithName(
    volumeId: string,
    operation: (name: string) => Promise<CopyLeft[]>,
  ): Promise<readonly CopyLeft[]> {
    return await this.#aloneWith(volumeId, async () => {
      const name = await this.#context.records.nameOf(volumeId);
      if (name === undefined) return [];
      return await this.#alone(nameLock(name), `volume "${name}"`, async () => await operation(name));
    });
  }

  async #aloneWith<T>(volumeId: string, operation: () => Promise<T>): Promise<T> {
    return await this.#alone(volumeId, `volume ${volumeId}`, operation);
  }

  async #alone<T>(key: string, what: string, operation: () => Promise<T>): Promise<T> {
    return await this.#context.locks.tryRun(key, what, operation);
  }
}
