// One replica of a volume in one process: opens its copy, finds out its part from the store's configuration, and
// plays it: it follows a primary, or is the primary. Everything that happens to it comes in here; everything it
// does goes out through its ports.
//
// Invariants: a role begins only when nothing of the one before is on its way to the disk; the configuration
// that is known only moves forward; one proposal at a time.

import { invariant } from '../core/invariant.ts';
import {
  isMember,
  mayReviveAfterReboot,
  memberOf,
  type Opener,
  openPrimary,
  replicaOf,
  reportBoot,
  reviveAfterReboot,
  type StoredConfig,
  type VolumeConfig,
} from './config.ts';
import { Copy, type CopyHost } from './copy.ts';
import { hasRoomFor } from './eligibility.ts';
import { FRAME_REFUSED, FRAME_REQUEST, FrameFields, type Hello, type StreamHello } from './frames.ts';
import type { Hub } from './hub.ts';
import type { Superblock } from './layout/superblock.ts';
import type { WindowEntry, WindowFile } from './layout/window.ts';
import type { ProposalOutcome, ReplicaPorts } from './ports.ts';
import { Primary } from './primary.ts';
import type { PrimaryHost } from './primary/replies.ts';
import { Proposals } from './proposals.ts';
import { judge } from './recovery.ts';
import { COPY_READ, NONE, READ, type RequestTable, REWRITE } from './requests.ts';
import { type BrokenRules, NOTHING_BROKEN } from './rules.ts';
import { Secondary } from './secondary.ts';
import { Sessions } from './sessions.ts';
import { SuperblockKeeper } from './superblock-keeper.ts';
import { COOL_AFTER_MS, STORE_RETRY_MS } from './timing.ts';

export interface ReplicaOptions {
  readonly replicaId: string;
  readonly bootId: string;
  /** As it stands on the disk. */
  readonly superblock: Superblock;
  readonly intentBits: Uint8Array;
  readonly window: WindowFile;
  /** What the window belongs to once it is adopted; by default the boot. */
  readonly windowOwner?: string;
  readonly windowEntries: readonly WindowEntry[] | 'unknown';
  /** Tests only. */
  readonly broken?: BrokenRules;
}

/** opening: asks the store who it is. held: the store is older than the disk, and a person must decide. */
type State = 'opening' | 'following' | 'changing' | 'primary' | 'held' | 'gone' | 'stopping' | 'stopped';

const COOL_TICK_MS = 1000;

export class Replica implements Hub, CopyHost, PrimaryHost {
  readonly table: RequestTable;
  readonly ports: ReplicaPorts;
  readonly broken: BrokenRules;
  readonly copy: Copy;
  readonly replicaId: string;
  readonly bootId: string;
  readonly out = new FrameFields();
  readonly sessions: Sessions;
  incarnation: string;
  offeredOpening: string;
  #known: StoredConfig | undefined;
  readonly #keeper: SuperblockKeeper;
  readonly #proposals: Proposals;
  readonly #found: Superblock;
  #state: State = 'opening';
  #isJudged = false;
  #descends = true;
  #secondary: Secondary | undefined;
  #primary: Primary | undefined;
  /** What it becomes when the role before has come to rest. */
  #next: { readonly opening: string } | 'secondary' | undefined;
  /** A stream that waits for that. */
  #waitingHello: { readonly link: number; readonly hello: StreamHello } | undefined;
  /** The opening under which a proposal of this process makes it the primary. */
  #proposed: string | undefined;
  #stopped: (() => void) | undefined;
  #stopRound = 0;
  #isMarking = false;
  /** It knows who it is: a mark of it means something. */
  #isMarkable = true;
  #isReading = false;
  /** The store has changed since the last read of it began, or did not answer that read. */
  #mustRead = false;
  #lookAtMs = 0;
  #coolAtMs = 0;
  #sitsOut = true;
  /** It is to be the primary once its own grants have run out. */
  #leadsSoon = false;

