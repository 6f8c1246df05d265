// What is wrong with a volume of a cluster: its record, and every copy as its own node sees it.

import { type HoldfastError, isHoldfastError } from '../core/errors.ts';
import { minimumInSync } from '../replication/config.ts';
import type { ControlResponse } from './channel/protocol.ts';
import type { ClusterContext } from './cluster-context.ts';
import type { Problem } from './problems.ts';
import { type ReplicaRecord, replicaState, UNDECIDED, type VolumeRecord } from './records.ts';
import { configOf } from './volume-config.ts';
import type { VolumeRecords } from './volume-records.ts';

/** A person waits for the answer. */
const ASK_TIMEOUT_MS = 3000;

type FoundCopy = ControlResponse<'describeReplica'>['replica'];

export async function explainInCluster(
  { calls }: ClusterContext,
  records: VolumeRecords,
  before: VolumeRecord,
): Promise<Problem[]> {
  const ask = async ({ node }: ReplicaRecord): Promise<[string, FoundCopy | HoldfastError]> => {
    try {
      const { replica } = await calls.call(node, 'describeReplica', { volumeId: before.id }, ASK_TIMEOUT_MS);
      return [node, replica];
    } catch (error) {
      if (!isHoldfastError(error)) throw error;
      return [node, error];
    }
  };
  const answers = new Map(await Promise.all(before.replicas.map(ask)));
  // What a copy has promised by now a record that is read later knows.
  const record = (await records.read(before.id)) ?? before;
  if (record.state !== 'ready') return [unfinished(record)];
  const ofCopies = record.replicas.flatMap((replica) => [
    ...problemsOfState(record, replica),
    ...problemsOfAnswer(record, replica, answers.get(replica.node)),
  ]);
  return [...problemsOfSet(record), ...ofCopies];
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

function problemsOfSet(record: VolumeRecord): Problem[] {
  const { id, sizeBytes, targetSizeBytes, inSync, replicas, failureMode } = record;
  const problems: Problem[] = [];
  const least = minimumInSync(configOf(record));
  if (inSync.some(({ incarnation }) => incarnation === UNDECIDED)) {
    problems.push({
      problem:
        'The store was rebuilt from the disks, and they do not tell which copy holds everything: nobody serves it.',
      nextStep:
        'Bring back the nodes that are missing and repeat "holdfast cluster rebuild-catalog"; or go on with one copy, ' +
        `whose missing writes are lost: "holdfast volume promote ${id} NODE --lose-writes".`,
    });
  }
  if (inSync.length < least) {
    problems.push({
      problem: `${inSync.length} of ${replicas.length} copies are in sync, and its failure mode (${failureMode}) wants ${least}: requests wait.`,
      nextStep: 'Bring the nodes of the other copies back; or choose another failure mode.',
    });
  }
  if (targetSizeBytes !== sizeBytes) {
    problems.push({
      problem: `A resize from ${sizeBytes} to ${targetSizeBytes} bytes was interrupted.`,
      nextStep: `Repeat it: "holdfast volume resize ${id} --size ${targetSizeBytes}".`,
    });
  }
  return problems;
}

/** undefined: the copy came meanwhile, and was not asked about. */
function problemsOfAnswer(
  record: VolumeRecord,
  replica: ReplicaRecord,
  answer: FoundCopy | HoldfastError | undefined,
): Problem[] {
  if (answer === undefined) return [];
  if (!isHoldfastError(answer)) return problemsOfFound(record, replica, answer);
  const { node } = replica;
  return [
    {
      problem: `Its copy on node "${node}" cannot be asked about: ${answer.message}.`,
      nextStep: `Look at node "${node}" and its daemon.`,
    },
  ];
}

function problemsOfState(record: VolumeRecord, replica: ReplicaRecord): Problem[] {
  const { node, outSince } = replica;
  const state = replicaState(record, replica);
  if (state === 'inSync') return [];
  const since = outSince === null ? '' : ` since epoch ${outSince}`;
  return [
    {
      problem: `Its copy on node "${node}" is not in sync${since}.`,
      nextStep: 'It catches up by itself while its node and the primary can reach each other.',
    },
  ];
}

function problemsOfFound(
  record: VolumeRecord,
  { id, node, pool }: ReplicaRecord,
  found: FoundCopy,
): Problem[] {
  const place = `pool "${pool}" of node "${node}"`;
  if (found === null) {
    return [
      {
        problem: `Its copy is not seen in ${place}.`,
        nextStep: `Bring the pool's disk back ("holdfast pool ls" there says more); or have another copy made.`,
      },
    ];
  }
  const problems: Problem[] = [];
  if (found.problem !== null) {
    problems.push({
      problem: `Its copy in ${place}: ${found.problem}.`,
      nextStep:
        "Mend the cause. After a failed disk remove the file 'failed' in the copy's directory as well; or have another copy made.",
    });
  }
  if (found.replicaId !== null && found.replicaId !== id) {
    problems.push({
      problem: `The copy in ${place} is not the one that the store names.`,
      nextStep: 'Put back the copy, or the store, that belongs with the other one.',
    });
  }
  if (found.promisedEpoch !== null && found.promisedEpoch > record.epoch) {
    problems.push({
      problem: `The copy in ${place} has promised epoch ${found.promisedEpoch}, but the store knows only ${record.epoch}: the store is older than the copy.`,
      nextStep: 'It is not served until a person decides: put back the newer store if there is one.',
    });
  }
  if (found.problem === null && !found.isOpen) {
    problems.push({
      problem: `The copy in ${place} is not open.`,
      nextStep: `The log of the daemon on node "${node}" says why; it tries again by itself.`,
    });
  }
  return problems;
}
