// Why one copy of a volume in a cluster is not as it should be: its node, its pool and its disk as that node tells them,
// and what the primary does about it. One reason, the first that explains the others. Pure.

import prettyBytes from 'pretty-bytes';
import { isHoldfastError, type HoldfastError } from '../core/errors.ts';
import { isNewcomer } from '../replication/config.ts';
import { chooseVersion, tooFarApart } from '../replication/wire.ts';
import type { PrimaryState } from './change-copies.ts';
import type { ControlResponse } from './channel/protocol.ts';
import type { NodeView } from './nodes.ts';
import type { Problem } from './problems.ts';
import { isUndecided, type ReplicaRecord, replicaState, type VolumeRecord } from './records.ts';
import { primaryReplica } from './volume-context.ts';

export type FoundCopy = ControlResponse<'describeReplica'>['replica'];

export interface CopyLooks {
  /** The node of the daemon that looks. */
  readonly here: string;
  /** What that daemon says of itself; undefined: the cluster does not know it. */
  readonly hereNode: NodeView | undefined;
  /** undefined: the cluster does not know it. */
  readonly node: NodeView | undefined;
  /** What its node says; undefined: the copy came meanwhile, and was not asked about. */
  readonly answer: FoundCopy | HoldfastError | undefined;
  /** undefined: no primary answers. */
  readonly primary: PrimaryState | undefined;
}

export function problemsOfCopy(record: VolumeRecord, replica: ReplicaRecord, looks: CopyLooks): Problem[] {
  const { node, answer } = looks;
  if (node?.isAlive !== true) return [nodeAway(record, replica, node)];
  if (answer === undefined) return [];
  if (isHoldfastError(answer)) return [unreachable(record, replica, answer, looks)];
  const found = problemsOfFound(record, replica, answer, node);
  const isOwn = record.primary.replicaId === replica.id;
  return found.length > 0 || isOwn ? found : followerProblems(record, replica, looks.primary);
}

/** `Its copy on node "b" is not in sync since epoch 7` */
function standing(record: VolumeRecord, replica: ReplicaRecord): string {
  const copy = `Its copy on node "${replica.node}"`;
  if (replicaState(record, replica) === 'inSync') return `${copy} counts as in sync`;
  if (isNewcomer(replica)) return `${copy} is new and not filled yet`;
  return `${copy} is not in sync${replica.outSince === null ? '' : ` since epoch ${replica.outSince}`}`;
}

export function notAliveSince(node: NodeView | undefined, name: string): string {
  if (node === undefined) return `node "${name}" is not known to the cluster`;
  return `node "${name}" is not alive${node.lostAt === null ? '' : `, since ${node.lostAt}`}`;
}

function nodeAway(record: VolumeRecord, replica: ReplicaRecord, node: NodeView | undefined): Problem {
  const { node: name } = replica;
  return {
    problem: `${standing(record, replica)}, and ${notAliveSince(node, name)}.`,
    nextStep: isUndecided(record)
      ? 'Start the node, or its daemon, and repeat "holdfast cluster rebuild-catalog".'
      : `Start the node, or its daemon: the copy catches up by itself. If it is gone for good, "holdfast node drain ${name}" ` +
        'has its copies made elsewhere without waiting.',
  };
}

function unreachable(
  record: VolumeRecord,
  replica: ReplicaRecord,
  { message }: HoldfastError,
  { here, hereNode, node }: CopyLooks,
): Problem {
  const { node: name } = replica;
  const stands = `${standing(record, replica)}; node "${name}" is alive, but node "${here}" cannot`;
  const apart = hereNode === undefined || node === undefined ? undefined : versionsApart(hereNode, node);
  if (apart !== undefined) {
    return {
      problem: `${stands} talk with it: ${apart}.`,
      nextStep: `Upgrade the daemon that is too old by one release after the other: the copy catches up by itself then.`,
    };
  }
  return {
    problem: `${stands} ask it: ${message}`,
    nextStep:
      `See to the way from node "${here}" to node "${name}": network, firewall, its --advertise address ` +
      `("holdfast node show ${name}"); or ask the daemon of another node.`,
  };
}

