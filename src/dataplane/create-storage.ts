// The start of a node's storage: its pools, its data-plane threads, and what joins them (storage.ts).

import { readBootId } from './boot-id.ts';
import { NodePools, type NodePoolsOptions } from './node-pools.ts';
import { findRunDirectory } from './run-directory.ts';
import { Storage } from './storage.ts';
import { ThreadHandle } from './thread-handle.ts';
import type { ThreadEvent } from './thread-messages.ts';
import { WindowFiles } from './window-files.ts';

export interface NodeStorageOptions extends NodePoolsOptions {
  readonly nodeName: string;
  /** Made by findRunDirectory(), which also chooses when this is left out. */
  readonly runDirectory?: string | undefined;
  readonly threadCount: number;
  readonly busyPollMicros: number;
  /** no-data-flush, no-intent-flush: tests only. */
  readonly testFaults: ReadonlySet<string>;
  readonly onEvent: (event: ThreadEvent) => void;
  /** A data-plane thread died: the process must stop. */
  readonly onDeath: (error: Error) => void;
}

export async function createNodeStorage(options: NodeStorageOptions): Promise<Storage> {
  const pools = await NodePools.open(options);
  const threads: ThreadHandle[] = [];
  let storage: Storage | undefined;
  const onEvent = (event: ThreadEvent): void => {
    if (event.type === 'volumeFailed')
      storage?.replicaFailed(event.volumeId, `its ${event.what} failed (errno ${event.errno})`);
    options.onEvent(event);
  };
  try {
    const faults = {
      noDataFlush: options.testFaults.has('no-data-flush'),
      noIntentFlush: options.testFaults.has('no-intent-flush'),
    };
    for (let i = 0; i < options.threadCount; i++) {
      const data = { faults, busyPollMicros: options.busyPollMicros };
      threads.push(await ThreadHandle.start(data, onEvent, options.onDeath));
    }
    const windows = new WindowFiles(options.runDirectory ?? (await findRunDirectory(undefined)).path);
    storage = new Storage(options.nodeName, await readBootId(), pools, threads, windows);
    return storage;
  } catch (error) {
    for (const thread of threads) await thread.stop();
    await pools.close();
    throw error;
  }
}
