// What is wrong with a volume of a cluster: its record, every copy as its own node sees it, and what its primary says.

import { type HoldfastError, isHoldfastError } from '../core/errors.ts';
import { askPrimary } from './change-copies.ts';
import type { ClusterContext } from './cluster-context.ts';
import { type FoundCopy, problemsOfCopy } from './explain-copy.ts';
import { problemsOfService } from './explain-service.ts';
import type { Problem } from './problems.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

/** A person waits for the answer. */
const ASK_TIMEOUT_MS = 3000;

export async function explainInCluster(
  context: VolumeContext,
  cluster: ClusterContext,
  before: VolumeRecord,
): Promise<Problem[]> {
  const ask = async ({ node }: ReplicaRecord): Promise<[string, FoundCopy | HoldfastError]> => {
    try {
      const request = { volumeId: before.id };
      const { replica } = await cluster.calls.call(node, 'describeReplica', request, ASK_TIMEOUT_MS);
      return [node, replica];
    } catch (error) {
      if (!isHoldfastError(error)) throw error;
      return [node, error];
    }
  };
  const answers = new Map(await Promise.all(before.replicas.map(ask)));
  // What a copy has promised by now a record that is read later knows.
  const record = (await context.records.read(before.id)) ?? before;
  if (record.state !== 'ready') return [unfinished(record)];
  const [primary, known] = await Promise.all([askPrimary(context, record), cluster.nodes.list()]);
  const nodes = new Map(known.map((node) => [node.name, node]));
  const ofCopies = record.replicas.flatMap((replica) => {
    const { node } = replica;
    const here = { here: context.node, hereNode: nodes.get(context.node) };
    const looks = { ...here, node: nodes.get(node), answer: answers.get(node), primary };
    return problemsOfCopy(record, replica, looks);
  });
  return [...problemsOfService(record, { nodes, primary }), ...interruptedGrowth(record), ...ofCopies];
}

function unfinished({ state, coordinator, replicas }: VolumeRecord): Problem {
  const by = coordinator === null ? 'a daemon' : `node "${coordinator}"`;
  if (state === 'creating') {
    return {
      problem: `It is being made by ${by}, or its creation was interrupted.`,
      nextStep: 'Repeat the creation: it goes on, or begins anew.',
    };
  }
  return {
    problem: `It is deleted; copies are left on: ${replicas.map(({ node }) => node).join(', ')}.`,
    nextStep: 'Each node removes its copy as soon as its daemon runs and its pool is open.',
  };
}

function interruptedGrowth({ id, sizeBytes, targetSizeBytes }: VolumeRecord): Problem[] {
  if (targetSizeBytes === sizeBytes) return [];
  return [
    {
      problem: `A resize from ${sizeBytes} to ${targetSizeBytes} bytes was interrupted.`,
      nextStep: `Repeat it: "holdfast volume resize ${id} --size ${targetSizeBytes}".`,
    },
  ];
}