/** What two daemons speak that have no version in common; undefined: they have. */
function versionsApart(ours: NodeView, theirs: NodeView): string | undefined {
  const formats = { 'calls between daemons': 'control', 'the wire format': 'peer' } as const;
  for (const [what, format] of Object.entries(formats)) {
    const [own, other] = [ours.wire[format], theirs.wire[format]];
    if (chooseVersion(own, other) === undefined) return tooFarApart(what, own, other);
  }
  return undefined;
}

function problemsOfFound(
  record: VolumeRecord,
  { id, node, pool }: ReplicaRecord,
  found: FoundCopy,
  { pools }: NodeView,
): Problem[] {
  const place = `pool "${pool}" of node "${node}"`;
  if (found === null) {
    const closed = pools.find(({ name }) => name === pool)?.problem;
    if (closed !== undefined && closed !== null) {
      return [
        {
          problem: `Its copy is in ${place}, which is not open: ${closed}.`,
          nextStep: 'Mend that: the pool is opened by itself, and the copy catches up.',
        },
      ];
    }
    return [
      {
        problem: `Its copy is not seen in ${place}.`,
        nextStep:
          `Bring the pool's disk back ("holdfast pool ls" there says more); if the copy is lost, ` +
          `"holdfast node drain ${node}" has another one made elsewhere.`,
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
  // A volume of one copy is opened when it is used.
  const isToBeOpen = record.replicas.length > 1 || record.attachment.node !== null;
  if (found.problem === null && !found.isOpen && isToBeOpen) {
    problems.push({
      problem: `The copy in ${place} is not open.`,
      nextStep: `The log of the daemon on node "${node}" says why; it tries again by itself.`,
    });
  }
  return problems;
}

/** The copy itself is sound, as its node sees it. */
function followerProblems(
  record: VolumeRecord,
  replica: ReplicaRecord,
  primary: PrimaryState | undefined,
): Problem[] {
  const isInSync = replicaState(record, replica) === 'inSync';
  const told = primary?.others.find(({ replicaId }) => replicaId === replica.id);
  // That there is no primary is told of the volume.
  if (primary === undefined || (isInSync && told?.isConnected !== false)) return [];
  const from = primaryReplica(record).node;
  const is = standing(record, replica);
  if (told === undefined) return [waits(`${is}: the primary on node "${from}" has not heard of it yet.`)];
  if (told.heldOutMs > 0) {
    return [
      {
        problem:
          `${is}: it is held out for another ${Math.ceil(told.heldOutMs / 1000)} s, since it left the in-sync set ` +
          `${told.departureCount} times in a row, each time soon after it had joined.`,
        nextStep:
          `See to what is wrong with node "${replica.node}" or the way to it ("holdfast volume timeline ${record.id}"); then ` +
          `"holdfast volume readmit ${record.id} ${replica.node}" takes the copy up at once.`,
      },
    ];
  }
  if (!told.isConnected) {
    return [
      {
        problem: `${is}, and the primary on node "${from}" does not reach it, although both nodes are alive.`,
        nextStep: `See to the way from node "${from}" to node "${replica.node}": network, firewall, the --advertise address.`,
      },
    ];
  }
  if (told.isWaitingForTurn) {
    return [
      waits(
        `${is}: it waits for its turn, node "${from}" brings as many other copies up to date as it may (--resync-limit).`,
      ),
    ];
  }
  if (told.resyncBytesLeft === null) return [waits(`${is}: it is about to be taken up.`)];
  return [
    waits(
      `${is}: it is being filled, ${prettyBytes(told.resyncBytesLeft, { binary: true })} are left to be looked at or copied.`,
    ),
  ];
}

function waits(problem: string): Problem {
  return { problem, nextStep: 'Nothing: it goes on by itself.' };
}
