// One replica of a volume in one process: opens its copy, finds out its part from the store's configuration, and
// plays it: it follows a primary, or is the primary. Everything that happens to it comes in here; everything it
// does goes out through its ports.
//
// Invariants: a part begins only when nothing of the one before is on its way to the disk; the configuration
// that is known only moves forward; one proposal at a time.

import { invariant } from '../core/invariant.ts';
import { Backoff } from './backoff.ts';
import { CleanStop } from './clean-stop.ts';
import type { Opener, StoredConfig, VolumeConfig } from './config.ts';
import { Copy, type CopyHost } from './copy.ts';
import { FrameFields, type Hello } from './frames.ts';
import type { Hub } from './hub.ts';
import type { Superblock } from './layout/superblock.ts';
import type { WindowEntry, WindowFile } from './layout/window.ts';
import { Part, type State } from './part.ts';
import type { ProposalOutcome, ReplicaPorts } from './ports.ts';
import type { Primary } from './primary.ts';
import { Proposals } from './proposals.ts';
import { COPY_READ, READ, type RequestTable, REWRITE } from './requests.ts';
import { type BrokenRules, NOTHING_BROKEN } from './rules.ts';
import type { Secondary } from './secondary.ts';
import { Standing } from './standing.ts';
import { StoreView } from './store-view.ts';
import { SuperblockKeeper } from './superblock-keeper.ts';
import { COOL_AFTER_MS } from './timing.ts';

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

const COOL_TICK_MS = 1000;

export class Replica implements Hub, CopyHost {
  readonly table: RequestTable;
  readonly ports: ReplicaPorts;
  readonly broken: BrokenRules;
  readonly copy: Copy;
  readonly replicaId: string;
  readonly bootId: string;
  readonly out = new FrameFields();
  readonly leaving = new Backoff();
  readonly #store: StoreView;
  readonly #keeper: SuperblockKeeper;
  readonly #proposals: Proposals;
  readonly #standing: Standing;
  readonly #part: Part;
  #cleanStop: CleanStop | undefined;
  #coolAtMs = 0;

  constructor(table: RequestTable, ports: ReplicaPorts, options: ReplicaOptions) {
    this.table = table;
    this.ports = ports;
    this.broken = options.broken ?? NOTHING_BROKEN;
    this.replicaId = options.replicaId;
    this.bootId = options.bootId;
    this.#store = new StoreView(ports, this.broken);
    this.#standing = new Standing(this, options.superblock);
    this.#part = new Part(this, this.#standing);
    this.#keeper = new SuperblockKeeper(options.superblock, ports, this.broken, (errno) =>
      this.copy.fail('superblock', errno),
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
    this.#store.look();
  }

  // ---- Hub

  get known(): StoredConfig {
    const { known } = this.#store;
    invariant(known !== undefined, 'a part begins when the configuration is known');
    return known;
  }

  get incarnation(): string {
    return this.#standing.incarnation;
  }

