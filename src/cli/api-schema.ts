// The messages of proto/holdfast.proto as schemas: both sides check what they receive, and the types of the
// handlers and of the client come from here. Names and shapes are also those of the CLI's `--json`.

import { z } from 'zod';
import { MAX_VOLUME_BYTES } from '../core/units.ts';

const sizeBytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const volumeName = z
  .string()
  .refine((name) => name !== '' && Buffer.byteLength(name) <= 128, 'a volume is named by 1 to 128 bytes')
  .refine((name) => !/[\u0000-\u001f\u007f]/.test(name), 'a volume name has no control characters');
const requestedSize = z
  .number()
  .int()
  .min(1, 'the size must be above 0')
  .max(MAX_VOLUME_BYTES, 'the size must be at most 64 TiB');
const labels = z.record(z.string(), z.string());
/** A field of message type that may be absent. */
const optional = <S extends z.ZodType>(schema: S) => schema.nullish().transform((value) => value ?? null);

const poolSchema = z.object({
  name: z.string(),
  node: z.string(),
  directory: z.string(),
  ioMode: z.string(),
  totalBytes: sizeBytes,
  availableBytes: sizeBytes,
  provisionedBytes: sizeBytes,
  creatableBytes: sizeBytes,
  reserveBytes: sizeBytes,
  problem: z.string(),
});

const versions = z.object({ min: z.number().int(), max: z.number().int() });

const nodeSchema = z.object({
  name: z.string(),
  id: z.string(),
  address: z.string(),
  zone: z.string(),
  labels,
  pools: z.array(
    z.object({
      name: z.string(),
      totalBytes: sizeBytes,
      availableBytes: sizeBytes,
      reserveBytes: sizeBytes,
      overcommitRatio: z.number(),
      provisionedBytes: sizeBytes,
      problem: z.string(),
    }),
  ),
  version: z.string(),
  controlWire: versions,
  peerWire: versions,
  bootId: z.string(),
  process: z.string(),
  startedAt: z.string(),
  alive: z.boolean(),
  lostAt: z.string(),
  cordoned: z.boolean(),
  draining: z.boolean(),
  problem: z.string(),
  copies: z.number().int(),
  primaries: z.number().int(),
});

const clusterStatusSchema = z.object({
  storeIdentity: z.string(),
  leader: z.string(),
  nodes: z.number().int(),
  nodesAlive: z.number().int(),
  nodesCordoned: z.number().int(),
  volumes: z.number().int(),
  volumesDegraded: z.number().int(),
  maintenanceSince: z.string(),
});

const volumeSchema = z.object({
  id: z.string(),
  name: z.string(),
  state: z.string(),
  sizeBytes,
  epoch: z.number().int(),
  durability: z.string(),
  failureMode: z.string(),
  fileSystem: optional(z.object({ type: z.string(), made: z.boolean() })),
  attachment: z.object({
    number: z.number().int(),
    node: z.string(),
    readOnly: z.boolean(),
    use: z.enum(['', 'device', 'export']),
  }),
  primary: z.string(),
  inSync: z.array(z.string()),
  replicas: z.array(
    z.object({
      id: z.string(),
      node: z.string(),
      pool: z.string(),
      role: z.string(),
      state: z.string(),
      allocatedBytes: sizeBytes,
      resyncBytesLeft: sizeBytes,
      resyncBytesSent: sizeBytes,
      problem: z.string(),
    }),
  ),
  device: z.string(),
  deviceWaitingSince: z.string(),
  serving: z.boolean(),
  labels,
});

const nodeReasons = z.array(z.object({ node: z.string(), reason: z.string() }));

const findingSchema = z.object({
  level: z.enum(['ok', 'warning', 'problem']),
  text: z.string(),
  nextStep: z.string(),
});

const byNode = z.object({ node: z.string().min(1) });
const byVolume = z.object({ volume: volumeName });
const FAILURE_MODE = 'hard, soft, alwayson or 0 to 5';

