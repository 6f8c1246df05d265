// What the edges (CSI, CLI) may ask of volumes. Every operation is idempotent, keyed by volume with one
// in flight (a second one gets BUSY), and may be interrupted at any point: repeated, it goes on where it
// stopped; a daemon that starts finishes or undoes what it finds.

import type { FileSystemType, VolumeRecord } from './records.ts';

export interface CreateVolume {
  /** 1 to 128 bytes, any characters. The idempotency key. */
  readonly name: string;
  /** Rounded up to whole blocks by the edge before it gets here. */
  readonly sizeBytes: number;
  /** undefined: the node's default pool; in a cluster whichever pool of a node has the most room. */
  readonly pool?: string | undefined;
  /** Copies beside the primary, 0 to 5. More than 0 need a cluster: INVALID. */
  readonly replicaCount: number;
  /** Gets the primary if it can. undefined: this node. */
  readonly preferredNode?: string | undefined;
  readonly durability: VolumeRecord['durability'];
  readonly failureMode: VolumeRecord['failureMode'];
  readonly fileSystemType: FileSystemType | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** A copy of a deleted volume whose node could not remove it now, and why; it does as soon as it can. */
export interface CopyLeft {
  readonly node: string;
  readonly reason: string;
}

export interface PoolCapacity {
  readonly pool: string;
  readonly node: string;
  readonly totalBytes: number;
  readonly availableBytes: number;
  /** Sum of the sizes of all volumes with a replica here. */
  readonly provisionedBytes: number;
  /** totalBytes × overcommit − provisionedBytes, at least 0: the largest volume that can be made now. */
  readonly creatableBytes: number;
  /** Why the pool is not open, and what to do; undefined: it is. */
  readonly problem: string | undefined;
}

export interface VolumeService {
  /**
   * Resolves when the volume is durable and can be attached. Same name and same arguments: the same
   * volume. Same name, other arguments: ALREADY_EXISTS naming what differs. NO_SPACE, INVALID, OUT_OF_RANGE, BUSY.
   */
  create(request: CreateVolume): Promise<VolumeRecord>;
  /** By id; NOT_FOUND. Records in state creating or deleting are not shown. */
  get(volumeId: string): Promise<VolumeRecord>;
  /** By name or id; NOT_FOUND names the nearest known name. */
  find(nameOrId: string): Promise<VolumeRecord>;
  /** Sorted by id. */
  list(): Promise<VolumeRecord[]>;
  /** Never shrinks (OUT_OF_RANGE). Grows every copy, then the record; a device is grown by its owner. UNAVAILABLE: a copy is away. */
  resize(volumeId: string, sizeBytes: number): Promise<VolumeRecord>;
  /** CONFLICT while published or exported. Deleting what is gone succeeds. The copies of nodes that are away go later. */
  delete(volumeId: string): Promise<readonly CopyLeft[]>;
  /**
   * Publishes to a node: CAS with attachment number + 1. Published there already with the same readOnly:
   * the same record; with another: ALREADY_EXISTS; published elsewhere: CONFLICT naming the node.
   */
  publish(volumeId: string, node: string, readOnly: boolean): Promise<VolumeRecord>;
  /** Revokes (number + 1, node null); only when published to `node` (null: to any). Already unpublished or unknown: succeeds. */
  unpublish(volumeId: string, node: string | null): Promise<void>;
  /** A new attachment number for the node that the record already names (a device was lost). CONFLICT when it names another. */
  renewAttachment(volumeId: string, node: string): Promise<VolumeRecord>;
  /**
   * Records, before mkfs, which file system the volume is to have. The answer says `made`: mkfs is then behind
   * it already. CONFLICT when another type was made, or when the volume holds data of nobody knows what.
   */
  chooseFileSystem(volumeId: string, type: FileSystemType): Promise<VolumeRecord>;
  /** Records that mkfs succeeded. Durable in the replica's superblock and in the store. */
  fileSystemMade(volumeId: string): Promise<VolumeRecord>;
  /** All pools, the default one first, or the given one: NOT_FOUND when unknown. One that is not open has no room. */
  capacity(pool?: string): Promise<PoolCapacity[]>;
  /** In a cluster: the largest volume of one copy that could be made now on any node; 0 when there is no such pool. */
  largestVolumeBytes(pool?: string): Promise<number>;
}
