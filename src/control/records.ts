// What the store holds: one record a volume, one claim a name. Schemas are checked at every read, so
// that a record of another version is refused with CORRUPT instead of being half understood. Those of version 1
// (one copy, one node) are read as what they mean in this one, and written so at their next change.

import { z } from 'zod';

export const durabilitySchema = z.enum(['writeback', 'writethrough']);
export const failureModeSchema = z.union([
  z.enum(['hard', 'soft', 'alwayson']),
  z.number().int().min(0).max(5),
]);
export const fileSystemTypeSchema = z.enum(['ext4', 'ext3', 'ext2', 'xfs']);
export type FileSystemType = z.infer<typeof fileSystemTypeSchema>;

export const volumeRecordSchema = z.strictObject({
  version: z.literal(2),
  /** 32 hex digits, drawn anew for every creation: a name that is used again gets another id. */
  id: z.string().regex(/^[0-9a-f]{32}$/),
  name: z.string().min(1),
  /** creating and deleting are finished or undone by whoever `coordinator` names, or by a later one in its place. */
  state: z.enum(['creating', 'ready', 'deleting']),
  /** The node whose daemon makes or deletes it; null: ready, or nobody in particular. */
  coordinator: z.string().nullable(),
  sizeBytes: z.number().int().positive(),
  /** The size a resize is on its way to; equals sizeBytes otherwise. */
  targetSizeBytes: z.number().int().positive(),
  lineage: z.string(),
  epoch: z.number().int().positive(),
  primary: z.strictObject({ replicaId: z.string(), opening: z.string().nullable() }),
  inSync: z.array(z.strictObject({ replicaId: z.string(), incarnation: z.string().nullable() })).min(1),
  replicas: z
    .array(
      z.strictObject({
        id: z.string(),
        node: z.string(),
        pool: z.string(),
        /** As in ReplicaConfig, here and below. */
        outSince: z.number().int().nullable(),
        needsFullCopy: z.boolean(),
        bootId: z.string().nullable(),
        report: z.strictObject({ incarnation: z.string(), descendsFrom: z.string().nullable() }).nullable(),
        /** Another copy is being filled to take its place (next-copy-step.ts). */
        leaving: z.literal(true).optional(),
      }),
    )
    .min(1),
  /**
   * The publish record. `number` rises at every attach and every revoke and never goes back; `node` is
   * null while the volume is published nowhere. In a cluster an export by hand is an attachment too, for as long
   * as it lasts.
   */
  attachment: z.strictObject({
    number: z.number().int().min(0),
    node: z.string().nullable(),
    readOnly: z.boolean(),
    use: z.enum(['device', 'export']),
  }),
  durability: durabilitySchema,
  failureMode: failureModeSchema,
  /** null: raw block, or nobody has asked yet. `made` is set once, after mkfs succeeded, and never cleared. */
  fileSystem: z.strictObject({ type: fileSystemTypeSchema, made: z.boolean() }).nullable(),
  labels: z.record(z.string(), z.string()),
});
export type VolumeRecord = z.infer<typeof volumeRecordSchema>;
export type ReplicaRecord = VolumeRecord['replicas'][number];

/** What is read from the store. */
export const storedRecordSchema = z.preprocess(fromVersion1, volumeRecordSchema);

const version1Schema = z.looseObject({
  version: z.literal(1),
  replicas: z.array(
    z
      .strictObject({
        id: z.string(),
        node: z.string(),
        pool: z.string(),
        state: z.literal('inSync'),
        outSince: z.null(),
      })
      .transform(({ id, node, pool }) => newReplica(id, node, pool)),
  ),
  attachment: z.looseObject({}),
});

function fromVersion1(stored: unknown): unknown {
  const found = version1Schema.safeParse(stored);
  if (!found.success) return stored;
  const { attachment } = found.data;
  return { ...found.data, version: 2, coordinator: null, attachment: { ...attachment, use: 'device' } };
}

/** A copy that was just made: it lacks nothing, if it is named in sync. */
export function newReplica(id: string, node: string, pool: string): ReplicaRecord {
  return { id, node, pool, outSince: null, needsFullCopy: false, bootId: null, report: null };
}

/**
 * Named as the incarnation of the only copy in sync when a rebuild of the store could not tell which copy holds
 * everything: no copy is of it, so nobody serves before another rebuild or a person has decided.
 */
export const UNDECIDED = 'undecided';

export function isUndecided({ inSync }: Pick<VolumeRecord, 'inSync'>): boolean {
  return inSync.some(({ incarnation }) => incarnation === UNDECIDED);
}

export type ReplicaState = 'inSync' | 'syncing' | 'outOfSync' | 'failed';

/** As people are shown it. `isSyncing`: its primary copies to it now; only that daemon knows. */
export function replicaState(
  record: Pick<VolumeRecord, 'inSync'>,
  replica: Pick<ReplicaRecord, 'id' | 'outSince' | 'needsFullCopy'>,
  isSyncing = false,
): ReplicaState {
  const member = record.inSync.find(({ replicaId }) => replicaId === replica.id);
  if (member !== undefined && member.incarnation !== UNDECIDED) return 'inSync';
  if (isSyncing) return 'syncing';
  // It was in sync once, and what it holds is no base for catching up.
  return replica.needsFullCopy && replica.outSince !== null ? 'failed' : 'outOfSync';
}
