// What the store's records of volumes are to be, by the superblocks of all nodes' disks alone: for a store that is lost.
// Pure.
//
// In sync is what the newest in-sync set on any disk proves, and nothing else. A set is durable on each of its members
// before anything is acknowledged under it: so where every member of the newest set was read, and none of them knows a
// newer one, there is none, and its members hold every acknowledged write. Otherwise a copy that was not read may have
// gone on alone: nobody serves the volume before it was read by another plan, or a person has decided.
//
// No disk can tell of a copy that none of those read ever heard of: whoever calls this must have asked every node.
//
// Promises: a record's epoch and attachment number are above all that were found; no copy is in sync that is not in the
// newest set; what is not in sync is filled in full. The order of what was found makes no difference.

import type { Superblock } from '../replication/layout/superblock.ts';
import {
  failureModeSchema,
  fileSystemTypeSchema,
  newReplica,
  type ReplicaRecord,
  UNDECIDED,
  type VolumeRecord,
} from './records.ts';

export interface FoundCopy {
  readonly node: string;
  readonly pool: string;
  readonly superblock: Omit<Superblock, 'wrappedKey'>;
  /** Why it must not be served: its disk failed. */
  readonly problem: string | null;
}

/** inSync: it serves as soon as its copies are open. waits: nobody serves it before something has happened. */
export interface PlannedVolume {
  readonly record: VolumeRecord;
  readonly verdict: 'inSync' | 'waitsForNode' | 'waitsForPerson';
  /** What the verdict comes from, and the next step. */
  readonly reason: string;
  /** What else a person should know. */
  readonly notes: readonly string[];
}

type Member = Superblock['inSync']['members'][number];

/** The in-sync set that counts, and what was found of it. */
interface NewestSet {
  readonly epoch: number;
  readonly members: readonly Member[];
  readonly lineage: string;
  /** Why it proves nothing. */
  readonly doubt: string | undefined;
}

/** `found`: all copies of all nodes. */
export function planCatalog(found: readonly FoundCopy[]): PlannedVolume[] {
  const byVolume = Map.groupBy(found, ({ superblock }) => superblock.volumeId);
  const planned = [...byVolume.keys()].sort().map((id) => planVolume(byVolume.get(id) ?? []));
  return withOwnNames(planned);
}

function planVolume(found: readonly FoundCopy[]): PlannedVolume {
  const ordered = found.toSorted(byWorth);
  const { copies, notes } = onePerNode(ordered);
  const [best] = copies;
  if (best === undefined) throw new RangeError('a volume is planned by its copies');
  const set = newestSet(ordered);
  const members = set.members.map((member) => ({
    member,
    copy: copies.find(({ superblock }) => superblock.replicaId === member.replicaId),
  }));
  const missing = members.filter(({ copy }) => copy === undefined).map(({ member }) => member);
  const [first] = missing;
  if (set.doubt !== undefined || missing.length > 1)
    return waitsForPerson(ordered, copies, set, notes, missing);
  if (first !== undefined) return waitsForNode(ordered, copies, set, first, notes);
  return proven(ordered, copies, set, notes);
}

// ---- what was found

/** The most advanced first; among equals by what they are called, so that any order gives the same. */
function byWorth(one: FoundCopy, other: FoundCopy): number {
  return (
    other.superblock.inSync.epoch - one.superblock.inSync.epoch ||
    Number(one.problem !== null) - Number(other.problem !== null) ||
    other.superblock.promisedEpoch - one.superblock.promisedEpoch ||
    Number(one.superblock.cleanMark === null) - Number(other.superblock.cleanMark === null) ||
    compare(one.node, other.node) ||
    compare(one.pool, other.pool)
  );
}

function compare(one: string, other: string): number {
  return one < other ? -1 : Number(one > other);
}

/** A node has one copy of a volume; another one in another of its pools is left as it is. */
function onePerNode(ordered: readonly FoundCopy[]): { copies: FoundCopy[]; notes: string[] } {
  const copies: FoundCopy[] = [];
  const notes: string[] = [];
  for (const copy of ordered) {
    const isSecond = copies.some(({ node }) => node === copy.node);
    const isTwin = copies.some(({ superblock }) => superblock.replicaId === copy.superblock.replicaId);
    if (isSecond || isTwin)
      notes.push(
        `the copy in pool "${copy.pool}" of node "${copy.node}" is an older one and is not used: it stays as it is`,
      );
    else copies.push(copy);
  }
  return { copies, notes };
}

