// Volume records and name claims in the store: read with their schemas, changed by compare-and-swap only.
// Knows the shape of what is stored, nothing of replicas or pools.

import type { z } from 'zod';
import { errorText, HoldfastError } from '../core/errors.ts';
import {
  CLAIM_PREFIX,
  checkName,
  claimKey,
  type NameClaim,
  nameClaimSchema,
  VOLUME_PREFIX,
  volumeKey,
} from './names.ts';
import { storedRecordSchema, type VolumeRecord, volumeRecordSchema } from './records.ts';
import type { Store, StoreEntry } from './store.ts';

/** Lost races in a row before a change gives up. In a store of one daemon there are none. */
const MAX_ATTEMPTS = 20;

export interface Stored<T> {
  readonly value: T;
  readonly revision: number;
}

export class VolumeRecords {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** In any state. */
  async read(volumeId: string): Promise<VolumeRecord | undefined> {
    return (await this.readStored(volumeId))?.value;
  }

  /** NOT_FOUND unless it can be used. */
  async ready(volumeId: string): Promise<VolumeRecord> {
    const record = await this.read(volumeId);
    if (record?.state !== 'ready') throw volumeNotFound(volumeId);
    return record;
  }

  /** In all states, sorted by id. One record that cannot be understood is CORRUPT: a shorter list would be a lie. */
  async list(): Promise<VolumeRecord[]> {
    return (await this.#store.list(VOLUME_PREFIX)).map(parseRecord);
  }

  /** As `list`, with what cannot be understood beside it. */
  async listReadable(): Promise<{
    records: VolumeRecord[];
    unreadable: { volumeId: string; error: HoldfastError }[];
  }> {
    const records: VolumeRecord[] = [];
    const unreadable: { volumeId: string; error: HoldfastError }[] = [];
    for (const entry of await this.#store.list(VOLUME_PREFIX)) {
      try {
        records.push(parseRecord(entry));
      } catch (error) {
        if (!(error instanceof HoldfastError)) throw error;
        unreadable.push({ volumeId: volumeIdOf(entry.key), error });
      }
    }
    return { records, unreadable };
  }

  /** Every record as it stands, whether or not it can be understood. */
  async listChanges(): Promise<RecordChange[]> {
    return (await this.#store.list(VOLUME_PREFIX)).map(changeOf);
  }

  /** As Store.watch. */
  async *watch(afterRevision: number, signal: AbortSignal): AsyncGenerator<RecordChange> {
    for await (const event of this.#store.watch(VOLUME_PREFIX, afterRevision, signal)) {
      if (event.type === 'put') yield changeOf(event.entry);
      else yield { volumeId: volumeIdOf(event.key), stored: undefined };
    }
  }

  /** As Store.revision. */
  async revision(): Promise<number> {
    return await this.#store.revision();
  }

  async insert(record: VolumeRecord): Promise<void> {
    const result = await this.#store.compareAndSwap(
      volumeKey(record.id),
      0,
      encode(volumeRecordSchema, record),
    );
    if (!result.swapped)
      throw new HoldfastError('BUSY', `Volume ${record.id} has just been made: try again.`);
  }

  /**
   * Applies `change` to what is stored at the very moment, and returns what is stored then. `change` throws to
   * refuse and returns the record it was given to leave it; it may run several times. NOT_FOUND.
   */
  async update(volumeId: string, change: (record: VolumeRecord) => VolumeRecord): Promise<VolumeRecord> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const stored = await this.readStored(volumeId);
      if (stored === undefined) throw volumeNotFound(volumeId);
      const changed = change(stored.value);
      if (changed === stored.value) return changed;
      if ((await this.swap(stored, changed)).swapped) return changed;
    }
    throw new HoldfastError('BUSY', `Volume ${volumeId} is being changed by others all the time: try again.`);
  }

  /** As `update`, of a volume that can be used: NOT_FOUND in any other state. */
  async updateReady(volumeId: string, change: (record: VolumeRecord) => VolumeRecord): Promise<VolumeRecord> {
    return await this.update(volumeId, (record) => {
      if (record.state !== 'ready') throw volumeNotFound(volumeId);
      return change(record);
    });
  }

  /** Removes a record that is being deleted. Gone is success. */
  async remove(volumeId: string): Promise<void> {
    const stored = await this.readStored(volumeId);
    if (stored === undefined) return;
    const result = await this.#store.compareAndSwap(volumeKey(volumeId), stored.revision, undefined);
    if (!result.swapped && result.current !== undefined) {
      throw new HoldfastError(
        'BUSY',
        `Volume ${volumeId} was changed while it was being deleted: try again.`,
      );
    }
  }

  /** By its record, or by the claim that outlived it. undefined: nothing is left of this volume. */
  async nameOf(volumeId: string): Promise<string | undefined> {
    const record = await this.read(volumeId);
    if (record !== undefined) return record.name;
    return (await this.claims()).find((claim) => claim.id === volumeId)?.name;
  }

  async claim(name: string): Promise<Stored<NameClaim> | undefined> {
    const entry = await this.#store.get(claimKey(name));
    return entry && { value: parseClaim(entry), revision: entry.revision };
  }

  async claims(): Promise<NameClaim[]> {
    return (await this.#store.list(CLAIM_PREFIX)).map(parseClaim);
  }

  /** Takes a name that is free (`insteadOf` undefined), or whose claim is the given one. BUSY when it is another. */
  async takeName(claim: NameClaim, insteadOf: Stored<NameClaim> | undefined): Promise<void> {
    checkName(claim.name);
    const key = claimKey(claim.name);
    const text = encode(nameClaimSchema, claim);
    const result = await this.#store.compareAndSwap(key, insteadOf?.revision ?? 0, text);
    if (!result.swapped) {
      throw new HoldfastError(
        'BUSY',
        `Another operation takes the name "${claim.name}": try again in a moment.`,
      );
    }
  }

  /** Frees a name if it still belongs to this volume. */
  async freeName(name: string, volumeId: string): Promise<void> {
    const claim = await this.claim(name);
    if (claim?.value.id !== volumeId) return;
    await this.#store.compareAndSwap(claimKey(name), claim.revision, undefined);
  }

  /** As `read`, with the revision that a change of it must name. */
  async readStored(volumeId: string): Promise<Stored<VolumeRecord> | undefined> {
    return storedRecord(await this.#store.get(volumeKey(volumeId)));
  }

  /** One attempt at another record in the place of `standing`. As Store.compareAndSwap. */
  async swap(standing: Stored<VolumeRecord>, changed: VolumeRecord): Promise<RecordSwap> {
    const text = encode(volumeRecordSchema, changed);
    const result = await this.#store.compareAndSwap(volumeKey(standing.value.id), standing.revision, text);
    return result.swapped ? result : { swapped: false, current: storedRecord(result.current) };
  }
}

export interface RecordChange {
  readonly volumeId: string;
  /** undefined: it was removed, or cannot be understood. */
  readonly stored: Stored<VolumeRecord> | undefined;
}

function changeOf(entry: StoreEntry): RecordChange {
  try {
    return { volumeId: volumeIdOf(entry.key), stored: storedRecord(entry) };
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    return { volumeId: volumeIdOf(entry.key), stored: undefined };
  }
}

function volumeIdOf(key: string): string {
  return key.slice(VOLUME_PREFIX.length);
}

export type RecordSwap =
  | { readonly swapped: true; readonly revision: number }
  | { readonly swapped: false; readonly current: Stored<VolumeRecord> | undefined };

function storedRecord(entry: StoreEntry | undefined): Stored<VolumeRecord> | undefined {
  return entry && { value: parseRecord(entry), revision: entry.revision };
}

export function volumeNotFound(volumeId: string): HoldfastError {
  return new HoldfastError(
    'NOT_FOUND',
    `There is no volume ${volumeId}: "holdfast volume ls" shows those there are.`,
    {
      details: { volumeId },
    },
  );
}

function parseRecord(entry: StoreEntry): VolumeRecord {
  const record = parse(storedRecordSchema, entry);
  if (volumeKey(record.id) !== entry.key) throw notUnderstood(entry, 'it is the record of another volume');
  return record;
}

function parseClaim(entry: StoreEntry): NameClaim {
  return parse(nameClaimSchema, entry);
}

function parse<T>(schema: z.ZodType<T>, entry: StoreEntry): T {
  try {
    return schema.parse(JSON.parse(entry.value));
  } catch (error) {
    throw notUnderstood(entry, errorText(error), error);
  }
}

function encode<T>(schema: z.ZodType<T>, value: T): string {
  return JSON.stringify(schema.parse(value));
}

function notUnderstood(entry: StoreEntry, reason: string, cause?: unknown): HoldfastError {
  return new HoldfastError(
    'CORRUPT',
    `The store's entry ${entry.key} cannot be understood (${reason}): another version of Holdfast wrote it, or it is ` +
      'damaged. Start the version that wrote it, or put back a backup of the store.',
    { cause },
  );
}
