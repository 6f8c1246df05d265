// Writes the records of volumes anew from the superblocks of all nodes' disks, when the store is lost. What they are to
// be is rebuild-plan.ts's word.
//
// Promises: a store that has volumes is refused. Of a rebuild that was cut short the rest is written; after one that left
// volumes waiting for a node or a person, those are planned again, as long as nothing has become of them, and no other
// record is made or changed: what was deleted since stays deleted. No epoch and no attachment number goes back. Nothing
// is written before the last grant to a primary of the lost store has run out.

import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { LEASE_MS } from '../replication/timing.ts';
import type { PeerCalls } from './channel/peer-calls.ts';
import type { ControlResponse } from './channel/protocol.ts';
import type { Nodes } from './nodes.ts';
import { type FoundCopy, type PlannedVolume, planCatalog } from './rebuild-plan.ts';
import type { VolumeRecord } from './records.ts';
import type { Store } from './store.ts';
import { VolumeRecords } from './volume-records.ts';

/** There while a rebuild is under way or was cut short, and as long as volumes wait. */
const KEY = 'cluster/catalog-rebuild';
const noteSchema = z.object({
  version: z.literal(1),
  /** All volumes of this rebuild have their records. */
  isWritten: z.boolean(),
  /** As their records name their in-sync sets: those have no other meaning than to wait. */
  waiting: z.array(
    z.object({
      id: z.string(),
      inSync: z.array(z.object({ replicaId: z.string(), incarnation: z.string().nullable() })),
    }),
  ),
});
type Note = z.infer<typeof noteSchema>;
const ASK_TIMEOUT_MS = 30_000;

export interface RebuildContext {
  readonly node: string;
  readonly store: Store;
  readonly nodes: Pick<Nodes, 'list'>;
  readonly calls: Pick<PeerCalls, 'call'>;
}

export interface RebuildOptions {
  /** Only says what it would do. */
  readonly isDryRun: boolean;
  /** So many nodes must have answered; undefined: those that the store knows. */
  readonly nodeCount: number | undefined;
  /** Also where a node, a pool or a copy could not be read: what may be on it counts as missing. */
  readonly isForced: boolean;
}

export interface RebuildReport {
  /** Those that answered. */
  readonly nodes: readonly string[];
  /** What could not be read. */
  readonly problems: readonly { readonly node: string; readonly problem: string }[];
  readonly volumes: readonly PlannedVolume[];
}

export async function rebuildCatalog(
  context: RebuildContext,
  { isDryRun, nodeCount, isForced }: RebuildOptions,
): Promise<RebuildReport> {
  const { store } = context;
  const records = new VolumeRecords(store);
  const { note, revision } = await requireLost(store, records);
  const { nodes, problems, copies } = await readNodes(context);
  const isWanted = ({ record }: PlannedVolume): boolean =>
    !note.isWritten || note.waiting.some(({ id }) => id === record.id);
  const report = { nodes, problems, volumes: planCatalog(copies).filter(isWanted) };
  if (isDryRun) return report;
  requireAll(report, nodeCount, isForced);
  await sleep(LEASE_MS);
  const begun = await swapNote(store, revision, note);
  for (const { record } of report.volumes) await write(context.node, records, record, note);
  await swapNote(store, begun, await waitingAfter(records, report.volumes, note));
  return report;
}

/** CONFLICT when the store has volumes that no rebuild has left unfinished. */
async function requireLost(
  store: Store,
  records: VolumeRecords,
): Promise<{ readonly note: Note; readonly revision: number }> {
  const entry = await store.get(KEY);
  const note = entry && noteSchema.parse(JSON.parse(entry.value));
  const changes = await records.listChanges();
  const isLeft = note?.waiting.some(({ id, inSync }) =>
    changes.some(({ stored }) => stored?.value.id === id && isUntouched(stored.value, inSync)),
  );
  if (note !== undefined && (!note.isWritten || isLeft === true))
    return { note, revision: entry?.revision ?? 0 };
  if (changes.length === 0)
    return { note: { version: 1, isWritten: false, waiting: [] }, revision: entry?.revision ?? 0 };
  throw new HoldfastError(
    'CONFLICT',
    `The store has ${changes.length} volumes: it is not lost, and nothing was changed. The catalog is rebuilt into an empty ` +
      'store only: stop the daemons, and start them with --accept-store any and another --store or --store-prefix, if ' +
      'these volumes are not the ones that you want.',
    { details: { volumes: changes.length } },
  );
}

/** Nobody has opened it, and nobody has decided. */
function isUntouched({ primary, inSync }: VolumeRecord, noted: VolumeRecord['inSync']): boolean {
  return primary.opening === null && JSON.stringify(inSync) === JSON.stringify(noted);
}

