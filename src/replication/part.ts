// Which part a replica plays in its process: none yet, a primary's follower, the primary, or none any more; and the way
// from one to the next, as the store's configuration says.
//
// Invariant: a part begins only when nothing of the one before is on its way to the disk.

import { isMember, openPrimary, replicaOf, type VolumeConfig } from './config.ts';
import { hasRoomFor } from './eligibility.ts';
import {
  FRAME_REFUSED,
  FRAME_HERE,
  FRAME_REQUEST,
  type FrameFields,
  type Hello,
  type RefusalReason,
  type StreamHello,
} from './frames.ts';
import type { Hub } from './hub.ts';
import { Primary } from './primary.ts';
import type { PrimaryHost } from './primary/replies.ts';
import { NONE } from './requests.ts';
import { Secondary } from './secondary.ts';
import { Sessions } from './sessions.ts';
import type { Standing } from './standing.ts';

/** opening: asks the store who it is. held: the store is older than the disk, and a person must decide. */
export type State =
  | 'opening'
  | 'following'
  | 'changing'
  | 'primary'
  | 'held'
  | 'gone'
  | 'stopping'
  | 'stopped';

const OVER: readonly State[] = ['gone', 'stopping', 'stopped'];
const WITHOUT_PART: readonly State[] = ['opening', 'held', ...OVER];

export class Part implements PrimaryHost {
  readonly #hub: Hub;
  readonly #standing: Standing;
  readonly #sessions: Sessions;
  #state: State = 'opening';
  #secondary: Secondary | undefined;
  #primary: Primary | undefined;
  /** What it becomes when the part before has come to rest. */
  #next: { readonly opening: string } | 'secondary' | 'opening' | undefined;
  /** A stream that waits for that. */
  #waitingHello: { readonly link: number; readonly hello: StreamHello } | undefined;
  /** The opening under which a handover makes it the primary. */
  #offeredOpening: string;
  /** And under which a proposal of this process does. */
  #proposedOpening: string | undefined;
  /** It is to be the primary once its own grants have run out. */
  #leadsSoon = false;
  #isTakingLineage = false;

  constructor(hub: Hub, standing: Standing) {
    this.#hub = hub;
    this.#standing = standing;
    this.#offeredOpening = hub.ports.drawId();
    this.#sessions = new Sessions(hub, () => this.#primary);
  }

  get state(): State {
    return this.#state;
  }

  get primary(): Primary | undefined {
    return this.#primary;
  }

  get secondary(): Secondary | undefined {
    return this.#secondary;
  }

  get offeredOpening(): string {
    return this.#offeredOpening;
  }

