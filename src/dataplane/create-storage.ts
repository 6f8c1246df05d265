// The start of a node's storage: its pools, its data-plane threads, and what joins them (storage.ts).

import { type ClusterEvent, isClusterEvent } from './cluster/messages.ts';
import { readBootId } from './boot-id.ts';
import { NodePools, type NodePoolsOptions } from './node-pools.ts';
import { findRunDirectory } from './run-directory.ts';
import { Storage } from './storage.ts';
import { ThreadHandle } from './thread-handle.ts';
import type { ThreadEvent } from './thread-messages.ts';
import { createBeat, Watchdog } from './watchdog.ts';
import { WindowFiles } from './window-files.ts';

/** Longer than a dead daemon's requests are waited for, shorter than the patience of the sidecars. */
const ANSWER_DEADLINE_MS = 60_000;

export interface NodeStorageOptions extends NodePoolsOptions {
  readonly nodeName: string;
  /** Made by findRunDirectory(), which also chooses when this is left out. */
  readonly runDirectory?: string | undefined;
  readonly threadCount: number;
  readonly busyPollMicros: number;
  /** A thread that is longer than this in one turn of its loop is stuck: onDeath, or onHungDisk. 0 or undefined: none is. */
  readonly stuckAfterMs?: number | undefined;
  /** How long a caller waits for a disk that hangs; the work itself is never given up. */
  readonly answerDeadlineMs?: number | undefined;
  /** no-data-flush, no-intent-flush, stuck-thread: tests only. */
  readonly testFaults: ReadonlySet<string>;
  readonly onEvent: (event: ThreadEvent) => void;
  /** A data-plane thread waits in the kernel for the disk of one of these pools; `isOver`: it goes on. */
  readonly onHungDisk?: ((pools: readonly string[], isOver: boolean) => void) | undefined;
  /** A data-plane thread died or is stuck: the process must stop, without waiting for its threads. */
  readonly onDeath: (error: Error) => void;
}

export async function createNodeStorage(options: NodeStorageOptions): Promise<Storage> {
  const pools = await NodePools.open(options);
  const threads: ThreadHandle[] = [];
  let storage: Storage | undefined;
  const watchdog = new Watchdog(options.stuckAfterMs ?? 0, {
    stuck: options.onDeath,
    hung: (thread, isOver) => options.onHungDisk?.(storage?.poolsOf(thread) ?? [], isOver),
  });
  const onEvent = (event: ThreadEvent | ClusterEvent, thread: ThreadHandle): void => {
    if (isClusterEvent(event)) {
      storage?.cluster.handle(event, thread);
      return;
    }
    options.onEvent(event);
  };
  try {
    const faults = {
      noDataFlush: options.testFaults.has('no-data-flush'),
      noIntentFlush: options.testFaults.has('no-intent-flush'),
      noZeroing: options.testFaults.has('no-zeroing'),
      cancelledEntries: options.testFaults.has('cancelled-entries'),
      stuckThread: options.testFaults.has('stuck-thread'),
    };
    for (let i = 0; i < options.threadCount; i++) {
      const data = { faults, busyPollMicros: options.busyPollMicros, beat: createBeat() };
      watchdog.watch(data.beat);
      threads.push(await ThreadHandle.start(data, onEvent, options.onDeath));
    }
    const windows = new WindowFiles(options.runDirectory ?? (await findRunDirectory(undefined)).path);
    const deadlineMs = options.answerDeadlineMs ?? ANSWER_DEADLINE_MS;
    storage = new Storage(
      options.nodeName,
      await readBootId(),
      pools,
      threads,
      windows,
      watchdog,
      deadlineMs,
    );
    return storage;
  } catch (error) {
    watchdog.stop();
    for (const thread of threads) await thread.stop();
    await pools.close();
    throw error;
  }
}
