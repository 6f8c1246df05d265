// The copies of a volume as they are in this moment, for people: what the store says of each, what its node sees of
// it, and how far the primary has filled it. Waits for nobody long: a node that does not answer is told as a problem.

import { askPrimary } from './change-copies.ts';
import { type ReplicaState, replicaState, type VolumeRecord } from './records.ts';
import { seenByNode } from './seen-by-node.ts';
import type { VolumeContext } from './volume-context.ts';

/** A person waits for the answer. */
const TIMEOUT_MS = 1500;

export interface CopyLook {
  readonly replicaId: string;
  readonly state: ReplicaState;
  /** In its pool; 0 where nobody told. */
  readonly allocatedBytes: number;
  /** The primary has this much left to copy to it; undefined: it copies nothing. */
  readonly resyncBytesLeft: number | undefined;
  /** The primary has sent this much to it by resyncs; undefined: it knows none, or did not tell. */
  readonly resyncBytesSent: number | undefined;
  /** '': none known. */
  readonly problem: string;
}

/** undefined: there is no cluster, and the storage of this node knows as much. */
export async function lookAtCopies(
  context: VolumeContext,
  record: VolumeRecord,
): Promise<CopyLook[] | undefined> {
  const { cluster } = context;
  if (cluster === undefined) return undefined;
  const asked = askPrimary(context, record, TIMEOUT_MS);
  const seen = record.replicas.map((replica) => seenByNode(cluster.calls, record.id, replica, TIMEOUT_MS));
  const primary = await asked;
  return await Promise.all(
    record.replicas.map(async (replica, index): Promise<CopyLook> => {
      const told = primary?.others.find(({ replicaId }) => replicaId === replica.id);
      const resyncBytesLeft = told?.resyncBytesLeft ?? undefined;
      const resyncBytesSent = told?.resyncBytesSent;
      const state = replicaState(record, replica, resyncBytesLeft !== undefined);
      const { allocatedBytes = 0, problem = '' } = (await seen[index]) ?? {};
      return { replicaId: replica.id, state, allocatedBytes, resyncBytesLeft, resyncBytesSent, problem };
    }),
  );
}
