// A volume's configuration as the replication protocol sees it, and every change of it that a replica may
// propose. The store holds it and changes it by compare-and-swap only; the functions here are pure: from one
// configuration to the next one, or to a refusal.
//
// Invariant: the epoch rises by one at every change of primary, opening, in-sync set, attachment or durability,
// and at nothing else.

import { invariant } from '../core/invariant.ts';
import type { Durability, Superblock } from './layout/superblock.ts';
import { type BrokenRules, NOTHING_BROKEN } from './rules.ts';

/** 'hard': all copies wanted; 'soft': one may be missing; a number: that many beside the primary; 'alwayson': one is enough. */
export type FailureMode = 'hard' | 'soft' | 'alwayson' | number;

export interface MemberConfig {
  readonly replicaId: string;
  /** null: the replica has not been opened yet; it takes the incarnation of its first opening. */
  readonly incarnation: string | null;
}

export interface ReplicaConfig {
  readonly id: string;
  readonly node: string;
  /** It lacks what was written since: the epoch that dropped it, or an earlier one. null: never dropped. */
  readonly outSince: number | null;
  /** Its data is no base for a delta: never in sync, another lineage, or a disk that failed. */
  readonly needsFullCopy: boolean;
  /** The boot of its machine that the store knows: recorded before the replica acknowledges anything in it. */
  readonly bootId: string | null;
  /** What it said of itself at its last opening, when it could not stay the member that the set names. */
  readonly report: RebootReport | null;
}

/** A member that came back from a reboot without a clean stop. */
export interface RebootReport {
  readonly incarnation: string;
  /** The incarnation that was last in sync, when this one descends from it by reboots alone. */
  readonly descendsFrom: string | null;
}

export interface VolumeConfig {
  readonly volumeId: string;
  readonly sizeBytes: number;
  /** New only when a person forces a promotion. */
  readonly lineage: string;
  readonly epoch: number;
  /** `opening` null: the volume has not been opened since that replica became primary. */
  readonly primary: { readonly replicaId: string; readonly opening: string | null };
  /** Never empty; the primary is one of them. */
  readonly inSync: readonly MemberConfig[];
  readonly replicas: readonly ReplicaConfig[];
  readonly attachment: { readonly number: number; readonly node: string | null };
  readonly durability: Durability;
  readonly failureMode: FailureMode;
}

/** A configuration as the store holds it. Equal revisions mean equal configurations. */
export interface StoredConfig {
  readonly config: VolumeConfig;
  readonly revision: number;
}

/** The in-sync set as a superblock keeps it, so that the store could be rebuilt from the disks. */
export function knownSet(config: VolumeConfig): Superblock['inSync'] {
  const members = config.inSync.map((member) => ({
    ...member,
    node: config.replicas.find(({ id }) => id === member.replicaId)?.node ?? '',
  }));
  return { epoch: config.epoch, members };
}

/** It has never been in sync: nobody counts on it before it has been filled. */
export function isNewcomer({ needsFullCopy, outSince }: ReplicaConfig): boolean {
  return needsFullCopy && outSince === null;
}

/** How many copies must be in sync for requests to be served. */
export function minimumInSync(config: VolumeConfig): number {
  const wanted = config.replicas.filter((replica) => !isNewcomer(replica)).length;
  const { failureMode } = config;
  if (failureMode === 'hard') return wanted;
  if (failureMode === 'alwayson') return 1;
  const asked = failureMode === 'soft' ? wanted - 1 : failureMode + 1;
  return Math.max(1, Math.min(asked, wanted));
}

export function memberOf(config: VolumeConfig, replicaId: string): MemberConfig | undefined {
  return config.inSync.find((member) => member.replicaId === replicaId);
}

export function replicaOf(config: VolumeConfig, replicaId: string): ReplicaConfig {
  const replica = config.replicas.find(({ id }) => id === replicaId);
  invariant(replica !== undefined, 'a member is one of the replicas');
  return replica;
}

