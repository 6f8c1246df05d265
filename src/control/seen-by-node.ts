// What the node of a copy sees of it on its disk. A node that does not answer is a problem to tell, not an error.

import { isHoldfastError } from '../core/errors.ts';
import type { PeerCalls } from './channel/peer-calls.ts';
import type { ReplicaRecord } from './records.ts';

export interface SeenCopy {
  /** In its pool; 0 where nobody told. */
  readonly allocatedBytes: number;
  /** '': none known. */
  readonly problem: string;
}

export async function seenByNode(
  calls: Pick<PeerCalls, 'call'>,
  volumeId: string,
  { id, node }: ReplicaRecord,
  timeoutMs: number,
): Promise<SeenCopy> {
  try {
    const { replica } = await calls.call(node, 'describeReplica', { volumeId }, timeoutMs);
    if (replica === null) return { allocatedBytes: 0, problem: 'its node does not see it' };
    const isOther = replica.replicaId !== null && replica.replicaId !== id;
    const problem = isOther ? 'another copy is in its place' : (replica.problem ?? '');
    return { allocatedBytes: isOther ? 0 : replica.allocatedBytes, problem };
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    return { allocatedBytes: 0, problem: error.message };
  }
}