  constructor(table: RequestTable, ports: ReplicaPorts, options: ReplicaOptions) {
    this.table = table;
    this.ports = ports;
    this.broken = options.broken ?? NOTHING_BROKEN;
    this.replicaId = options.replicaId;
    this.bootId = options.bootId;
    this.#found = options.superblock;
    this.incarnation = options.superblock.incarnation;
    this.offeredOpening = ports.drawId();
    this.#keeper = new SuperblockKeeper(options.superblock, ports, this.broken, (errno) =>
      this.copyFailed('superblock', errno),
    );
    this.#proposals = new Proposals(
      {
        nowMs: () => ports.nowMs(),
        propose: (proposal, revision, config) => ports.propose(proposal, revision, config),
        settled: (current) => this.#proposalSettled(current),
      },
      this.broken,
    );
    this.copy = new Copy(table, ports, this, {
      sizeBytes: options.superblock.sizeBytes,
      durability: options.superblock.durability,
      intentBits: options.intentBits,
      window: options.window,
      inherited: options.windowEntries,
      bootId: options.windowOwner ?? options.bootId,
      broken: this.broken,
    });
    if (this.broken.inheritedMarksKept) this.copy.settleInherited(options.superblock.promisedEpoch);
    this.sessions = new Sessions(this, () => this.#primary);
    this.#read();
  }

  // ---- Hub

  get known(): StoredConfig {
    invariant(this.#known !== undefined, 'a role begins when the configuration is known');
    return this.#known;
  }

  get superblock(): Superblock {
    return this.#keeper.latest;
  }

  get isDeltaBase(): boolean {
    return this.#keeper.latest.lastInSyncIncarnation !== null;
  }

  get pending(): VolumeConfig | undefined {
    return this.#proposals.pending;
  }

  opener(opening: string): Opener {
    return { replicaId: this.replicaId, incarnation: this.incarnation, opening, bootId: this.bootId };
  }

  keep(change: Partial<Superblock>, then: () => void): void {
    this.#keeper.keep(change, then);
  }

  submit(config: VolumeConfig): void {
    if (config.primary.replicaId === this.replicaId && config.primary.opening !== this.#primary?.opening)
      this.#proposed = config.primary.opening ?? undefined;
    this.#proposals.submit(this.known, config);
  }

  look(): void {
    this.#read();
  }

  learn(stored: StoredConfig): void {
    const known = this.#known;
    // The epoch counts as well: a store that was put back may have its revisions raised above all others.
    const isOld =
      known !== undefined && (stored.revision <= known.revision || stored.config.epoch < known.config.epoch);
    if (isOld && !this.broken.configNeverGoesBack) return;
    this.#known = stored;
    if (this.#isJudged) this.#react();
  }

  // ---- for the host

  get state(): State {
    return this.#state;
  }

  get primary(): Primary | undefined {
    return this.#primary;
  }

  get secondary(): Secondary | undefined {
    return this.#secondary;
  }

  get hasKnown(): boolean {
    return this.#known !== undefined;
  }

  /** The store may have changed. */
  storeChanged(): void {
    this.#mustRead = true;
    this.#read();
  }

  /**
   * The copy's files have grown, durably. Every copy is told before the store's size rises: one that was left out
   * takes no part from then on, until it has grown too.
   */
  grow(sizeBytes: number): void {
    this.copy.grow(sizeBytes);
    if (this.#isJudged) this.#react();
  }

  /**
   * A clean stop: no more answers or grants, all that was started ended, everything flushed, then the clean mark:
   * the copy keeps its incarnation across a reboot. `stopped`: nothing refers to the files any more; without the
   * mark where the disk would not have it.
   */
  stop(stopped: () => void): void {
    invariant(this.#stopped === undefined, 'a replica is stopped once');
    this.#stopped = stopped;
    const hadRole = this.#state === 'following' || this.#state === 'primary' || this.#state === 'changing';
    this.#end('stopping');
    if (!hadRole) this.#isMarkable = false;
    this.#stopStep();
  }

  #stopStep(): void {
    if (this.#state !== 'stopping') return;
    if (!(this.#secondary?.isQuiet ?? true) || !(this.#primary?.isQuiet ?? true) || !this.copy.isQuiet)
      return;
    if (this.#stopRound === 0) {
      this.#stopRound = this.copy.requestFlush();
      return;
    }
    if (this.copy.flushDoneRound < this.#stopRound || this.#isMarking) return;
    if (this.copy.hasFailed || !this.#isMarkable) {
      this.#hasStopped();
      return;
    }
    this.#isMarking = true;
    this.#keeper.keep({ cleanMark: { epoch: this.#keeper.latest.promisedEpoch } }, () => this.#hasStopped());
  }

  #hasStopped(): void {
    this.#state = 'stopped';
    this.#stopped?.();
  }

  handOver(replicaId: string): boolean {
    return this.#primary?.handOver(replicaId) ?? false;
  }

  tick(): void {
    if (this.#state === 'stopping') this.#stopStep();
    if (this.#state === 'gone' || this.#state === 'stopping' || this.#state === 'stopped') return;
    const nowMs = this.ports.nowMs();
    this.#proposals.tick();
    if (nowMs >= this.#coolAtMs) {
      this.#coolAtMs = nowMs + COOL_TICK_MS;
      this.copy.tick(COOL_AFTER_MS / COOL_TICK_MS);
    }
    const isWaiting = this.#state === 'opening' || this.#state === 'held' || this.#isOut();
    if (nowMs >= this.#lookAtMs && (isWaiting || this.#mustRead)) this.#read();
    this.#primary?.tick();
    this.#secondary?.tick();
    if (this.#leadsSoon && this.#state === 'following') {
      this.#leadsSoon = false;
      this.#react();
    }
    this.#change();
  }

  /** Not what the store names: it waits for a stream, or for everybody's report. */
  #isOut(): boolean {
    return (
      this.#state === 'following' &&
      this.#known !== undefined &&
      this.#secondary?.isFollowing !== true &&
      !isMember(this.#known.config, this.replicaId, this.incarnation)
    );
  }

  greeted(link: number, hello: Hello): void {
    if (hello.kind === 'session') {
      if (this.#known === undefined || this.#state !== 'primary') this.#refuse(link, 'notPrimary');
      else this.sessions.hello(link, hello);
      return;
    }
    const isClosed = ['held', 'gone', 'stopping', 'stopped'].includes(this.#state);
    if (!this.#isJudged || isClosed || !this.#isBootKnown(hello.config)) {
      this.#refuse(link, 'busy');
      return;
    }
    if (this.#state === 'following') {
      this.#secondary?.hello(link, hello);
      return;
    }
    // A primary hears of a later one by its stream.
    if (hello.config.epoch < this.#keeper.latest.promisedEpoch) {
      this.#refuse(link, 'epoch');
      return;
    }
    if (this.#waitingHello !== undefined) this.ports.closeLink(this.#waitingHello.link);
    this.#waitingHello = { link, hello };
    this.learn({ config: hello.config, revision: hello.revision });
    this.#change();
  }

  /** The store knows this boot: before, nothing may be acknowledged in it. */
  #isBootKnown(config: VolumeConfig): boolean {
    if (this.broken.bootRecordedBeforeAck) return true;
    const { bootId } = replicaOf(this.known.config, this.replicaId);
    if (bootId === this.bootId || replicaOf(config, this.replicaId).bootId === this.bootId) return true;
    this.look();
    return false;
  }

  #refuse(link: number, reason: 'busy' | 'epoch' | 'notPrimary'): void {
    this.ports.sendControl(link, FRAME_REFUSED, { reason, epoch: this.#keeper.latest.promisedEpoch });
    this.ports.closeLink(link);
  }

  control(link: number, type: number, message: unknown): void {
    this.#primary?.control(link, type, message);
    this.#secondary?.control(link, type, message);
  }

  /** `request`: a slot that came with the frame; the core's from here on. NONE when the frame has none. */
  frame(link: number, fields: FrameFields, request: number): void {
    if (fields.type === FRAME_REQUEST) this.sessions.request(link, fields, request);
    else if (this.#secondary !== undefined) this.#secondary.frame(link, fields, request);
    else {
      if (request !== NONE) this.ports.release(request);
      this.#primary?.frame(link, fields);
    }
  }

  linkClosed(link: number): void {
    if (this.#waitingHello?.link === link) this.#waitingHello = undefined;
    this.#primary?.linkClosed(link);
    this.#secondary?.linkClosed(link);
    this.sessions.linkClosed(link);
  }

  // ---- ends of what was started

  dataDone(request: number, errno: number): void {
    const kind = this.table.kind[request];
    // A rewrite's only data operation is its read: its bytes stand here already.
    if (kind === READ || kind === COPY_READ || kind === REWRITE) this.#primary?.readDone(request, errno);
    else this.copy.dataDone(request, errno);
    this.#change();
  }

  flushDone(errno: number): void {
    this.copy.flushDone(errno);
    this.#change();
  }

  intentRoundDone(errno: number): void {
    this.copy.intentRoundDone(errno);
    this.#secondary?.marksReady();
    this.#change();
  }

  generationsMerged(errno: number): void {
    this.copy.generationsMerged(errno);
  }

  stampsRead(link: number, extent: number, errno: number, stamps: Uint32Array): void {
    this.#primary?.stampsRead(link, extent, errno, stamps);
  }

  superblockDone(errno: number): void {
    this.#keeper.done(errno);
    this.#change();
  }

  configRead(stored: StoredConfig | undefined | 'gone'): void {
    this.#isReading = false;
    if (stored === undefined) {
      this.#mustRead = true;
      return;
    }
    if (stored === 'gone') {
      this.#end('gone');
      return;
    }
    if (stored.config.epoch < this.#keeper.latest.promisedEpoch && !this.#isJudged) {
      this.#state = 'held';
      return;
    }
    this.learn(stored);
    if (!this.#isJudged) this.#judge();
    else this.#react();
  }

  proposed(proposal: number, outcome: ProposalOutcome): void {
    this.#proposals.proposed(proposal, outcome);
  }

  #proposalSettled(current: StoredConfig | undefined): void {
    if (current === undefined) {
      this.#end('gone');
      return;
    }
    const before = this.#known?.revision;
    this.learn(current);
    // The union of the sets has become smaller even where nothing new was learned.
    if (this.#known?.revision === before) this.#react();
  }

  // ---- CopyHost, PrimaryHost

  prepared(request: number): void {
    if (this.#secondary !== undefined) this.#secondary.prepared(request);
    else this.#primary?.prepared(request);
  }

  applied(request: number, errno: number): void {
    if (this.#secondary !== undefined) this.#secondary.applied(request, errno);
    else this.#primary?.applied(request, errno);
  }

  flushed(round: number, errno: number): void {
    this.#secondary?.flushed(round, errno);
    this.#primary?.flushed(round, errno);
  }

  copyFailed(what: string, errno: number): void {
    this.ports.event({ type: 'failed', what, errno });
    this.#secondary?.unfollow();
    this.#primary?.copyHasFailed();
    if (what !== 'superblock') this.copy.doubt();
  }

  answer(request: number, errno: number): void {
    this.sessions.answer(request, errno);
  }

  giveBack(request: number): void {
    this.sessions.giveBack(request);
  }

  isRevoked(request: number): boolean {
    return this.sessions.isRevoked(request);
  }

  // ---- opening

  #read(): void {
    if (this.#isReading) return;
    this.#isReading = true;
    this.#mustRead = false;
    this.#lookAtMs = this.ports.nowMs() + STORE_RETRY_MS;
    this.ports.readConfig();
  }

  /** Once: is the copy still the one that the store names? Durable before anything else. */
  #judge(): void {
    const { config } = this.known;
    if (config.lineage !== this.#found.lineage || !config.replicas.some(({ id }) => id === this.replicaId)) {
      this.#state = 'held';
      return;
    }
    this.#isJudged = true;
    this.#state = 'opening';
    const verdict = judge(this.#found, config, this.replicaId, this.bootId, this.broken);
    if (verdict.isRedrawn) this.incarnation = this.ports.drawId();
    this.#descends = verdict.descends;
    // The store may have named it before its superblock could say so.
    const isNamed = memberOf(config, this.replicaId)?.incarnation === this.#found.incarnation;
    const last = isNamed ? this.#found.incarnation : this.#found.lastInSyncIncarnation;
    this.#keeper.keep(
      {
        incarnation: this.incarnation,
        bootId: this.bootId,
        storedBootId: replicaOf(config, this.replicaId).bootId,
        ...(this.broken.cleanMarkErasedFirst ? {} : { cleanMark: null }),
        lastInSyncIncarnation: verdict.descends ? last : null,
      },
      () => {
        if (this.#state !== 'opening') return;
        this.#state = 'following';
        this.#secondary = new Secondary(this, this.#sitsOut);
        this.#react();
      },
    );
  }

  // ---- parts

  /** The configuration, or what counts of it, has changed. */
  #react(): void {
    if (['held', 'opening', 'gone', 'stopping', 'stopped'].includes(this.#state)) return;
    const { config } = this.known;
    if (!config.replicas.some(({ id }) => id === this.replicaId)) {
      this.#end('gone');
      return;
    }
    const primary = this.#primary;
    if (primary !== undefined && !primary.hasEnded) {
      const isMine =
        config.primary.opening === primary.opening &&
        config.primary.replicaId === this.replicaId &&
        hasRoomFor(this, config);
      if (isMine && !(primary.isRenounced && this.pending === undefined)) {
        primary.configChanged();
        this.sessions.attachmentChanged();
        return;
      }
      // Another primary; or this opening gave its place away and nobody took it.
      if (!isMine) primary.tellPromoted();
      this.sessions.moved();
      this.#state = 'changing';
      this.#next = 'secondary';
      this.#proposed = undefined;
      this.offeredOpening = this.ports.drawId();
      primary.end();
      this.#change();
      return;
    }
    if (this.#state !== 'following') return;
    if (!hasRoomFor(this, config)) {
      this.#secondary?.close();
      return;
    }
    if (!this.#reportBoot()) return;
    if (config.primary.replicaId === this.replicaId && isMember(config, this.replicaId, this.incarnation)) {
      if (config.primary.opening === this.offeredOpening) this.#become(this.offeredOpening);
      else if (this.#proposed !== undefined && config.primary.opening === this.#proposed)
        this.#become(this.#proposed);
      else if (this.pending === undefined) this.#lead(config);
    } else if (config.primary.replicaId === this.replicaId && this.broken.incarnationCheckedAtPromotion) {
      if (config.primary.opening === this.#proposed) this.#become(this.#proposed);
      else if (this.pending === undefined) this.submit(openPrimary(config, this.opener(this.ports.drawId())));
    }
  }

  /**
   * It is named, and not by a handover: another process of it was the primary, or the promotion of one that died has
   * arrived late, and another primary may count on what was granted since. Proof that none does: nobody ever served,
   * or this replica promised this very epoch as its primary.
   */
  #lead(config: VolumeConfig): void {
    const isProven = config.primary.opening === null || this.#found.promisedEpoch === config.epoch;
    if (this.#secondary?.mayLead(isProven) === false) {
      this.#leadsSoon = true;
      return;
    }
    this.#secondary?.followNobody();
    this.submit(openPrimary(config, this.opener(this.ports.drawId())));
  }

  /** The store knows this boot, and what became of this copy in it; false while it does not. */
  #reportBoot(): boolean {
    const { config } = this.known;
    const own = replicaOf(config, this.replicaId);
    const isNamed = memberOf(config, this.replicaId) !== undefined;
    const isLost = isNamed && !isMember(config, this.replicaId, this.incarnation);
    if (isLost && this.broken.incarnationCheckedAtPromotion) return true;
    if (own.bootId !== this.bootId || (isLost && own.report?.incarnation !== this.incarnation)) {
      // The primary's own opening carries the boot with it.
      if (!isLost && config.primary.replicaId === this.replicaId) return true;
      const { lastInSyncIncarnation } = this.#keeper.latest;
      const report = isLost
        ? { incarnation: this.incarnation, descendsFrom: this.#descends ? lastInSyncIncarnation : null }
        : null;
      if (this.pending === undefined) this.submit(reportBoot(config, this.replicaId, this.bootId, report));
      return false;
    }
    const { everyMemberReportedBeforeRevival, revivalRevokesAttachment } = this.broken;
    if (!isLost || this.pending !== undefined || this.copy.hasFailed) return true;
    if (mayReviveAfterReboot(config, this.replicaId, !everyMemberReportedBeforeRevival)) {
      const opener = this.opener(this.ports.drawId());
      this.submit(reviveAfterReboot(config, opener, !revivalRevokesAttachment));
    }
    return true;
  }

  #become(opening: string): void {
    this.#state = 'changing';
    this.#next = { opening };
    this.#secondary?.close();
    this.#change();
  }

  /** The role before has come to rest: the next one begins. */
  #change(): void {
    this.#stopStep();
    if (this.#state !== 'changing' || this.#next === undefined) return;
    const isQuiet =
      (this.#secondary?.isQuiet ?? true) && (this.#primary?.isQuiet ?? true) && this.copy.isDataQuiet;
    if (!isQuiet) return;
    const next = this.#next;
    this.#next = undefined;
    this.#secondary = undefined;
    this.#primary = undefined;
    if (next === 'secondary') {
      this.#state = 'following';
      this.#secondary = new Secondary(this, false);
      this.#takeWaitingHello();
      this.#react();
      return;
    }
    this.#state = 'primary';
    this.#primary = new Primary(this, this, next.opening);
    this.#react();
  }

  #takeWaitingHello(): void {
    const waiting = this.#waitingHello;
    this.#waitingHello = undefined;
    if (waiting !== undefined) this.#secondary?.hello(waiting.link, waiting.hello);
  }

  #end(state: 'gone' | 'stopping'): void {
    this.#state = state;
    this.sessions.moved();
    this.#primary?.end();
    this.#secondary?.close();
  }
}