/** The set names this very incarnation (a replica that was never opened takes the place kept for it). */
export function isMember(config: VolumeConfig, replicaId: string, incarnation: string): boolean {
  const member = memberOf(config, replicaId);
  return member !== undefined && (member.incarnation === null || member.incarnation === incarnation);
}

/** Without these members the set would still meet the failure mode's minimum, and the primary stays. */
export function canDrop(config: VolumeConfig, replicaIds: readonly string[]): boolean {
  return (
    !replicaIds.includes(config.primary.replicaId) &&
    config.inSync.length - replicaIds.length >= minimumInSync(config)
  );
}

/** `lacking`: those that lack writes of an earlier epoch than the one that drops them. */
function without(
  config: VolumeConfig,
  replicaIds: readonly string[],
  epoch: number,
  lacking: ReadonlyMap<string, number> = new Map(),
) {
  const inSync = config.inSync.filter(({ replicaId }) => !replicaIds.includes(replicaId));
  invariant(inSync.length > 0, 'an in-sync set is never empty');
  const replicas = config.replicas.map((replica) =>
    replicaIds.includes(replica.id) && memberOf(config, replica.id) !== undefined
      ? { ...replica, outSince: Math.min(epoch, lacking.get(replica.id) ?? epoch) }
      : replica,
  );
  return { inSync, replicas };
}

/** The primary goes on without some members. */
export function dropMembers(
  config: VolumeConfig,
  replicaIds: readonly string[],
  lacking?: ReadonlyMap<string, number>,
): VolumeConfig {
  const epoch = config.epoch + 1;
  return { ...config, epoch, ...without(config, replicaIds, epoch, lacking) };
}

/** A replica that has caught up joins; `insteadOf` leaves in the same step. */
export function addMember(
  config: VolumeConfig,
  member: MemberConfig,
  insteadOf: readonly string[] = [],
  lacking?: ReadonlyMap<string, number>,
): VolumeConfig {
  const epoch = config.epoch + 1;
  // A member that was lost and has caught up takes its own place.
  const left = without(config, [...insteadOf, member.replicaId], epoch, lacking);
  return {
    ...config,
    epoch,
    inSync: [...left.inSync, member],
    replicas: left.replicas.map((replica) =>
      replica.id === member.replicaId
        ? { ...replica, outSince: null, needsFullCopy: false, report: null }
        : replica,
    ),
  };
}

export interface Opener {
  readonly replicaId: string;
  readonly incarnation: string;
  readonly opening: string;
  readonly bootId: string;
}

/** The primary's replica is opened by a new process, which serves from then on. */
export function openPrimary(config: VolumeConfig, by: Opener): VolumeConfig {
  return withPrimary({ ...config, epoch: config.epoch + 1 }, by);
}

/**
 * A secondary takes over. The old primary leaves the set, unless that would go below the minimum: then it
 * stays named, and requests wait for it or for a replacement.
 */
export function promote(config: VolumeConfig, by: Opener): VolumeConfig {
  const epoch = config.epoch + 1;
  const old = config.primary.replicaId;
  const isDroppable = config.inSync.length - 1 >= minimumInSync(config);
  const left = isDroppable && old !== by.replicaId ? without(config, [old], epoch) : {};
  return withPrimary({ ...config, epoch, ...left }, by);
}

/** The primary gives its place to a secondary whose process is `opening`; `leaves`: its own copy failed. */
export function handOver(config: VolumeConfig, to: string, opening: string, leaves: boolean): VolumeConfig {
  const epoch = config.epoch + 1;
  const left = leaves ? without(config, [config.primary.replicaId], epoch) : {};
  return { ...config, epoch, ...left, primary: { replicaId: to, opening } };
}

function withPrimary(config: VolumeConfig, by: Opener): VolumeConfig {
  return {
    ...config,
    primary: { replicaId: by.replicaId, opening: by.opening },
    inSync: config.inSync.map((member) =>
      member.replicaId === by.replicaId ? { ...member, incarnation: by.incarnation } : member,
    ),
    replicas: config.replicas.map((replica) =>
      replica.id === by.replicaId ? { ...replica, bootId: by.bootId, report: null } : replica,
    ),
  };
}

