// Why a volume in a cluster is not served, and who uses it: what no single copy is the reason of. Pure.

import { minimumInSync } from '../replication/config.ts';
import type { PrimaryState } from './change-copies.ts';
import { notAliveSince } from './explain-copy.ts';
import type { NodeView } from './nodes.ts';
import type { Problem } from './problems.ts';
import { isUndecided, type VolumeRecord } from './records.ts';
import { configOf } from './volume-config.ts';
import { primaryReplica } from './volume-context.ts';

export interface ServiceLooks {
  readonly nodes: ReadonlyMap<string, NodeView>;
  /** undefined: no primary answers. */
  readonly primary: PrimaryState | undefined;
}

export function problemsOfService(record: VolumeRecord, looks: ServiceLooks): Problem[] {
  return [
    ...undecided(record),
    ...tooFew(record, looks),
    ...unserved(record, looks),
    ...lostUser(record, looks),
  ];
}

function undecided(record: VolumeRecord): Problem[] {
  if (!isUndecided(record)) return [];
  return [
    {
      problem:
        'The store was rebuilt from the disks, and they do not tell which copy holds everything: nobody serves it.',
      nextStep:
        'Bring back the nodes that are missing and repeat "holdfast cluster rebuild-catalog"; or go on with one copy, ' +
        `whose missing writes are lost: "holdfast volume promote ${record.id} NODE --lose-writes".`,
    },
  ];
}

/** A member that the primary does not reach, and that the set cannot do without, makes requests wait as well. */
function tooFew(record: VolumeRecord, { primary }: ServiceLooks): Problem[] {
  const { id, inSync, replicas, failureMode } = record;
  const least = minimumInSync(configOf(record));
  const isHeard = ({ replicaId }: VolumeRecord['inSync'][number]): boolean => {
    if (replicaId === record.primary.replicaId) return true;
    if (primary?.isActive !== true) return true;
    return primary.others.some((other) => other.replicaId === replicaId && other.isConnected);
  };
  const heard = inSync.filter(isHeard).length;
  if (heard >= least) return [];
  const counted = new Set(inSync.filter(isHeard).map(({ replicaId }) => replicaId));
  const missing = replicas.filter((replica) => !counted.has(replica.id)).map(({ node }) => `"${node}"`);
  return [
    {
      problem:
        `${heard} of ${replicas.length} copies are in sync and to be reached, and its failure mode (${failureMode}) wants ` +
        `${least}: requests wait.`,
      nextStep:
        `Bring back node ${missing.join(' or ')} (below); or let it go on with fewer: ` +
        `"holdfast volume set-failure-mode ${id} ${heard > 1 ? heard - 1 : 'alwayson'}".`,
    },
  ];
}

/** Nobody serves it. */
function unserved(record: VolumeRecord, { nodes, primary }: ServiceLooks): Problem[] {
  const isUsed = record.replicas.length > 1 || record.attachment.node !== null;
  if (primary?.isActive === true || !isUsed || isUndecided(record)) return [];
  const { node } = primaryReplica(record);
  const known = nodes.get(node);
  const takers = record.inSync
    .map(({ replicaId }) => nodeOf(record, replicaId))
    .filter((one) => one !== node && nodes.get(one)?.isAlive === true);
  if (known?.isAlive === true) {
    const doing =
      primary === undefined ? 'does not answer for it' : 'is about to serve it, and not yet ready';
    return [
      {
        problem: `Its primary on node "${node}" ${doing}: requests wait.`,
        nextStep: `Nothing for some seconds. If that lasts: what is said of its copy below, and the log of the daemon on node "${node}".`,
      },
    ];
  }
  const away = `its primary's ${notAliveSince(known, node)}`;
  if (takers.length > 0) {
    return [
      {
        problem: `Nobody serves it now: ${away}, and a copy in sync is about to take over (node ${list(takers)}).`,
        nextStep: `Nothing for some seconds. If that lasts: "holdfast volume timeline ${record.id}".`,
      },
    ];
  }
  const holders = record.inSync.map(({ replicaId }) => nodeOf(record, replicaId));
  const others = record.replicas.map((replica) => replica.node).filter((one) => !holders.includes(one));
  const lastResort =
    others.length === 0
      ? 'There is no other copy.'
      : `If those are lost for good, a copy that lacks writes can be made the volume: "holdfast volume promote ${record.id} ` +
        `${others[0] ?? 'NODE'} --lose-writes" says what it wants to be told first.`;
  return [
    {
      problem: `Nobody can serve it: every copy that holds all its writes is on a node that is not alive (${list(holders)}). Requests wait.`,
      nextStep: `Bring back node ${list(holders)}. ${lastResort}`,
    },
  ];
}

function lostUser({ id, attachment }: VolumeRecord, { nodes }: ServiceLooks): Problem[] {
  const { node, number, use } = attachment;
  if (node === null || nodes.get(node)?.isAlive === true) return [];
  const used = use === 'export' ? 'exported' : 'attached';
  return [
    {
      problem: `It is ${used} on a node that is away (attachment ${number}): ${notAliveSince(nodes.get(node), node)}.`,
      nextStep:
        `Start the daemon there: it takes its device up again. If the node is gone for good, "holdfast volume detach ${id} ` +
        '--force" frees the volume for another one.',
    },
  ];
}

function nodeOf({ replicas }: VolumeRecord, replicaId: string): string {
  return replicas.find(({ id }) => id === replicaId)?.node ?? '?';
}

function list(nodes: readonly string[]): string {
  return nodes.map((node) => `"${node}"`).join(', ');
}
