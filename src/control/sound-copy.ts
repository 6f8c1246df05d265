// Whether the only copy of a volume may be served under its record.

import { HoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { NodeStorage, ReplicaStatus } from '../dataplane/node-storage.ts';
import { problemsOf } from './problems.ts';
import type { VolumeRecord } from './records.ts';

type ReadableReplica = ReplicaStatus & { readonly superblock: NonNullable<ReplicaStatus['superblock']> };

/**
 * CORRUPT (UNAVAILABLE: it is not there) with what a person must do, unless this copy may be served under its record, which
 * is read after the copy: what an open copy has promised by then a sound store knows.
 */
export async function requireSound(
  storage: NodeStorage,
  readRecord: () => Promise<VolumeRecord>,
  volumeId: string,
): Promise<ReadableReplica> {
  const closed = storage.closedPools(); // before the copy: a pool that opens meanwhile must not make it 'missing'
  const replica = await storage.replica(volumeId);
  const record = await readRecord();
  const [first] = problemsOf(record, replica, closed);
  if (first !== undefined) {
    throw new HoldfastError(
      replica === undefined ? 'UNAVAILABLE' : 'CORRUPT',
      `Volume "${record.name}" (${record.id}): ${first.problem} ${first.nextStep}`,
      {
        details: { volumeId: record.id },
      },
    );
  }
  invariant(replica?.superblock !== undefined, 'a copy without problems is readable');
  return { ...replica, superblock: replica.superblock };
}
