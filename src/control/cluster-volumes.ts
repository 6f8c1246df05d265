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

export type FrontendStorage = Pick<ClusterStorage, 'openFrontend' | 'closeFrontend' | 'isFrontendOpen'>;

interface Served {
  userCount: number;
  /** Of the frontend that was opened last. */
  attachmentNumber: number;
}

export class ClusterVolumes implements ServedVolumes {
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
    const userCount = this.userCount(volumeId) + 1;
    await this.#open(record);
    this.#served.set(volumeId, { userCount, attachmentNumber: attachment.number });
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

  async tell(record: VolumeRecord): Promise<void> {
    const { id, attachment } = record;
    const served = this.#served.get(id);
    if (served === undefined || attachment.number <= served.attachmentNumber) return;
    if (attachment.node !== this.#node) {
      await this.#storage.closeFrontend(id);
    } else {
      await this.#open(record);
      served.attachmentNumber = attachment.number;
    }
  }

  async #open({ id: volumeId, sizeBytes, attachment }: VolumeRecord): Promise<void> {
    const isSame = this.#served.get(volumeId)?.attachmentNumber === attachment.number;
    if (isSame && this.#storage.isFrontendOpen(volumeId)) return;
    await this.#storage.openFrontend({ volumeId, attachmentNumber: attachment.number, sizeBytes });
  }
}
