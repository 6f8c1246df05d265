// What the rest of the daemon may ask of this node's storage: replicas in pools, and the sessions that
// use them. The main thread's half; the bytes move in data-plane threads (worker.ts).

import type { Superblock } from '../replication/layout/superblock.ts';

export interface PoolStatus {
  readonly name: string;
  readonly directory: string;
  readonly ioMode: 'direct' | 'buffered';
  readonly totalBytes: number;
  readonly availableBytes: number;
  /** Never used for data: kept for metadata and for the other tenants of the file system. */
  readonly reserveBytes: number;
  /** Sum of the logical sizes of the replicas here. */
  readonly provisionedBytes: number;
  /** Sum of the sizes may reach totalBytes × this. */
  readonly overcommitRatio: number;
}

/**
 * A pool of this node that cannot be used: it is not open (it is tried again until it is), its disk was taken from
 * under the daemon, or it was used before and is missing from the configuration (`directory` is empty then).
 */
export interface ClosedPool {
  readonly name: string;
  readonly directory: string;
  /** Why, and what to do. */
  readonly problem: string;
}

export interface ReplicaSpec {
  readonly volumeId: string;
  readonly volumeName: string;
  readonly replicaId: string;
  readonly pool: string;
  readonly sizeBytes: number;
  readonly lineage: string;
  readonly epoch: number;
  readonly durability: 'writeback' | 'writethrough';
  readonly failureMode: string;
}

export interface ReplicaStatus {
  readonly volumeId: string;
  readonly pool: string;
  /** undefined: unreadable; the reason is in `problem`. */
  readonly superblock: Superblock | undefined;
  /** Also set, beside a superblock, when the replica must not be served: its disk failed. */
  readonly problem: string | undefined;
  /** Being served by a data-plane thread now. */
  readonly isOpen: boolean;
  /** Bytes allocated in the pool. */
  readonly allocatedBytes: number;
}

export interface VolumeCounters {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly flushes: number;
  readonly trims: number;
  readonly errors: number;
  readonly inFlight: number;
  readonly sessions: number;
}

/** What an opening found of the copy's last serving. */
export interface OpeningReport {
  readonly lastEnd: 'never opened' | 'clean' | 'killed' | 'rebooted';
  /** The window of a process that was killed in this boot is there: what it names, and nothing else, was in flight. */
  readonly isWindowIntact: boolean;
}

/** A served socket; closing it ends every session that came through it. */
export interface ExportHandle {
  readonly path: string;
  close(): Promise<void>;
}

/** Nothing here waits for a disk without end: UNAVAILABLE then, with the pool's name; the outcome may be unknown. */
export interface NodeStorage {
  /** Those that are open and can be used. One that no longer can is among the closed ones when it resolves. */
  pools(): Promise<PoolStatus[]>;
  /** Those that are not. What they hold is not seen by any other method. */
  closedPools(): ClosedPool[];
  /** The next pool of that name may be another one. CONFLICT while it is open, NOT_FOUND when there was none. */
  forgetPool(name: string): Promise<void>;
  /** Durable (directory entry included) when it resolves. The same spec again: nothing happens. NO_SPACE, ALREADY_EXISTS; UNAVAILABLE while the pool is not open. */
  createReplica(spec: ReplicaSpec): Promise<void>;
  /** Gone is success. CONFLICT while open; UNAVAILABLE while the pool that should have it is not open, unless it was forgotten. */
  deleteReplica(volumeId: string, pool: string): Promise<void>;
  replicas(): Promise<ReplicaStatus[]>;
  /** One of them; undefined when no open pool has a replica of the volume. */
  replica(volumeId: string): Promise<ReplicaStatus | undefined>;
  /** Whether anything was written to the volume and not trimmed since: false only when all of it reads as zeroes. */
  hasData(volumeId: string): Promise<boolean>;
  /** Grows data, metadata, then the superblock; idempotent; never shrinks. Open or not. */
  resizeReplica(volumeId: string, sizeBytes: number): Promise<void>;
  /** Changes fields of the superblock durably. */
  updateSuperblock(
    volumeId: string,
    change: Partial<Pick<Superblock, 'fileSystemMade' | 'attachmentNumber' | 'promisedEpoch'>>,
  ): Promise<void>;
  /** Serves a volume whose frontend is open (ClusterStorage) to any NBD client on a Unix socket, mode 0600. */
  exportUnix(volumeId: string, exportName: string, path: string): Promise<ExportHandle>;
  /**
   * A fresh socket for the kernel: the returned descriptor is the kernel's end (the caller closes its copy
   * after the netlink call); the other end is served in transmission phase at once. A newer session of the
   * same volume fences the older ones: they are closed before the new one is read.
   */
  connectKernel(volumeId: string, attachmentNumber: number, readOnly: boolean): Promise<number>;
  /** Ends the kernel's session, if there is one. */
  disconnectKernel(volumeId: string): Promise<void>;
  counters(volumeId: string): Promise<VolumeCounters>;
  /** Stops all threads: sessions end, volumes are closed clean. */
  close(): Promise<void>;
}

/** NBD transmission flags of a kernel session; the kernel gets the same in NBD_CMD_CONNECT. */
export const KERNEL_BLOCK_BYTES = 4096;
