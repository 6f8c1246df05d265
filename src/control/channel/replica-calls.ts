// What other daemons may ask of this node's storage. The word of the caller is never enough: what is made or deleted
// here is what the store says at that moment, so that a call that comes late, twice, or from a daemon that has lost
// touch does nothing. One call a volume at a time; another is told BUSY. A deletion waits for its turn: the node
// itself may be about to delete the copy (keep-replica.ts).

import { HoldfastError } from '../../core/errors.ts';
import type { ClusterStorage } from '../../dataplane/cluster-storage.ts';
import type { NodeStorage, ReplicaStatus } from '../../dataplane/node-storage.ts';
import { KeyedLock } from '../keyed-lock.ts';
import type { NodeSelf } from '../node-membership.ts';
import type { VolumeRecord } from '../records.ts';
import type { Timelines } from '../timeline.ts';
import type { VolumeRecords } from '../volume-records.ts';
import { CONTROL_VERSIONS, type ControlHandlers, type ControlResponse } from './protocol.ts';

/** They fit a message, with the longest names. */
const COPIES_A_PAGE = 50;

export interface ReplicaCallsContext {
  readonly self: Pick<NodeSelf, 'name' | 'id' | 'process' | 'bootId' | 'softwareVersion'>;
  readonly storage: NodeStorage;
  readonly records: VolumeRecords;
  /** Of the copies on this node, by volume: whoever makes or deletes one holds it. */
  readonly locks?: KeyedLock | undefined;
  /** undefined: copies here are not replicated. */
  readonly replication?:
    | Pick<ClusterStorage, 'closeReplica' | 'replicaView' | 'handOver' | 'readmit'>
    | undefined;
  readonly timelines?: Timelines | undefined;
  /** Why the copy here is not as its record wants it. */
  readonly problemWith?: ((volumeId: string) => string | undefined) | undefined;
  /** A copy was made here: it can be opened. */
  readonly onMade?: ((volumeId: string) => void) | undefined;
}

export function replicaCalls(context: ReplicaCallsContext): ControlHandlers {
  const { self, storage, records, replication, timelines, locks = new KeyedLock() } = context;
  const alone = async <T>(volumeId: string, operation: () => Promise<T>): Promise<T> =>
    await locks.tryRun(volumeId, `volume ${volumeId} on node "${self.name}"`, operation);

  return {
    async hello() {
      const { name: node, id: nodeId, process, bootId, softwareVersion } = self;
      return { node, nodeId, process, bootId, softwareVersion, control: CONTROL_VERSIONS };
    },

    async pools() {
      return { pools: await storage.pools(), closed: storage.closedPools() };
    },

    async createReplica(spec) {
      return await alone(spec.volumeId, async () => {
        const record = await records.read(spec.volumeId);
        const copy = copyOf(record, spec.replicaId, self.name);
        if (record === undefined || record.state === 'deleting' || copy?.pool !== spec.pool) {
          throw notWanted(spec.volumeId, self.name, 'no such copy is to be here: nothing was made');
        }
        if (spec.lineage !== record.lineage || spec.sizeBytes > promisedBytes(record)) {
          throw notWanted(spec.volumeId, self.name, 'it has another lineage or size: nothing was made');
        }
        const standing = await storage.replica(spec.volumeId);
        if (standing === undefined) requireNotInSync(record, spec.replicaId, self.name);
        await storage.createReplica(spec);
        const made = await storage.replica(spec.volumeId);
        if (made?.superblock === undefined) {
          throw new HoldfastError(
            'UNAVAILABLE',
            `node "${self.name}" has made its copy of volume ${spec.volumeId}, and cannot read it: ${made?.problem ?? 'it is gone'}`,
          );
        }
        context.onMade?.(spec.volumeId);
        return { incarnation: made.superblock.incarnation };
      });
    },

    async deleteReplica({ volumeId, replicaId, pool }) {
      return await locks.run(volumeId, async () => {
        const record = await records.read(volumeId);
        const local = await storage.replica(volumeId);
        if (record === undefined && local === undefined) return {};
        // What the store does not know may be all that is left of it.
        const isOver =
          record?.state === 'deleting' || record?.replicas.every(({ node }) => node !== self.name);
        if (isOver !== true) {
          throw notWanted(volumeId, self.name, 'its copy here is not to be deleted: it was kept');
        }
        if (local !== undefined) requireSame(local, { volumeId, replicaId, pool, node: self.name });
        await replication?.closeReplica(volumeId);
        await storage.deleteReplica(volumeId, pool);
        return {};
      });
    },

    async describeReplica({ volumeId }) {
      const local = await storage.replica(volumeId);
      return { replica: local === undefined ? null : describe(local, context.problemWith?.(volumeId)) };
    },

    async listReplicas({ after }) {
      const place = ({ volumeId, pool }: ReplicaStatus): string => `${volumeId}/${pool}`;
      const sorted = (await storage.replicas()).sort((a, b) => (place(a) < place(b) ? -1 : 1));
      const left = sorted.filter((one) => place(one) > after);
      const copies = left.slice(0, COPIES_A_PAGE);
      const last = copies.at(-1);
      const next = last === undefined || left.length === copies.length ? null : place(last);
      return { copies: copies.map(describeWhole), next };
    },

    async hasData({ volumeId, replicaId }) {
      const record = await records.read(volumeId);
      const isInSync = record?.inSync.some((member) => member.replicaId === replicaId);
      const copy = copyOf(record, replicaId, self.name);
      if (copy === undefined || isInSync !== true) {
        throw notWanted(volumeId, self.name, 'its copy there does not tell what it holds: try again');
      }
      const local = await storage.replica(volumeId);
      if (local !== undefined) requireSame(local, { volumeId, replicaId, pool: copy.pool, node: self.name });
      return { hasData: await storage.hasData(volumeId) };
    },

    async growReplica({ volumeId, replicaId, sizeBytes }) {
      return await alone(volumeId, async () => {
        const record = await records.read(volumeId);
        const copy = copyOf(record, replicaId, self.name);
        if (record?.state !== 'ready' || copy === undefined || sizeBytes > promisedBytes(record)) {
          throw notWanted(volumeId, self.name, 'this copy is not to have that size: it was left as it is');
        }
        const local = await storage.replica(volumeId);
        if (local === undefined) {
          throw new HoldfastError(
            'UNAVAILABLE',
            `node "${self.name}" does not see its copy of volume ${volumeId}`,
          );
        }
        requireSame(local, { volumeId, replicaId, pool: copy.pool, node: self.name });
        await storage.resizeReplica(volumeId, sizeBytes);
        return {};
      });
    },

    async replicaState({ volumeId }) {
      const view = await replication?.replicaView(volumeId);
      if (view === undefined) return { replica: null };
      const { volumeId: _, ...replica } = view;
      const others = view.others.map(({ resyncBytesLeft = null, ...other }) => ({
        ...other,
        resyncBytesLeft,
      }));
      return { replica: { ...replica, others } };
    },

    async handOver({ volumeId, toReplicaId }) {
      return { isUnderWay: (await replication?.handOver(volumeId, toReplicaId)) ?? false };
    },

    async readmit({ volumeId, replicaId }) {
      return { wasHeldOut: (await replication?.readmit(volumeId, replicaId)) ?? false };
    },

    async timeline({ volumeId }) {
      return { entries: [...(timelines?.of(volumeId) ?? [])] };
    },
  };
}

