// Why copies of a volume are not yet where they are to be: on a node that is drained, or beside the one that takes
// their place.

import { isHoldfastError } from '../core/errors.ts';
import { isNewcomer } from '../replication/config.ts';
import { requirePlacesFor } from './choose-places.ts';
import type { ClusterContext } from './cluster-context.ts';
import type { Problem } from './problems.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

export async function explainPlaces(
  context: VolumeContext,
  cluster: ClusterContext,
  record: VolumeRecord,
): Promise<Problem[]> {
  if (record.state !== 'ready') return [];
  const draining = new Set(
    (await cluster.nodes.list()).filter((node) => node.draining).map(({ name }) => name),
  );
  const staying = record.replicas.filter((replica) => draining.has(replica.node) && replica.leaving !== true);
  return [...leavingOf(record), ...(await whyStaying(context, cluster, record, staying))];
}

function leavingOf({ replicas }: VolumeRecord): Problem[] {
  const newcomers = replicas.filter(isNewcomer).map(({ node }) => `"${node}"`);
  const when = newcomers.length === 0 ? '' : ` when the one on node ${newcomers.join(', ')} is in sync`;
  return replicas
    .filter(({ leaving }) => leaving === true)
    .map(({ node }) => ({
      problem: `Its copy on node "${node}" is to go${when}.`,
      nextStep: 'Nothing: the daemon that does the housekeeping sees to it.',
    }));
}

async function whyStaying(
  context: VolumeContext,
  cluster: ClusterContext,
  record: VolumeRecord,
  staying: readonly ReplicaRecord[],
): Promise<Problem[]> {
  const [first] = staying;
  if (first === undefined) return [];
  try {
    await requirePlacesFor(context, cluster, record, staying.length, staying);
    return [];
  } catch (error) {
    if (!isHoldfastError(error, 'NO_SPACE')) throw error;
    return [
      {
        problem: `Node "${first.node}" is to be drained, and no other can take its copy: ${error.message}`,
        nextStep: `Or keep the copy where it is: "holdfast node uncordon ${first.node}".`,
      },
    ];
  }
}
