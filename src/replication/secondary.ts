// A copy that follows a primary: applies its stream, answers when the bytes are where the volume's durability
// wants them, grants leases, and takes over when its own grant has run out and nothing was heard.
//
// Invariants: nothing is answered or granted below the promised epoch, and a promise is durable before the first
// answer in its epoch (I3); what an older stream sends is void, and a new one is answered only when every disk
// operation of the older has ended; from the submission of a promotion on, nothing of the old epoch is answered.

import { invariant } from '../core/invariant.ts';
import { canPromote, hasRoomFor } from './eligibility.ts';
import { isMember, knownSet, memberOf, promote } from './config.ts';
import {
  type EpochMessage,
  FRAME_BEAT,
  FRAME_COPIED,
  FRAME_COPY,
  FRAME_COPY_ZERO,
  FRAME_DONE,
  FRAME_EPOCH,
  FRAME_EPOCH_KEPT,
  FRAME_FLUSH,
  FRAME_FLUSHED,
  FRAME_GRANT,
  FRAME_PROMOTE,
  FRAME_REFUSED,
  FRAME_SETTLED,
  FRAME_STAMPED,
  FRAME_STAMPS,
  FRAME_WELCOME,
  FRAME_WRITE,
  FRAME_ZERO,
  type FrameFields,
  OFFSET,
  type PromoteMessage,
  type RefusalReason,
  SEQUENCE,
  type StampsMessage,
  type StreamHello,
  TIME,
  WATERMARK,
} from './frames.ts';
import type { Hub } from './hub.ts';
import { RangeLocks } from './range-locks.ts';
import { COPY, NONE, RequestQueue, WRITE, ZERO } from './requests.ts';
import { Unsettled } from './unsettled.ts';
import { DROP_AFTER_MS, LEASE_MS, STORE_RETRY_MS } from './timing.ts';

interface Stream {
  readonly link: number;
  readonly opening: string;
  readonly number: number;
  /** Frames are taken from it; before, its Welcome waits for older operations and for the promise. */
  isOpen: boolean;
  role: 'member' | 'joining';
}

interface Greeting {
  readonly link: number;
  readonly hello: StreamHello;
}

export class Secondary {
  readonly #hub: Hub;
  readonly #locks: RangeLocks;
  readonly #unsettled: Unsettled;
  #stream: Stream | undefined;
  /** A Hello that waits for operations of the stream before it to end. */
  #greeting: Greeting | undefined;
  #lastOpening = '';
  #lastStream = 0;
  /** Of the stream: what arrives is written in it. */
  #epoch = 0;
  /** Until then it has promised not to promote. */
  #grantedUntilMs: number;
  /** Until then an earlier process of this replica may have promised the same. */
  readonly #sitsOutUntilMs: number;
  #heardMs: number;
  #isSuspecting = false;
  /** The primary that was given its time to be heard. */
  #awaitedOpening: string | null = null;
  #lookAtMs = 0;
  /** A promise is on its way to the disk: answers wait. */
  #promiseCount = 0;
  readonly #answers: RequestQueue;
  /** Flush rounds of the primary that the running and the next local round answer. */
  #flushRounds: { local: number; link: number; round: number }[] = [];
  /** Stamps whose extents are being marked. */
  #stamps: { link: number; extent: number; stamps: readonly number[] }[] = [];

  /** `sitsOut`: this process does not know what an earlier one granted. */
  constructor(hub: Hub, sitsOut: boolean) {
    this.#hub = hub;
    const nowMs = hub.ports.nowMs();
    this.#sitsOutUntilMs = sitsOut && !hub.broken.sitOutAfterRestart ? nowMs + LEASE_MS : nowMs;
    if (hub.broken.sitOutAfterRestart) this.#awaitedOpening = hub.known.config.primary.opening;
    this.#grantedUntilMs = nowMs;
    this.#heardMs = sitsOut && hub.broken.sitOutAfterRestart ? Number.NEGATIVE_INFINITY : nowMs;
    this.#answers = new RequestQueue(hub.table);
    this.#unsettled = new Unsettled(hub.copy);
    this.#locks = new RangeLocks(hub.table, (request) => this.#locked(request));
  }

