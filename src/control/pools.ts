// The pools of this node as the edges see them: their room, those that are not open, and forgetting one.

import { HoldfastError } from '../core/errors.ts';
import type { PoolStatus } from '../dataplane/node-storage.ts';
import type { VolumeRecord } from './records.ts';
import { creatableIn, provisionedIn } from './sizes.ts';
import { findPool, poolLock, type VolumeContext } from './volume-context.ts';
import type { PoolCapacity } from './volume-service.ts';

export async function capacityOf(
  context: VolumeContext,
  wanted: string | undefined,
): Promise<PoolCapacity[]> {
  const { storage, records, node, defaultPool } = context;
  const usable = await storage.pools();
  const closed = storage.closedPools();
  const isClosed = closed.some(({ name }) => name === wanted);
  const open = wanted === undefined ? usable : isClosed ? [] : [await findPool(context, wanted, 'NOT_FOUND')];
  const volumes = await records.list();
  const capacities = [
    ...open.map((pool) => roomIn(pool, node, provisionedIn(volumes, node, pool.name))),
    ...closed
      .filter(({ name }) => wanted === undefined || name === wanted)
      .map(({ name, problem }) => noRoomIn(name, problem, node, provisionedIn(volumes, node, name))),
  ];
  return capacities.sort((a, b) => Number(b.pool === defaultPool) - Number(a.pool === defaultPool));
}

export async function largestVolumeBytes(
  { cluster, records }: VolumeContext,
  pool: string | undefined,
): Promise<number> {
  if (cluster === undefined) return 0;
  const volumes = await records.list();
  const usable = (await cluster.nodes.list()).filter(
    (node) => node.isAlive && !node.cordoned && !node.draining,
  );
  const rooms = usable.flatMap((node) =>
    node.pools
      .filter(({ name, problem }) => problem === null && (pool === undefined || name === pool))
      .map((found) => creatableIn(found, provisionedIn(volumes, node.name, found.name))),
  );
  return Math.max(0, ...rooms);
}

export async function forgetPool(context: VolumeContext, pool: string, force: boolean): Promise<void> {
  await context.locks.run(poolLock(pool), async () => {
    const volumes = (await context.records.list()).filter((record) => isIn(record, context.node, pool));
    const [first] = volumes;
    if (first !== undefined && !force) {
      throw new HoldfastError(
        'CONFLICT',
        `${volumes.length} volumes have their copy in pool "${pool}", "${first.name}" among them: bring its disk back, ` +
          'or, if it is gone for good and the data with it, repeat this with --force and delete the volumes.',
        { details: { pool, volumes: volumes.length } },
      );
    }
    await context.storage.forgetPool(pool);
  });
}

function isIn(record: VolumeRecord, node: string, pool: string): boolean {
  return record.replicas.some((replica) => replica.node === node && replica.pool === pool);
}

function roomIn(status: PoolStatus, node: string, provisionedBytes: number): PoolCapacity {
  return {
    pool: status.name,
    node,
    totalBytes: status.totalBytes,
    availableBytes: status.availableBytes,
    provisionedBytes,
    creatableBytes: creatableIn(status, provisionedBytes),
    problem: undefined,
  };
}

function noRoomIn(pool: string, problem: string, node: string, provisionedBytes: number): PoolCapacity {
  return { pool, node, totalBytes: 0, availableBytes: 0, provisionedBytes, creatableBytes: 0, problem };
}
