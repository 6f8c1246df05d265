// What all daemons saw of a volume's replication, as one story: who fell silent when, who took over, when it was over.
// Times are those of each machine's clock; clocks that differ put what happened at once in another order.

import { isHoldfastError } from '../core/errors.ts';
import { requireCluster } from './change-copies.ts';
import type { VolumeRecord } from './records.ts';
import type { TimelineEntry } from './timeline.ts';
import type { VolumeContext } from './volume-context.ts';

/** A person waits for the answer. */
const TIMEOUT_MS = 1500;

export interface TimelineLine {
  readonly at: string;
  /** Whose daemon saw it. */
  readonly node: string;
  readonly what: string;
  readonly text: string;
}

export interface CollectedTimeline {
  /** The oldest first. */
  readonly lines: readonly TimelineLine[];
  /** Nodes whose part is missing, and why. */
  readonly missing: readonly { readonly node: string; readonly reason: string }[];
}

export async function collectTimeline(
  context: VolumeContext,
  record: VolumeRecord,
): Promise<CollectedTimeline> {
  const { nodes, calls } = requireCluster(context, 'a timeline');
  const missing: { node: string; reason: string }[] = [];
  const lines: TimelineLine[] = [];
  const ask = async (node: string): Promise<void> => {
    try {
      const { entries } = await calls.call(node, 'timeline', { volumeId: record.id }, TIMEOUT_MS);
      lines.push(...entries.map((entry) => ({ ...named(record, entry), node })));
    } catch (error) {
      if (!isHoldfastError(error)) throw error;
      missing.push({ node, reason: error.message });
    }
  };
  const mayKnow = (await nodes.list()).filter(({ address }) => address !== null);
  await Promise.all(mayKnow.map(({ name }) => ask(name)));
  const byTime = (one: TimelineLine, other: TimelineLine): number =>
    one.at === other.at ? 0 : one.at < other.at ? -1 : 1;
  return { lines: lines.sort(byTime), missing };
}

/** Copies are told by their nodes. One that is none any more keeps its id. */
function named(record: VolumeRecord, entry: Pick<TimelineEntry, 'at' | 'text'> & { readonly what: string }) {
  const text = record.replicas.reduce(
    (said, { id, node }) => said.replaceAll(id, `on node "${node}"`),
    entry.text,
  );
  return { ...entry, text };
}