/** Every call that answers once. */
export const UNARY = {
  GetStatus: {
    request: z.object({}),
    response: z.object({
      node: z.string(),
      version: z.string(),
      storeIdentity: z.string(),
      startedAt: z.string(),
      processId: z.number().int(),
      volumes: z.number().int(),
      devices: z.number().int(),
    }),
  },
  ListNodes: { request: z.object({}), response: z.object({ nodes: z.array(nodeSchema) }) },
  GetNode: { request: byNode, response: nodeSchema },
  SetCordoned: { request: byNode.extend({ cordoned: z.boolean() }), response: nodeSchema },
  DrainNode: { request: byNode, response: nodeSchema },
  GetClusterStatus: { request: z.object({}), response: clusterStatusSchema },
  SetMaintenance: { request: z.object({ on: z.boolean() }), response: clusterStatusSchema },
  RebuildCatalog: {
    request: z.object({
      dryRun: z.boolean(),
      nodes: z.number().int().min(0),
      force: z.boolean(),
    }),
    response: z.object({
      nodes: z.array(z.string()),
      problems: z.array(z.object({ node: z.string(), problem: z.string() })),
      volumes: z.array(
        z.object({
          id: z.string(),
          name: z.string(),
          sizeBytes,
          verdict: z.string(),
          epoch: z.number().int(),
          attachmentNumber: z.number().int(),
          primary: z.string(),
          inSync: z.array(z.string()),
          toFill: z.array(z.string()),
          reason: z.string(),
          notes: z.array(z.string()),
        }),
      ),
    }),
  },
  ListPools: { request: z.object({ pool: z.string() }), response: z.object({ pools: z.array(poolSchema) }) },
  ForgetPool: {
    request: z.object({ pool: z.string().min(1), force: z.boolean() }),
    response: z.object({}),
  },
  CreateVolume: {
    request: z.object({
      name: volumeName,
      sizeBytes: requestedSize,
      pool: z.string(),
      replicas: z.number().int().min(0).max(5),
      durability: z.enum(['', 'writeback', 'writethrough']),
      failureMode: z.string().regex(/^(|hard|soft|alwayson|[0-5])$/, FAILURE_MODE),
      labels,
    }),
    response: volumeSchema,
  },
  ListVolumes: { request: z.object({}), response: z.object({ volumes: z.array(volumeSchema) }) },
  GetVolume: { request: byVolume, response: volumeSchema },
  ResizeVolume: { request: byVolume.extend({ sizeBytes: requestedSize }), response: volumeSchema },
  DeleteVolume: { request: byVolume, response: z.object({ left: nodeReasons }) },
  SetReplicas: {
    request: byVolume.extend({ replicas: z.number().int().min(0).max(5) }),
    response: z.object({ volume: volumeSchema, left: nodeReasons }),
  },
  SetFailureMode: {
    request: byVolume.extend({
      failureMode: z.string().regex(/^(hard|soft|alwayson|[0-5])$/, FAILURE_MODE),
    }),
    response: volumeSchema,
  },
  MoveVolume: { request: byVolume.extend({ node: z.string().min(1) }), response: volumeSchema },
  ReadmitCopy: { request: byVolume.extend({ node: z.string().min(1) }), response: volumeSchema },
  ForcePromotion: {
    request: byVolume.extend({ node: z.string().min(1), off: z.array(z.string().min(1)) }),
    response: volumeSchema,
  },
  GetTimeline: {
    request: byVolume,
    response: z.object({
      lines: z.array(z.object({ at: z.string(), node: z.string(), what: z.string(), text: z.string() })),
      missing: nodeReasons,
    }),
  },
  AttachVolume: {
    request: byVolume.extend({ readOnly: z.boolean() }),
    response: z.object({ device: z.string(), attachmentNumber: z.number().int() }),
  },
  DetachVolume: { request: byVolume.extend({ force: z.boolean() }), response: z.object({}) },
  ExplainVolume: { request: byVolume, response: z.object({ findings: z.array(findingSchema) }) },
} as const;

export const EXPORT = {
  request: byVolume.extend({
    unixPath: z
      .string()
      .startsWith('/', 'the socket path must be absolute')
      .refine((path) => Buffer.byteLength(path) <= 107, 'the socket path must be at most 107 bytes'),
  }),
  event: z.object({ volumeId: z.string(), exportName: z.string(), unixPath: z.string(), sizeBytes }),
} as const;

export type UnaryName = keyof typeof UNARY;
export const UNARY_NAMES = Object.keys(UNARY) as UnaryName[];
export type Request<N extends UnaryName> = z.output<(typeof UNARY)[N]['request']>;
export type Response<N extends UnaryName> = z.output<(typeof UNARY)[N]['response']>;
export type ExportRequest = z.output<typeof EXPORT.request>;
export type ExportEvent = z.output<typeof EXPORT.event>;
export type VolumeView = z.output<typeof volumeSchema>;
export type NodeView = z.output<typeof nodeSchema>;
export type PoolView = z.output<typeof poolSchema>;
export type Finding = z.output<typeof findingSchema>;

/** What answers the calls. Throws HoldfastError for everything a caller can be told. */
export type ApiHandlers = {
  readonly [N in UnaryName]: (request: Request<N>) => Promise<Response<N>>;
} & {
  /** Yields once the socket is there, then goes on until `signal` aborts; the export is gone when it returns. */
  readonly ExportVolume: (request: ExportRequest, signal: AbortSignal) => AsyncIterable<ExportEvent>;
};
