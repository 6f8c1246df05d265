// Where volumes can be reached from, in the orchestrator's terms: one key, whose value is the node's name.
// Keys and values never change for a node: CSINode and node labels keep what was registered first.

import { HoldfastError } from '../core/errors.ts';
import type { Sent, Topology, TopologyRequirement } from './messages.ts';

export const TOPOLOGY_KEY = 'topology.holdfast.dev/node';

export function topologyOf(node: string): Sent<Topology> {
  return { segments: { [TOPOLOGY_KEY]: node } };
}

/** A topology names this node if each of its segments does; one without segments names every node. */
export function includesNode(topology: Topology, node: string): boolean {
  return Object.entries(topology.segments).every(([key, value]) => key === TOPOLOGY_KEY && value === node);
}

/** The node that the orchestrator would like the volume near: in a cluster it gets the primary, if it can. */
export function preferredNode(requirement: TopologyRequirement | null | undefined): string | undefined {
  const [first] = [...(requirement?.preferred ?? []), ...(requirement?.requisite ?? [])];
  return first?.segments[TOPOLOGY_KEY];
}

/** NO_SPACE when the volume is to be reachable only from nodes that are not this one. */
export function requireReachable(requirement: TopologyRequirement | null | undefined, node: string): void {
  const requisite = requirement?.requisite ?? [];
  if (requisite.length === 0 || requisite.some((topology) => includesNode(topology, node))) return;
  const wanted = requisite.map(({ segments }) => JSON.stringify(segments)).join(' or ');
  throw new HoldfastError(
    'NO_SPACE',
    `the volume is wanted on ${wanted}, and this daemon keeps volumes on node '${node}' only`,
  );
}
