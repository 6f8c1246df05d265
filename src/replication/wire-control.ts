// Control messages as bytes: UTF-8 JSON, but stamps, of which a resync sends many:
//
//   offset size field   STAMPS, little endian
//   0      4    extent
//   4      256  stamps  64 × u32
//
// A Hello's JSON also holds `wireVersion` {min, max}: what its sender speaks; it is read before anything else of
// the message is believed. A Welcome's holds `wireVersion`: the one chosen. `hotExtents` travels as runs.
//
// Decoding returns a message that satisfies its type and what the core asserts of a configuration, or throws
// CORRUPT: a peer's message ends the link, never the process.

import { HoldfastError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import { GENERATION_BLOCKS_PER_EXTENT, MAX_VOLUME_BYTES } from '../core/units.ts';
import type { FailureMode, MemberConfig, ReplicaConfig, VolumeConfig } from './config.ts';
import * as frames from './frames.ts';
import { MAX_IN_SYNC_MEMBERS } from './layout/superblock.ts';
import { WINDOW_ENTRY_COUNT } from './layout/window.ts';
import { type VersionRange, WIRE_VERSIONS } from './wire.ts';
import { type Check, flag, list, oneOf, orNull, record, refuse, text, whole } from './wire-checks.ts';
import { hotExtents, MAX_EXTENTS, runsOf } from './wire-extents.ts';
import { MAX_CONTROL_BYTES } from './wire-types.ts';

const MAX_U32 = 0xffff_ffff;
const STAMPS_BYTES = 4 + 4 * GENERATION_BLOCKS_PER_EXTENT;
/** Several times what a window holds. */
const MAX_SUSPECTS = 8192;
/** Those that are wanted, and some that are being replaced. */
const MAX_REPLICAS = 32;

// ---- the messages

const id = text(63);
const node = text(255);
const count = whole(0, Number.MAX_SAFE_INTEGER);
const epoch = whole(0, MAX_U32);
const version = whole(1, 255);

const memberConfig = record<MemberConfig>({ replicaId: id, incarnation: orNull(id) });

const replicaConfig = record<ReplicaConfig>({
  id,
  node,
  outSince: orNull(epoch),
  needsFullCopy: flag,
  bootId: orNull(id),
  report: orNull(record({ incarnation: id, descendsFrom: orNull(id) })),
});

const replicasBeside = whole(0, MAX_IN_SYNC_MEMBERS - 1);
const failureWord = oneOf('hard', 'soft', 'alwayson');
const failureMode: Check<FailureMode> = (value, where) =>
  typeof value === 'number' ? replicasBeside(value, where) : failureWord(value, where);

const configFields = record<VolumeConfig>({
  volumeId: id,
  sizeBytes: whole(1, MAX_VOLUME_BYTES),
  lineage: id,
  epoch,
  primary: record({ replicaId: id, opening: orNull(id) }),
  inSync: list(memberConfig, MAX_IN_SYNC_MEMBERS),
  replicas: list(replicaConfig, MAX_REPLICAS),
  attachment: record({ number: count, node: orNull(node) }),
  durability: oneOf('writeback', 'writethrough'),
  failureMode,
});

const config: Check<VolumeConfig> = (value, where) => {
  const checked = configFields(value, where);
  const replicaIds = new Set(checked.replicas.map((replica) => replica.id));
  const memberIds = new Set(checked.inSync.map((member) => member.replicaId));
  if (replicaIds.size < checked.replicas.length) refuse(`${where}.replicas`, value, 'free of repetitions');
  if (memberIds.size < checked.inSync.length) refuse(`${where}.inSync`, value, 'free of repetitions');
  if (![...memberIds].every((member) => replicaIds.has(member))) {
    refuse(`${where}.inSync`, value, 'a list of its replicas');
  }
  if (!memberIds.has(checked.primary.replicaId)) refuse(`${where}.primary`, value, 'one of its in-sync set');
  return checked;
};

const role = oneOf('member', 'joining');

const streamHello = record<frames.StreamHello>({
  kind: oneOf('stream'),
  volumeId: id,
  config,
  revision: count,
  replicaId: id,
  stream: count,
  watermark: count,
  role,
});

const sessionHello = record<frames.SessionHello>({
  kind: oneOf('session'),
  volumeId: id,
  node,
  attachment: count,
  session: count,
  epoch,
});

const suspects = list(suspectRange, MAX_SUSPECTS);

const streamWelcome = record<frames.StreamWelcome>({
  kind: oneOf('stream'),
  incarnation: id,
  opening: id,
  bootId: id,
  lastInSyncEpoch: epoch,
  suspects: (value, where) => (value === 'hot' ? value : suspects(value, where)),
  hotExtents,
  isDeltaBase: flag,
});

const sessionWelcome = record<frames.SessionWelcome>({
  kind: oneOf('session'),
  epoch,
  // An older peer does not say.
  opening: (value, where) => orNull(id)(value ?? null, where),
  sizeBytes: whole(1, MAX_VOLUME_BYTES),
});

const refused = record<frames.Refused>({
  reason: oneOf('epoch', 'notPrimary', 'number', 'lineage', 'revoked', 'busy', 'failed', 'size', 'stopping'),
  epoch,
});

const promoteMessage = record<frames.PromoteMessage>({ config, revision: count });
const movedMessage = record<frames.MovedMessage>({ epoch });

const range = record<frames.SuspectRange>({
  offsetBytes: whole(0, MAX_VOLUME_BYTES),
  lengthBytes: whole(1, MAX_VOLUME_BYTES),
});

function suspectRange(value: unknown, where: string): frames.SuspectRange {
  const checked = range(value, where);
  if (checked.offsetBytes + checked.lengthBytes <= MAX_VOLUME_BYTES) return checked;
  return refuse(where, value, 'within the largest volume');
}

const sequenceOf = record({ sequence: count });
const unsettledWrites = list<frames.UnsettledWrite>(
  (value, where) => ({ ...suspectRange(value, where), ...sequenceOf(value, where) }),
  WINDOW_ENTRY_COUNT,
);

const epochMessage = record<frames.EpochMessage>({
  config,
  revision: count,
  role,
  // An older peer tells of none.
  unsettled: (value, where) => unsettledWrites(value ?? [], where),
});

/** Either kind of a message: `kind` says which. */
function byKind<S, T>(stream: Check<S>, session: Check<T>): Check<S | T> {
  const kindOf = record({ kind: oneOf('stream', 'session') });
  return (value, where) => (kindOf(value, where).kind === 'stream' ? stream : session)(value, where);
}

const CHECKS = new Map<number, Check<frames.ControlMessage>>([
  [frames.FRAME_HELLO, byKind(streamHello, sessionHello)],
  [frames.FRAME_WELCOME, byKind(streamWelcome, sessionWelcome)],
  [frames.FRAME_REFUSED, refused],
  [frames.FRAME_EPOCH, epochMessage],
  [frames.FRAME_PROMOTE, promoteMessage],
  [frames.FRAME_MOVED, movedMessage],
]);

// ---- bytes

/** `agreed`: the version a Welcome says, `ours`: those a Hello offers; of no meaning for other messages. */
export function encodeControl(
  type: number,
  message: frames.ControlMessage,
  agreed: number,
  ours: VersionRange = WIRE_VERSIONS,
): Uint8Array {
  if ('stamps' in message) return encodeStamps(message);
  const json: Record<string, unknown> = { ...message };
  if (type === frames.FRAME_HELLO) json.wireVersion = ours;
  if (type === frames.FRAME_WELCOME) json.wireVersion = agreed;
  if ('hotExtents' in message) json.hotExtents = runsOf(message.hotExtents);
  const bytes = new TextEncoder().encode(JSON.stringify(json));
  invariant(bytes.length <= MAX_CONTROL_BYTES, 'a control message fits its limit');
  return bytes;
}

/** The message of a frame of this type. Throws CORRUPT for anything else. */
export function decodeControl(type: number, bytes: Uint8Array): frames.ControlMessage {
  if (type === frames.FRAME_STAMPS) return decodeStamps(bytes);
  const check = CHECKS.get(type);
  invariant(check !== undefined, 'a frame of this type carries a message');
  return check(parse(bytes), 'message');
}

const helloVersionFields = record({ wireVersion: record<VersionRange>({ min: version, max: version }) });
const welcomeVersionField = record({ wireVersion: version });

/** What the sender of a Hello speaks, however little of the rest can be understood. */
export function helloVersions(bytes: Uint8Array): VersionRange {
  return helloVersionFields(parse(bytes), 'message').wireVersion;
}

/** What a Welcome has chosen: one of those that the Hello offered. */
export function welcomeVersion(bytes: Uint8Array, offered: VersionRange = WIRE_VERSIONS): number {
  const { wireVersion } = welcomeVersionField(parse(bytes), 'message');
  if (wireVersion >= offered.min && wireVersion <= offered.max) return wireVersion;
  return refuse('message.wireVersion', wireVersion, `one of the offered ${offered.min} to ${offered.max}`);
}

function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new HoldfastError('CORRUPT', "a peer's message is not JSON in UTF-8: check what answers there", {
      cause,
    });
  }
}

function encodeStamps({ extent, stamps }: frames.StampsMessage): Uint8Array {
  invariant(stamps.length === GENERATION_BLOCKS_PER_EXTENT, 'an extent has one stamp for each block');
  const view = new DataView(new ArrayBuffer(STAMPS_BYTES));
  view.setUint32(0, extent, true);
  stamps.forEach((stamp, index) => view.setUint32(4 + 4 * index, stamp, true));
  return new Uint8Array(view.buffer);
}

function decodeStamps(bytes: Uint8Array): frames.StampsMessage {
  if (bytes.length !== STAMPS_BYTES) refuse('stamps', bytes, `${STAMPS_BYTES} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const extent = view.getUint32(0, true);
  if (extent >= MAX_EXTENTS) refuse('stamps.extent', extent, 'within the largest volume');
  const stamps = Array.from({ length: GENERATION_BLOCKS_PER_EXTENT }, (_, index) =>
    view.getUint32(4 + 4 * index, true),
  );
  return { extent, stamps };
}