  /** It plays one, or is about to. */
  get hasPart(): boolean {
    return !WITHOUT_PART.includes(this.#state);
  }

  /** For good. */
  get isOver(): boolean {
    return OVER.includes(this.#state);
  }

  /** Nothing of it is on its way to the disk. */
  get isQuiet(): boolean {
    return (this.#secondary?.isQuiet ?? true) && (this.#primary?.isQuiet ?? true);
  }

  /** Not what the store names: it waits for a stream, for everybody's report, or for a person. */
  get isOut(): boolean {
    if (this.#state === 'opening' || this.#state === 'held') return true;
    if (this.#state !== 'following' || this.#secondary?.isFollowing === true) return false;
    const { known, replicaId, incarnation } = this.#hub;
    return !isMember(known.config, replicaId, incarnation);
  }

  // ---- the beginning

  hold(): void {
    this.#state = 'held';
  }

  /** The store answered: is the copy still the one that it names? Durable before it plays a part. */
  open(): void {
    const standing = this.#standing;
    if (this.#isTakingLineage) return;
    if (standing.isForeign) this.#state = 'held';
    else {
      this.#state = 'opening';
      if (!standing.isOfLineage) this.#takeLineage();
      else if (standing.isJudged) this.#begin();
      else standing.judge(() => this.#begin());
    }
  }

  #takeLineage(): void {
    this.#isTakingLineage = true;
    this.#standing.takeLineage(() => {
      this.#isTakingLineage = false;
      if (this.#state === 'opening') this.open();
    });
  }

  #begin(): void {
    if (this.#state !== 'opening') return;
    this.#state = 'following';
    this.#secondary = new Secondary(this.#hub, true);
    this.react();
  }

  // ---- what the configuration says

  /** It has changed, or what counts of it. */
  react(): void {
    if (!this.hasPart) return;
    const { replicas } = this.#hub.known.config;
    if (!replicas.some(({ id }) => id === this.#hub.replicaId)) this.end('gone');
    else if (!this.#standing.isOfLineage) this.#leaveLineage();
    else if (this.#primary !== undefined && !this.#primary.hasEnded) this.#reactAsPrimary(this.#primary);
    else if (this.#state === 'following') this.#reactAsSecondary();
  }

  #reactAsPrimary(primary: Primary): void {
    const hub = this.#hub;
    const { config } = hub.known;
    const isMine =
      config.primary.opening === primary.opening &&
      config.primary.replicaId === hub.replicaId &&
      hasRoomFor(hub, config);
    if (isMine && !(primary.isRenounced && hub.pending === undefined)) {
      primary.configChanged();
      this.#sessions.attachmentChanged();
      return;
    }
    // Another primary; or this opening gave its place away and nobody took it.
    if (!isMine) primary.tellPromoted();
    this.#sessions.moved();
    this.#state = 'changing';
    this.#next = 'secondary';
    this.#proposedOpening = undefined;
    this.#offeredOpening = hub.ports.drawId();
    primary.end();
    this.change();
  }

  #reactAsSecondary(): void {
    const hub = this.#hub;
    const { config } = hub.known;
    if (!hasRoomFor(hub, config)) {
      this.#secondary?.close();
      return;
    }
    if (!this.#standing.isReported() || config.primary.replicaId !== hub.replicaId) return;
    const { opening } = config.primary;
    const isNamed = isMember(config, hub.replicaId, hub.incarnation);
    if (!isNamed && !hub.broken.incarnationCheckedAtPromotion) return;
    const isOffered = isNamed && opening === this.#offeredOpening;
    if (opening !== null && (isOffered || opening === this.#proposedOpening)) this.#become(opening);
    else if (hub.pending === undefined) this.#lead(config, isNamed);
  }

  /**
   * It is named, and not by a handover: another process of it was the primary, or the promotion of one that died has
   * arrived late, and another primary may count on what was granted since.
   */
  #lead(config: VolumeConfig, isNamed: boolean): void {
    if (isNamed && this.#secondary?.mayLead(this.#standing.isProvenPrimary) === false) {
      this.#leadsSoon = true;
      return;
    }
    if (isNamed) this.#secondary?.followNobody();
    this.#hub.submit(openPrimary(config, this.#hub.opener(this.#hub.ports.drawId())));
  }

  /** A proposal of this process leaves: whoever it makes the primary, by this opening. */
  proposes({ primary }: VolumeConfig): void {
    if (primary.replicaId === this.#hub.replicaId && primary.opening !== this.#primary?.opening)
      this.#proposedOpening = primary.opening ?? undefined;
  }

  /** A person forced a promotion: whatever part it plays ends, and it opens again. */
  #leaveLineage(): void {
    if (this.#next === 'opening') return;
    this.#sessions.moved();
    this.#state = 'changing';
    this.#next = 'opening';
    this.#proposedOpening = undefined;
    this.#offeredOpening = this.#hub.ports.drawId();
    this.#primary?.end();
    this.#secondary?.close();
    this.change();
  }

  #become(opening: string): void {
    this.#state = 'changing';
    this.#next = { opening };
    this.#secondary?.close();
    this.change();
  }

  /** Something ended: if the part before has come to rest, the next one begins. */
  change(): void {
    if (this.isOver) return;
    this.#standing.progress();
    if (this.#state !== 'changing' || this.#next === undefined) return;
    if (!this.isQuiet || !this.#hub.copy.isDataQuiet) return;
    const next = this.#next;
    this.#next = undefined;
    this.#secondary = undefined;
    this.#primary = undefined;
    if (next === 'opening') {
      this.open();
      return;
    }
    if (next === 'secondary') {
      this.#state = 'following';
      this.#secondary = new Secondary(this.#hub, false);
      const waiting = this.#waitingHello;
      this.#waitingHello = undefined;
      if (waiting !== undefined) this.#secondary.hello(waiting.link, waiting.hello);
    } else {
      this.#state = 'primary';
      this.#primary = new Primary(this.#hub, this, next.opening);
    }
    this.react();
  }

  /** A replica that stops goes on stopping, whatever becomes of the volume. */
  end(state: 'gone' | 'stopping'): void {
    if (this.#state === 'stopping' || this.#state === 'stopped') return;
    this.#state = state;
    this.#next = undefined;
    if (this.#waitingHello !== undefined) this.#hub.ports.closeLink(this.#waitingHello.link);
    this.#waitingHello = undefined;
    this.#sessions.moved();
    this.#primary?.end();
    if (state === 'stopping') this.#secondary?.leave();
    else this.#secondary?.close();
  }

  stopped(): void {
    this.#state = 'stopped';
  }

  tick(): void {
    this.#primary?.tick();
    this.#sessions.tick();
    this.#secondary?.tick();
    if (this.#leadsSoon && this.#state === 'following') {
      this.#leadsSoon = false;
      this.react();
    }
  }

  // ---- links

  greeted(link: number, hello: Hello): void {
    if (hello.kind === 'session') {
      if (this.#state === 'primary') this.#sessions.hello(link, hello);
      else this.#refuse(link, 'notPrimary');
    } else if (this.#state === 'stopping') this.#refuse(link, 'stopping');
    else if (!this.hasPart || !this.#isBootKnown(hello.config))
      this.#refuse(link, this.#hub.copy.hasFailed ? 'failed' : 'busy');
    else if (this.#state === 'following') this.#secondary?.hello(link, hello);
    // A primary hears of a later one by its stream.
    else if (hello.config.epoch < this.#hub.superblock.promisedEpoch) this.#refuse(link, 'epoch');
    else {
      if (this.#waitingHello !== undefined) this.#hub.ports.closeLink(this.#waitingHello.link);
      this.#waitingHello = { link, hello };
      this.#hub.learn({ config: hello.config, revision: hello.revision });
      this.change();
    }
  }

  /** The store knows this boot: before, nothing may be acknowledged in it. */
  #isBootKnown(config: VolumeConfig): boolean {
    const { broken, known, replicaId, bootId } = this.#hub;
    if (broken.bootRecordedBeforeAck) return true;
    if (replicaOf(known.config, replicaId).bootId === bootId) return true;
    // The sender may mean another copy, one that this node had before: that is refused, and not believed.
    if (config.replicas.find(({ id }) => id === replicaId)?.bootId === bootId) return true;
    this.#hub.look();
    return false;
  }

  #refuse(link: number, reason: RefusalReason): void {
    const { ports, superblock } = this.#hub;
    ports.sendControl(link, FRAME_REFUSED, { reason, epoch: superblock.promisedEpoch });
    ports.closeLink(link);
  }

  control(link: number, type: number, message: unknown): void {
    this.#primary?.control(link, type, message);
    this.#secondary?.control(link, type, message);
  }

  frame(link: number, fields: FrameFields, request: number): void {
    if (fields.type === FRAME_REQUEST) this.#sessions.request(link, fields, request);
    else if (fields.type === FRAME_HERE) this.#sessions.here(link);
    else if (this.#secondary !== undefined) this.#secondary.frame(link, fields, request);
    else {
      if (request !== NONE) this.#hub.ports.release(request);
      this.#primary?.frame(link, fields);
    }
  }

  linkClosed(link: number): void {
    if (this.#waitingHello?.link === link) this.#waitingHello = undefined;
    this.#primary?.linkClosed(link);
    this.#secondary?.linkClosed(link);
    this.#sessions.linkClosed(link);
  }

  // ---- the local copy

  prepared(request: number): void {
    (this.#secondary ?? this.#primary)?.prepared(request);
  }

  applied(request: number, errno: number): void {
    (this.#secondary ?? this.#primary)?.applied(request, errno);
  }

  flushed(round: number, errno: number): void {
    this.#secondary?.flushed(round, errno);
    this.#primary?.flushed(round, errno);
  }

  copyFailed(): void {
    this.#secondary?.copyHasFailed();
    this.#primary?.copyHasFailed();
  }

  // ---- PrimaryHost

  answer(request: number, errno: number): void {
    this.#sessions.answer(request, errno);
  }

  giveBack(request: number): void {
    this.#sessions.giveBack(request);
  }

  serves(): void {
    this.#sessions.progress();
  }

  isRevoked(request: number): boolean {
    return this.#sessions.isRevoked(request);
  }

  isUnheard(request: number): boolean {
    return this.#sessions.isUnheard(request);
  }

  get clientHeardMs(): number | undefined {
    return this.#sessions.heardMs;
  }
}
