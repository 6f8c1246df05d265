// Where the copies of a volume go. Pure: from what is known of the nodes to a choice, and for every node that is not
// eligible the reason, as data, for errors and for `explain`.
//
// Promises: never two copies on one node; as many zones as there are to have, copies spread evenly over them; within
// a zone the preferred node first, then the one that may still be promised most, then by name. The same facts give
// the same choice, in whatever order they come.

import prettyBytes from 'pretty-bytes';
import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES } from '../core/units.ts';
import type { NodeView } from './nodes.ts';
import type { VolumeRecord } from './records.ts';
import { creatableIn, provisionedIn } from './sizes.ts';

export interface PlacementPool {
  readonly name: string;
  readonly totalBytes: number;
  readonly availableBytes: number;
  readonly reserveBytes: number;
  readonly overcommitRatio: number;
  /** Promised to volumes. */
  readonly provisionedBytes: number;
  readonly problem: string | null;
}

export interface PlacementNode
  extends Pick<NodeView, 'name' | 'zone' | 'isAlive' | 'lostAt' | 'cordoned' | 'draining'> {
  readonly labels: Readonly<Record<string, string>>;
  readonly pools: readonly PlacementPool[];
  /** Why it did not make a copy when it was asked just now. */
  readonly failure?: string | undefined;
}

export interface PlacementWish {
  /** More copies than there are. */
  readonly copies: number;
  readonly sizeBytes: number;
  /** What the copies take on their disks as soon as they are filled; 0 for a new volume. */
  readonly writtenBytes: number;
  /** undefined: whichever pool of a node may still be promised most. */
  readonly pool?: string | undefined;
  /** Labels that a node must have. */
  readonly nodeLabels?: Readonly<Record<string, string>> | undefined;
  /** Wins within its zone: where the volume is used. */
  readonly preferredNode?: string | undefined;
  /** Nodes with a copy that goes: they take no other, and their zones count as without it. */
  readonly leavingNodes?: readonly string[] | undefined;
}

export type Obstacle =
  | { readonly code: 'HOLDS_COPY' }
  | { readonly code: 'NOT_ALIVE'; readonly since: string | null }
  | { readonly code: 'CORDONED' }
  | { readonly code: 'DRAINING' }
  | { readonly code: 'FAILED'; readonly reason: string }
  | { readonly code: 'LACKS_LABEL'; readonly label: string }
  | { readonly code: 'NO_POOL'; readonly pool: string | null }
  | { readonly code: 'POOL_NOT_OPEN'; readonly pool: string; readonly problem: string }
  | {
      readonly code: 'NO_ROOM';
      readonly pool: string;
      readonly neededBytes: number;
      readonly roomBytes: number;
    }
  | {
      readonly code: 'DISK_FULL';
      readonly pool: string;
      readonly neededBytes: number;
      readonly freeBytes: number;
    };

export interface Rejected {
  readonly node: string;
  readonly obstacle: Obstacle;
}

export interface Placement {
  /** In order of preference. Fewer than wished when there are no more. */
  readonly chosen: readonly { readonly node: string; readonly pool: string }[];
  /** Every node that is not eligible, by name. */
  readonly rejected: readonly Rejected[];
}

interface Candidate {
  readonly node: string;
  readonly zone: string;
  readonly pool: string;
  readonly roomBytes: number;
}

/** What placement looks at, from the records of nodes and volumes. `failed`: by node, what it failed with just now. */
export function placementNodes(
  nodes: readonly NodeView[],
  volumes: readonly VolumeRecord[],
  failed: ReadonlyMap<string, string> = new Map(),
): PlacementNode[] {
  return nodes.map((node) => ({
    ...node,
    failure: failed.get(node.name),
    pools: node.pools.map((pool) => ({
      ...pool,
      provisionedBytes: provisionedIn(volumes, node.name, pool.name),
    })),
  }));
}

/** `holders`: the nodes with a copy that stays. */
export function place(
  nodes: readonly PlacementNode[],
  holders: readonly string[],
  wish: PlacementWish,
): Placement {
  const candidates: Candidate[] = [];
  const rejected: Rejected[] = [];
  for (const node of [...nodes].sort((a, b) => compareText(a.name, b.name))) {
    const found = consider(node, holders, wish);
    if ('code' in found) rejected.push({ node: node.name, obstacle: found });
    else candidates.push(found);
  }
  const copiesInZone = new Map<string, number>();
  const use = (zone: string): void => void copiesInZone.set(zone, (copiesInZone.get(zone) ?? 0) + 1);
  for (const { name, zone } of nodes) if (holders.includes(name)) use(zone ?? '');

  const chosen: Candidate[] = [];
  while (chosen.length < wish.copies && candidates.length > 0) {
    candidates.sort(
      (a, b) =>
        (copiesInZone.get(a.zone) ?? 0) - (copiesInZone.get(b.zone) ?? 0) ||
        Number(b.node === wish.preferredNode) - Number(a.node === wish.preferredNode) ||
        b.roomBytes - a.roomBytes ||
        compareText(a.node, b.node),
    );
    const [best] = candidates.splice(0, 1);
    if (best === undefined) break;
    chosen.push(best);
    use(best.zone);
  }
  return { chosen: chosen.map(({ node, pool }) => ({ node, pool })), rejected };
}

