// Keeps this node's copies as the volumes' records want them (keep-replica.ts): at the start, at every change of a
// record, and, as a net below both, at a slow look at everything.
//
// Promises: never holds up a start; a few copies of a pool at a time, each pool for itself, so that one that hangs
// costs its own volumes only; what fails is reported once and tried again, less and less often.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, isHoldfastError } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';
import { type KeepContext, keepReplica } from './keep-replica.ts';
import type { VolumeRecord } from './records.ts';
import type { RecordChange } from './volume-records.ts';

const LOOK_INTERVAL_MS = 60_000;
const FOLLOW_RETRY_MS = 1000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 60_000;
/** As many changes of a pool's files as may be under way at a time. */
const AT_A_TIME = 3;
/** A copy that was just named may not be made yet. */
const FAILURES_BEFORE_REPORT = 4;
/** What still runs goes on without us; the storage closes what is open. */
const GOODBYE_MS = 2000;

export interface ReplicaKeeperOptions extends KeepContext {
  /** A record as it stands now, whether or not a copy of it is here. */
  readonly onRecord: (record: VolumeRecord) => void;
  readonly onBroken: (error: unknown) => void;
  readonly lookIntervalMs?: number;
  readonly firstRetryMs?: number;
}

interface Volume {
  /** By which it takes its turn; '': not known. */
  pool: string;
  /** Of the record that was followed last. */
  revision: number;
  isWaiting: boolean;
  isRunning: boolean;
  failureCount: number;
  problem: string | undefined;
  retry: NodeJS.Timeout | undefined;
}

interface Lane {
  running: number;
  readonly waiting: string[];
}

export class ReplicaKeeper {
  readonly #options: ReplicaKeeperOptions;
  readonly #stop = new AbortController();
  /** Those that have, had or are to have a copy here. */
  readonly #volumes = new Map<string, Volume>();
  readonly #lanes = new Map<string, Lane>();
  readonly #running = new Set<Promise<void>>();
  #tasks: Promise<unknown> = Promise.resolve();

  constructor(options: ReplicaKeeperOptions) {
    this.#options = options;
  }

  /** Once. */
  start(): void {
    this.#tasks = Promise.all([this.#follow(), this.#lookAgain()]);
  }

