// The main thread's half of replicas and frontends: opens and closes their files, places them on data-plane threads,
// and carries between those and the store, the superblocks and the other threads what they ask for.
//
// A replica and the frontend of its volume are placed on the same thread where that is possible: what they say to
// each other then costs no socket. One opening or closing of a volume's replica at a time (VolumeTurns).

import { errorText, HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import type { Superblock } from '../../replication/layout/superblock.ts';
import type {
  ClusterConnection,
  ClusterStorage,
  FrontendView,
  OpenFrontend,
  ReplicaView,
} from '../cluster-storage.ts';
import { native } from '../native.ts';
import type { OpeningReport } from '../node-storage.ts';
import { type OpenReplica, openReplica } from '../open-replica.ts';
import type { GreetedConnection } from '../peers/hosts.ts';
import type { Pool } from '../pool.ts';
import type { ThreadHandle } from '../thread-handle.ts';
import type { VolumeTurns } from '../volume-turns.ts';
import { whileBusy } from '../while-busy.ts';
import type { WindowFiles } from '../window-files.ts';
import type { ClusterEvent } from './messages.ts';
import { SharedClientLoad } from './client-load.ts';
import { ResyncPlaces } from './resync-places.ts';

const EIO = 5;
const RESYNC_LIMIT = 4;
/** Session numbers of one frontend, one process: see #firstSession(). */
const SESSIONS_A_FRONTEND = 2 ** 14;
const SESSIONS_A_PROCESS = 2 ** 32;

export interface OpenedReplica {
  readonly pool: Pool;
  readonly replica: OpenReplica;
  readonly thread: ThreadHandle;
}

export interface OpenedFrontend {
  readonly thread: ThreadHandle;
  readonly attachmentNumber: number;
}

/** Callers do not wait long for a thread that hangs with a disk; what they asked of it is done when it goes on. */
interface Frontend extends OpenedFrontend {
  readonly opening: Promise<unknown>;
  closing: Promise<void> | undefined;
}

/** What Storage lends. */
export interface ClusterContext {
  readonly nodeName: string;
  readonly bootId: string;
  readonly threads: readonly ThreadHandle[];
  readonly windows: WindowFiles;
  readonly turns: VolumeTurns;
  poolOf(volumeId: string): Promise<Pool>;
  requireUnfailed(pool: Pool, volumeId: string): Promise<void>;
  hold<Result>(pool: Pool, operation: () => Promise<Result>): Promise<Result>;
  marking<Result>(pool: Pool, volumeId: string, operation: () => Promise<Result>): Promise<Result>;
  /** undefined: no open pool has a copy. */
  findPool(volumeId: string): Promise<Pool | undefined>;
  /** That serve this pool; never empty. */
  threadsOf(pool: Pool): readonly ThreadHandle[];
  replicaFailed(volumeId: string, reason: string): void;
  /** The mark of its failure, if there was one, is on its disk, or cannot be. */
  marked(volumeId: string): Promise<void>;
}

export class ClusterVolumes implements ClusterStorage {
  readonly #context: ClusterContext;
  readonly #replicas = new Map<string, OpenedReplica>();
  readonly #frontends = new Map<string, Frontend>();
  #connection: ClusterConnection | undefined;
  #frontendCount = 0;
  #nextThread = 0;
  #instances = 0;

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  // ---- the cluster

  async connectCluster(connection: ClusterConnection): Promise<void> {
    invariant(this.#connection === undefined, 'a node joins one cluster, once');
    this.#connection = connection;
    const { clusterId, peerKey, resyncLimit = RESYNC_LIMIT } = connection;
    const resyncPlaces = ResyncPlaces.allocate(resyncLimit);
    const node = this.#context.nodeName;
    const { threads } = this.#context;
    const clientLoad = SharedClientLoad.allocate(threads.length);
    const join = { type: 'joinCluster', node, clusterId, peerKey, resyncPlaces, clientLoad } as const;
    await Promise.all(threads.map((thread, threadIndex) => thread.ask({ ...join, threadIndex })));
  }

  setNodeAddresses(addresses: ReadonlyMap<string, string>): void {
    for (const thread of this.#context.threads)
      void thread.ask({ type: 'addresses', addresses }).catch(ignoreDeath);
  }

  adoptPeer(fd: number, received: Uint8Array): void {
    const thread = this.#context.threads[this.#nextThread % this.#context.threads.length];
    this.#nextThread += 1;
    invariant(thread !== undefined, 'there is a data-plane thread');
    void thread.ask({ type: 'adoptPeer', fd, received }).catch(ignoreDeath);
  }

  // ---- replicas

  openReplica(volumeId: string): Promise<OpeningReport> {
    return this.#context.turns.run(volumeId, `opening volume ${volumeId}`, async (turn) => {
      const { replica } = this.#replicas.get(volumeId) ?? (await this.#open(volumeId));
      if (turn.isAbandoned) await this.#close(volumeId);
      return { lastEnd: replica.lastEnd, isWindowIntact: replica.window.entries !== 'unknown' };
    });
  }

  async #open(volumeId: string): Promise<OpenedReplica> {
    const context = this.#context;
    const pool = await context.poolOf(volumeId);
    const replica = await context.marking(pool, volumeId, () =>
      whileBusy(() =>
        context.hold(pool, async () => {
          await context.requireUnfailed(pool, volumeId);
          return await openReplica(pool, context.windows, volumeId, context.bootId);
        }),
      ),
    );
    try {
      const thread = this.#threadFor(volumeId, pool);
      const superblock = replica.superblock.current;
      const { entries, owner } = replica.window;
      await thread.ask({
        type: 'openReplica',
        open: {
          instance: this.#nextInstance(),
          volumeId,
          replicaId: replica.replicaId,
          pool: pool.name,
          ioMode: replica.ioMode,
          reserveBytes: pool.reserveBytes,
          bootId: context.bootId,
          windowOwner: owner,
          superblock,
          hotBits: replica.hotBits,
          // After a clean stop too: what was in flight then may be on this copy alone.
          windowEntries: entries,
          dataFd: replica.dataFd,
          intentFd: replica.intentFd,
          generationsFd: replica.generationsFd,
          windowFd: replica.windowFd,
        },
      });
      thread.volumeCount += 1;
      const opened = { pool, replica, thread };
      replica.superblock.onFailure((error) => {
        context.replicaFailed(volumeId, `its superblock could not be written (${errorText(error)})`);
        this.failReplica(volumeId, EIO);
      });
      this.#replicas.set(volumeId, opened);
      return opened;
    } catch (error) {
      await replica.release();
      throw error;
    }
  }

  /**
   * The same for a copy and for the volume's frontend, whichever is opened first. A frontend that was opened before
   * there was a copy here may be elsewhere: it reaches the copy by this node's own address.
   */
  #threadFor(volumeId: string, pool: Pool): ThreadHandle {
    const threads = this.#context.threadsOf(pool);
    const near = this.#frontends.get(volumeId)?.thread;
    if (near !== undefined && threads.includes(near)) return near;
    const thread = threads[Number.parseInt(volumeId.slice(-8), 16) % threads.length];
    invariant(thread !== undefined, 'every pool has a data-plane thread');
    return thread;
  }

  closeReplica(volumeId: string): Promise<void> {
    return this.#context.turns.run(volumeId, `closing volume ${volumeId}`, () => this.#close(volumeId));
  }

  async #close(volumeId: string): Promise<void> {
    const opened = this.#replicas.get(volumeId);
    if (opened === undefined) return;
    const { replica, thread } = opened;
    await thread.ask({ type: 'closeReplica', volumeId });
    // Its last flush may have failed: the next process must know.
    await this.#context.marked(volumeId);
    this.#replicas.delete(volumeId);
    thread.volumeCount -= 1;
    await replica.release();
  }

  isReplicaOpen(volumeId: string): boolean {
    return this.#replicas.has(volumeId);
  }

  /** For operations on its files, which are locked. */
  openedReplica(volumeId: string): OpenedReplica | undefined {
    return this.#replicas.get(volumeId);
  }

  /** What its superblock promises is unknown from here on: it applies nothing more. Not open: nothing. */
  failReplica(volumeId: string, errno: number): void {
    void this.#replicas
      .get(volumeId)
      ?.thread.ask({ type: 'failReplica', volumeId, errno })
      .catch(ignoreDeath);
  }

  /** The files have grown. */
  async replicaGrown(volumeId: string, sizeBytes: number): Promise<void> {
    await this.#replicas.get(volumeId)?.thread.ask({ type: 'replicaGrown', volumeId, sizeBytes });
  }

  async replicaView(volumeId: string): Promise<ReplicaView | undefined> {
    const opened = this.#replicas.get(volumeId);
    if (opened === undefined) return undefined;
    const doing = `asking for the replica of volume ${volumeId}`;
    return await this.#context.turns.answer(volumeId, doing, opened.thread.askReplicaView(volumeId));
  }

  async handOver(volumeId: string, toReplicaId: string): Promise<boolean> {
    const opened = this.#replicas.get(volumeId);
    if (opened === undefined) return false;
    const asked = opened.thread.ask({ type: 'handOver', volumeId, toReplicaId });
    return (await this.#context.turns.answer(volumeId, `moving volume ${volumeId}`, asked)) === true;
  }

  async readmit(volumeId: string, replicaId: string): Promise<boolean> {
    const asked = this.#replicas.get(volumeId)?.thread.ask({ type: 'readmit', volumeId, replicaId });
    if (asked === undefined) return false;
    return (await this.#context.turns.answer(volumeId, `taking up a copy of ${volumeId}`, asked)) === true;
  }

  configChanged(volumeId: string): void {
    const threads = new Set([this.#replicas.get(volumeId)?.thread, this.#frontends.get(volumeId)?.thread]);
    for (const thread of threads) void thread?.ask({ type: 'storeChanged', volumeId }).catch(ignoreDeath);
  }

  // ---- frontends

  async openFrontend({ volumeId, attachmentNumber, sizeBytes, giveUpAfterMs }: OpenFrontend): Promise<void> {
    const thread = this.#replicas.get(volumeId)?.thread ?? (await this.#threadOfFrontend(volumeId));
    for (let standing = this.#frontends.get(volumeId); standing !== undefined; ) {
      if (standing.attachmentNumber === attachmentNumber && standing.closing === undefined) {
        await this.#beginning(volumeId, standing.opening);
        return;
      }
      if (standing.attachmentNumber > attachmentNumber) {
        throw new HoldfastError(
          'CONFLICT',
          `attachment ${attachmentNumber} of volume ${volumeId} is over (now ${standing.attachmentNumber}): publish the volume again`,
        );
      }
      await this.closeFrontend(volumeId);
      standing = this.#frontends.get(volumeId);
    }
    const firstSession = this.#firstSession();
    const instance = this.#nextInstance();
    const open = { instance, volumeId, attachmentNumber, firstSession, sizeBytes, giveUpAfterMs };
    const opening = thread.ask({ type: 'openFrontend', open });
    const frontend: Frontend = { thread, attachmentNumber, opening, closing: undefined };
    this.#frontends.set(volumeId, frontend);
    void opening.catch(() => this.#forget(volumeId, frontend));
    await this.#beginning(volumeId, opening);
  }

  async #beginning(volumeId: string, opening: Promise<unknown>): Promise<void> {
    await this.#context.turns.answer(volumeId, `beginning the use of volume ${volumeId}`, opening);
  }

  #forget(volumeId: string, frontend: Frontend): void {
    if (this.#frontends.get(volumeId) === frontend) this.#frontends.delete(volumeId);
  }

  async #threadOfFrontend(volumeId: string): Promise<ThreadHandle> {
    // A pool that cannot say what it holds now is no reason not to use a volume whose copies are elsewhere.
    const pool = await this.#context.findPool(volumeId).catch(() => undefined);
    return pool === undefined ? this.#leastLoaded() : this.#threadFor(volumeId, pool);
  }

  #nextInstance(): number {
    this.#instances += 1;
    return this.#instances;
  }

  /** Rises with every process of this daemon, and with every frontend of one. */
  #firstSession(): number {
    invariant(this.#connection !== undefined, 'a frontend belongs to a cluster');
    this.#frontendCount += 1;
    return this.#connection.startNumber * SESSIONS_A_PROCESS + this.#frontendCount * SESSIONS_A_FRONTEND;
  }

  async closeFrontend(volumeId: string): Promise<void> {
    const standing = this.#frontends.get(volumeId);
    if (standing === undefined) return;
    standing.closing ??= standing.thread
      .ask({ type: 'closeFrontend', volumeId })
      .then(() => this.#forget(volumeId, standing));
    await this.#context.turns.answer(volumeId, `ending the use of volume ${volumeId}`, standing.closing);
  }

  isFrontendOpen(volumeId: string): boolean {
    const standing = this.#frontends.get(volumeId);
    return standing !== undefined && standing.closing === undefined;
  }

  /** What serves the volume's clients here. */
  openedFrontend(volumeId: string): OpenedFrontend | undefined {
    return this.#frontends.get(volumeId);
  }

  async frontendView(volumeId: string): Promise<FrontendView | undefined> {
    const opened = this.#frontends.get(volumeId);
    if (opened === undefined) return undefined;
    const doing = `asking for the use of volume ${volumeId}`;
    return await this.#context.turns.answer(volumeId, doing, opened.thread.askFrontendView(volumeId));
  }

  async growFrontend(volumeId: string, sizeBytes: number): Promise<void> {
    const grown = this.#frontends.get(volumeId)?.thread.ask({ type: 'growFrontend', volumeId, sizeBytes });
    if (grown === undefined) return;
    await this.#context.turns.answer(volumeId, `growing volume ${volumeId} for its clients`, grown);
  }

  #leastLoaded(): ThreadHandle {
    const [first, ...others] = this.#context.threads;
    invariant(first !== undefined, 'there is a data-plane thread');
    return others.reduce((least, thread) => (thread.volumeCount < least.volumeCount ? thread : least), first);
  }

  // ---- the end

  /** Clients and replicas, then the links of the threads. Tells the first failure, after all was tried. */
  async close(): Promise<void> {
    if (this.#connection === undefined) return;
    const steps = [
      // Together: a primary that cannot reply gives back what a frontend here waits for.
      () =>
        Promise.allSettled([
          ...[...this.#frontends.keys()].map((volumeId) => this.closeFrontend(volumeId)),
          ...[...this.#replicas.keys()].map((volumeId) => this.closeReplica(volumeId)),
        ]),
      () => Promise.allSettled(this.#context.threads.map((thread) => thread.ask({ type: 'leaveCluster' }))),
    ];
    const failures: unknown[] = [];
    for (const step of steps) {
      for (const outcome of await step()) if (outcome.status === 'rejected') failures.push(outcome.reason);
    }
    if (failures.length > 0) throw failures[0];
  }

  // ---- what threads ask for

  handle(event: ClusterEvent, thread: ThreadHandle): void {
    switch (event.type) {
      case 'readConfig':
        void this.#readConfig(event, thread);
        return;
      case 'propose':
        void this.#propose(event, thread);
        return;
      case 'superblock':
        void this.#keep(event, thread);
        return;
      case 'replica':
        this.#replicaEvent(event);
        return;
      case 'greeted':
        this.#route(event.connection, thread);
        return;
      case 'peer':
        this.#connection?.onPeerEvent?.(event.event);
    }
  }

  async #readConfig(
    { volumeId, instance, asker }: ClusterEvent & { type: 'readConfig' },
    thread: ThreadHandle,
  ): Promise<void> {
    const stored = await this.#connection?.configs.read(volumeId);
    await thread.ask({ type: 'configRead', volumeId, instance, asker, stored }).catch(ignoreDeath);
  }

  async #propose(event: ClusterEvent & { type: 'propose' }, thread: ThreadHandle): Promise<void> {
    const { volumeId, instance, proposal, baseRevision, config } = event;
    invariant(this.#connection !== undefined, 'replicas belong to a cluster');
    const outcome = await this.#connection.configs.swap(volumeId, baseRevision, config);
    await thread.ask({ type: 'proposed', volumeId, instance, proposal, outcome }).catch(ignoreDeath);
    // A frontend here hears of it before the store tells everybody.
    if (outcome.type === 'committed') this.configChanged(volumeId);
  }

  async #keep(
    { volumeId, instance, superblock }: ClusterEvent & { type: 'superblock' },
    thread: ThreadHandle,
  ): Promise<void> {
    const errno = await this.#write(volumeId, superblock);
    await thread.ask({ type: 'superblockDone', volumeId, instance, errno }).catch(ignoreDeath);
  }

  /** What the main thread itself changes in a superblock (size, file system, keys) is newer there than in the core. */
  async #write(volumeId: string, superblock: Superblock): Promise<number> {
    const opened = this.#replicas.get(volumeId);
    if (opened === undefined) return EIO;
    const {
      sizeBytes: _,
      fileSystemMade: __,
      wrappedKey: ___,
      volumeName: ____,
      attachmentNumber,
      ...kept
    } = superblock;
    const file = opened.replica.superblock;
    try {
      await this.#context.hold(opened.pool, async () => {
        // Closed while this waited for the disk: its files are, too.
        if (this.#replicas.get(volumeId) !== opened) return;
        await file.update({
          ...kept,
          attachmentNumber: Math.max(attachmentNumber, file.current.attachmentNumber),
        });
      });
      return 0;
    } catch {
      return EIO;
    }
  }

  #replicaEvent({ volumeId, event }: ClusterEvent & { type: 'replica' }): void {
    if (event.type === 'failed' && event.what !== 'data') {
      this.#context.replicaFailed(volumeId, `its ${event.what} failed (errno ${event.errno})`);
    }
    this.#connection?.onReplicaEvent({ ...event, volumeId });
  }

  /** To the thread that has the volume's replica; nobody: the other end tries again. */
  #route(connection: GreetedConnection, from: ThreadHandle): void {
    const thread = this.#replicas.get(connection.hello.volumeId)?.thread;
    if (thread === undefined || thread === from) native.close(connection.fd);
    else void thread.ask({ type: 'adoptGreeted', connection }).catch(ignoreDeath);
  }
}

/** A thread that is gone has told so by its death. */
function ignoreDeath(): void {
  // Nothing is left to be done.
}