/** As `place`, or NO_SPACE that says of every node why it is none. */
export function requirePlace(
  nodes: readonly PlacementNode[],
  holders: readonly string[],
  wish: PlacementWish,
): Placement['chosen'] {
  const { chosen, rejected } = place(nodes, holders, wish);
  if (chosen.length >= wish.copies) return chosen;
  const reasons = rejected.map(({ node, obstacle }) => `${node}: ${obstacleText(obstacle)}`);
  throw new HoldfastError(
    'NO_SPACE',
    `${wish.copies} ${wish.copies === 1 ? 'node is' : 'nodes are'} needed for copies, and ${chosen.length} can take one (${reasons.join('; ') || 'there are no others'}). ` +
      'Add nodes or room, uncordon nodes, or ask for fewer copies.',
    { details: { wantedCopies: wish.copies, found: chosen.map(({ node }) => node), rejected } },
  );
}

/** One reason, as it stands after the node's name. */
export function obstacleText(obstacle: Obstacle): string {
  switch (obstacle.code) {
    case 'HOLDS_COPY':
      return 'holds a copy already';
    case 'NOT_ALIVE':
      return obstacle.since === null ? 'not alive' : `not alive since ${obstacle.since}`;
    case 'CORDONED':
      return 'cordoned';
    case 'DRAINING':
      return 'draining';
    case 'FAILED':
      return `could not make its copy: ${obstacle.reason}`;
    case 'LACKS_LABEL':
      return `has no label ${obstacle.label}`;
    case 'NO_POOL':
      return obstacle.pool === null ? 'has no pool' : `no pool named ${obstacle.pool}`;
    case 'POOL_NOT_OPEN':
      return `pool ${obstacle.pool} is not open: ${obstacle.problem}`;
    case 'NO_ROOM':
      return `needs ${size(obstacle.neededBytes)}, has room for ${size(obstacle.roomBytes)}`;
    case 'DISK_FULL':
      return `needs ${size(obstacle.neededBytes)} on the disk now, has ${size(obstacle.freeBytes)}`;
  }
}

/** The first thing in the way, in the order in which a person would mend them; else the best pool. */
function consider(
  node: PlacementNode,
  holders: readonly string[],
  wish: PlacementWish,
): Candidate | Obstacle {
  if (holders.includes(node.name) || wish.leavingNodes?.includes(node.name) === true) {
    return { code: 'HOLDS_COPY' };
  }
  if (!node.isAlive) return { code: 'NOT_ALIVE', since: node.lostAt };
  if (node.failure !== undefined) return { code: 'FAILED', reason: node.failure };
  if (node.draining) return { code: 'DRAINING' };
  if (node.cordoned) return { code: 'CORDONED' };
  for (const [key, value] of Object.entries(wish.nodeLabels ?? {})) {
    if (node.labels[key] !== value) return { code: 'LACKS_LABEL', label: `${key}=${value}` };
  }
  const pools = node.pools.filter(({ name }) => wish.pool === undefined || name === wish.pool);
  // The nearest to fit speaks for the node.
  const [best] = pools
    .map((pool) => ({ pool, roomBytes: roomIn(pool), obstacle: poolObstacle(pool, wish) }))
    .sort(
      (a, b) =>
        Number(a.obstacle !== undefined) - Number(b.obstacle !== undefined) ||
        b.roomBytes - a.roomBytes ||
        compareText(a.pool.name, b.pool.name),
    );
  if (best === undefined) return { code: 'NO_POOL', pool: wish.pool ?? null };
  if (best.obstacle !== undefined) return best.obstacle;
  return { node: node.name, zone: node.zone ?? '', pool: best.pool.name, roomBytes: best.roomBytes };
}

function poolObstacle(pool: PlacementPool, wish: PlacementWish): Obstacle | undefined {
  const { name, problem } = pool;
  if (problem !== null) return { code: 'POOL_NOT_OPEN', pool: name, problem };
  const roomBytes = roomIn(pool);
  if (roomBytes < wish.sizeBytes) {
    return { code: 'NO_ROOM', pool: name, neededBytes: wish.sizeBytes, roomBytes };
  }
  const freeBytes = Math.max(0, pool.availableBytes - pool.reserveBytes);
  // Where not one block can be written nothing is placed.
  const neededBytes = Math.max(wish.writtenBytes, BLOCK_BYTES);
  return freeBytes < neededBytes ? { code: 'DISK_FULL', pool: name, neededBytes, freeBytes } : undefined;
}

function roomIn(pool: PlacementPool): number {
  return pool.problem === null ? creatableIn(pool, pool.provisionedBytes) : 0;
}

function size(bytes: number): string {
  return prettyBytes(bytes, { binary: true, space: false });
}

/** The same on every machine, whatever its language. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
