// The volumes that are used on this node of a cluster, wherever their copies are: a frontend each, opened for the
// first user (a device, an export) of an attachment to this node, closed when the last one leaves.
//
// Who may serve is none of its business: a frontend of an attachment that is over is refused by the primary. It is
// closed here so that its clients are told soon.
// The caller holds the volume's lock around every method.

import { HoldfastError } from '../core/errors.ts';
import type { ClusterStorage } from '../dataplane/cluster-storage.ts';
import type { ServedVolumes } from './open-volumes.ts';
import type { VolumeRecord } from './records.ts';
import type { VolumeRecords } from './volume-records.ts';

export type FrontendStorage = Pick<
  ClusterStorage,
  'openFrontend' | 'closeFrontend' | 'growFrontend' | 'isFrontendOpen'
>;

interface Served {
  userCount: number;
  /** Of the record that was followed last. */
  attachmentNumber: number;
  sizeBytes: number;
}

export class AttachedVolumes implements ServedVolumes {
  readonly #node: string;
  readonly #records: VolumeRecords;
  readonly #storage: FrontendStorage;
  readonly #served = new Map<string, Served>();

  constructor(node: string, records: VolumeRecords, storage: FrontendStorage) {
    this.#node = node;
    this.#records = records;
    this.#storage = storage;
  }

  userCount(volumeId: string): number {
    return this.#served.get(volumeId)?.userCount ?? 0;
  }

  /** CONFLICT unless it is attached to this node. */
  async acquire(volumeId: string): Promise<VolumeRecord> {
    const record = await this.#records.ready(volumeId);
    const { attachment } = record;
    if (attachment.node !== this.#node) {
      const place = attachment.node === null ? 'no node' : `node "${attachment.node}"`;
      throw new HoldfastError(
        'CONFLICT',
        `Volume "${record.name}" is attached to ${place}, not to "${this.#node}": attach it here first.`,
        { details: { volumeId, node: attachment.node } },
      );
    }
    const before = this.#served.get(volumeId);
    const wasOpen = before?.attachmentNumber === attachment.number && this.#storage.isFrontendOpen(volumeId);
    // Before it is open: what changes meanwhile is then a change.
    const served = this.#follow(record, before?.userCount ?? 0);
    try {
      if (!wasOpen) await this.#open(record);
    } catch (error) {
      if (before === undefined) this.#served.delete(volumeId);
      else this.#served.set(volumeId, before);
      throw error;
    }
    served.userCount += 1;
    return record;
  }

  async release(volumeId: string): Promise<void> {
    const served = this.#served.get(volumeId);
    if (served !== undefined && served.userCount > 0) served.userCount -= 1;
    await this.closeUnused(volumeId);
  }

  async closeUnused(volumeId: string): Promise<void> {
    const served = this.#served.get(volumeId);
    if (served === undefined || served.userCount > 0) return;
    await this.#storage.closeFrontend(volumeId);
    this.#served.delete(volumeId);
  }

  /** Whether this volume is used here, and `tell` has something to do. */
  isBehind({ id, attachment, sizeBytes }: VolumeRecord): boolean {
    const served = this.#served.get(id);
    if (served === undefined) return false;
    return attachment.number > served.attachmentNumber || sizeBytes > served.sizeBytes;
  }

  async tell(record: VolumeRecord): Promise<void> {
    const { id, attachment, sizeBytes } = record;
    const served = this.#served.get(id);
    if (served === undefined || !this.isBehind(record)) return;
    if (attachment.node !== this.#node || served.userCount === 0) await this.#storage.closeFrontend(id);
    else if (attachment.number > served.attachmentNumber) await this.#open(record);
    else await this.#storage.growFrontend(id, sizeBytes);
    this.#follow(record, served.userCount);
  }

  async #open({ id: volumeId, sizeBytes, attachment }: VolumeRecord): Promise<void> {
    await this.#storage.openFrontend({ volumeId, attachmentNumber: attachment.number, sizeBytes });
  }

  #follow({ id, attachment, sizeBytes }: VolumeRecord, userCount: number): Served {
    const served = { userCount, attachmentNumber: attachment.number, sizeBytes };
    this.#served.set(id, served);
    return served;
  }
}
