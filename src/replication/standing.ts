// What the local copy is in this process, and what it says of itself in the store: which lineage and incarnation it has,
// that its machine was rebooted, and that it revives a set that was rebooted as a whole.
//
// Another lineage: a person forced a promotion. The chosen copy takes the new lineage on; one that is to be filled does
// too, once all that it holds is durably suspect; any other one keeps what it has, and plays no part.

import {
  isMember,
  mayReviveAfterReboot,
  memberOf,
  replicaOf,
  reportBoot,
  reviveAfterReboot,
  type VolumeConfig,
} from './config.ts';
import type { Hub } from './hub.ts';
import { MAX_EARLIER_BOOTS, MAX_EARLIER_INCARNATIONS, type Superblock } from './layout/superblock.ts';
import { judge } from './recovery.ts';

export class Standing {
  readonly #hub: Hub;
  /** As the process found it on the disk. */
  readonly #found: Superblock;
  #incarnation: string;
  #descends = true;
  #isJudged = false;
  /** It took on another lineage than the one that it was found with. */
  #hasChangedLineage = false;
  /** Its bytes are becoming suspect for that; who waits for the end of it. */
  #suspecting: (() => void) | undefined;

  constructor(hub: Hub, found: Superblock) {
    this.#hub = hub;
    this.#found = found;
    this.#incarnation = found.incarnation;
  }

  get incarnation(): string {
    return this.#incarnation;
  }

  /** It has found out who it is. */
  get isJudged(): boolean {
    return this.#isJudged;
  }

  get isOfLineage(): boolean {
    const { known, superblock } = this.#hub;
    return known.config.lineage === superblock.lineage;
  }

