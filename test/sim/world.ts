// A whole cluster in one thread, from one seed: replicas, the store, the network, who uses the volume, and what
// goes wrong. Everything that happens is an event of the schedule; the same seed makes the same run.

import { BLOCK_BYTES, EXTENT_BYTES } from '../../src/core/units.ts';
import {
  attach,
  type FailureMode,
  forcePromotion,
  isMember,
  memberOf,
  type VolumeConfig,
} from '../../src/replication/config.ts';
import type { ControlMessage } from '../../src/replication/frames.ts';
import type { Durability, Superblock } from '../../src/replication/layout/superblock.ts';
import type { ReplicaEvent } from '../../src/replication/ports.ts';
import { UNTOUCHED } from '../../src/replication/requests.ts';
import { type BrokenRules, NOTHING_BROKEN } from '../../src/replication/rules.ts';
import { Checks } from './checks.ts';
import { type Asked, Consumer, type FrontendProcess } from './consumer.ts';
import { Disk } from './disk.ts';
import { History, type Operation } from './history.ts';
import { Network } from './network.ts';
import { SimProcess } from './process.ts';
import { Random } from './random.ts';
import { addReplica, growVolume, MAX_REPLICAS, removeReplica } from './operators.ts';
import { Schedule } from './schedule.ts';
import { SimStore } from './store.ts';

/** What noticed: history.ts (reads), checks.ts, world.ts (oneServes, equality at rest), run.ts (liveness), the core's own invariants. */
export type Checker =
  | 'history'
  | 'equality'
  | 'oneServes'
  | 'acknowledged'
  | 'accepted'
  | 'promise'
  | 'order'
  | 'marks'
  | 'coverage'
  | 'delta'
  | 'liveness'
  | 'invariant';

export class Violation extends Error {
  override readonly name = 'Violation';
  readonly checker: Checker;
  constructor(checker: Checker, message: string, cause?: unknown) {
    super(message, { cause });
    this.checker = checker;
  }
}

const EIO = 5;
const ENOSPC = 28;
/** Beyond the size that the volume was made with. */
const MAX_GROWTH_EXTENTS = 2;

/** What one seed draws: the cluster, the load, and the rates of what goes wrong (mean time between, in ms; 0: never). */
export interface Shape {
  readonly copies: number;
  readonly extraNodes: number;
  readonly failureMode: FailureMode;
  readonly durability: Durability;
  readonly extents: number;
  readonly blocks: readonly number[];
  readonly maxBlocks: number;
  readonly depth: number;
  readonly readShare: number;
  readonly flushShare: number;
  readonly zeroShare: number;
  readonly fuaShare: number;
  readonly thinkMs: number;
  readonly networkDelayMs: number;
  /** Chances of each frame, on its way: nobody is told but by the wire format's checks. */
  readonly frameLossRate: number;
  readonly frameRepeatRate: number;
  readonly frameReorderRate: number;
  readonly frameFlipRate: number;
  readonly hearsAfterClose: boolean;
  readonly storeDelayMs: number;
  readonly storeLossRate: number;
  readonly diskDelayMs: number;
  readonly slowDiskRate: number;
  readonly clockDrift: number;
  readonly killMs: number;
  readonly cleanStopMs: number;
  readonly powerCutMs: number;
  readonly allPowerCutMs: number;
  readonly pauseMs: number;
  readonly partitionMs: number;
  readonly linkBreakMs: number;
  readonly storeDownMs: number;
  readonly storeCutMs: number;
  readonly diskErrorMs: number;
  readonly moveMs: number;
  readonly handOverMs: number;
  readonly frontendKillMs: number;
  readonly storeSlowMs: number;
  readonly spaceMs: number;
  /** People who move and hand over several times in a row. */
  readonly burstMs: number;
  readonly failureModeMs: number;
  readonly weakenMs: number;
  readonly addReplicaMs: number;
  readonly removeReplicaMs: number;
  /** The run ends with the store put back from an old snapshot: everything must stand still. */
  readonly restoresStore: boolean;
  readonly safetyMs: number;
  readonly growMs: number;
  /** Of a node's turns to fill a copy: how often it is this volume's. */
  readonly turnChance: number;
  readonly forceMs: number;
  /** Of superblock, intent log and generations. */
  readonly metaErrorMs: number;
  /** Chance of each frame that its connection stands still for a while. */
  readonly frameStallRate: number;
  /** Chance of each connection of a killed process that what it had sent still arrives. */
  readonly lingerRate: number;
  /** Chance of each swap that its outcome is heard seconds later. */
  readonly storeLateRate: number;
  /** Chance of each look of a frontend at the store that it shows an older state. */
  readonly storeOldRate: number;
  /** Old images of a copy's disk are put back. */
  readonly imageMs: number;
  /** No node has room any more, for so long. */
  readonly fullMs: number;
  readonly fullForMs: number;
  /** How often those have room that are not in sync. */
  readonly fullSparesRate: number;
  /** When everything is mended no node has room, and connections break: that is answered, too. */
  readonly endsFull: boolean;
}