function newestSet(ordered: readonly FoundCopy[]): NewestSet {
  const superblocks = ordered.map(({ superblock }) => superblock);
  const epoch = Math.max(...superblocks.map(({ inSync }) => inSync.epoch));
  const holders = superblocks.filter(({ inSync }) => inSync.epoch === epoch);
  const [holder] = holders;
  const { members } = holder?.inSync ?? { members: [] };
  const lineage = holder?.lineage ?? '';
  const promised = Math.max(...superblocks.map(({ promisedEpoch }) => promisedEpoch));
  const doubt = ((): string | undefined => {
    if (epoch === 0 || members.length === 0) return 'no copy that was found has ever been in sync';
    if (holders.some((other) => setText(other) !== setText(holders[0])))
      return `two copies tell different in-sync sets of the same epoch ${epoch}`;
    if (promised > epoch)
      return `a copy has promised epoch ${promised}, and the newest in-sync set that was found is of epoch ${epoch}`;
    return undefined;
  })();
  return { epoch, members, lineage, doubt };
}

function setText(superblock: FoundCopy['superblock'] | undefined): string {
  const members = superblock?.inSync.members.map(({ replicaId, incarnation }) => [replicaId, incarnation]);
  return JSON.stringify([superblock?.lineage, members?.toSorted((a, b) => compare(String(a), String(b)))]);
}

// ---- verdicts

function proven(
  all: readonly FoundCopy[],
  copies: readonly FoundCopy[],
  set: NewestSet,
  notes: readonly string[],
): PlannedVolume {
  const named = copies.filter(({ superblock }) => memberOf(set, superblock.replicaId) !== undefined);
  const same = named.filter(({ superblock }) => {
    const { incarnation } = memberOf(set, superblock.replicaId) ?? { incarnation: '' };
    return incarnation === null || incarnation === superblock.incarnation;
  });
  // All of them were rebooted, and none was taken for in sync again: they find out together, as without a rebuild.
  const counted = same.length > 0 ? same : named;
  const inSync = counted.map(({ superblock }) => ({
    replicaId: superblock.replicaId,
    incarnation: memberOf(set, superblock.replicaId)?.incarnation ?? superblock.incarnation,
  }));
  const sizeBytes = Math.min(...counted.map(({ superblock }) => superblock.sizeBytes));
  const nodes = counted.map(({ node }) => `"${node}"`).sort();
  return {
    record: recordOf(all, copies, { set, inSync, primary: inSync[0]?.replicaId ?? '', sizeBytes }),
    verdict: 'inSync',
    reason: `every copy of the newest in-sync set (epoch ${set.epoch}) was found; in sync: ${nodes.join(', ')}`,
    notes,
  };
}

/**
 * One member was not found: it has gone on since if anybody has. Whether it still holds everything its own disk tells,
 * and nothing else: others may have joined it and gone on without it. So nobody serves before another plan has read it.
 * (Its epoch proves nothing later: every attachment raises that of the record.)
 */
function waitsForNode(
  all: readonly FoundCopy[],
  copies: readonly FoundCopy[],
  set: NewestSet,
  missing: Member,
  notes: readonly string[],
): PlannedVolume {
  const pool = copies[0]?.pool ?? '';
  const replicas = [newReplica(missing.replicaId, missing.node, pool)];
  const inSync = [{ replicaId: missing.replicaId, incarnation: UNDECIDED }];
  const sizeBytes = largestOf(copies);
  // In its place on that node there may be a copy of another time.
  const others = copies.filter(({ node }) => node !== missing.node);
  const unused = copies
    .filter(({ node }) => node === missing.node)
    .map(({ node, pool }) => `the copy in pool "${pool}" of node "${node}" is another one, and is not used`);
  return {
    record: recordOf(all, others, { set, inSync, primary: missing.replicaId, sizeBytes, replicas }),
    verdict: 'waitsForNode',
    reason:
      `the copy on node "${missing.node}" was in sync last (epoch ${set.epoch}) and was not found; it may have gone on ` +
      'alone: bring that node back with its disks, and repeat this command. If that copy is lost for good, ' +
      `${decide(others)}. If the volume had been deleted, delete it again`,
    notes: [...notes, ...unused],
  };
}

function waitsForPerson(
  all: readonly FoundCopy[],
  copies: readonly FoundCopy[],
  set: NewestSet,
  notes: readonly string[],
  missing: readonly Member[],
): PlannedVolume {
  const primary = copies[0]?.superblock.replicaId ?? '';
  const inSync = [{ replicaId: primary, incarnation: UNDECIDED }];
  const nodes = missing.map(({ node }) => `"${node}"`).sort();
  const why =
    set.doubt ??
    `${nodes.length} copies of the newest in-sync set were not found, on nodes ${nodes.join(', ')}`;
  return {
    record: recordOf(all, copies, { set, inSync, primary, sizeBytes: largestOf(copies) }),
    verdict: 'waitsForPerson',
    reason:
      `${why}: nobody can tell from the disks which copy holds everything. Nothing is served; ` +
      decide(copies),
    notes,
  };
}

