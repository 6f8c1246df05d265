// What is to be done next about the copies of one volume, so that those on lost and draining nodes are replaced. Pure:
// from the record and the nodes to one step, or to none; the step after it is found when this one has been done.
//
// A copy that is to go is marked 'leaving' in the same change that names its replacement, and goes when that one is in
// sync: until then it counts, and if it comes back before, whichever of the two was in sync first stays.

import { isNewcomer } from '../replication/config.ts';
import type { NodeView } from './nodes.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';

export type CopyStep =
  /** The primary is on a node that it is to leave. */
  | { readonly type: 'move'; readonly toNode: string }
  /** Another copy is to take this one's place. */
  | { readonly type: 'replace'; readonly replica: ReplicaRecord }
  /** It has been replaced. */
  | { readonly type: 'drop'; readonly replica: ReplicaRecord }
  /** A copy that was to take another's place goes, before it was ever filled; the other stays, as if nothing had been. */
  | {
      readonly type: 'cancel';
      readonly newcomer: ReplicaRecord;
      readonly stays: ReplicaRecord | undefined;
    };

export interface CopyFacts {
  readonly nodes: ReadonlyMap<string, Pick<NodeView, 'isAlive' | 'draining'>>;
  /** Those that have not been alive for so long that they are taken for lost. */
  readonly lost: ReadonlySet<string>;
  /** People are at work: nothing is taken for lost. */
  readonly isMaintenance: boolean;
  /** Further copies may be filled now. */
  readonly mayFill: boolean;
}

export function nextCopyStep(record: VolumeRecord, facts: CopyFacts): CopyStep | undefined {
  const { replicas, inSync, primary } = record;
  const isInSync = ({ id }: ReplicaRecord): boolean => inSync.some(({ replicaId }) => replicaId === id);
  const isPrimary = ({ id }: ReplicaRecord): boolean => primary.replicaId === id;
  const isDraining = ({ node }: ReplicaRecord): boolean => facts.nodes.get(node)?.draining === true;
  const isAlive = ({ node }: ReplicaRecord): boolean => facts.nodes.get(node)?.isAlive === true;
  const mustGo = (replica: ReplicaRecord): boolean => isDraining(replica) || isLost(replica, facts);
  const newcomers = replicas.filter(isNewcomer);
  const leaving = replicas.filter((replica) => replica.leaving === true);

  const lostNewcomer = newcomers.find(mustGo);
  if (lostNewcomer !== undefined) return { type: 'cancel', newcomer: lostNewcomer, stays: leaving.at(0) };

  const isLeaving = ({ leaving: is }: ReplicaRecord): boolean => is === true && newcomers.length === 0;
  const movesAway = (replica: ReplicaRecord): boolean => isDraining(replica) || isLeaving(replica);
  if (replicas.some((replica) => isPrimary(replica) && movesAway(replica) && isAlive(replica))) {
    const target = replicas
      .filter((replica) => isInSync(replica) && isAlive(replica) && !movesAway(replica))
      .sort((a, b) => Number(b.node === record.attachment.node) - Number(a.node === record.attachment.node))
      .at(0);
    if (target !== undefined) return { type: 'move', toNode: target.node };
  }

  const [newcomer] = newcomers;
  const stays = leaving.find((replica) => !mustGo(replica) && isInSync(replica) && isAlive(replica));
  if (newcomer !== undefined && stays !== undefined) return { type: 'cancel', newcomer, stays };

  const replaced = leaving.find((replica) => !isPrimary(replica));
  if (newcomer === undefined && replaced !== undefined) return { type: 'drop', replica: replaced };

  const next = replicas.find((replica) => mustGo(replica) && replica.leaving !== true);
  if (next === undefined || !facts.mayFill) return undefined;
  // Of a volume whose primary is gone nobody could fill a copy.
  const isFillable = replicas.some((replica) => isPrimary(replica) && isAlive(replica));
  return isFillable ? { type: 'replace', replica: next } : undefined;
}

function isLost({ node }: ReplicaRecord, facts: CopyFacts): boolean {
  const found = facts.nodes.get(node);
  if (facts.isMaintenance || found?.isAlive === true) return false;
  // A node that nobody knows any more is lost for good.
  return found === undefined || facts.lost.has(node);
}
