// What the store holds: one record a volume, one claim a name. Schemas are checked at every read, so
// that a record of another version is refused with CORRUPT instead of being half understood.

import { z } from 'zod';

export const durabilitySchema = z.enum(['writeback', 'writethrough']);
export const failureModeSchema = z.union([
  z.enum(['hard', 'soft', 'alwayson']),
  z.number().int().min(0).max(5),
]);
export const fileSystemTypeSchema = z.enum(['ext4', 'ext3', 'ext2', 'xfs']);
export type FileSystemType = z.infer<typeof fileSystemTypeSchema>;

export const volumeRecordSchema = z.strictObject({
  version: z.literal(1),
  /** 32 hex digits, drawn anew for every creation: a name that is used again gets another id. */
  id: z.string().regex(/^[0-9a-f]{32}$/),
  name: z.string().min(1),
  /** creating and deleting are finished or undone by the daemon that finds them at start. */
  state: z.enum(['creating', 'ready', 'deleting']),
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
        state: z.enum(['inSync', 'outOfSync', 'syncing', 'failed']),
        outSince: z.number().int().nullable(),
      }),
    )
    .min(1),
  /**
   * The publish record. `number` rises at every attach and every revoke and never goes back; `node` is
   * null while the volume is published nowhere.
   */
  attachment: z.strictObject({
    number: z.number().int().min(0),
    node: z.string().nullable(),
    readOnly: z.boolean(),
  }),
  durability: durabilitySchema,
  failureMode: failureModeSchema,
  /** null: raw block, or nobody has asked yet. `made` is set once, after mkfs succeeded, and never cleared. */
  fileSystem: z.strictObject({ type: fileSystemTypeSchema, made: z.boolean() }).nullable(),
  labels: z.record(z.string(), z.string()),
});
export type VolumeRecord = z.infer<typeof volumeRecordSchema>;
