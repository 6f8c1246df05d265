// NodeStorage: the pools and copies of this node, and what serves them: copies and frontends that are open in
// data-plane threads (cluster/cluster-volumes.ts). Files are opened, grown and deleted on the main thread only.

import { join } from 'node:path';
import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import type { Superblock } from '../replication/layout/superblock.ts';
import { ClusterVolumes, type OpenedFrontend } from './cluster/cluster-volumes.ts';
import { inTime } from './in-time.ts';
import { native } from './native.ts';
import type {
  ClosedPool,
  ExportHandle,
  NodeStorage,
  PoolStatus,
  ReplicaSpec,
  ReplicaStatus,
  VolumeCounters,
} from './node-storage.ts';
import { hasLostWrites } from './durable-files.ts';
import { failureError, failureOf, markFailed } from './failure-mark.ts';
import { closeFiles, openFiles } from './replica-lock.ts';
import type { NodePools } from './node-pools.ts';
import { poolsOf, threadsFor } from './placement.ts';
import type { Pool } from './pool.ts';
import { createReplica, deleteReplica, describeReplica, growReplica, holdsData } from './replica-files.ts';
import { SUPERBLOCK_FILE_NAME, SuperblockFile } from './superblock-file.ts';
import type { ThreadHandle } from './thread-handle.ts';
import type { ThreadCounters } from './thread-messages.ts';
import type { ThreadSample } from './thread-sample.ts';
import { UnixExports } from './unix-exports.ts';
import { VolumeTurns } from './volume-turns.ts';
import type { Watchdog } from './watchdog.ts';
import type { WindowFiles } from './window-files.ts';

const EIO = 5;
/** For what only looks at a disk: the answer to a request that concerns other pools too waits for it. */
const LOOK_DEADLINE_MS = 10_000;
const KERNEL_SOCKET_BYTES = 4 * 1024 * 1024;

/** What is undefined was not to be had in time: the disk does not answer. */
export interface PoolSample {
  readonly name: string;
  readonly status: PoolStatus | undefined;
  readonly replicas: readonly ReplicaStatus[] | undefined;
}

export class Storage implements NodeStorage {
  /** Replicas and frontends of a cluster. */
  readonly cluster: ClusterVolumes;
  readonly #nodeName: string;
  readonly #pools: NodePools;
  readonly #threads: readonly ThreadHandle[];
  readonly #windows: WindowFiles;
  readonly #watchdog: Watchdog;
  readonly #turns: VolumeTurns;
  readonly #deadlineMs: number;
  readonly #lookDeadlineMs: number;
  readonly #exports: UnixExports;
  /** Replicas that failed and whose mark is not on disk: the disk that failed may refuse it. */
  readonly #failures = new Map<string, string>();
  /** Marks that are being written, by volume. */
  readonly #marks = new Map<string, Promise<void>>();
  #closed: Promise<void> | undefined;

  constructor(
    nodeName: string,
    bootId: string,
    pools: NodePools,
    threads: readonly ThreadHandle[],
    windows: WindowFiles,
    watchdog: Watchdog,
    answerDeadlineMs: number,
  ) {
    this.#nodeName = nodeName;
    this.#pools = pools;
    this.#threads = threads;
    this.#windows = windows;
    this.#watchdog = watchdog;
    this.#deadlineMs = answerDeadlineMs;
    this.#lookDeadlineMs = Math.min(LOOK_DEADLINE_MS, answerDeadlineMs / 2);
    this.#turns = new VolumeTurns(answerDeadlineMs, (volumeId) => this.#diskOf(volumeId));
    this.#exports = new UnixExports(this.#turns);
    this.cluster = new ClusterVolumes({
      nodeName,
      bootId,
      threads,
      windows,
      turns: this.#turns,
      poolOf: (volumeId) => this.#requirePoolOf(volumeId),
      requireUnfailed: (pool, volumeId) => this.#requireUnfailed(pool, volumeId),
      hold: (pool, operation) => this.#hold(pool, operation),
      marking: (pool, volumeId, operation) => this.#marking(pool, volumeId, operation),
      findPool: (volumeId) => this.#poolOf(volumeId),
      threadsOf: (pool) => this.#threadsOf(pool),
      replicaFailed: (volumeId, reason) => this.replicaFailed(volumeId, reason),
      marked: async (volumeId) => this.#marks.get(volumeId),
    });
  }