export type DiskAction = 'read' | 'write' | 'meta' | 'flush';

export class SimNode {
  readonly index: number;
  readonly name: string;
  replicaId: string;
  disk: Disk;
  /** It is to have a copy: its daemon opens one. */
  isHost = false;
  /** As a primary: it gave somebody up; its own disk failed. */
  droppedSomebodyMs = Number.NEGATIVE_INFINITY;
  failedMs = Number.NEGATIVE_INFINITY;
  /** When its disk had no room for a write last, and said so before anything of it was written. */
  refusedMs = Number.NEGATIVE_INFINITY;
  bootId: string;
  process: SimProcess | undefined;
  isUp = true;
  isPaused = false;
  slowFactor = 1;
  /** Operations that fail from now on: how many, of what. */
  errorsLeft = 0;
  errorKind: 'data' | 'flush' | 'meta' | 'space' = 'data';
  /** What a power cut may leave behind in part. */
  readonly writesInFlight = new Set<() => void>();
  readonly #world: World;
  readonly #queue: (() => void)[] = [];
  /** It stood still within a turn: so many events of the queue are of that turn, and its clock was read at this time. */
  #turn = { left: 0, atMs: 0 };
  /** It handles them. */
  isInTurn = false;
  readonly #rate: number;
  readonly #offsetMs: number;

  constructor(world: World, index: number, superblock: Superblock) {
    this.#world = world;
    this.index = index;
    this.name = `node${index}`;
    this.replicaId = superblock.replicaId;
    this.disk = new Disk(superblock);
    this.bootId = world.drawId();
    this.#rate = 1 + world.random.clock.between(-1, 1) * world.shape.clockDrift;
    this.#offsetMs = world.random.clock.between(0, 1e6);
  }

  /** The clock of the turn, where it stood still within one (ReplicaPorts.nowMs). */
  nowMs(): number {
    return this.isInTurn ? this.#turn.atMs : this.#world.schedule.nowMs * this.#rate + this.#offsetMs;
  }

