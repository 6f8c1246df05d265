// What the leader does about volumes: deletions and creations that nobody finishes are finished or undone, copies on
// lost and draining nodes are replaced, a copy that was named and never made is made. By the operations that people
// use, under their locks: whoever is at work on a volume is not disturbed.

import { errorText, isHoldfastError } from '../core/errors.ts';
import { isNewcomer } from '../replication/config.ts';
import type { Logger } from '../observe/log.ts';
import { readSettings } from './cluster-settings.ts';
import { FollowedRecords } from './followed-records.ts';
import type { Duty } from './housekeeping.ts';
import { type CopyFacts, type CopyStep, nextCopyStep } from './next-copy-step.ts';
import type { Nodes, NodeView } from './nodes.ts';
import type { VolumeRecord } from './records.ts';
import type { Store } from './store.ts';
import type { VolumeRecords } from './volume-records.ts';
import type { Volumes } from './volumes.ts';

/** Whoever began a deletion is given this long to finish it. */
const DELETION_PATIENCE_MS = 10_000;
/** A creation whose maker is not alive is undone after this; one whose maker lives after the other. */
const CREATION_PATIENCE_MS = 30_000;
const SLOW_CREATION_PATIENCE_MS = 10 * 60_000;
/** A copy that was named is made and opened in less. */
const MAKING_PATIENCE_MS = 15_000;
/** In the whole cluster: what is filled costs its nodes and the network. */
const MAX_FILLING = 8;

export interface VolumeDutiesOptions {
  readonly store: Store;
  readonly nodes: Pick<Nodes, 'list'>;
  readonly records: Pick<VolumeRecords, 'revision' | 'listChanges' | 'watch'>;
  readonly volumes: Pick<Volumes, 'finishRemoval' | 'takeCopySteps' | 'makeNamedCopies'>;
  /** A node that this leader has not seen alive for so long is lost. */
  readonly replaceAfterMs: number;
  readonly log: Logger;
  /** Of one process, never set: a wall clock that is set forward would make a node lost that only reboots. */
  readonly nowMs?: () => number;
}

export function volumeDuties(options: VolumeDutiesOptions): Duty[] {
  const records = new FollowedRecords(options.records);
  return [unfinishedVolumes(options, records), copiesElsewhere(options, records)];
}

/** Since when something has been so, as far as this leader has seen. */
class Patience {
  #since = new Map<string, number>();
  #seen = new Map<string, number>();
  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** At the begin of a round: what is not asked about in it is forgotten. */
  begin(): void {
    this.#since = this.#seen;
    this.#seen = new Map();
  }

  hasLasted(what: string, timeMs: number): boolean {
    const since = this.#since.get(what) ?? this.#nowMs();
    this.#seen.set(what, since);
    return this.#nowMs() - since >= timeMs;
  }
}

function unfinishedVolumes(
  { nodes, volumes, log, nowMs = () => performance.now() }: VolumeDutiesOptions,
  records: FollowedRecords,
): Duty {
  const patience = new Patience(nowMs);
  return {
    name: 'unfinished volumes',
    async run(signal) {
      patience.begin();
      const alive = new Set((await nodes.list()).filter(({ isAlive }) => isAlive).map(({ name }) => name));
      for (const record of await records.list(signal)) {
        if (signal.aborted) return;
        const { id: volumeId, name, state } = record;
        if (state === 'ready' || !patience.hasLasted(`${volumeId} ${state}`, patienceWith(record, alive)))
          continue;
        const left = await attempt(log, record, async () => await volumes.finishRemoval(volumeId));
        if (left?.length === 0)
          log.info({ volumeId, volume: name, was: state }, 'removed what was left of a volume');
      }
    },
  };
}

function patienceWith({ state, coordinator }: VolumeRecord, alive: ReadonlySet<string>): number {
  if (state === 'deleting') return DELETION_PATIENCE_MS;
  return coordinator !== null && alive.has(coordinator) ? SLOW_CREATION_PATIENCE_MS : CREATION_PATIENCE_MS;
}

function copiesElsewhere(options: VolumeDutiesOptions, records: FollowedRecords): Duty {
  const { store, nodes, volumes, log, nowMs = () => performance.now() } = options;
  const patience = new Patience(nowMs);
  return {
    name: 'copies of lost and draining nodes',
    async run(signal) {
      patience.begin();
      const { maintenanceSince } = await readSettings(store);
      const known = new Map((await nodes.list()).map((node): [string, NodeView] => [node.name, node]));
      const lost = new Set<string>();
      for (const { name, isAlive, lostAt } of known.values()) {
        // One that was back in between has another time in its record.
        if (
          !isAlive &&
          lostAt !== null &&
          patience.hasLasted(`${name} lost ${lostAt}`, options.replaceAfterMs)
        )
          lost.add(name);
      }
      const ready = (await records.list(signal)).filter(({ state }) => state === 'ready');
      let fillingCount = ready.flatMap(({ replicas }) => replicas.filter(isNewcomer)).length;
      for (const record of ready) {
        if (signal.aborted) return;
        const { id: volumeId, name } = record;
        const facts: CopyFacts = {
          nodes: known,
          lost,
          isMaintenance: maintenanceSince !== null,
          mayFill: fillingCount < MAX_FILLING,
        };
        if (nextCopyStep(record, facts) !== undefined) {
          const steps = await attempt(log, record, async () => await volumes.takeCopySteps(volumeId, facts));
          for (const step of steps ?? []) {
            log.info({ volumeId, volume: name, ...stepText(step) }, 'took a step to copies elsewhere');
            if (step.type === 'replace') fillingCount += 1;
          }
        }
        const unmade = record.replicas.filter((replica) => isNewcomer(replica) && replica.bootId === null);
        if (unmade.length > 0 && patience.hasLasted(`${volumeId} unmade`, MAKING_PATIENCE_MS))
          await attempt(log, record, async () => await volumes.makeNamedCopies(volumeId));
      }
    },
  };
}

function stepText(step: CopyStep): Record<string, string> {
  switch (step.type) {
    case 'move':
      return { step: step.type, toNode: step.toNode };
    case 'replace':
    case 'drop':
      return { step: step.type, ofNode: step.replica.node };
    case 'cancel':
      return { step: step.type, ofNode: step.newcomer.node };
  }
}

/** One volume in trouble does not keep the others waiting. undefined: it failed, and is tried again in the next round. */
async function attempt<T>(log: Logger, record: VolumeRecord, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!isHoldfastError(error)) throw error;
    // Nobody waits for it; what lasts is seen in `explain`.
    log.debug({ volumeId: record.id, volume: record.name, reason: errorText(error) }, 'a duty waits');
    return undefined;
  }
}
