// Which pool this node has used under each name, in one small file of its data directory. A pool's disk that is
// not mounted looks like an empty directory: without this memory it would silently become a new pool, and its
// volumes would look lost.
//
// A pool is remembered durably before anything is put into it. The file is replaced by one rename; an entry goes
// only when a person says so (`holdfast pool forget`).

import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { HoldfastError } from '../core/errors.ts';
import { hasErrno, replaceFile, storageError } from './durable-files.ts';

const fileSchema = z.strictObject({ version: z.literal(1), pools: z.record(z.string(), z.string()) });

export class KnownPools {
  readonly #path: string;
  readonly #ids: Map<string, string>;
  /** The writes are made one after the other. */
  #written: Promise<void> = Promise.resolve();

  /** CORRUPT when the file cannot be understood. */
  static async load(path: string): Promise<KnownPools> {
    try {
      const text = await readFile(path, 'utf8');
      return new KnownPools(path, new Map(Object.entries(parse(path, text))));
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return new KnownPools(path, new Map());
      throw storageError(error, `reading ${path}`);
    }
  }

  private constructor(path: string, ids: Map<string, string>) {
    this.#path = path;
    this.#ids = ids;
  }

  names(): string[] {
    return [...this.#ids.keys()];
  }

  idOf(name: string): string | undefined {
    return this.#ids.get(name);
  }

  /** Durable when it resolves. */
  async remember(name: string, id: string): Promise<void> {
    if (this.#ids.get(name) === id) return;
    await this.#change((ids) => ids.set(name, id));
  }

  /** Durable when it resolves. Unknown is success. */
  async forget(name: string): Promise<void> {
    if (this.#ids.has(name)) await this.#change((ids) => ids.delete(name));
  }

  /** What is in memory follows the disk, never the other way round. */
  #change(change: (ids: Map<string, string>) => unknown): Promise<void> {
    const write = this.#written.then(async () => {
      const next = new Map(this.#ids);
      change(next);
      await this.#write(next);
      change(this.#ids);
    });
    this.#written = write.catch(() => undefined);
    return write;
  }

  async #write(ids: ReadonlyMap<string, string>): Promise<void> {
    try {
      const text = JSON.stringify({ version: 1, pools: Object.fromEntries(ids) });
      await replaceFile(this.#path, Buffer.from(`${text}\n`));
    } catch (error) {
      throw storageError(error, `writing ${this.#path}`);
    }
  }
}

function parse(path: string, text: string): Record<string, string> {
  try {
    return fileSchema.parse(JSON.parse(text)).pools;
  } catch (error) {
    throw new HoldfastError(
      'CORRUPT',
      `${path} is damaged or of another version: start the Holdfast version that wrote it, or, once the disk of ` +
        'every pool is mounted, remove the file: it is made anew',
      { cause: error },
    );
  }
}
