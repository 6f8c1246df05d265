// The volumes that a daemon with a store of its own serves: opened for their first user (a device, an export), closed when the last
// one leaves, and told of every change of their attachment.
//
// Opening: the store first learns a fresh opening and a higher epoch, then the replica promises that epoch, and
// only then can a session begin. So no replica ever promised more than the store shows; one that has was
// promised by a store that is not this one, and a person must decide.
// The caller holds the volume's lock around every method.

import { HoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { NodeStorage, ReplicaStatus } from '../dataplane/node-storage.ts';
import { drawId } from './names.ts';
import { problemsOf } from './problems.ts';
import type { VolumeRecord } from './records.ts';
import type { VolumeRecords } from './volume-records.ts';

/** Volumes that are used on this node, by devices and exports. The caller holds the volume's lock around each method. */
export interface ServedVolumes {
  userCount(volumeId: string): number;
  /** Counts one more user of a volume that can then be used. */
  acquire(volumeId: string): Promise<VolumeRecord>;
  /** One user fewer, also when it fails; the last one closes the volume. Not served: nothing. */
  release(volumeId: string): Promise<void>;
  /** Closes what the last user left and could not close. Still or again in use: nothing. */
  closeUnused(volumeId: string): Promise<void>;
  /** A volume in use takes the record's attachment: sessions of older ones are refused from here on. */
  tell(record: VolumeRecord): Promise<void>;
}

interface Served {
  userCount: number;
  /** Of the record that the storage was last told of. */
  epoch: number;
}

export class OpenVolumes implements ServedVolumes {
  readonly #records: VolumeRecords;
  readonly #storage: NodeStorage;
  readonly #served = new Map<string, Served>();

  constructor(records: VolumeRecords, storage: NodeStorage) {
    this.#records = records;
    this.#storage = storage;
  }

  userCount(volumeId: string): number {
    return this.#served.get(volumeId)?.userCount ?? 0;
  }

  /** Counts one more user of a volume that is then open. */
  async acquire(volumeId: string): Promise<VolumeRecord> {
    const served = this.#served.get(volumeId);
    if (served !== undefined && served.userCount > 0 && this.#storage.isOpen(volumeId)) {
      const record = await this.#records.ready(volumeId);
      await this.tell(record);
      served.userCount += 1;
      return record;
    }
    const record = await this.#open(volumeId);
    this.#served.set(volumeId, { userCount: (served?.userCount ?? 0) + 1, epoch: record.epoch });
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
    const served = this.#served.get(volumeId);
    if (served === undefined || served.userCount > 0) return;
    await this.#storage.closeVolume(volumeId);
    this.#served.delete(volumeId);
  }

  /** An open volume takes the record's epoch and attachment: sessions of older ones are refused from here on. */
  async tell(record: VolumeRecord): Promise<void> {
    const served = this.#served.get(record.id);
    if (served === undefined || served.epoch === record.epoch || !this.#storage.isOpen(record.id)) return;
    await this.#serve(record);
    served.epoch = record.epoch;
  }

  async #open(volumeId: string): Promise<VolumeRecord> {
    const found = await this.#records.ready(volumeId);
    const { superblock } = await requireSound(this.#storage, found);
    const opening = drawId();
    const opened = await this.#records.updateReady(volumeId, (record) => ({
      ...record,
      epoch: record.epoch + 1,
      primary: { ...record.primary, opening },
      inSync: withIncarnation(record, superblock.incarnation),
    }));
    try {
      await this.#serve(opened);
      return await this.#recordIncarnation(opened);
    } catch (error) {
      // Half open is not open. The error that is already on its way says more than one from here.
      await this.#storage.closeVolume(volumeId).catch(() => undefined);
      throw error;
    }
  }

  /** Opening may have redrawn the incarnation (the machine had rebooted): the store knows before anything is served. */
  async #recordIncarnation(opened: VolumeRecord): Promise<VolumeRecord> {
    const { superblock } = await requireSound(this.#storage, opened);
    if (incarnationIn(opened) === superblock.incarnation) return opened;
    const changed = await this.#records.updateReady(opened.id, (record) => ({
      ...record,
      epoch: record.epoch + 1,
      inSync: withIncarnation(record, superblock.incarnation),
    }));
    await this.#serve(changed);
    return changed;
  }

  async #serve(record: VolumeRecord): Promise<void> {
    const { opening } = record.primary;
    invariant(opening !== null, 'a volume that is served has an opening');
    await this.#storage.openVolume({
      volumeId: record.id,
      epoch: record.epoch,
      opening,
      attachmentNumber: record.attachment.number,
      durability: record.durability,
    });
  }
}

type ReadableReplica = ReplicaStatus & { readonly superblock: NonNullable<ReplicaStatus['superblock']> };

/** CORRUPT (UNAVAILABLE: it is not there) with what a person must do, unless this copy may be served under this record. */
export async function requireSound(storage: NodeStorage, record: VolumeRecord): Promise<ReadableReplica> {
  const closed = storage.closedPools(); // before the copy: a pool that opens meanwhile must not make it 'missing'
  const replica = await storage.replica(record.id);
  const [first] = problemsOf(record, replica, closed);
  if (first !== undefined) {
    throw new HoldfastError(
      replica === undefined ? 'UNAVAILABLE' : 'CORRUPT',
      `Volume "${record.name}" (${record.id}): ${first.problem} ${first.nextStep}`,
      {
        details: { volumeId: record.id },
      },
    );
  }
  invariant(replica?.superblock !== undefined, 'a copy without problems is readable');
  return { ...replica, superblock: replica.superblock };
}

function incarnationIn(record: VolumeRecord): string | null | undefined {
  return record.inSync.find((member) => member.replicaId === record.primary.replicaId)?.incarnation;
}

function withIncarnation(record: VolumeRecord, incarnation: string): VolumeRecord['inSync'] {
  return record.inSync.map((member) =>
    member.replicaId === record.primary.replicaId ? { ...member, incarnation } : member,
  );
}