/** A replica says which boot it is in, and, if it lost its place by a reboot, who it has become. Not a new epoch. */
export function reportBoot(
  config: VolumeConfig,
  replicaId: string,
  bootId: string,
  report: RebootReport | null,
): VolumeConfig {
  return {
    ...config,
    replicas: config.replicas.map((replica) =>
      replica.id === replicaId ? { ...replica, bootId, report } : replica,
    ),
  };
}

/**
 * All machines of the last in-sync set went down. Whether this replica may take over: every member has itself
 * reported a reboot, and this one's copy descends from the named one by reboots alone.
 */
export function mayReviveAfterReboot(
  config: VolumeConfig,
  replicaId: string,
  needsEveryReport = true,
): boolean {
  const own = memberOf(config, replicaId);
  if (own === undefined || own.incarnation === null) return false;
  if (replicaOf(config, replicaId).report?.descendsFrom !== own.incarnation) return false;
  return (
    !needsEveryReport || config.inSync.every(({ replicaId: id }) => replicaOf(config, id).report !== null)
  );
}

/**
 * The set shrinks to the one that revives it. In writeback what was not flushed may be gone: the attachment is revoked and
 * the node that uses the volume has to begin anew, unless a member there was the named copy when its machine went
 * down: so did whatever used the volume there.
 */
export function reviveAfterReboot(
  config: VolumeConfig,
  by: Opener,
  broken: BrokenRules = NOTHING_BROKEN,
): VolumeConfig {
  const epoch = config.epoch + 1;
  const others = config.inSync.map(({ replicaId }) => replicaId).filter((id) => id !== by.replicaId);
  const { number, node } = config.attachment;
  const isUserGone = config.inSync.some(({ replicaId, incarnation }) => {
    const { node: host, report } = replicaOf(config, replicaId);
    // Only a copy that was the named one when its machine went down says that it did; an image that was put back does not.
    const hasRebooted = report !== null && report.descendsFrom === incarnation;
    return host === node && (hasRebooted || (report !== null && broken.putBackIsNoReboot));
  });
  const isRevoked = config.durability === 'writeback' && !isUserGone && !broken.revivalRevokesAttachment;
  return withPrimary(
    {
      ...config,
      epoch,
      ...without(config, others, epoch),
      attachment: isRevoked ? { number: number + 1, node } : config.attachment,
    },
    by,
  );
}

/**
 * A person's decision, when no copy that has everything can come back: the bytes of this one are the volume from here on,
 * under a new lineage, and what it lacks is lost. Whoever decides has made sure that no other copy serves any more. The
 * others are not named: they keep their bytes, and are filled in full if they are taken up again. The attachment is
 * revoked: what uses the volume has seen writes that are gone.
 */
export function forcePromotion(
  config: VolumeConfig,
  { id, node }: { readonly id: string; readonly node: string },
  lineage: string,
  revokes = true,
): VolumeConfig {
  invariant(lineage !== config.lineage, 'a forced promotion begins a new lineage');
  const known = config.replicas.find((replica) => replica.id === id);
  return {
    ...config,
    lineage,
    epoch: config.epoch + 1,
    primary: { replicaId: id, opening: null },
    inSync: [{ replicaId: id, incarnation: null }],
    replicas: [
      { id, node, outSince: null, needsFullCopy: false, bootId: known?.bootId ?? null, report: null },
    ],
    attachment: revokes ? { number: config.attachment.number + 1, node: null } : config.attachment,
  };
}

/** The volume moves to another node, or to none: everything of the attachments before is refused from here on. */
export function attach(config: VolumeConfig, node: string | null): VolumeConfig {
  return {
    ...config,
    epoch: config.epoch + 1,
    attachment: { number: config.attachment.number + 1, node },
  };
}
