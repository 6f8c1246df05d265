// What daemons say to each other beside the data: the methods, their messages as schemas, and the facts that go with
// every call. JSON over HTTP/2 over TLS that is keyed by the cluster's key (ADR 0007).
//
// Every method is idempotent: who got no answer asks again.

import { z } from 'zod';
import { MAX_VOLUME_BYTES } from '../../core/units.ts';
import { type ErrorCode, HoldfastError } from '../../core/errors.ts';
import { durabilitySchema } from '../records.ts';

/** Both ends must share one. */
export const CONTROL_VERSIONS = { min: 1, max: 1 };

/**
 * Who speaks to whom, in the headers of every call: in which versions at most and at least, too. `to` keeps a call from a
 * daemon that it was not meant for.
 */
export const HEADER = {
  version: 'holdfast-version',
  oldestVersion: 'holdfast-oldest-version',
  cluster: 'holdfast-cluster',
  from: 'holdfast-from',
  to: 'holdfast-to',
} as const;

const id = z.string().regex(/^[0-9a-f]{32}$/);
const text = z.string().min(1).max(256);
const bytes = z.number().int().min(0);
const sizeBytes = z.number().int().min(1).max(MAX_VOLUME_BYTES);
const versions = z.object({ min: z.number().int(), max: z.number().int() });
const nothing = z.object({});

const replicaSpec = z.object({
  volumeId: id,
  volumeName: text,
  replicaId: id,
  pool: text,
  sizeBytes,
  lineage: text,
  epoch: z.number().int().positive(),
  durability: durabilitySchema,
  failureMode: z.string(),
});

const replica = z.object({
  pool: z.string(),
  /** null: its superblock cannot be read. */
  replicaId: z.string().nullable(),
  lineage: z.string().nullable(),
  sizeBytes: bytes.nullable(),
  promisedEpoch: z.number().int().nullable(),
  allocatedBytes: bytes,
  isOpen: z.boolean(),
  problem: z.string().nullable(),
});

const inSyncMember = z.object({
  replicaId: z.string(),
  incarnation: z.string().nullable(),
  node: z.string(),
});

/** All of it but the wrapped key. */
const superblock = z.object({
  volumeId: id,
  volumeName: text,
  replicaId: z.string(),
  sizeBytes,
  lineage: z.string(),
  promisedEpoch: z.number().int(),
  incarnation: z.string(),
  lastInSyncIncarnation: z.string().nullable(),
  earlierIncarnations: z.array(z.string()).readonly(),
  bootId: z.string().nullable(),
  earlierBootIds: z.array(z.string()).readonly(),
  storedBootId: z.string().nullable(),
  cleanMark: z.object({ epoch: z.number().int() }).nullable(),
  inSync: z.object({ epoch: z.number().int(), members: z.array(inSyncMember) }),
  attachmentNumber: z.number().int(),
  durability: durabilitySchema,
  failureMode: z.string(),
  fileSystemMade: z.string().nullable(),
});

const replicaState = z.object({
  replicaId: z.string(),
  state: z.string(),
  incarnation: z.string(),
  epoch: z.number().int(),
  isActive: z.boolean(),
  mayReply: z.boolean(),
  hasFailed: z.boolean(),
  others: z.array(
    z.object({
      replicaId: z.string(),
      role: z.string(),
      isConnected: z.boolean(),
      resyncBytesLeft: bytes.nullable(),
      resyncBytesSent: bytes,
      isWaitingForTurn: z.boolean().default(false),
      departureCount: z.number().int().default(0),
      heldOutMs: z.number().default(0),
    }),
  ),
});

const timelineEntry = z.object({
  at: z.iso.datetime(),
  /** One word, and what goes with it for people (timeline.ts). */
  what: z.string(),
  text: z.string(),
});

