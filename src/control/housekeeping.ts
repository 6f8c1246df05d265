// What the leader does, over and over: each duty looks at the store and mends what it finds, by compare-and-swap.
// A duty that fails costs the others nothing, is reported once, and is tried again in the next round.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../observe/log.ts';
import type { Nodes } from './nodes.ts';

const ROUND_INTERVAL_MS = 5000;

export interface Duty {
  readonly name: string;
  /** Stops between two steps when the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Until the signal aborts. Never rejects. */
export async function keepHouse(
  duties: readonly Duty[],
  options: { readonly signal: AbortSignal; readonly log: Logger; readonly intervalMs?: number },
): Promise<void> {
  const { signal, log, intervalMs = ROUND_INTERVAL_MS } = options;
  const failing = new Set<string>();
  while (!signal.aborted) {
    for (const { name, run } of duties) {
      if (signal.aborted) return;
      try {
        await run(signal);
        failing.delete(name);
      } catch (error) {
        if (!failing.has(name) && !signal.aborted)
          log.warn({ duty: name, error }, 'a duty of the housekeeping fails');
        failing.add(name);
      }
    }
    await sleep(intervalMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** Records since when a node is not alive: what waits for lost nodes counts from there, whoever leads. */
export function noteLostNodes(nodes: Nodes, log: Logger): Duty {
  return {
    name: 'lost nodes',
    async run(signal) {
      for (const { name, process, isAlive, lostAt } of await nodes.list()) {
        if (signal.aborted) return;
        if (isAlive && lostAt !== null) {
          // Written for what was seen before it came to life.
          await nodes.update(name, (node) => (node.process === process ? { ...node, lostAt: null } : node));
        }
        if (isAlive || lostAt !== null) continue;
        const now = new Date().toISOString();
        await nodes.update(name, (node) =>
          // Another process: it has started since.
          node.process === process && node.lostAt === null ? { ...node, lostAt: now } : node,
        );
        log.warn({ lostNode: name }, 'a node is not alive');
      }
    },
  };
}
