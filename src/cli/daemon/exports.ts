// Exports: volumes served to NBD clients on Unix sockets, each for as long as the call that asked for it. An
// export keeps its volume open; a volume that is published is not exported, nor the other way round, so that
// nobody writes to it behind the back of a mounted file system.

import { once } from 'node:events';
import type { Volumes } from '../../control/volumes.ts';
import { HoldfastError } from '../../core/errors.ts';
import type { NodeStorage } from '../../dataplane/node-storage.ts';
import { requireReplaceable } from '../../host/unix-socket.ts';
import type { ExportEvent, ExportRequest } from '../api-schema.ts';

export class Exports {
  readonly #volumes: Volumes;
  readonly #storage: NodeStorage;
  /** Exports of each volume, those being opened included. */
  readonly #counts = new Map<string, number>();
  readonly #paths = new Set<string>();

  constructor(volumes: Volumes, storage: NodeStorage) {
    this.#volumes = volumes;
    this.#storage = storage;
  }

  countOf(volumeId: string): number {
    return this.#counts.get(volumeId) ?? 0;
  }

  /** Yields once clients can connect; ends, with every session of the export, when `signal` aborts. */
  async *serve({ volume, unixPath }: ExportRequest, signal: AbortSignal): AsyncIterable<ExportEvent> {
    const { id } = await this.#volumes.find(volume);
    if (this.#paths.has(unixPath)) {
      throw new HoldfastError('CONFLICT', `${unixPath} is the socket of another export: choose another path`);
    }
    this.#paths.add(unixPath);
    this.#counts.set(id, this.countOf(id) + 1);
    try {
      await requireReplaceable(unixPath, 'choose another path with --unix');
      const record = await this.#volumes.acquireForExport(id);
      try {
        const handle = await this.#storage.exportUnix(id, record.name, unixPath);
        try {
          yield { volumeId: id, exportName: record.name, unixPath, sizeBytes: record.sizeBytes };
          if (!signal.aborted) await once(signal, 'abort');
        } finally {
          await handle.close();
        }
      } finally {
        await this.#volumes.releaseExport(id);
      }
    } finally {
      this.#paths.delete(unixPath);
      const left = this.countOf(id) - 1;
      if (left > 0) this.#counts.set(id, left);
      else this.#counts.delete(id);
    }
  }
}
