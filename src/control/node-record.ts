// What this node knows of itself between two starts, in one small file of its data directory: the name under
// which its replicas and attachments are recorded, and the store that it served with, up to which revision.
//
// A daemon that starts with another name, without its store, with another one, or with an older one (a backup)
// would take its volumes for nobody's. It is refused here, before it has looked at any device, mount or copy.
// The recorded revision lags behind: it is a floor. What a store forgot above it is noticed volume by volume, by
// the promises in the superblocks (problems.ts).

import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { errorText, HoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import { hasErrno, replaceFile, storageError } from '../dataplane/durable-files.ts';
import type { StorePosition } from './etcd/history-guard.ts';
import type { Store } from './store.ts';

const recordSchema = z.strictObject({
  version: z.literal(1),
  node: z.string().min(1),
  store: z.strictObject({
    identity: z.string().min(1),
    revision: z.number().int().min(0),
    /** By what etcd is recognised besides. */
    etcd: z.strictObject({ clusterId: z.string(), raftTerm: z.number(), raftIndex: z.number() }).optional(),
  }),
  /** Of its daemons, in clusters. */
  starts: z.number().int().positive().optional(),
});
type Contents = z.infer<typeof recordSchema>;

type NotedStore = Pick<Store, 'identity' | 'revision'> & { position?(): Promise<StorePosition> };

const FLOOR_INTERVAL_MS = 60_000;
const REMEDY =
  'Put the right store back, and nothing is lost. If it is gone for good, start once with --accept-store any: copies ' +
  'that the store does not know are kept and reported';

export class NodeRecord {
  readonly #path: string;
  #contents: Contents | undefined;

  /** CORRUPT when the file cannot be understood, INVALID when it is another node's. */
  static async load(path: string, node: string): Promise<NodeRecord> {
    const record = new NodeRecord(path, await readContents(path));
    const known = record.#contents?.node;
    if (known === undefined || known === node) return record;
    throw new HoldfastError(
      'INVALID',
      `${dirname(path)} is the data directory of node "${known}", and its volumes are recorded under that name: ` +
        `start with --node-name ${known}, or give node "${node}" its own --data-dir`,
      { details: { known, node } },
    );
  }

  private constructor(path: string, contents: Contents | undefined) {
    this.#path = path;
    this.#contents = contents;
  }

  /** Whether this node has served with a store before. */
  get knowsStore(): boolean {
    return this.#contents !== undefined;
  }

  /** Where etcd was, if this node served with etcd. */
  get position(): StorePosition | undefined {
    const store = this.#contents?.store;
    return store?.etcd && { identity: store.identity, revision: store.revision, memberId: '', ...store.etcd };
  }

  /** Why this store may not be served with; undefined: it may. */
  objection(identity: string, revision: number): string | undefined {
    const known = this.#contents?.store;
    if (known === undefined) return undefined;
    if (known.identity !== identity) {
      return `the store is ${identity}, and this node served with ${known.identity} before. ${REMEDY}`;
    }
    if (revision < known.revision) {
      return (
        `the store is at revision ${revision}, and this node has seen ${known.revision}: it was probably restored from ` +
        `a backup. ${REMEDY}, and volumes whose copy is newer than the store are not served until a person decides`
      );
    }
    return undefined;
  }

  /** Durable when it resolves. */
  async note(node: string, store: Contents['store']): Promise<void> {
    if (isDeepStrictEqual(this.#contents?.store, store)) return;
    await this.#write({ ...this.#contents, version: 1, node, store });
  }

  /** Counts this start: higher than all before, and durable when it resolves. Once the store is known. */
  async countStart(): Promise<number> {
    invariant(this.#contents !== undefined, 'a start is counted with a store');
    const starts = (this.#contents.starts ?? 0) + 1;
    await this.#write({ ...this.#contents, starts });
    return starts;
  }

  async #write(contents: Contents): Promise<void> {
    try {
      await replaceFile(this.#path, Buffer.from(`${JSON.stringify(contents)}\n`));
    } catch (error) {
      throw storageError(error, `writing ${this.#path}`);
    }
    this.#contents = contents;
  }
}

/** CORRUPT when there should be a store and there is none: a new one must not be made unasked. */
export function missingStore(directory: string, evidence: string): HoldfastError {
  return new HoldfastError('CORRUPT', `there is no store in ${directory}, although ${evidence}. ${REMEDY}`);
}

/** CORRUPT unless this store may be served with, or `accept` takes it as it is; then it is the one that is known. */
export async function requireKnownStore(
  record: NodeRecord,
  node: string,
  store: NotedStore,
  accept: boolean,
): Promise<void> {
  const now = await stateOf(store);
  const objection = record.objection(now.identity, now.revision);
  if (objection !== undefined && !accept) throw new HoldfastError('CORRUPT', objection);
  await record.note(node, now);
}

/** Raises the floor now and then while the store changes. The returned function does so once more, and ends it. */
export function keepNoted(
  record: NodeRecord,
  node: string,
  store: NotedStore,
  onProblem: (reason: string) => void,
): () => Promise<void> {
  let writing = Promise.resolve();
  const note = (): Promise<void> => {
    writing = writing.then(async () => {
      try {
        await record.note(node, await stateOf(store));
      } catch (error) {
        onProblem(errorText(error));
      }
    });
    return writing;
  };
  const timer = setInterval(() => void note(), FLOOR_INTERVAL_MS).unref(); // reports itself
  return async () => {
    clearInterval(timer);
    await note();
  };
}

async function stateOf(store: NotedStore): Promise<Contents['store']> {
  const position = await store.position?.();
  if (position === undefined) return { identity: store.identity, revision: await store.revision() };
  const { identity, revision, clusterId, raftTerm, raftIndex } = position;
  return { identity, revision, etcd: { clusterId, raftTerm, raftIndex } };
}

async function readContents(path: string): Promise<Contents | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw storageError(error, `reading ${path}`);
  }
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new HoldfastError(
      'CORRUPT',
      `${path} is damaged or of another version: start the Holdfast version that wrote it, or, once you are sure of ` +
        'the node name and the store, remove the file: it is made anew',
      { cause: error },
    );
  }
}
