// The volumes that are used on this node, wherever their copies are: a frontend each, opened for the first user (a
// device, an export) of an attachment to this node, closed when the last one leaves.
//
// In a cluster the copies are kept open by their nodes (replica-keeper.ts). A daemon that is alone with its store opens
// the copy of a volume for its first user and closes it after the last one, so that idle volumes cost nothing.
//
// Who may serve is none of its business: a frontend of an attachment that is over is refused by the primary. It is
// closed here so that its clients are told soon.
// The caller holds the volume's lock around every method.

import { HoldfastError } from '../core/errors.ts';
import type { ClusterStorage } from '../dataplane/cluster-storage.ts';
import type { NodeStorage } from '../dataplane/node-storage.ts';
import type { VolumeRecord } from './records.ts';
import { requireSound } from './sound-copy.ts';
import type { VolumeRecords } from './volume-records.ts';

/** What it asks of the storage's replication. */
export type ServingStorage = Pick<
  ClusterStorage,
  | 'closeFrontend'
  | 'closeReplica'
  | 'configChanged'
  | 'growFrontend'
  | 'isFrontendOpen'
  | 'isReplicaOpen'
  | 'openFrontend'
  | 'openReplica'
>;

export interface ServedVolumesOptions {
  readonly node: string;
  readonly records: VolumeRecords;
  readonly storage: NodeStorage;
  readonly replication: ServingStorage;
  /** Nobody else opens and closes this node's copies. */
  readonly isAlone: boolean;
}

interface Served {
  userCount: number;
  /** Of the record that was followed last. */
  attachmentNumber: number;
  sizeBytes: number;
}

export class ServedVolumes {
  readonly #options: ServedVolumesOptions;
  readonly #served = new Map<string, Served>();

  constructor(options: ServedVolumesOptions) {
    this.#options = options;
  }

  userCount(volumeId: string): number {
    return this.#served.get(volumeId)?.userCount ?? 0;
  }

  /** Counts one more user of a volume that can then be used. CONFLICT unless it is attached to this node. */
  async acquire(volumeId: string): Promise<VolumeRecord> {
    const { records, replication } = this.#options;
    const record = await records.ready(volumeId);
    this.#requireAttachedHere(record);
    const { attachment } = record;
    const before = this.#served.get(volumeId);
    const isOpen = before?.attachmentNumber === attachment.number && replication.isFrontendOpen(volumeId);
    // Before it is open: what changes meanwhile is then a change.
    const served = this.#follow(record, before?.userCount ?? 0);
    try {
      if (!isOpen) await this.#open(record);
    } catch (error) {
      if (before === undefined) this.#served.delete(volumeId);
      else this.#served.set(volumeId, before);
      // Half open is not open. The error that is already on its way says more than one from here.
      if (served.userCount === 0) await this.#close(volumeId).catch(() => undefined);
      throw error;
    }
    served.userCount += 1;
    return record;
  }

  /** One user fewer, also when it fails; the last one closes the volume. Not served: nothing. */
  async release(volumeId: string): Promise<void> {
    const served = this.#served.get(volumeId);
    if (served !== undefined && served.userCount > 0) served.userCount -= 1;
    await this.closeUnused(volumeId);
  }

  /** Closes what the last user left and could not close (its disk is dead). Still or again in use: nothing. */
  async closeUnused(volumeId: string): Promise<void> {
    if (this.userCount(volumeId) > 0) return;
    await this.#close(volumeId);
    this.#served.delete(volumeId);
  }

  /** Whether this volume is used here, and `tell` has something to do. */
  isBehind({ id, attachment, sizeBytes }: VolumeRecord): boolean {
    const served = this.#served.get(id);
    if (served === undefined) return false;
    return attachment.number > served.attachmentNumber || sizeBytes > served.sizeBytes;
  }

  /** A volume in use takes the record's attachment and size: sessions of older attachments are refused from here on. */
  async tell(record: VolumeRecord): Promise<void> {
    const { node, replication, isAlone } = this.#options;
    const { id, attachment, sizeBytes } = record;
    if (isAlone && replication.isReplicaOpen(id)) replication.configChanged(id);
    const served = this.#served.get(id);
    if (served === undefined || !this.isBehind(record)) return;
    if (attachment.node !== node || served.userCount === 0) await replication.closeFrontend(id);
    else if (attachment.number > served.attachmentNumber) await this.#open(record);
    else await replication.growFrontend(id, sizeBytes);
    this.#follow(record, served.userCount);
  }

  #requireAttachedHere({ id: volumeId, name, attachment }: VolumeRecord): void {
    const { node } = this.#options;
    if (attachment.node === node) return;
    const place = attachment.node === null ? 'no node' : `node "${attachment.node}"`;
    throw new HoldfastError(
      'CONFLICT',
      `Volume "${name}" is attached to ${place}, not to "${node}": attach it here first.`,
      { details: { volumeId, node: attachment.node } },
    );
  }

  async #open(record: VolumeRecord): Promise<void> {
    const { storage, replication, isAlone } = this.#options;
    const { id: volumeId, sizeBytes, attachment } = record;
    if (isAlone) {
      if (!replication.isReplicaOpen(volumeId)) await requireSound(storage, async () => record, volumeId);
      // Also one that counts as open: it may be on its way to be closed, which this waits for.
      await replication.openReplica(volumeId);
    }
    await replication.openFrontend({ volumeId, attachmentNumber: attachment.number, sizeBytes });
  }

  async #close(volumeId: string): Promise<void> {
    const { replication, isAlone } = this.#options;
    const outcomes = await Promise.allSettled([
      replication.closeFrontend(volumeId),
      ...(isAlone ? [replication.closeReplica(volumeId)] : []),
    ]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  }

  #follow({ id, attachment, sizeBytes }: VolumeRecord, userCount: number): Served {
    const served = { userCount, attachmentNumber: attachment.number, sizeBytes };
    this.#served.set(id, served);
    return served;
  }
}