export const METHODS = {
  hello: {
    request: nothing,
    response: z.object({
      node: z.string(),
      nodeId: z.string(),
      process: z.string(),
      bootId: z.string(),
      softwareVersion: z.string(),
      control: versions,
    }),
  },
  pools: {
    request: nothing,
    response: z.object({
      pools: z.array(
        z.object({
          name: z.string(),
          directory: z.string(),
          ioMode: z.enum(['direct', 'buffered']),
          totalBytes: bytes,
          availableBytes: bytes,
          reserveBytes: bytes,
          provisionedBytes: bytes,
          overcommitRatio: z.number(),
        }),
      ),
      closed: z.array(z.object({ name: z.string(), directory: z.string(), problem: z.string() })),
    }),
  },
  /** Answers with the incarnation that the copy was made with. */
  createReplica: { request: replicaSpec, response: z.object({ incarnation: id }) },
  deleteReplica: { request: z.object({ volumeId: id, replicaId: id, pool: text }), response: nothing },
  describeReplica: {
    request: z.object({ volumeId: id }),
    response: z.object({ replica: replica.nullable() }),
  },
  /** Every copy of the node's open pools, some at a time: `next` is the `after` of the next call; null: that was all. */
  listReplicas: {
    request: z.object({ after: z.string() }),
    response: z.object({
      copies: z.array(
        z.object({
          pool: z.string(),
          volumeId: z.string(),
          /** null: it cannot be read. */
          superblock: superblock.nullable(),
          problem: z.string().nullable(),
        }),
      ),
      next: z.string().nullable(),
    }),
  },
  /** Whether anything was written to the volume and not trimmed since, by a copy that is in sync. */
  hasData: {
    request: z.object({ volumeId: id, replicaId: id }),
    response: z.object({ hasData: z.boolean() }),
  },
  growReplica: { request: z.object({ volumeId: id, replicaId: id, sizeBytes }), response: nothing },
  /** As ClusterStorage.replicaView. */
  replicaState: {
    request: z.object({ volumeId: id }),
    response: z.object({ replica: replicaState.nullable() }),
  },
  /** The primary here gives its place to this one. False: not now. */
  handOver: {
    request: z.object({ volumeId: id, toReplicaId: id }),
    response: z.object({ isUnderWay: z.boolean() }),
  },
  /** The primary here takes this copy up, which it holds out. False: it does not hold it out. */
  readmit: {
    request: z.object({ volumeId: id, replicaId: id }),
    response: z.object({ wasHeldOut: z.boolean() }),
  },
  /** What this daemon saw of the volume's replication, the oldest first. */
  timeline: {
    request: z.object({ volumeId: id }),
    response: z.object({ entries: z.array(timelineEntry) }),
  },
} as const;

export type Method = keyof typeof METHODS;
export type ControlRequest<M extends Method> = z.output<(typeof METHODS)[M]['request']>;
export type ControlResponse<M extends Method> = z.output<(typeof METHODS)[M]['response']>;
/** Throw HoldfastError for everything a caller can be told. */
export type ControlHandlers = {
  readonly [M in Method]: (request: ControlRequest<M>) => Promise<ControlResponse<M>>;
};

export function isMethod(name: string): name is Method {
  return Object.hasOwn(METHODS, name);
}

/** A message has some hundred bytes; a node has few pools. */
export const MAX_MESSAGE_BYTES = 256 * 1024;

const CODES: Readonly<Record<ErrorCode, true>> = {
  INVALID: true,
  NOT_FOUND: true,
  ALREADY_EXISTS: true,
  CONFLICT: true,
  BUSY: true,
  NO_SPACE: true,
  OUT_OF_RANGE: true,
  LIMIT: true,
  UNSUPPORTED: true,
  UNAVAILABLE: true,
  TIMEOUT: true,
  CORRUPT: true,
  IO: true,
  INTERNAL: true,
};

/** What a call that failed answers. */
export const failureSchema = z.object({
  code: z.enum(Object.keys(CODES) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  details: z.record(z.string(), z.unknown()),
});

/** INVALID that names the fields, or the message. */
export function checked<S extends z.ZodType>(schema: S, json: string): z.output<S> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new HoldfastError('INVALID', 'the message is not JSON', { cause: error });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const reasons = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
  throw new HoldfastError('INVALID', `the message cannot be understood: ${reasons}`);
}
