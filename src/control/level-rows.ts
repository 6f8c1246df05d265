// The rows of the embedded store in memory: read and proven at opening, changed through a draft that becomes
// visible only when its batch is durable.

import { errorText } from '../core/errors.ts';
import { type Database, storeCorrupt } from './level-files.ts';
import {
  META_KEY,
  type Meta,
  metaSchema,
  ROW_PREFIX,
  RowDigest,
  rowSchema,
  type StoredRow,
} from './level-format.ts';
import type { StoreEntry, StoreEvent } from './store.ts';

export interface Row {
  readonly revision: number;
  readonly value: string;
  readonly leaseId: string | undefined;
}

/** The rows as they will be when the batch is durable. Nobody else sees it before. */
export class Draft {
  readonly changes = new Map<string, Row | undefined>();
  readonly events: StoreEvent[] = [];
  readonly #base: ReadonlyMap<string, Row>;
  revision: number;

  constructor(base: ReadonlyMap<string, Row>, revision: number) {
    this.#base = base;
    this.revision = revision;
  }

  get(key: string): Row | undefined {
    return this.changes.has(key) ? this.changes.get(key) : this.#base.get(key);
  }

  all(): [string, Row][] {
    const merged = new Map<string, Row | undefined>([...this.#base, ...this.changes]);
    return [...merged].filter((pair): pair is [string, Row] => pair[1] !== undefined);
  }

  set(key: string, value: string | undefined, leaseId: string | undefined): number {
    this.revision += 1;
    const row = value === undefined ? undefined : { revision: this.revision, value, leaseId };
    this.changes.set(key, row);
    this.events.push(
      row ? { type: 'put', entry: entryOf(key, row) } : { type: 'delete', key, revision: this.revision },
    );
    return this.revision;
  }
}

export interface Loaded {
  readonly meta: Meta;
  readonly rows: Map<string, Row>;
  readonly digest: RowDigest;
}

/** A lease that died with its process: its keys are removed right after loading. */
const FORMER_LEASE = 'former';

/** CORRUPT unless every row is readable and they are together what was written last. */
export async function load(directory: string, database: Database): Promise<Loaded> {
  const rows = new Map<string, Row>();
  const digest = new RowDigest();
  let meta: Meta | undefined;
  try {
    for await (const [key, value] of database.iterator()) {
      if (key === META_KEY) {
        meta = metaSchema.parse(JSON.parse(value));
        continue;
      }
      if (!key.startsWith(ROW_PREFIX)) throw new Error(`unknown row ${JSON.stringify(key)}`);
      const row = rowSchema.parse(JSON.parse(value));
      const name = key.slice(ROW_PREFIX.length);
      digest.toggle(name, row);
      rows.set(name, {
        revision: row.revision,
        value: row.value,
        leaseId: row.leased ? FORMER_LEASE : undefined,
      });
    }
  } catch (error) {
    throw storeCorrupt(directory, errorText(error), error);
  }
  if (meta === undefined) throw storeCorrupt(directory, 'its identity is missing');
  if (rows.size !== meta.count || digest.hex() !== meta.digest) {
    throw storeCorrupt(directory, `${rows.size} rows read, ${meta.count} written, or their contents differ`);
  }
  return { meta, rows, digest };
}

export function storedRow(row: Row): StoredRow {
  return { revision: row.revision, leased: row.leaseId !== undefined, value: row.value };
}

export function entryOf(key: string, row: Row): StoreEntry {
  return { key, value: row.value, revision: row.revision };
}