  /** Nothing new begins. What is open stays so. */
  async close(): Promise<void> {
    this.#stop.abort();
    for (const { retry } of this.#volumes.values()) clearTimeout(retry);
    const ended = Promise.all([this.#tasks, ...this.#running]);
    await Promise.race([ended, sleep(GOODBYE_MS, undefined, { ref: false })]);
  }

  /** Volumes whose copy here is open. */
  openVolumeIds(): string[] {
    return [...this.#volumes.keys()].filter((volumeId) => this.#options.replication.isReplicaOpen(volumeId));
  }

  /** Something about this copy has changed: it was made, say. */
  look(volumeId: string): void {
    this.#look(volumeId, undefined);
  }

  /** A pool was opened: what was wrong with the copies in it may be over, and others are seen. */
  async poolOpened(): Promise<void> {
    for (const [volumeId, { failureCount }] of this.#volumes) if (failureCount > 0) this.look(volumeId);
    await this.#scan();
  }

  /** Why this volume's copy is not as it should be; undefined: it is, or there is to be none. */
  problemWith(volumeId: string): string | undefined {
    return this.#volumes.get(volumeId)?.problem;
  }

  // ---- what has changed

  /** Never rejects. */
  async #follow(): Promise<void> {
    const { records, log } = this.#options;
    const { signal } = this.#stop;
    let hadTrouble = false;
    void this.#scan(); // never rejects
    while (!signal.aborted) {
      try {
        const revision = await records.revision();
        await this.#lookAtAll();
        hadTrouble = false;
        for await (const change of records.watch(revision, signal)) this.#changed(change);
      } catch (error) {
        if (signal.aborted) return;
        // Once a trouble, not once a second. History that is gone is none.
        if (!hadTrouble && !isHoldfastError(error, 'OUT_OF_RANGE')) {
          log.warn({ reason: errorText(error) }, 'changes of volumes cannot be followed');
          hadTrouble = true;
        }
      }
      await this.#pause(FOLLOW_RETRY_MS);
    }
  }

  /** Never rejects. */
  async #lookAgain(): Promise<void> {
    const { lookIntervalMs = LOOK_INTERVAL_MS } = this.#options;
    while (!this.#stop.signal.aborted) {
      await this.#pause(lookIntervalMs);
      if (this.#stop.signal.aborted) return;
      await this.#scan();
      // A store that does not answer is the watch's to report.
      await this.#lookAtAll().catch(() => undefined);
    }
  }

  /** The copies that are here, wanted or not. Disks that hang are seen at a later look. */
  async #scan(): Promise<void> {
    const { storage, log } = this.#options;
    try {
      for (const { volumeId, pool } of await storage.replicas()) {
        if (!this.#volumes.has(volumeId)) this.#look(volumeId, pool);
      }
    } catch (error) {
      log.debug({ error }, 'the copies of this node could not be listed');
    }
  }

  async #lookAtAll(): Promise<void> {
    const changes = await this.#options.records.listChanges();
    const known = new Set(changes.map(({ volumeId }) => volumeId));
    for (const change of changes) this.#changed(change);
    for (const volumeId of this.#volumes.keys()) if (!known.has(volumeId)) this.#look(volumeId, undefined);
  }

  #changed({ volumeId, stored }: RecordChange): void {
    const { node, replication, onRecord } = this.#options;
    if (stored !== undefined) onRecord(stored.value);
    const volume = this.#volumes.get(volumeId);
    if (stored !== undefined && stored.revision === volume?.revision) return;
    const own = stored?.value.replicas.find((replica) => replica.node === node);
    // A frontend of a volume whose copies are elsewhere hears of it, too.
    replication.configChanged(volumeId);
    if (own === undefined && volume === undefined) return;
    if (volume !== undefined) volume.failureCount = 0;
    this.#look(volumeId, own?.pool);
  }

  // ---- turns

  #look(volumeId: string, pool: string | undefined): void {
    const volume = this.#volumes.get(volumeId) ?? newVolume();
    this.#volumes.set(volumeId, volume);
    clearTimeout(volume.retry);
    if (volume.isWaiting || this.#stop.signal.aborted) return;
    volume.pool = pool ?? volume.pool;
    volume.isWaiting = true;
    // One that runs is taken up again at its end.
    if (!volume.isRunning) this.#queue(volumeId, volume);
  }

  #queue(volumeId: string, volume: Volume): void {
    const lane = this.#lanes.get(volume.pool) ?? { running: 0, waiting: [] };
    this.#lanes.set(volume.pool, lane);
    lane.waiting.push(volumeId);
    this.#next(lane);
  }

  #next(lane: Lane): void {
    while (lane.running < AT_A_TIME && !this.#stop.signal.aborted) {
      const volumeId = lane.waiting.shift();
      const volume = volumeId === undefined ? undefined : this.#volumes.get(volumeId);
      if (volumeId === undefined) return;
      if (volume === undefined) continue;
      lane.running += 1;
      volume.isWaiting = false;
      volume.isRunning = true;
      const run = this.#keep(volumeId, volume).finally(() => {
        this.#running.delete(run);
        lane.running -= 1;
        volume.isRunning = false;
        if (volume.isWaiting) this.#queue(volumeId, volume);
        this.#next(lane);
      });
      this.#running.add(run);
    }
  }

  /** Never rejects. */
  async #keep(volumeId: string, volume: Volume): Promise<void> {
    try {
      const { stored, isHere } = await keepReplica(this.#options, volumeId);
      volume.revision = stored?.revision ?? 0;
      volume.failureCount = 0;
      volume.problem = undefined;
      if (!isHere && !volume.isWaiting) this.#volumes.delete(volumeId);
    } catch (error) {
      if (error instanceof InvariantError) this.#options.onBroken(error);
      this.#failed(volumeId, volume, error);
    }
  }

  #failed(volumeId: string, volume: Volume, error: unknown): void {
    const { log, firstRetryMs = FIRST_RETRY_MS } = this.#options;
    const problem = errorText(error);
    volume.failureCount += 1;
    const isNew = volume.problem !== problem;
    if (volume.failureCount >= FAILURES_BEFORE_REPORT && isNew) {
      log.error({ volumeId, problem }, 'a copy is not as its record wants it; it is tried again');
      volume.problem = problem;
    }
    if (this.#stop.signal.aborted) return;
    const delayMs = Math.min(LAST_RETRY_MS, firstRetryMs * 2 ** (volume.failureCount - 1));
    volume.retry = setTimeout(() => this.#look(volumeId, undefined), delayMs).unref();
  }

  /** A stop ends the pause. */
  async #pause(timeMs: number): Promise<void> {
    await sleep(timeMs, undefined, { signal: this.#stop.signal, ref: false }).catch(() => undefined);
  }
}

function newVolume(): Volume {
  return {
    pool: '',
    revision: 0,
    isWaiting: false,
    isRunning: false,
    failureCount: 0,
    problem: undefined,
    retry: undefined,
  };
}