  get offeredOpening(): string {
    return this.#part.offeredOpening;
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

  get canKeep(): boolean {
    return !this.#keeper.hasFailed;
  }

  submit(config: VolumeConfig): void {
    this.#part.proposes(config);
    this.#proposals.submit(this.known, config);
  }

  look(): void {
    this.#store.look();
  }

  learn(stored: StoredConfig): void {
    if (this.#store.learn(stored)) this.#part.react();
  }

  // ---- for the host

  get state(): State {
    return this.#part.state;
  }

  get primary(): Primary | undefined {
    return this.#part.primary;
  }

  get secondary(): Secondary | undefined {
    return this.#part.secondary;
  }

  get hasKnown(): boolean {
    return this.#store.known !== undefined;
  }

  /** The store may have changed. */
  storeChanged(): void {
    if (this.#cleanStop === undefined) this.#store.changed();
  }

  /**
   * The copy's files have grown, durably. Every copy is told before the store's size rises: one that was left out
   * takes no part from then on, until it has grown too.
   */
  grow(sizeBytes: number): void {
    this.copy.grow(sizeBytes);
    this.#part.react();
  }

  /**
   * A clean stop: no more answers or grants, all that was started ended, everything flushed, then the clean mark:
   * the copy keeps its incarnation across a reboot. `stopped`: nothing refers to the files any more; without the
   * mark where the disk would not have it. What the store still answers counts for nothing from here on.
   */
  stop(stopped: () => void): void {
    invariant(this.#cleanStop === undefined, 'a replica is stopped once');
    const { hasPart } = this.#part;
    this.#part.end('stopping');
    const nowMs = (): number => this.ports.nowMs();
    this.#cleanStop = new CleanStop(this.copy, this.#keeper, hasPart, nowMs, () => {
      this.#part.stopped();
      stopped();
    });
    this.#ended();
  }

  handOver(replicaId: string): boolean {
    return this.#part.primary?.handOver(replicaId) ?? false;
  }

  /** As Primary.readmit. */
  readmit(replicaId: string): boolean {
    return this.#part.primary?.readmit(replicaId) ?? false;
  }

  tick(): void {
    this.#cleanStop?.step(this.#part.isQuiet);
    if (this.state === 'gone' || this.#cleanStop !== undefined) return;
    const nowMs = this.ports.nowMs();
    this.#proposals.tick();
    if (nowMs >= this.#coolAtMs) {
      this.#coolAtMs = nowMs + COOL_TICK_MS;
      this.copy.tick(COOL_AFTER_MS / COOL_TICK_MS);
    }
    this.#store.tick(this.#part.isOut);
    this.#part.tick();
    this.#part.change();
  }

  greeted(link: number, hello: Hello): void {
    this.#part.greeted(link, hello);
  }

  control(link: number, type: number, message: unknown): void {
    this.#part.control(link, type, message);
  }

  /** `request`: a slot that came with the frame; the core's from here on. NONE when the frame has none. */
  frame(link: number, fields: FrameFields, request: number): void {
    this.#part.frame(link, fields, request);
  }

  linkClosed(link: number): void {
    this.#part.linkClosed(link);
  }

  // ---- ends of what was started

  /** What waited for the disk to come to rest may go on. */
  #ended(): void {
    this.#cleanStop?.step(this.#part.isQuiet);
    this.#part.change();
  }

  dataDone(request: number, errno: number): void {
    const kind = this.table.kind[request];
    // A rewrite's only data operation is its read: its bytes stand here already.
    if (kind === READ || kind === COPY_READ || kind === REWRITE) this.primary?.readDone(request, errno);
    else this.copy.dataDone(request, errno);
    this.#ended();
  }

  flushDone(errno: number): void {
    this.copy.flushDone(errno);
    this.#ended();
  }

  intentRoundDone(errno: number): void {
    this.copy.intentRoundDone(errno);
    this.secondary?.marksReady();
    this.#ended();
  }

  generationsMerged(errno: number): void {
    this.copy.generationsMerged(errno);
    this.#ended();
  }

  stampsRead(link: number, extent: number, errno: number, stamps: Uint32Array): void {
    this.copy.stampsRead();
    this.primary?.stampsRead(link, extent, errno, stamps);
    this.#ended();
  }

  superblockDone(errno: number): void {
    this.#keeper.done(errno);
    this.#ended();
  }

  configRead(stored: StoredConfig | undefined | 'gone'): void {
    if (!this.#store.answered(stored) || this.#part.isOver) return;
    if (stored === 'gone') {
      this.#part.end('gone');
      return;
    }
    const { isJudged } = this.#standing;
    // The store is older than the disk, or another one.
    if (!isJudged && stored.config.epoch < this.#keeper.latest.promisedEpoch) {
      this.#part.hold();
      return;
    }
    this.#store.learn(stored);
    if (isJudged && this.state !== 'held') this.#part.react();
    else this.#part.open();
  }

  proposed(proposal: number, outcome: ProposalOutcome): void {
    this.#proposals.proposed(proposal, outcome);
  }

  #proposalSettled(current: StoredConfig | undefined): void {
    if (this.#part.isOver) return;
    if (current === undefined) {
      this.#part.end('gone');
      return;
    }
    this.#store.learn(current);
    // Also where nothing new was learned: the union of the sets has become smaller.
    this.#part.react();
  }

  // ---- CopyHost

  prepared(request: number): void {
    this.#part.prepared(request);
  }

  applied(request: number, errno: number): void {
    this.#part.applied(request, errno);
  }

  flushed(round: number, errno: number): void {
    this.#part.flushed(round, errno);
  }

  copyFailed(what: string, errno: number): void {
    this.ports.event({ type: 'failed', what, errno });
    this.#part.copyFailed();
    if (what !== 'superblock') this.copy.doubt();
  }
}
