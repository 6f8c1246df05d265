// Where the copies of a volume go, and the room that they are promised there: on one machine a pool of it, in a
// cluster what placement chooses among the nodes. Whoever reserves writes the record while nobody else of this
// daemon chooses; two daemons that choose at once may promise a pool a little too much, which its overcommit bears.

import { didYouMean } from '../core/nearest.ts';
import { HoldfastError } from '../core/errors.ts';
import type { ClusterContext } from './cluster-context.ts';
import type { NodeView } from './nodes.ts';
import { type PlacementWish, placementNodes, requirePlace } from './placement.ts';
import type { ReplicaRecord, VolumeRecord } from './records.ts';
import { seenByNode } from './seen-by-node.ts';
import { checkRoom, provisionedIn } from './sizes.ts';
import { findPool, placementLock, poolLock, primaryReplica, type VolumeContext } from './volume-context.ts';

const WRITTEN_TIMEOUT_MS = 3000;

export interface Place {
  readonly node: string;
  readonly pool: string;
}
export type Places = readonly [Place, ...Place[]];

export interface NewVolumePlaces {
  /** Beside the primary. */
  readonly replicaCount: number;
  readonly sizeBytes: number;
  readonly pool?: string | undefined;
  /** Gets the primary if it can: where the volume is going to be used. undefined: this node. */
  readonly preferredNode?: string | undefined;
}

/** For a new volume; the first is for its primary. `failed`: nodes that are not to be chosen, and why. */
export async function withPlaces<T>(
  context: VolumeContext,
  wish: NewVolumePlaces,
  failed: ReadonlyMap<string, string>,
  reserve: (places: Places) => Promise<T>,
): Promise<T> {
  const { cluster } = context;
  if (cluster === undefined) return await withOwnPool(context, wish, reserve);
  const { replicaCount, sizeBytes, pool, preferredNode = context.node } = wish;
  return await context.locks.run(placementLock, async () => {
    const nodes = await cluster.nodes.list();
    if (pool !== undefined) requirePool(nodes, pool);
    const places = await placesAmong(context, nodes, [], failed, {
      copies: replicaCount + 1,
      sizeBytes,
      writtenBytes: 0,
      pool,
      preferredNode,
    });
    return await reserve(places);
  });
}

/** For one more copy of a volume that holds data. `insteadOf`: the copy whose place it takes. */
export async function withPlaceFor<T>(
  context: VolumeContext,
  cluster: ClusterContext,
  record: VolumeRecord,
  insteadOf: ReplicaRecord | undefined,
  reserve: (place: Place) => Promise<T>,
): Promise<T> {
  const going = insteadOf === undefined ? [] : [insteadOf];
  const writtenBytes = await writtenBytesOf(cluster, record);
  return await context.locks.run(placementLock, async () => {
    const [place] = await placesFor(context, cluster, record, { copies: 1, going, writtenBytes });
    return await reserve(place);
  });
}

/** NO_SPACE unless there are nodes for this many more copies now. `going`: copies that they take the place of. */
export async function requirePlacesFor(
  context: VolumeContext,
  cluster: ClusterContext,
  record: VolumeRecord,
  copies: number,
  going: readonly ReplicaRecord[] = [],
): Promise<void> {
  if (copies <= 0) return;
  const writtenBytes = await writtenBytesOf(cluster, record);
  await placesFor(context, cluster, record, { copies, going, writtenBytes });
}

async function placesFor(
  context: VolumeContext,
  cluster: ClusterContext,
  { replicas, sizeBytes }: VolumeRecord,
  { copies, going, writtenBytes }: { copies: number; going: readonly ReplicaRecord[]; writtenBytes: number },
): Promise<Places> {
  const isGoing = (replica: ReplicaRecord): boolean =>
    replica.leaving === true || going.some(({ id }) => id === replica.id);
  const holders = replicas.filter((replica) => !isGoing(replica)).map(({ node }) => node);
  const leavingNodes = replicas.filter(isGoing).map(({ node }) => node);
  const wish = { copies, sizeBytes, writtenBytes, leavingNodes };
  return await placesAmong(context, await cluster.nodes.list(), holders, new Map(), wish);
}

/** What a further copy will take on its disk, as the primary's does; 0 where its node does not tell. */
async function writtenBytesOf(cluster: ClusterContext, record: VolumeRecord): Promise<number> {
  return (await seenByNode(cluster.calls, record.id, primaryReplica(record), WRITTEN_TIMEOUT_MS))
    .allocatedBytes;
}

async function placesAmong(
  { records }: VolumeContext,
  nodes: readonly NodeView[],
  holders: readonly string[],
  failed: ReadonlyMap<string, string>,
  wish: PlacementWish,
): Promise<Places> {
  const candidates = placementNodes(nodes, await records.list(), failed);
  const [first, ...others] = requirePlace(candidates, holders, wish);
  if (first === undefined) throw new HoldfastError('INTERNAL', 'placement chose nothing and did not say why');
  // Within its zone the preferred node is the first already; it is the best place whatever its zone.
  return preferredFirst([first, ...others], wish.preferredNode);
}

function preferredFirst(places: Places, preferredNode: string | undefined): Places {
  const preferred = places.find(({ node }) => node === preferredNode);
  if (preferred === undefined) return places;
  return [preferred, ...places.filter((place) => place !== preferred)];
}

async function withOwnPool<T>(
  context: VolumeContext,
  { pool: wanted, sizeBytes }: NewVolumePlaces,
  reserve: (places: Places) => Promise<T>,
): Promise<T> {
  const pool = await findPool(context, wanted, 'INVALID');
  return await context.locks.run(poolLock(pool.name), async () => {
    const provisionedBytes = provisionedIn(await context.records.list(), context.node, pool.name);
    checkRoom(pool, provisionedBytes, sizeBytes);
    return await reserve([{ node: context.node, pool: pool.name }]);
  });
}

/** INVALID when no node has such a pool: the name is wrong, not the room. */
function requirePool(nodes: readonly NodeView[], pool: string): void {
  const names = new Set(nodes.flatMap((node) => node.pools.map(({ name }) => name)));
  if (names.has(pool)) return;
  throw new HoldfastError(
    'INVALID',
    `No node has a pool "${pool}".${didYouMean(pool, names)} "holdfast node ls" shows the pools of all nodes.`,
    { details: { pool } },
  );
}