  /** At once, or when the machine goes on: nothing overtakes what piled up meanwhile. */
  run(event: () => void): void {
    if (this.isPaused || this.#queue.length > 0) this.#queue.push(event);
    else event();
  }

  /** `gatherMs`: what comes within this time is of one turn, whose clock has been read when the machine stands still. */
  pause(gatherMs = 0): void {
    this.isPaused = true;
    this.#turn = { left: 0, atMs: 0 };
    if (gatherMs === 0) return;
    this.#world.schedule.after(gatherMs, () => {
      if (this.isPaused) this.#turn = { left: this.#queue.length, atMs: this.nowMs() };
    });
  }

  resume(): void {
    this.isPaused = false;
    this.isInTurn = true;
    for (; this.#turn.left > 0 && !this.isPaused; this.#turn.left -= 1) this.#queue.shift()?.();
    this.isInTurn = false;
    // What else piled up is handled one after the other, as fast as it goes.
    const next = (): void => {
      if (this.isPaused) return;
      const event = this.#queue.shift();
      if (event === undefined) return;
      event();
      if (this.#queue.length > 0) this.#world.schedule.after(0.01, next);
    };
    next();
  }

  cutPower(random: Random): void {
    this.isUp = false;
    for (const write of this.writesInFlight) if (random.chance(0.5)) write();
    this.writesInFlight.clear();
    this.#queue.length = 0;
    this.#turn.left = 0;
    this.isPaused = false;
    this.disk.cutPower(random);
    this.bootId = this.#world.drawId();
  }

  diskDelay(what: DiskAction): number {
    const { shape, random } = this.#world;
    const base = what === 'flush' ? 4 : what === 'meta' ? 3 : 1;
    return Math.min(random.disk.wait(shape.diskDelayMs * base) * this.slowFactor, 9000) + 0.01;
  }

  diskErrno(what: DiskAction): number {
    if (this.errorsLeft === 0) return 0;
    const { errorKind } = this;
    const isHit =
      errorKind === 'flush' || errorKind === 'meta'
        ? what === errorKind
        : what === 'write' || (what === 'read' && errorKind === 'data');
    if (!isHit) return 0;
    // The last good copy is spared: without one there is nothing to judge.
    const { config } = this.#world.store.current;
    // One that lost power may be named still, and has lost what it had not flushed.
    const isOfSet = ({ process, replicaId }: SimNode): boolean =>
      process === undefined || isMember(config, replicaId, process.replica.incarnation);
    const others = this.#world
      .surelyInSync()
      .filter((node) => node !== this && node.isUp && !node.disk.isMarked && isOfSet(node));
    if (others.length === 0 && !this.#world.isEveryDiskFull) return 0;
    this.errorsLeft -= 1;
    const { disk } = this.#world.random;
    // Most often that is known before anything is written. Always on the last good copy: what of a write that was
    // answered with an error a power cut takes back, after reads have shown it, no history can tell.
    const isKnownBefore = others.length === 0 || this.#world.isHealed || disk.chance(0.8);
    if (errorKind === 'space' && isKnownBefore) {
      this.refusedMs = this.#world.schedule.nowMs;
      return ENOSPC | UNTOUCHED;
    }
    if (errorKind === 'space') return ENOSPC;
    return errorKind === 'meta' && disk.chance(0.5) ? ENOSPC : EIO;
  }
}

export interface Streams {
  readonly client: Random;
  readonly clock: Random;
  readonly disk: Random;
  readonly faults: Random;
  readonly process: Random;
}

export class World {
  readonly seed: number;
  readonly shape: Shape;
  readonly broken: BrokenRules;
  readonly schedule = new Schedule();
  readonly random: Streams;
  readonly network: Network;
  readonly store: SimStore;
  readonly nodes: SimNode[] = [];
  readonly consumers: Consumer[] = [];
  readonly history: History;
  readonly checks: Checks;
  readonly frontendOfLink = new Map<number, FrontendProcess>();
  readonly failedOperations: Operation[] = [];
  /** As it was made. */
  readonly firstBlockCount: number;
  calls = 0;
  operationCount = 0;
  answeredCount = 0;
  faultCount = 0;
  isIssuing = true;
  isHealed = false;
  /** For whoever watches a single run. */
  onAnswer: (asked: Asked, errno: number, values: Int32Array | undefined) => void = () => {};
  onEvent: (node: SimNode, event: ReplicaEvent) => void = () => {};
  /** An error may reach the application: every copy there was has failed. */
  mayFail = false;
  isEveryDiskFull = false;
  wasEveryDiskFull = false;
  /** Of all that the store ever held, before it was put back too. */
  highestAttachment = 0;
  log: string[] | undefined;
  #idCount = 0;
  #linkCount = 0;
  #replicaCount = 99;
  #isGrowing = false;
  #isMending = false;
  #lineageCount = 0;
  readonly #turns: Random;
  /** Its bytes are the volume once it serves in this lineage. */
  #forced: { readonly node: SimNode; readonly lineage: string } | undefined;
  #violation: Violation | undefined;

  constructor(
    seed: number,
    shape: Shape,
    broken: BrokenRules = NOTHING_BROKEN,
    isTraced = false,
    stream: (name: string) => Random = (name) => new Random(seed, name),
  ) {
    this.seed = seed;
    this.shape = shape;
    this.broken = broken;
    if (isTraced) this.log = [];
    this.#turns = stream('turns');
    this.checks = new Checks(this);
    this.random = {
      client: stream('client'),
      clock: stream('clock'),
      disk: stream('disk'),
      faults: stream('faults'),
      process: stream('process'),
    };
    this.network = new Network(
      this.schedule,
      { delay: stream('network'), faults: stream('frames') },
      {
        delayMs: shape.networkDelayMs,
        lossRate: shape.frameLossRate,
        repeatRate: shape.frameRepeatRate,
        reorderRate: shape.frameReorderRate,
        flipRate: shape.frameFlipRate,
        stallRate: shape.frameStallRate,
        lingerRate: shape.lingerRate,
        hearsAfterClose: shape.hearsAfterClose,
      },
    );
    this.network.onDamage = (link, text) => this.trace(() => `link ${link} ends: ${text}`);
    this.firstBlockCount = (shape.extents * EXTENT_BYTES) / BLOCK_BYTES;
    this.history = new History(shape.durability === 'writethrough', () => this.#oldestAskedMs());
    const superblocks = this.#superblocks();
    for (const [index, superblock] of superblocks.entries())
      this.nodes.push(new SimNode(this, index, superblock));
    this.store = new SimStore(
      this.schedule,
      stream('store'),
      this.#config(superblocks),
      shape.storeDelayMs,
      shape.storeLossRate,
    );
    this.store.lateRate = shape.storeLateRate;
    this.store.oldRate = shape.storeOldRate;
    this.checks.named(this.current);
    let known = this.current;
    this.store.onChange = () => {
      const { config } = this.store.current;
      this.trace(
        () =>
          `store: epoch ${config.epoch} primary ${config.primary.replicaId} inSync ${config.inSync.map(({ replicaId }) => replicaId).join(' ')} attachment ${config.attachment.number}@${config.attachment.node}`,
      );
      // The last ones that had everything came back from a reboot: what was not flushed may be gone.
      this.checks.named(config);
      const user = this.consumers.at(-1);
      // Nobody goes on who has seen what may be gone now.
      const isFresh =
        config.attachment.number > known.attachment.number ||
        user?.isDead === true ||
        user?.wasAnswered === false;
      const isRevived = isRevival(known, config) && !this.#isAnyWhole(known);
      if (config.attachment.node === null || (isRevived && isFresh))
        this.history.allLost(this.schedule.nowMs);
      known = config;
      this.highestAttachment = Math.max(this.highestAttachment, config.attachment.number);
      const isSeen = this.random.faults.chance(0.7) || this.isHealed;
      if (isSeen) for (const node of this.nodes) node.process?.storeChanged();
    };
    for (const node of this.nodes.slice(0, shape.copies)) {
      node.isHost = true;
      node.process = new SimProcess(this, node);
    }
    if (shape.depth > 0) this.move();
  }

  /** Its nodes do more than this. */
  get hasOtherVolumes(): boolean {
    return this.shape.turnChance < 1;
  }

  isResyncTurn(): boolean {
    return !this.hasOtherVolumes || this.#turns.chance(this.shape.turnChance);
  }

  drawId(): string {
    this.#idCount += 1;
    return this.#idCount.toString(16).padStart(8, '0').padEnd(16, 'a').padEnd(32, '0');
  }

  #superblocks(): Superblock[] {
    const count = this.shape.copies + this.shape.extraNodes;
    return Array.from({ length: count }, (_, index) => this.#superblock(index));
  }

  #superblock(index: number, sizeBytes = this.shape.extents * EXTENT_BYTES): Superblock {
    return {
      volumeId: 'v'.padEnd(32, '0'),
      volumeName: 'volume',
      replicaId: `r${index}`,
      sizeBytes,
      lineage: 'lineage',
      promisedEpoch: 0,
      incarnation: `first${index}`,
      lastInSyncIncarnation: index < this.shape.copies ? `first${index}` : null,
      earlierIncarnations: [],
      bootId: null,
      earlierBootIds: [],
      storedBootId: null,
      cleanMark: null,
      inSync: { epoch: 0, members: [] },
      attachmentNumber: 0,
      durability: this.shape.durability,
      failureMode: String(this.shape.failureMode),
      wrappedKey: null,
      fileSystemMade: null,
    };
  }

  #config(superblocks: readonly Superblock[]): VolumeConfig {
    const copies = superblocks.slice(0, this.shape.copies);
    return {
      volumeId: 'v'.padEnd(32, '0'),
      sizeBytes: this.shape.extents * EXTENT_BYTES,
      lineage: 'lineage',
      epoch: 1,
      primary: { replicaId: 'r0', opening: null },
      inSync: copies.map(({ replicaId, incarnation }) => ({
        replicaId,
        incarnation,
      })),
      replicas: copies.map(({ replicaId }, index) => ({
        id: replicaId,
        node: `node${index}`,
        outSince: null,
        needsFullCopy: false,
        bootId: null,
        report: null,
      })),
      attachment: { number: 0, node: null },
      durability: this.shape.durability,
      failureMode: this.shape.failureMode,
    };
  }

  // ---- links

  connect(from: SimProcess | FrontendProcess, name: string): number {
    this.#linkCount += 1;
    const id = this.#linkCount;
    const to = this.nodes.find((node) => node.name === name) as SimNode;
    this.network.connect(id, from, to.index, () => {
      const { process } = to;
      return to.isUp && process?.isAlive() === true ? process : undefined;
    });
    return id;
  }

  sendControl(by: SimProcess | FrontendProcess, link: number, type: number, message: ControlMessage): void {
    this.trace(() => `link ${link} from node${by.node}: ${type} ${JSON.stringify(message).slice(0, 80)}`);
    this.network.sendControl(link, by, type, message);
  }

  #oldestAskedMs(): number {
    let oldestMs = this.schedule.nowMs;
    for (const { asked } of this.consumers)
      for (const { operation } of asked) oldestMs = Math.min(oldestMs, operation.issuedMs);
    return oldestMs;
  }

  // ---- what happens

  trace(text: () => string): void {
    this.log?.push(`${this.schedule.nowMs.toFixed(2).padStart(10)} ${text()}`);
  }

  event(node: SimNode, event: ReplicaEvent): void {
    this.trace(() => `${node.name}: ${JSON.stringify(event)}`);
    this.onEvent(node, event);
    if (event.type === 'memberSilent') node.droppedSomebodyMs = this.schedule.nowMs;
    if (event.type === 'failed') node.failedMs = this.schedule.nowMs;
    if (event.type === 'role' && event.role === 'primary') this.#serves(node);
    if (event.type === 'failed' && event.what !== 'data') {
      node.disk.isMarked = true;
      node.disk.isDoubted ||= event.what === 'flush';
    }
  }

  fault(text: string): void {
    this.faultCount += 1;
    this.trace(() => `fault: ${text}`);
  }

  violate(checker: Checker, message: string): void {
    this.#violation ??= new Violation(checker, message);
  }

  expect(condition: boolean, saidPositively: string): void {
    if (!condition) this.violate('invariant', saidPositively);
  }

  /** The cheap checks, after every call into a core. */
  checkStep(): void {
    let serving: SimNode | undefined;
    for (const node of this.nodes) {
      const primary = node.process?.isAlive() === true ? node.process.replica.primary : undefined;
      // What a machine says late, in a turn of before it stood still, the histories judge.
      if (primary === undefined || node.isInTurn || !primary.mayReply) continue;
      if (serving !== undefined)
        this.violate('oneServes', `${serving.name} and ${node.name} both may reply to requests`);
      serving = node;
    }
  }

  throwViolation(): void {
    if (this.#violation !== undefined) throw this.#violation;
  }

  /** Another attachment, there or anywhere. */
  move(node = this.random.faults.pick(this.nodes)): void {
    const config = this.store.change((current) => attach(current, node.name));
    const consumer = new Consumer(this, node, config.attachment.number);
    this.consumers.push(consumer);
  }

  kill(node: SimNode): void {
    const old = this.stop(node);
    if (old !== undefined)
      this.restart(node, old, Math.min(this.random.faults.wait(this.isHealed ? 200 : 1500), 8000));
  }

  /** Nobody starts it again. */
  stop(node: SimNode): SimProcess | undefined {
    const old = node.process;
    if (old === undefined || !node.isUp) return undefined;
    this.fault(`${node.name}'s daemon is killed`);
    old.kill();
    node.process = undefined;
    return old;
  }

  restart(node: SimNode, old: SimProcess | undefined, delayMs: number): void {
    const { bootId } = node;
    const attempt = (): void => {
      if (node.bootId !== bootId || !node.isUp || node.process !== undefined || !node.isHost) return;
      if (node.disk.isMarked && !this.isHealed) {
        this.schedule.after(500, attempt);
        return;
      }
      if (old !== undefined && !old.hasLetGo && !this.broken.lockOutlivesOperations) {
        this.schedule.after(5, attempt);
        return;
      }
      this.trace(() => `${node.name}'s daemon starts`);
      node.run(() => {
        if (node.bootId === bootId && node.isUp && node.process === undefined && node.isHost)
          node.process = new SimProcess(this, node);
      });
    };
    this.schedule.after(delayMs, attempt);
  }

  cutPower(nodes: readonly SimNode[]): void {
    this.fault(`power of ${nodes.map(({ name }) => name).join(' ')} is cut`);
    for (const node of nodes) {
      if (!node.isUp) continue;
      this.powerOff(node);
      const bootId = node.bootId;
      const wait = Math.min(this.random.faults.wait(this.isHealed ? 300 : 2500), 8000);
      this.schedule.after(wait, () => {
        if (node.bootId === bootId) this.powerOn(node);
      });
    }
  }

  powerOff(node: SimNode): void {
    node.process?.cutPower();
    node.process = undefined;
    node.cutPower(this.random.disk);
    for (const consumer of this.consumers) {
      if (consumer.node !== node) continue;
      // The kernel that used the volume is gone, with all that it had asked for.
      consumer.frontend?.cutPower();
      consumer.frontend = undefined;
      consumer.isDead = true;
      for (const { operation } of consumer.asked.splice(0)) this.failedOperations.push(operation);
    }
  }

  powerOn(node: SimNode): void {
    node.isUp = true;
    this.trace(() => `${node.name} is up again`);
    this.restart(node, undefined, 50);
  }

  /** Nodes that have a copy. */
  hosts(): SimNode[] {
    return this.nodes.filter((node) => node.isHost);
  }

  /** A blank copy on a node that has none. `leadMs`: from the record's change to the daemon's start, or back. */
  addReplica(node: SimNode, leadMs: number): void {
    this.#replicaCount += 1;
    node.replicaId = `r${this.#replicaCount}`;
    node.disk = new Disk(this.#superblock(this.#replicaCount, this.current.sizeBytes));
    node.isHost = true;
    this.fault(`${node.replicaId} is added on ${node.name}`);
    const { replicaId } = node;
    const name = (): void => {
      if (node.isHost && node.replicaId === replicaId) this.#name(node);
    };
    if (leadMs >= 0) name();
    else this.schedule.after(-leadMs, name);
    this.restart(node, undefined, Math.max(leadMs, 0));
  }

  /**
   * Somebody gives all other copies up: their daemons are stopped, this one's bytes become the volume. Returns the others,
   * whose daemons start again after a while.
   */
  force(node: SimNode): readonly SimNode[] {
    const others = this.hosts().filter((other) => other !== node);
    this.#lineageCount += 1;
    const lineage = `lineage${this.#lineageCount}`;
    this.fault(`${node.replicaId} is made the volume, with ${lineage}`);
    const stopped = others.map((other) => ({ other, old: this.stop(other) }));
    this.#forced = { node, lineage };
    const chosen = { id: node.replicaId, node: node.name };
    this.store.change((config) =>
      forcePromotion(config, chosen, lineage, !this.broken.forcedPromotionRevokes),
    );
    for (const { other, old } of stopped)
      if (old !== undefined) this.restart(other, old, this.random.faults.wait(1500));
    return others;
  }

  /** A copy that the record does not name, with what it holds: to be filled again, or closed for good. */
  takeUp(node: SimNode, isWanted: boolean): void {
    if (!node.isHost || this.#isNamed(node.replicaId)) return;
    if (isWanted) {
      this.trace(() => `${node.replicaId} is taken up again`);
      this.#name(node);
    } else this.#closeCopy(node);
  }

  /** In the record, unless somebody did so meanwhile or there is no room for it. */
  #name(node: SimNode): void {
    if (this.#isNamed(node.replicaId)) return;
    if (this.current.replicas.length >= MAX_REPLICAS) this.#closeCopy(node);
    else this.store.change((config) => addReplica(config, node.replicaId, node.name));
  }

  #isNamed(replicaId: string): boolean {
    return this.current.replicas.some(({ id }) => id === replicaId);
  }

  #serves(node: SimNode): void {
    if (this.#forced?.node !== node || this.current.lineage !== this.#forced.lineage) return;
    this.#forced = undefined;
    if (!this.broken.forcedPromotionRevokes) this.history.becomes(node.disk, this.schedule.nowMs);
  }

  /**
   * One copy after the other, `stepMs` apart, and then the record. `mayLeaveOut`: people who look less closely; what they
   * left out grows later.
   */
  grow(stepMs: () => number, mayLeaveOut: () => boolean): void {
    const sizeBytes = this.current.sizeBytes + EXTENT_BYTES;
    if (this.#isGrowing || sizeBytes > (this.shape.extents + MAX_GROWTH_EXTENTS) * EXTENT_BYTES) return;
    this.#isGrowing = true;
    this.fault(`the volume grows to ${sizeBytes / EXTENT_BYTES} extents`);
    const { replicas } = this.current;
    const left = replicas.map(({ id }) => id);
    const next = (): void => {
      const id = left.shift();
      if (id === undefined) {
        this.#isGrowing = false;
        const isKnown = this.current.replicas.every((replica) =>
          replicas.some((one) => one.id === replica.id),
        );
        if (isKnown || mayLeaveOut()) this.store.change((config) => growVolume(config, sizeBytes));
        return;
      }
      const node = this.nodes.find(({ replicaId, isHost }) => replicaId === id && isHost);
      if (node !== undefined && !mayLeaveOut()) {
        if (node.isUp && !node.isPaused) this.growCopy(node, sizeBytes);
        else left.unshift(id);
      }
      this.schedule.after(stepMs(), next);
    };
    next();
    if (!this.#isMending) this.#mendSizes();
  }

  /** What was left out grows in the end. */
  #mendSizes(): void {
    this.#isMending = true;
    this.schedule.after(this.random.faults.wait(1500) + 300, () => {
      for (const node of this.hosts())
        if (node.isUp && !node.isPaused) this.growCopy(node, this.current.sizeBytes);
      this.#mendSizes();
    });
  }

  growCopy(node: SimNode, sizeBytes: number): void {
    if (node.disk.sizeBytes >= sizeBytes) return;
    this.trace(() => `${node.name}'s copy grows to ${sizeBytes / EXTENT_BYTES} extents`);
    node.disk.grow(sizeBytes);
    node.process?.grow(sizeBytes);
  }

  /** Its daemon closes the copy a while later. */
  removeReplica(node: SimNode, lagMs: number): void {
    const { replicaId } = node;
    const next = removeReplica(this.current, replicaId);
    if (next === undefined || !this.#isNamed(replicaId)) return;
    this.fault(`${replicaId} is removed`);
    this.store.change(() => next);
    this.schedule.after(lagMs, () => {
      // It may have been taken up again.
      if (!this.#isNamed(replicaId)) this.#closeCopy(node);
    });
  }

  #closeCopy(node: SimNode): void {
    node.isHost = false;
    node.process?.kill();
    node.process = undefined;
    this.trace(() => `${node.name} has no copy any more`);
  }

  /** No disk has room; or all of those have it again. */
  fillDisks(isFull: boolean): void {
    this.isEveryDiskFull = isFull;
    this.wasEveryDiskFull ||= isFull;
    for (const node of this.nodes) {
      if (!isFull && node.errorKind !== 'space') continue;
      node.errorKind = 'space';
      node.errorsLeft = isFull ? Number.POSITIVE_INFINITY : 0;
    }
  }

  /** People take up again what its daemon closed. */
  restartFailed(): void {
    for (const node of this.nodes) if (node.process?.replica.copy.hasFailed === true) this.kill(node);
  }

  /** A person has looked at those that are held out. */
  readmitCopies(): void {
    for (const { process } of this.nodes)
      for (const { replicaId } of process?.replica.primary?.seats ?? []) process?.replica.readmit(replicaId);
  }

  /** The only copy that is left failed after it had given up the others: its error is the application's. */
  get hasSoleCopyFailed(): boolean {
    const { inSync, primary } = this.current;
    const node = this.nodes.find(({ replicaId }) => replicaId === primary.replicaId);
    return inSync.length === 1 && node !== undefined && node.droppedSomebodyMs <= node.failedMs;
  }

  /** Some member runs as the copy that was named, whatever the record says that it reported. */
  #isAnyWhole({ inSync }: VolumeConfig): boolean {
    return inSync.some(({ replicaId, incarnation }) => {
      const replica = this.nodeOf(replicaId).process?.replica;
      return replica !== undefined && replica.state !== 'opening' && replica.incarnation === incarnation;
    });
  }

  /** The only copy that is left has had no room since then: all that count have refused what was asked for. */
  hasSoleCopyRefused(sinceMs: number): boolean {
    const { inSync, primary } = this.current;
    return inSync.length === 1 && this.nodeOf(primary.replicaId).refusedMs >= sinceMs;
  }

  /** For people: where everybody stands. */
  describe(): string[] {
    const lines = this.nodes.map((node) => {
      const replica = node.process?.replica;
      const primary = replica?.primary;
      const seats = [...(primary?.seats ?? [])].map(
        (seat) =>
          `${seat.replicaId}:${seat.role}${seat.isOpen ? ' open' : ''} kept ${seat.keptEpoch}${seat.hasFailed ? ' failed' : ''}`,
      );
      return `${node.name} up ${node.isUp} ${replica?.state} incarnation ${replica?.incarnation} promised ${replica?.superblock.promisedEpoch} following ${replica?.secondary?.isFollowing} quiet ${replica?.secondary?.isQuiet} ${primary?.describe() ?? ''} ${seats.join(', ')}`;
    });
    const consumer = this.consumers.at(-1);
    return [
      ...lines,
      `consumer ${consumer?.attachment} on ${consumer?.node.name}: asked ${consumer?.asked.length} dead ${consumer?.isDead} open ${consumer?.frontend?.core.isOpen} revoked ${consumer?.frontend?.core.isRevoked}`,
      JSON.stringify(this.current),
    ];
  }

  get blockCount(): number {
    return this.current.sizeBytes / BLOCK_BYTES;
  }

  get current(): VolumeConfig {
    return this.store.current.config;
  }

  nodeOf(replicaId: string): SimNode {
    return this.nodes.find((node) => node.replicaId === replicaId) as SimNode;
  }

  inSyncNodes(): SimNode[] {
    const { config } = this.store.current;
    return config.inSync.map(({ replicaId }) => this.nodeOf(replicaId));
  }

  /** Also if every change succeeds that somebody has asked for. */
  surelyInSync(): SimNode[] {
    const pending = this.nodes.flatMap(({ process }) => process?.replica.pending ?? []);
    return this.inSyncNodes().filter((node) =>
      pending.every((config) => memberOf(config, node.replicaId) !== undefined),
    );
  }

  /** All in-sync copies show the same bytes, and they are what the history allows. */
  checkEquality(): void {
    const { config } = this.store.current;
    const primary = this.nodeOf(config.primary.replicaId);
    for (const node of this.inSyncNodes()) {
      this.expect(
        isMember(config, node.replicaId, node.process?.replica.incarnation ?? ''),
        'a member is the incarnation that the set names',
      );
      for (let block = 0; block < this.blockCount; block++) {
        if (node.disk.blocks[block] === primary.disk.blocks[block]) continue;
        this.violate(
          'equality',
          `${node.name} has ${node.disk.blocks[block]} in block ${block}, the primary ${primary.name} has ${primary.disk.blocks[block]}`,
        );
        return;
      }
    }
    const nowMs = this.schedule.nowMs;
    for (const block of this.history.blocks()) {
      const problem = this.history.read(block, primary.disk.blocks[block] as number, nowMs, nowMs);
      if (problem !== undefined) this.violate('history', `at rest, ${primary.name}: ${problem}`);
    }
  }
}

/** All members came back from a reboot, and one of them is the volume from here on. */
function isRevival(before: VolumeConfig, after: VolumeConfig): boolean {
  const { replicaId } = after.primary;
  const hasReported = ({ replicas }: VolumeConfig, of: string): boolean =>
    replicas.some(({ id, report }) => id === of && report !== null);
  const isOfAll = before.inSync.every((member) => hasReported(before, member.replicaId));
  return (
    isOfAll &&
    memberOf(before, replicaId) !== undefined &&
    after.inSync.length === 1 &&
    !hasReported(after, replicaId)
  );
}