  get #isPromoting(): boolean {
    const { pending, known, replicaId } = this.#hub;
    return (
      pending !== undefined && pending.epoch > known.config.epoch && pending.primary.replicaId === replicaId
    );
  }

  /** It is about to be the primary: what another one still sends is void from here on. */
  followNobody(): void {
    if (!this.#hub.broken.noGrantWhilePromoting) this.#endStream();
  }

  /** This copy has become too small: whoever sends to it finds out at once. */
  unfollow(): void {
    this.#endStream();
  }

  /** The same, for good: Hellos are refused from here on, and no promise will be durable that answers wait for. */
  copyHasFailed(): void {
    this.#endStream();
    this.#answerWaiting();
    this.progress();
  }

  get isFollowing(): boolean {
    return this.#stream?.isOpen === true && this.#hub.ports.nowMs() - this.#heardMs < LEASE_MS;
  }

  // ---- streams

  hello(link: number, hello: StreamHello): void {
    const hub = this.#hub;
    const reason = this.#refusal(hello);
    if (reason !== undefined) {
      this.#refuse(link, reason);
      return;
    }
    hub.learn({ config: hello.config, revision: hello.revision });
    this.#lastOpening = hello.config.primary.opening ?? '';
    this.#lastStream = hello.stream;
    this.#endStream();
    if (this.#greeting !== undefined) hub.ports.closeLink(this.#greeting.link);
    this.#greeting = { link, hello };
    this.#heardMs = hub.ports.nowMs();
    this.progress();
  }

  #refuse(link: number, reason: RefusalReason): void {
    const { ports, superblock } = this.#hub;
    ports.sendControl(link, FRAME_REFUSED, { reason, epoch: superblock.promisedEpoch });
    ports.closeLink(link);
  }

  #refusal({ config, stream, replicaId }: StreamHello): RefusalReason | undefined {
    const { superblock, broken, copy, pending } = this.#hub;
    if (replicaId !== this.#hub.replicaId || config.volumeId !== superblock.volumeId) return 'notPrimary';
    if (config.lineage !== superblock.lineage) return 'lineage';
    if (copy.hasFailed) return 'failed';
    if (!hasRoomFor(this.#hub, config)) return 'size';
    if (config.epoch < superblock.promisedEpoch && !broken.lowerEpochRefused) return 'epoch';
    // From the submission of its own promotion on, it answers nothing of the epoch that it wants to end.
    if (this.#isPromoting && config.epoch < (pending?.epoch ?? 0) && !broken.noGrantWhilePromoting)
      return 'busy';
    const isOld = config.primary.opening === this.#lastOpening && stream <= this.#lastStream;
    return isOld && !broken.lowerStreamRefused ? 'number' : undefined;
  }

  /** Something ended or time went by: what waited may go on. */
  progress(): void {
    this.#mergeStamps();
    const greeting = this.#greeting;
    if (greeting === undefined) return;
    const hub = this.#hub;
    if (hub.copy.hasFailed) {
      this.#greeting = undefined;
      this.#refuse(greeting.link, 'failed');
      return;
    }
    if (!hub.broken.oldOperationsEndFirst && !this.isQuiet) return;
    this.#greeting = undefined;
    this.#open(greeting);
  }

  #open({ link, hello }: Greeting): void {
    const hub = this.#hub;
    const { config } = hello;
    const opening = config.primary.opening ?? '';
    const stream: Stream = { link, opening, number: hello.stream, isOpen: false, role: hello.role };
    this.#stream = stream;
    this.#epoch = config.epoch;
    // Suspects are what stood here before this stream: asked for before its opening takes the window over.
    const suspects = hub.copy.suspects();
    // Of this process's own writes the window says which are in doubt: an extent that is only hot is not.
    const { extents } = hub.copy;
    const hotExtents = suspects === 'hot' ? extents.hotExtents() : extents.inheritedExtents();
    const lastInSyncEpoch = hub.superblock.inSync.epoch;
    // Before the watermark settles them: what was in flight when a member was dropped counts as of that epoch.
    if (!hub.broken.restampAtHello) hub.copy.restampUnsettled(config.epoch);
    hub.copy.beginOpening(opening, hello.watermark, hello.role === 'member');
    hub.copy.settleUpTo(hello.watermark);
    hub.copy.durability = config.durability;
    this.#promise(hello, () => {
      if (this.#stream !== stream) return;
      stream.isOpen = true;
      hub.ports.sendControl(link, FRAME_WELCOME, {
        kind: 'stream',
        incarnation: hub.incarnation,
        opening: hub.offeredOpening,
        bootId: hub.bootId,
        lastInSyncEpoch,
        suspects,
        hotExtents,
        isDeltaBase: hub.isDeltaBase,
      });
    });
  }

  /** Durable before anything of the epoch is answered or granted. */
  #promise(
    { config, role }: { config: StreamHello['config']; role: 'member' | 'joining' },
    then: () => void,
  ): void {
    const hub = this.#hub;
    this.#promiseCount += 1;
    // A primary that does not know yet which incarnation this is calls it a member: what it lacks would be forgotten.
    const isNamed = isMember(config, hub.replicaId, hub.incarnation) || hub.broken.inSyncOnlyIfNamed;
    const isInSync = role === 'member' && isNamed;
    hub.keep(
      {
        promisedEpoch: Math.max(config.epoch, hub.superblock.promisedEpoch),
        attachmentNumber: Math.max(config.attachment.number, hub.superblock.attachmentNumber),
        durability: config.durability,
        ...(isInSync
          ? { lastInSyncIncarnation: hub.incarnation, earlierIncarnations: [], inSync: knownSet(config) }
          : {}),
      },
      () => {
        this.#promiseCount -= 1;
        then();
        if (this.#promiseCount === 0) this.#answerWaiting();
      },
    );
  }

  #answerWaiting(): void {
    for (let request = this.#answers.shift(); request !== NONE; request = this.#answers.shift())
      this.#answer(request);
  }

  #forgetStream(): void {
    this.#stream = undefined;
    this.#flushRounds = [];
    this.#stamps = [];
  }

  #endStream(): void {
    const stream = this.#stream;
    this.#forgetStream();
    if (stream !== undefined) this.#hub.ports.closeLink(stream.link);
  }

  /** The process is being stopped: the primary need not wait to find that out. */
  leave(): void {
    const { ports, superblock } = this.#hub;
    if (this.#stream?.isOpen === true)
      ports.sendControl(this.#stream.link, FRAME_REFUSED, {
        reason: 'stopping',
        epoch: superblock.promisedEpoch,
      });
    this.close();
  }

  /** The role ends, or the process: nothing more is answered. */
  close(): void {
    if (this.#greeting !== undefined) this.#hub.ports.closeLink(this.#greeting.link);
    this.#greeting = undefined;
    this.#endStream();
  }

  linkClosed(link: number): void {
    if (this.#greeting?.link === link) this.#greeting = undefined;
    if (this.#stream?.link === link) {
      this.#forgetStream();
      // A closed connection proves nothing: firewalls close them too.
      if (this.#hub.broken.brokenLinkIsNoProof)
        this.#heardMs = this.#grantedUntilMs = Number.NEGATIVE_INFINITY;
    }
  }

  /** Nothing of any stream is on its way to the disk. */
  get isQuiet(): boolean {
    return this.#locks.isIdle && this.#unsettled.isIdle && this.#hub.copy.isDataQuiet;
  }

  // ---- frames

  frame(link: number, fields: FrameFields, request: number): void {
    const hub = this.#hub;
    const stream = this.#stream;
    const isOfStream = stream?.link === link || hub.broken.oldStreamIsVoid;
    if (stream === undefined || !isOfStream || !stream.isOpen) {
      if (request !== NONE) hub.ports.release(request);
      return;
    }
    this.#heardMs = hub.ports.nowMs();
    switch (fields.type) {
      case FRAME_WRITE:
      case FRAME_ZERO:
        hub.copy.settleUpTo(fields.numbers[WATERMARK] as number);
        this.#take(link, fields, request, fields.type === FRAME_WRITE ? WRITE : ZERO);
        return;
      case FRAME_COPY:
      case FRAME_COPY_ZERO:
        hub.table.isHole[request] = fields.type === FRAME_COPY_ZERO ? 1 : 0;
        this.#take(link, fields, request, COPY);
        return;
      case FRAME_FLUSH:
        this.#flush(link, fields.numbers[SEQUENCE] as number);
        return;
      case FRAME_BEAT:
        hub.copy.settleUpTo(fields.numbers[WATERMARK] as number);
        this.#grant(link, fields.numbers[TIME] as number);
        return;
      case FRAME_SETTLED:
        hub.copy.settleUpTo(fields.numbers[SEQUENCE] as number);
        hub.copy.settleInherited(fields.epoch);
        return;
      default:
        invariant(false, `a stream carries no frame of type ${fields.type}`);
    }
  }

  control(link: number, type: number, message: unknown): void {
    const hub = this.#hub;
    const stream = this.#stream;
    if (stream === undefined || stream.link !== link || !stream.isOpen) return;
    this.#heardMs = hub.ports.nowMs();
    switch (type) {
      case FRAME_EPOCH:
        this.#raiseEpoch(stream, message as EpochMessage);
        return;
      case FRAME_STAMPS: {
        const { extent, stamps } = message as StampsMessage;
        this.#stamps.push({ link, extent, stamps });
        this.#mergeStamps();
        return;
      }
      case FRAME_PROMOTE: {
        const { config, revision } = message as PromoteMessage;
        hub.learn({ config, revision });
        return;
      }
      default:
        invariant(false, `a stream carries no message of type ${type}`);
    }
  }

  #raiseEpoch(stream: Stream, message: EpochMessage): void {
    const hub = this.#hub;
    const { config } = message;
    hub.learn({ config, revision: message.revision });
    if (this.#stream !== stream) return;
    stream.role = message.role;
    this.#epoch = config.epoch;
    hub.copy.restampUnsettled(config.epoch);
    hub.copy.durability = config.durability;
    this.#unsettled.take(message.unsettled, config.epoch);
    this.#promise(message, () => {
      if (this.#stream !== stream) return;
      const { out } = hub;
      out.type = FRAME_EPOCH_KEPT;
      out.epoch = config.epoch;
      hub.ports.sendFrame(stream.link, out, NONE);
    });
  }

  #grant(link: number, timeMs: number): void {
    const hub = this.#hub;
    if (this.#promiseCount > 0) return;
    this.#grantedUntilMs = hub.ports.nowMs() + LEASE_MS;
    const { out } = hub;
    out.type = FRAME_GRANT;
    out.epoch = hub.superblock.promisedEpoch;
    out.numbers[TIME] = timeMs;
    hub.ports.sendFrame(link, out, NONE);
  }

  #take(link: number, fields: FrameFields, request: number, kind: number): void {
    const { table, copy, ports } = this.#hub;
    if ((fields.numbers[OFFSET] as number) + fields.lengthBytes > copy.sizeBytes) {
      // The volume has grown, and this copy has not: it says so to the next Hello.
      ports.release(request);
      this.unfollow();
      return;
    }
    table.kind[request] = kind;
    table.flags[request] = fields.flags;
    table.offsetBytes[request] = fields.numbers[OFFSET] as number;
    table.lengthBytes[request] = fields.lengthBytes;
    table.sequence[request] = fields.numbers[SEQUENCE] as number;
    table.origin[request] = link;
    if (this.#hub.broken.joiningAppliesInOrder || this.#locks.acquire(request)) this.#locked(request);
  }

  #locked(request: number): void {
    if (this.#unsettled.isIdle) this.#prepare(request);
    else this.#unsettled.whenEntered(() => this.#prepare(request));
  }

  #prepare(request: number): void {
    if (this.#hub.copy.prepare(request)) this.prepared(request);
  }

  prepared(request: number): void {
    const { copy, table, broken } = this.#hub;
    // What a joining copy is given may be unacknowledged, and the next primary may not have it: until it has joined
    // and everything is settled, all that it took stays suspect.
    if (this.#stream?.role !== 'member' && !copy.hasFailed && !broken.joiningCopyStaysSuspect)
      copy.extents.keepHot(table.offsetBytes[request] as number, table.lengthBytes[request] as number);
    copy.start(request, this.#epoch);
  }

  applied(request: number, errno: number): void {
    const { table } = this.#hub;
    table.error[request] = errno;
    if (this.#promiseCount > 0 && !this.#hub.copy.hasFailed) this.#answers.push(request);
    else this.#answer(request);
  }

  #answer(request: number): void {
    const hub = this.#hub;
    const { table, out } = hub;
    const stream = this.#stream;
    const isOfStream = stream?.isOpen === true && stream.link === table.origin[request];
    if (isOfStream) {
      out.type = table.kind[request] === COPY ? FRAME_COPIED : FRAME_DONE;
      out.errno = table.error[request] as number;
      out.epoch = hub.superblock.promisedEpoch;
      out.numbers[SEQUENCE] = table.sequence[request] as number;
      hub.ports.sendFrame(stream.link, out, NONE);
    }
    if (!hub.broken.joiningAppliesInOrder) this.#locks.release(request);
    hub.ports.release(request);
    this.progress();
  }

  #flush(link: number, round: number): void {
    this.#unsettled.whenEntered(() => {
      if (this.#stream?.link === link)
        this.#flushRounds.push({ local: this.#hub.copy.requestFlush(), link, round });
    });
  }

  flushed(local: number, errno: number): void {
    const { out, ports } = this.#hub;
    while (this.#flushRounds[0] !== undefined && this.#flushRounds[0].local <= local) {
      const { link, round } = this.#flushRounds.shift() as { link: number; round: number };
      out.type = FRAME_FLUSHED;
      out.errno = errno;
      out.numbers[SEQUENCE] = round;
      ports.sendFrame(link, out, NONE);
    }
  }

  /** A copy's generations go into its table before its blocks are asked for by anyone. */
  #mergeStamps(): void {
    const hub = this.#hub;
    while (this.#stamps[0] !== undefined) {
      const { link, extent, stamps } = this.#stamps[0];
      if (!hub.copy.extents.ensureHot(extent, extent)) return;
      this.#stamps.shift();
      hub.copy.extents.mergeStamps(extent, stamps);
      hub.out.type = FRAME_STAMPED;
      hub.out.numbers[SEQUENCE] = extent;
      hub.ports.sendFrame(link, hub.out, NONE);
    }
  }

  marksReady(): void {
    this.#unsettled.proceed();
    this.#mergeStamps();
  }

  // ---- taking over

  /**
   * No other primary can count on a grant of this replica. `isProven`: earlier processes of it granted nothing that
   * could still hold.
   */
  mayLead(isProven: boolean): boolean {
    if (this.#hub.broken.waitForOwnGrant) return true;
    const nowMs = this.#hub.ports.nowMs();
    return nowMs >= this.#grantedUntilMs && (isProven || nowMs >= this.#sitsOutUntilMs);
  }

  /** Says so once, of a silence that nothing but the end of its own grant is waited for in. */
  #considerSuspicion(silentMs: number): void {
    const { ports, known, replicaId, incarnation } = this.#hub;
    const { config } = known;
    const isSuspect = silentMs >= DROP_AFTER_MS && isMember(config, replicaId, incarnation);
    if (isSuspect && !this.#isSuspecting && config.primary.replicaId !== replicaId)
      ports.event({ type: 'suspected', replicaId: config.primary.replicaId, silentMs });
    this.#isSuspecting = isSuspect;
  }

  tick(): void {
    const hub = this.#hub;
    const nowMs = hub.ports.nowMs();
    this.progress();
    if (hub.pending !== undefined || this.#greeting !== undefined) return;
    // Somebody else took over first: that one gets a lease's time before it counts as silent.
    const { opening } = hub.known.config.primary;
    if (opening !== this.#awaitedOpening) {
      this.#awaitedOpening = opening;
      this.#heardMs = nowMs;
    }
    this.#considerSuspicion(nowMs - this.#heardMs);
    const isSilent = nowMs - this.#heardMs >= (hub.broken.waitForOwnGrant ? LEASE_MS / 2 : LEASE_MS);
    if (!isSilent && this.#stream?.isOpen === true) return;
    if (nowMs >= this.#lookAtMs) {
      this.#lookAtMs = nowMs + STORE_RETRY_MS;
      hub.look();
    }
    const mayPromote = isSilent && this.mayLead(false);
    if (!mayPromote || !canPromote(hub)) return;
    hub.ports.event({ type: 'leaseOver', replicaId: hub.known.config.primary.replicaId });
    // What the old primary still sends is void from here on; if the promotion fails, it is sent again.
    if (!hub.broken.noGrantWhilePromoting) this.#endStream();
    const { config } = hub.known;
    const isNamed = memberOf(config, hub.replicaId) !== undefined;
    const self = { replicaId: hub.replicaId, incarnation: hub.incarnation };
    // Not named: only where a test broke the rule.
    const base = isNamed ? config : { ...config, inSync: [...config.inSync, self] };
    hub.submit(promote(base, hub.opener(hub.ports.drawId())));
  }
}
