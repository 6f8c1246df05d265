// The entry of a data-plane thread.

import { flushCompileCache } from 'node:module';
import { GCProfiler } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { invariant } from '../core/invariant.ts';
import { Thread } from './thread.ts';
import { describeError, ThreadCommands } from './thread-commands.ts';
import type { ClusterCommand } from './cluster/messages.ts';
import type { ThreadAnswer, ThreadCommand, ThreadData } from './thread-messages.ts';

invariant(parentPort !== null, 'this runs in a worker thread');
const port = parentPort;
// The thread's own part of the cache, if there is one: it may be ended without a chance later.
flushCompileCache();
const thread = new Thread(port, workerData as ThreadData);
const commands = new ThreadCommands(thread);

let profiler = new GCProfiler();
profiler.start();
let collections = 0;
/** perf_hooks sees nothing in a thread that never turns its event loop; the profiler does. */
function countCollections(): number {
  const report = profiler.stop() as { statistics: unknown[] } | undefined;
  collections += report?.statistics.length ?? 0;
  profiler = new GCProfiler();
  profiler.start();
  return collections;
}

thread.run(
  (message) => {
    const { id, command } = message as { id: number; command: ThreadCommand | ClusterCommand };
    commands.handle(command, (outcome) => {
      const answer: ThreadAnswer =
        'error' in outcome
          ? { id, ok: false, ...describeError(outcome.error) }
          : { id, ok: true, value: outcome.value };
      port.postMessage({ answer });
    });
  },
  () => commands.turn(),
  countCollections,
);
thread.dispose();