  /** The store does not know this copy, or names one of another lineage that this one cannot be: a person must decide. */
  get isForeign(): boolean {
    const { known, replicaId } = this.#hub;
    const replica = known.config.replicas.find(({ id }) => id === replicaId);
    return replica === undefined || !(this.isOfLineage || this.#isChosen || replica.needsFullCopy);
  }

  /** By a forced promotion, and not opened since. */
  get #isChosen(): boolean {
    const { config } = this.#hub.known;
    return config.primary.opening === null && memberOf(config, this.#hub.replicaId)?.incarnation === null;
  }

  /** `then`: the copy is durably of the store's lineage. */
  takeLineage(then: () => void): void {
    const hub = this.#hub;
    const { lineage } = hub.known.config;
    this.#hasChangedLineage = true;
    if (this.#isChosen || hub.broken.otherLineageIsNoBase) {
      hub.keep({ lineage, cleanMark: null }, then);
      return;
    }
    const noBase = {
      lastInSyncIncarnation: null,
      earlierIncarnations: [],
      inSync: { epoch: 0, members: [] },
    };
    this.#suspecting = () => hub.keep({ lineage, cleanMark: null, ...noBase }, then);
    this.progress();
  }

  /** Something ended: marks may be durable. */
  progress(): void {
    const adopt = this.#suspecting;
    if (adopt === undefined || !this.#hub.copy.suspectEverything()) return;
    this.#suspecting = undefined;
    adopt();
  }

  /** Once: is the copy still the one that the store names? `then`: the answer is durable. */
  judge(then: () => void): void {
    const hub = this.#hub;
    const { config } = hub.known;
    const verdict = judge(this.#found, config, hub.replicaId, hub.bootId, hub.broken);
    this.#isJudged = true;
    if (verdict.isRedrawn) this.#incarnation = hub.ports.drawId();
    this.#descends = verdict.descends;
    const { incarnation, earlierIncarnations, bootId, earlierBootIds } = this.#found;
    const earlier = verdict.isRedrawn ? [incarnation, ...earlierIncarnations] : earlierIncarnations;
    const boots = bootId === null || bootId === hub.bootId ? earlierBootIds : [bootId, ...earlierBootIds];
    hub.keep(
      {
        incarnation: this.#incarnation,
        bootId: hub.bootId,
        earlierBootIds: boots.slice(0, MAX_EARLIER_BOOTS),
        storedBootId: replicaOf(config, hub.replicaId).bootId,
        ...(hub.broken.cleanMarkErasedFirst ? {} : { cleanMark: null }),
        lastInSyncIncarnation: verdict.descends ? hub.superblock.lastInSyncIncarnation : null,
        earlierIncarnations: verdict.descends ? this.#keptOf(earlier, config) : [],
      },
      then,
    );
  }

  /** The newest ones, and always the one that the store names: without it nothing could tell that this copy descends from it. */
  #keptOf(earlier: readonly string[], config: VolumeConfig): string[] {
    const kept = earlier.slice(0, MAX_EARLIER_INCARNATIONS);
    const named = memberOf(config, this.#hub.replicaId)?.incarnation ?? null;
    if (this.#hub.broken.namedAncestorIsKept || named === null || !earlier.includes(named)) return kept;
    return kept.includes(named) ? kept : [...kept.slice(0, -1), named];
  }

  /**
   * Proof that no primary counts on a grant of an earlier process of this replica: nobody ever served, it promised this
   * very epoch as the primary, or it was alone by its last promise and is alone now. Only it could have added another.
   */
  get isProvenPrimary(): boolean {
    const { config } = this.#hub.known;
    if (config.primary.opening === null) return !this.#hasChangedLineage;
    const { promisedEpoch, inSync } = this.#found;
    return promisedEpoch === config.epoch || (this.#isAlone(inSync.members) && this.#isAlone(config.inSync));
  }

  #isAlone(members: readonly { readonly replicaId: string }[]): boolean {
    return members.length === 1 && members[0]?.replicaId === this.#hub.replicaId;
  }

  /** The store knows this boot, and what became of this copy in it; false while it does not. */
  isReported(): boolean {
    const hub = this.#hub;
    const { config } = hub.known;
    const own = replicaOf(config, hub.replicaId);
    const isNamed = memberOf(config, hub.replicaId) !== undefined;
    const isLost = isNamed && !isMember(config, hub.replicaId, this.#incarnation);
    if (isLost && hub.broken.incarnationCheckedAtPromotion) return true;
    const report = isLost ? { incarnation: this.#incarnation, descendsFrom: this.#ancestor } : null;
    const isKnown =
      own.report?.incarnation === report?.incarnation && own.report?.descendsFrom === report?.descendsFrom;
    // What it reported in another state of its disk no longer holds once it is the named copy: nobody revives by that.
    if (own.bootId === hub.bootId && (isKnown || (!isLost && hub.broken.oldReportIsCleared))) {
      if (isLost) this.#considerRevival();
      return true;
    }
    // The primary's own opening carries the boot with it.
    if (!isLost && config.primary.replicaId === hub.replicaId) return true;
    if (hub.pending === undefined) hub.submit(reportBoot(config, hub.replicaId, hub.bootId, report));
    return false;
  }

  /**
   * The incarnation that the store names or that was last in sync, if nothing but reboots lies between. A swap of a process
   * before may have named an incarnation after its end, however many reboots ago.
   */
  get #ancestor(): string | null {
    const { known, replicaId, superblock } = this.#hub;
    if (!this.#descends) return null;
    const named = memberOf(known.config, replicaId)?.incarnation ?? null;
    const isEarlier = named !== null && superblock.earlierIncarnations.includes(named);
    return isEarlier ? named : superblock.lastInSyncIncarnation;
  }

  #considerRevival(): void {
    const hub = this.#hub;
    const { config } = hub.known;
    if (hub.pending !== undefined || hub.copy.hasFailed) return;
    if (!mayReviveAfterReboot(config, hub.replicaId, !hub.broken.everyMemberReportedBeforeRevival)) return;
    hub.submit(reviveAfterReboot(config, hub.opener(hub.ports.drawId()), hub.broken));
  }
}