function copyOf(
  record: VolumeRecord | undefined,
  replicaId: string,
  node: string,
): VolumeRecord['replicas'][number] | undefined {
  return record?.replicas.find((replica) => replica.id === replicaId && replica.node === node);
}

/** One that counts as holding everything cannot be made anew: an empty one would be taken for it. */
function requireNotInSync({ id, state, inSync }: VolumeRecord, replicaId: string, node: string): void {
  if (state === 'creating' || inSync.every((member) => member.replicaId !== replicaId)) return;
  throw notWanted(id, node, 'its copy there is in sync: none was made');
}

function promisedBytes(record: VolumeRecord): number {
  return Math.max(record.sizeBytes, record.targetSizeBytes);
}

function notWanted(volumeId: string, node: string, why: string): HoldfastError {
  return new HoldfastError('CONFLICT', `the store says of volume ${volumeId} on node "${node}": ${why}`, {
    details: { volumeId, node },
  });
}

/** CONFLICT when the copy that is here is another one. One that cannot be read is taken for the one that is meant. */
function requireSame(
  local: ReplicaStatus,
  wanted: {
    readonly volumeId: string;
    readonly replicaId: string;
    readonly pool: string;
    readonly node: string;
  },
): void {
  const hereId = local.superblock?.replicaId ?? wanted.replicaId;
  if (hereId === wanted.replicaId && local.pool === wanted.pool) return;
  throw new HoldfastError(
    'CONFLICT',
    `node "${wanted.node}" has another copy of volume ${wanted.volumeId} (${hereId} in pool "${local.pool}"): it was left as it is`,
  );
}

function describeWhole(local: ReplicaStatus): ControlResponse<'listReplicas'>['copies'][number] {
  const { pool, volumeId, superblock = null, problem = null } = local;
  if (superblock === null) return { pool, volumeId, superblock, problem };
  const { wrappedKey: _, inSync, ...rest } = superblock;
  const members = inSync.members.map((member) => ({ ...member }));
  return { pool, volumeId, superblock: { ...rest, inSync: { ...inSync, members } }, problem };
}

function describe(
  local: ReplicaStatus,
  keptProblem: string | undefined,
): ControlResponse<'describeReplica'>['replica'] {
  const { pool, superblock, allocatedBytes, isOpen, problem } = local;
  return {
    pool,
    replicaId: superblock?.replicaId ?? null,
    lineage: superblock?.lineage ?? null,
    sizeBytes: superblock?.sizeBytes ?? null,
    promisedEpoch: superblock?.promisedEpoch ?? null,
    allocatedBytes,
    isOpen,
    problem: problem ?? keptProblem ?? null,
  };
}