  async pools(): Promise<PoolStatus[]> {
    const statuses = this.#pools.opened().map((pool) =>
      unlessBroken(
        pool,
        this.#look(pool, 'asking for the space', () => pool.status()),
      ),
    );
    return (await Promise.all(statuses)).filter((status) => status !== undefined);
  }

  closedPools(): ClosedPool[] {
    return this.#pools.closed();
  }

  forgetPool(name: string): Promise<void> {
    return this.#pools.forget(name);
  }

  async createReplica(spec: ReplicaSpec): Promise<void> {
    const pool = this.#pools.required(spec.pool);
    await pool.gate.run(`creating volume ${spec.volumeId}`, this.#deadlineMs, () =>
      createReplica(pool, spec),
    );
  }

  async deleteReplica(volumeId: string, poolName: string): Promise<void> {
    await this.#turns.run(volumeId, `deleting volume ${volumeId}`, async () => {
      if (this.cluster.isReplicaOpen(volumeId)) {
        throw new HoldfastError('CONFLICT', `volume ${volumeId} is in use: detach it first`);
      }
      const pool = this.#pools.unlessForgotten(poolName);
      if (pool !== undefined) {
        pool.gate.require(`deleting volume ${volumeId}`);
        await this.#hold(pool, () => deleteReplica(pool, this.#windows, volumeId));
      }
      this.#failures.delete(volumeId);
    });
  }

  async replicas(): Promise<ReplicaStatus[]> {
    const found = this.#pools.opened().map((pool) => unlessBroken(pool, this.#replicasIn(pool)));
    return (await Promise.all(found)).flatMap((replicas) => replicas ?? []);
  }

  async replica(volumeId: string): Promise<ReplicaStatus | undefined> {
    const pool = await this.#poolOf(volumeId);
    return pool === undefined ? undefined : this.#describe(pool, volumeId);
  }

  async hasData(volumeId: string): Promise<boolean> {
    const pool = await this.#requirePoolOf(volumeId);
    const doing = `looking for data of volume ${volumeId}`;
    return await pool.gate.look(doing, this.#deadlineMs, () => holdsData(pool, volumeId));
  }

  async resizeReplica(volumeId: string, sizeBytes: number): Promise<void> {
    await this.#turns.run(volumeId, `growing volume ${volumeId}`, async () => {
      const pool = await this.#requirePoolOf(volumeId);
      const opened = this.cluster.openedReplica(volumeId);
      await this.#marking(pool, volumeId, () =>
        this.#hold(pool, async () => {
          await this.#requireUnfailed(pool, volumeId);
          await growReplica(pool, volumeId, sizeBytes, opened?.replica);
        }),
      );
      if (opened !== undefined) await this.cluster.replicaGrown(volumeId, opened.replica.sizeBytes);
    });
  }

  async updateSuperblock(
    volumeId: string,
    change: Partial<Pick<Superblock, 'fileSystemMade' | 'attachmentNumber' | 'promisedEpoch'>>,
  ): Promise<void> {
    await this.#turns.run(volumeId, `recording a change of volume ${volumeId}`, async () => {
      const opened = this.cluster.openedReplica(volumeId);
      const pool = opened?.pool ?? (await this.#requirePoolOf(volumeId));
      await this.#marking(pool, volumeId, () =>
        this.#hold(pool, async () => {
          if (opened !== undefined) await opened.replica.superblock.update(change);
          else await this.#updateClosed(pool, volumeId, change);
        }),
      );
    });
  }

  exportUnix(volumeId: string, exportName: string, path: string): Promise<ExportHandle> {
    return this.#exports.add(this.#required(volumeId).thread, volumeId, exportName, path);
  }

  async connectKernel(volumeId: string, attachmentNumber: number, readOnly: boolean): Promise<number> {
    const { thread, attachmentNumber: current } = this.#required(volumeId);
    if (attachmentNumber !== current) {
      throw new HoldfastError(
        'CONFLICT',
        `attachment ${attachmentNumber} of volume ${volumeId} is not the current one (${current}): publish the volume again`,
        { details: { attachmentNumber, current } },
      );
    }
    const [ours, kernels] = native.socketPair(KERNEL_SOCKET_BYTES);
    try {
      const connected = thread.ask({ type: 'connect', volumeId, fd: ours, readOnly });
      await this.#turns.answer(volumeId, `connecting the device of volume ${volumeId}`, connected);
    } catch (error) {
      native.close(kernels);
      throw error;
    }
    return kernels;
  }

  async disconnectKernel(volumeId: string): Promise<void> {
    const opened = this.cluster.openedFrontend(volumeId);
    if (opened === undefined) return;
    const disconnected = opened.thread.ask({ type: 'disconnect', volumeId });
    await this.#turns.answer(volumeId, `ending the sessions of volume ${volumeId}`, disconnected);
  }

  counters(volumeId: string): Promise<VolumeCounters> {
    const counted = this.#required(volumeId).thread.askVolumeCounters(volumeId);
    return this.#turns.answer(volumeId, `reading the counters of volume ${volumeId}`, counted);
  }

  /** What each thread counts, by its place; undefined: it did not answer in time. Waits for nobody longer. */
  sampleThreads(deadlineMs: number): Promise<(ThreadSample | undefined)[]> {
    return Promise.all(this.#threads.map((thread) => within(deadlineMs, thread.askSample())));
  }

  /** What each open pool has, and what its copies are. */
  samplePools(deadlineMs: number): Promise<PoolSample[]> {
    const sample = async (pool: Pool): Promise<PoolSample> => {
      const status = this.#look(pool, 'asking for the space', () => pool.status());
      const found = await within(deadlineMs, Promise.all([status, this.#replicasIn(pool)]));
      return { name: pool.name, status: found?.[0], replicas: found?.[1] };
    };
    return Promise.all(this.#pools.opened().map(sample));
  }

  threadCounters(): Promise<ThreadCounters[]> {
    return Promise.all(this.#threads.map((thread) => thread.askThreadCounters()));
  }

  /** The names of the pools that a thread serves. */
  poolsOf(thread: number): string[] {
    const names = this.#pools.names();
    const places = poolsOf(thread, names.length, this.#threads.length);
    return names.filter((_, place) => places.includes(place));
  }

  /** A flush or log write of this replica failed: it is not opened again, by this process or a later one. */
  replicaFailed(volumeId: string, reason: string): void {
    if (this.#failures.has(volumeId)) return;
    this.#failures.set(volumeId, reason);
    const opened = this.cluster.openedReplica(volumeId);
    if (opened === undefined) return;
    const marked = this.#mark(opened.pool, volumeId, reason).finally(() => this.#marks.delete(volumeId));
    this.#marks.set(volumeId, marked);
  }

  close(): Promise<void> {
    this.#closed ??= this.#closeAll();
    return this.#closed;
  }

  async #closeAll(): Promise<void> {
    const failures: unknown[] = [];
    const attempt = async (step: Promise<unknown>): Promise<void> => {
      await step.catch((error: unknown) => failures.push(error));
    };
    await attempt(this.cluster.close());
    for (const thread of this.#threads) await attempt(thread.stop());
    this.#watchdog.stop();
    await attempt(this.#pools.close());
    if (failures.length > 0) throw failures[0];
  }

  // ---- superblocks and failures

  /** The superblock of a copy that is not open. */
  async #updateClosed(pool: Pool, volumeId: string, change: Partial<Superblock>): Promise<void> {
    const directory = pool.replicaDirectory(volumeId);
    await this.#requireUnfailed(pool, volumeId);
    const files = await openFiles(directory, volumeId, pool.ioMode);
    try {
      const superblock = await SuperblockFile.load(files.superblock, join(directory, SUPERBLOCK_FILE_NAME));
      await superblock.update(change);
    } finally {
      await closeFiles(files);
    }
  }

  /** IO once something of it was lost, until a person has looked. */
  async #requireUnfailed(pool: Pool, volumeId: string): Promise<void> {
    const directory = pool.replicaDirectory(volumeId);
    const failure = this.#failures.get(volumeId) ?? (await failureOf(directory));
    if (failure !== undefined) throw failureError(volumeId, directory, failure);
  }

  /**
   * Whatever could not be made durable: the copy is marked before that is told, whoever asked for it. Tried again it
   * would succeed, and be believed, without what the disk has lost.
   */
  async #marking<Result>(pool: Pool, volumeId: string, operation: () => Promise<Result>): Promise<Result> {
    try {
      return await operation();
    } catch (error) {
      if (!hasLostWrites(error)) throw error;
      this.cluster.failReplica(volumeId, errnoOf(error));
      const reason = this.#failures.get(volumeId) ?? `a write to its metadata was lost (${errorText(error)})`;
      this.#failures.set(volumeId, reason);
      await this.#mark(pool, volumeId, reason);
      throw error;
    }
  }

  async #mark(pool: Pool, volumeId: string, reason: string): Promise<void> {
    try {
      await this.#hold(pool, () => markFailed(pool.replicaDirectory(volumeId), reason));
      this.#failures.delete(volumeId);
    } catch {
      // What stays in memory holds as long as this process does.
    }
  }

  // ---- helpers

  /** UNAVAILABLE when the disk does not say within a few seconds. */
  #look<Result>(pool: Pool, doing: string, look: () => Promise<Result>): Promise<Result> {
    return pool.gate.look(doing, this.#lookDeadlineMs, look);
  }

  /** For what happens in a volume's turn, whose deadline is the caller's. */
  #hold<Result>(pool: Pool, operation: () => Promise<Result>): Promise<Result> {
    return pool.gate.hold(this.#deadlineMs, operation);
  }

  #threadsOf(pool: Pool): ThreadHandle[] {
    const names = this.#pools.names();
    const places = threadsFor(names.indexOf(pool.name), names.length, this.#threads.length);
    return this.#threads.filter((_, place) => places.includes(place));
  }

  #required(volumeId: string): OpenedFrontend {
    const opened = this.cluster.openedFrontend(volumeId);
    if (opened === undefined) {
      throw new HoldfastError('CONFLICT', `volume ${volumeId} is not open here: attach or export it first`);
    }
    return opened;
  }

  #diskOf(volumeId: string): string {
    const pool =
      this.cluster.openedReplica(volumeId)?.pool ?? this.#pools.opened().find((one) => counts(one, volumeId));
    return pool === undefined
      ? "the disk of the volume's pool"
      : `the disk of pool '${pool.name}' (${pool.directory})`;
  }

  async #poolOf(volumeId: string): Promise<Pool | undefined> {
    let problem: unknown;
    for (const pool of this.#likelyFirst(volumeId)) {
      try {
        const doing = `looking for volume ${volumeId}`;
        if (await this.#look(pool, doing, () => pool.has(volumeId))) return pool;
      } catch (error) {
        problem ??= error; // another pool may have it
      }
    }
    if (problem !== undefined) throw problem;
    return undefined;
  }

  /** The pool that counts a replica of the volume comes first: where another one hangs, nobody asks that. */
  #likelyFirst(volumeId: string): Pool[] {
    const pools = this.#pools.opened();
    return pools.sort((a, b) => Number(counts(b, volumeId)) - Number(counts(a, volumeId)));
  }

  async #requirePoolOf(volumeId: string): Promise<Pool> {
    const pool = await this.#poolOf(volumeId);
    if (pool !== undefined) return pool;
    const [closed] = this.#pools.closed();
    if (closed !== undefined) {
      throw new HoldfastError(
        'UNAVAILABLE',
        `no open pool has a replica of volume ${volumeId}, and pool '${closed.name}' is not open: ${closed.problem}`,
      );
    }
    throw new HoldfastError(
      'NOT_FOUND',
      `node ${this.#nodeName} has no replica of volume ${volumeId}; is a pool missing from the configuration?`,
    );
  }

  async #replicasIn(pool: Pool): Promise<ReplicaStatus[]> {
    const ids = await this.#look(pool, 'listing the replicas', () => pool.volumeIds());
    const replicas: ReplicaStatus[] = [];
    for (const volumeId of ids) replicas.push(await this.#describe(pool, volumeId));
    return replicas;
  }

  #describe(pool: Pool, volumeId: string): Promise<ReplicaStatus> {
    return this.#look(pool, `reading the replica of volume ${volumeId}`, async () => {
      const description = await describeReplica(pool, volumeId);
      const failure = this.#failures.get(volumeId) ?? (await failureOf(pool.replicaDirectory(volumeId)));
      const problem = description.problem ?? failure;
      return {
        volumeId,
        pool: pool.name,
        isOpen: this.cluster.isReplicaOpen(volumeId),
        ...description,
        problem,
      };
    });
  }
}

/** undefined: it failed, or was not there in time. */
async function within<Result>(deadlineMs: number, work: Promise<Result>): Promise<Result | undefined> {
  const late = (): Error => new HoldfastError('TIMEOUT', 'no answer in time');
  return await inTime(work, deadlineMs, late).catch((error: unknown) => {
    if (isHoldfastError(error)) return undefined;
    throw error;
  });
}

function counts(pool: Pool, volumeId: string): boolean {
  return pool.claimedBytes(volumeId) !== undefined;
}

/** undefined: the pool is among the closed ones now, with the reason. One pool's trouble is not the others'. */
async function unlessBroken<Result>(pool: Pool, look: Promise<Result>): Promise<Result | undefined> {
  return await look.catch((error: unknown) => {
    if (isHoldfastError(error) && pool.problem !== undefined) return undefined;
    throw error;
  });
}

function errnoOf(error: HoldfastError): number {
  const cause = error.cause as NodeJS.ErrnoException | undefined;
  return Math.abs(cause?.errno ?? EIO);
}
