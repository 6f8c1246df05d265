// The copies of a volume as they are in this moment, for people: what the store says of each, what its node sees of
// it, and how far the primary has filled it. Waits for nobody long: a node that does not answer is told as a problem.

import { isHoldfastError } from '../core/errors.ts';
import { askPrimary } from './change-copies.ts';
import type { PeerCalls } from './channel/peer-calls.ts';
import { type ReplicaRecord, type ReplicaState, replicaState, type VolumeRecord } from './records.ts';
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
  const seen = record.replicas.map((replica) => ask(cluster.calls, record.id, replica));
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

type Seen = Pick<CopyLook, 'allocatedBytes' | 'problem'>;

async function ask(
  calls: Pick<PeerCalls, 'call'>,
  volumeId: string,
  { id, node }: ReplicaRecord,
): Promise<Seen> {
  try {
    const { replica } = await calls.call(node, 'describeReplica', { volumeId }, TIMEOUT_MS);
    if (replica === null) return { allocatedBytes: 0, problem: 'its node does not see it' };
    const isOther = replica.replicaId !== null && replica.replicaId !== id;
    const problem = isOther ? 'another copy is in its place' : (replica.problem ?? '');
    return { allocatedBytes: isOther ? 0 : replica.allocatedBytes, problem };
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    return { allocatedBytes: 0, problem: error.message };
  }
}