/** CONFLICT when disks are missing that may hold what counts. */
function requireAll(
  { nodes, problems }: RebuildReport,
  nodeCount: number | undefined,
  isForced: boolean,
): void {
  if (nodeCount !== undefined && nodes.length < nodeCount) {
    throw new HoldfastError(
      'CONFLICT',
      `${nodes.length} of ${nodeCount} nodes have answered (${nodes.join(', ')}): start the daemons of the others with the ` +
        'new store, with --accept-store any, and try again. Nothing was changed.',
      { details: { nodes } },
    );
  }
  const [first] = problems;
  if (first === undefined || isForced) return;
  throw new HoldfastError(
    'CONFLICT',
    `Not everything could be read, on node "${first.node}": ${first.problem}` +
      `${problems.length > 1 ? `; and ${problems.length - 1} more ("--dry-run" lists them)` : ''}. Mend that and try again, or ` +
      'say --force: volumes that may have their newest copy there then wait for it. Nothing was changed.',
    { details: { problems } },
  );
}

// ---- what the disks hold

type Page = ControlResponse<'listReplicas'>;

interface Read {
  readonly nodes: string[];
  readonly problems: { node: string; problem: string }[];
  readonly copies: FoundCopy[];
}

async function readNodes({ nodes, calls }: RebuildContext): Promise<Read> {
  const read: Read = { nodes: [], problems: [], copies: [] };
  for (const { name } of await nodes.list()) {
    try {
      await readNode(calls, name, read);
      read.nodes.push(name);
    } catch (error) {
      if (!isHoldfastError(error)) throw error;
      read.problems.push({ node: name, problem: errorText(error) });
    }
  }
  return read;
}

async function readNode(calls: RebuildContext['calls'], node: string, read: Read): Promise<void> {
  const { closed } = await calls.call(node, 'pools', {}, ASK_TIMEOUT_MS);
  for (const { name, problem } of closed)
    read.problems.push({ node, problem: `pool "${name}" is not open: ${problem}` });
  for (let after: Page['next'] = ''; after !== null; ) {
    const page: Page = await calls.call(node, 'listReplicas', { after }, ASK_TIMEOUT_MS);
    for (const { pool, volumeId, superblock, problem } of page.copies) {
      if (superblock !== null) read.copies.push({ node, pool, superblock, problem });
      else
        read.problems.push({
          node,
          problem: `volume ${volumeId} in pool "${pool}": ${problem ?? 'unreadable'}`,
        });
    }
    after = page.next;
  }
}

// ---- the records

async function write(node: string, records: VolumeRecords, planned: VolumeRecord, note: Note): Promise<void> {
  const standing = await records.readStored(planned.id);
  if (standing === undefined) {
    if (!note.isWritten) await insert(records, planned, node);
    return;
  }
  const noted = note.waiting.find(({ id }) => id === planned.id);
  const { value } = standing;
  if (noted === undefined || !isUntouched(value, noted.inSync)) return;
  const { name, labels } = value;
  const epoch = Math.max(planned.epoch, value.epoch + 1);
  const number = Math.max(planned.attachment.number, value.attachment.number + 1);
  const attachment = { ...planned.attachment, number };
  const { swapped } = await records.swap(standing, { ...planned, name, labels, epoch, attachment });
  if (!swapped)
    throw new HoldfastError('BUSY', `Volume "${name}" has just been changed: look at it, then try again.`);
}

/** What there is to be noted of those that still wait; undefined: nothing. */
async function waitingAfter(
  records: VolumeRecords,
  volumes: readonly PlannedVolume[],
  before: Note,
): Promise<Note | undefined> {
  const waiting = before.waiting.filter(({ id }) => volumes.every(({ record }) => record.id !== id));
  for (const { verdict, record } of volumes) {
    const written = verdict === 'inSync' ? undefined : await records.read(record.id);
    if (written?.primary.opening === null) waiting.push({ id: record.id, inSync: written.inSync });
  }
  return waiting.length === 0 ? undefined : { version: 1, isWritten: true, waiting };
}

/** Returns the note's next revision; 0: there is none. */
async function swapNote(store: Store, revision: number, note: Note | undefined): Promise<number> {
  const text = note && JSON.stringify(noteSchema.parse(note));
  const result = await store.compareAndSwap(KEY, revision, text);
  if (result.swapped) return note === undefined ? 0 : result.revision;
  throw new HoldfastError(
    'BUSY',
    'Another daemon rebuilds the catalog: look at what it does, then try again.',
  );
}

/** The name first, as at a creation. */
async function insert(records: VolumeRecords, record: VolumeRecord, node: string): Promise<void> {
  const claim = await records.claim(record.name);
  if (claim === undefined)
    await records.takeName({ version: 1, id: record.id, name: record.name, node }, undefined);
  else if (claim.value.id !== record.id) {
    throw new HoldfastError(
      'CONFLICT',
      `The name "${record.name}" of volume ${record.id} has been taken by volume ${claim.value.id} meanwhile: delete that ` +
        'one, and try again.',
      { details: { volumeId: record.id } },
    );
  }
  await records.insert(record);
}
