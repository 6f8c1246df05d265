// The start of a node's storage: its pools, its data-plane threads, and what joins them (storage.ts).

import type { PoolStatus } from './node-storage.ts';
import { readBootId } from './boot-id.ts';
import { Pool } from './pool.ts';
import { Storage } from './storage.ts';
import { ThreadHandle } from './thread-handle.ts';
import type { ThreadEvent } from './thread-messages.ts';
import { whileBusy } from './while-busy.ts';

export interface PoolConfig {
  readonly name: string;
  readonly directory: string;
  readonly ioMode?: PoolStatus['ioMode'] | undefined;
  readonly reserveBytes?: number | undefined;
  readonly overcommitRatio: number;
}

export interface NodeStorageOptions {
  readonly nodeName: string;
  readonly pools: readonly PoolConfig[];
  readonly threadCount: number;
  readonly busyPollMicros: number;
  /** no-data-flush, no-intent-flush: tests only. */
  readonly testFaults: ReadonlySet<string>;
  readonly onEvent: (event: ThreadEvent) => void;
  /** A data-plane thread died: the process must stop. */
  readonly onDeath: (error: Error) => void;
}

export async function createNodeStorage(options: NodeStorageOptions): Promise<Storage> {
  const pools: Pool[] = [];
  const threads: ThreadHandle[] = [];
  let storage: Storage | undefined;
  const onEvent = (event: ThreadEvent): void => {
    if (event.type === 'volumeFailed')
      storage?.replicaFailed(event.volumeId, `its ${event.what} failed (errno ${event.errno})`);
    options.onEvent(event);
  };
  try {
    for (const pool of options.pools) pools.push(await openPool(pool));
    const faults = {
      noDataFlush: options.testFaults.has('no-data-flush'),
      noIntentFlush: options.testFaults.has('no-intent-flush'),
    };
    for (let i = 0; i < options.threadCount; i++) {
      const data = { faults, busyPollMicros: options.busyPollMicros };
      threads.push(await ThreadHandle.start(data, onEvent, options.onDeath));
    }
    storage = new Storage(options.nodeName, await readBootId(), pools, threads);
    return storage;
  } catch (error) {
    for (const thread of threads) await thread.stop();
    for (const pool of pools) await pool.close();
    throw error;
  }
}

/** A pool whose last owner was killed is free when its last request has landed. */
function openPool(config: PoolConfig): Promise<Pool> {
  return whileBusy(() => Pool.open(config.name, config.directory, config));
}