function decide(copies: readonly FoundCopy[]): string {
  const nodes = copies.map(({ node, superblock }) => `"${node}" (epoch ${superblock.promisedEpoch})`);
  const [first] = copies;
  if (first === undefined) return 'delete the volume';
  return (
    'decide which copy the volume is to go on with, knowing that writes may be lost: "holdfast volume promote ' +
    `${first.superblock.volumeId} NODE --lose-writes", NODE being one of ${nodes.join(', ')}`
  );
}

function memberOf({ members }: NewestSet, replicaId: string): Member | undefined {
  return members.find((member) => member.replicaId === replicaId);
}

function largestOf(copies: readonly FoundCopy[]): number {
  return Math.max(...copies.map(({ superblock }) => superblock.sizeBytes));
}

// ---- the record

/** `all`: also those that are not used: what they have seen is passed over all the same. */
function recordOf(
  all: readonly FoundCopy[],
  copies: readonly FoundCopy[],
  decided: {
    readonly set: NewestSet;
    readonly inSync: VolumeRecord['inSync'];
    readonly primary: string;
    readonly sizeBytes: number;
    readonly replicas?: readonly ReplicaRecord[];
  },
): VolumeRecord {
  const { set, inSync, primary, sizeBytes, replicas = [] } = decided;
  const superblocks = all.map(({ superblock }) => superblock);
  const [best] = superblocks;
  if (best === undefined) throw new RangeError('a record is made of copies');
  const epochs = superblocks.map((one) => Math.max(one.promisedEpoch, one.inSync.epoch));
  const epoch = Math.max(...epochs) + 1;
  return {
    version: 2,
    id: best.volumeId,
    name: best.volumeName,
    state: 'ready',
    coordinator: null,
    sizeBytes,
    targetSizeBytes: sizeBytes,
    lineage: set.lineage,
    epoch,
    primary: { replicaId: primary, opening: null },
    inSync,
    replicas: [...replicas, ...copies.map((copy) => replicaOf(copy, set, inSync, epoch))],
    attachment: {
      number: Math.max(...superblocks.map(({ attachmentNumber }) => attachmentNumber)) + 1,
      node: null,
      readOnly: false,
      use: 'device',
    },
    durability: best.durability,
    failureMode: failureModeOf(best.failureMode),
    fileSystem: fileSystemOf(superblocks),
    labels: {},
  };
}

function replicaOf(
  { node, pool, superblock }: FoundCopy,
  set: NewestSet,
  inSync: VolumeRecord['inSync'],
  epoch: number,
): ReplicaRecord {
  const { replicaId, lineage, lastInSyncIncarnation, bootId } = superblock;
  const replica = newReplica(replicaId, node, pool);
  // It was last opened in this boot: whether the machine was rebooted since is for it to find out.
  if (inSync.some((member) => member.replicaId === replicaId)) return { ...replica, bootId };
  const wasInSync = lastInSyncIncarnation !== null && lineage === set.lineage;
  return { ...replica, bootId, needsFullCopy: true, outSince: wasInSync ? epoch : null };
}

/** As the configuration writes it: the number as a text. */
function failureModeOf(text: string): VolumeRecord['failureMode'] {
  const found = failureModeSchema.safeParse(/^\d$/.test(text) ? Number(text) : text);
  return found.success ? found.data : 'hard';
}

/** Made once, and never made again. */
function fileSystemOf(superblocks: readonly FoundCopy['superblock'][]): VolumeRecord['fileSystem'] {
  const made = superblocks.map(({ fileSystemMade }) => fileSystemMade).find((type) => type !== null);
  const type = fileSystemTypeSchema.safeParse(made);
  return type.success ? { type: type.data, made: true } : null;
}

// ---- names

/** A deleted volume that comes back with a disk may have the name of a later one: the one that serves keeps it. */
function withOwnNames(planned: readonly PlannedVolume[]): PlannedVolume[] {
  const taken = new Set<string>();
  const rank = ({ verdict }: PlannedVolume): number => (verdict === 'inSync' ? 0 : 1);
  const renamed = planned
    .toSorted((a, b) => rank(a) - rank(b))
    .map((volume) => {
      const { name, id } = volume.record;
      if (!taken.has(name)) {
        taken.add(name);
        return volume;
      }
      const other = nameBeside(name, id);
      taken.add(other);
      const note = `another volume is named "${name}", too: this one is "${other}" from now on`;
      return { ...volume, record: { ...volume.record, name: other }, notes: [...volume.notes, note] };
    });
  return renamed.sort((a, b) => compare(a.record.id, b.record.id));
}

/** Within the length of a name; ids differ, and so do these. */
function nameBeside(name: string, id: string): string {
  const short = Array.from(name).slice(0, 24).join('');
  return `${short}-${id}`;
}
