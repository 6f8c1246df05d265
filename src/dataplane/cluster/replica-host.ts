// One replica in its data-plane thread: joins the replication core to the replica's files, its links, and, through
// the main thread, to its superblock and the store.

import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import { BLOCK_BYTES, GENERATION_BLOCKS_PER_EXTENT, MIB } from '../../core/units.ts';
import type { VolumeConfig } from '../../replication/config.ts';
import type { Extents } from '../../replication/extents.ts';
import {
  type ControlMessage,
  FRAME_DONE,
  FRAME_WRITE,
  FRAME_ZERO,
  type FrameFields,
  type Hello,
} from '../../replication/frames.ts';
import {
  decodeGenerationSector,
  GENERATION_SECTOR_BYTES,
  generationFileOffset,
  NEWEST_STAMP,
} from '../../replication/layout/generations.ts';
import type { Superblock } from '../../replication/layout/superblock.ts';
import { WINDOW_FILE_BYTES, WindowFile } from '../../replication/layout/window.ts';
import type { Pace } from '../../replication/pace.ts';
import type { ReplicaEvent, ReplicaPorts } from '../../replication/ports.ts';
import { Replica } from '../../replication/replica.ts';
import { COPY_READ, NONE, REWRITE } from '../../replication/requests.ts';
import type { ReplicaView } from '../cluster-storage.ts';
import { DataFile, type DataFileHost } from '../data-file.ts';
import { type NativeMemory, native } from '../native.ts';
import type { GreetedHost } from '../peers/hosts.ts';
import { TAG_STAMP } from '../tags.ts';
import type { FileUser, Thread } from '../thread.ts';
import { type LogsHost, VolumeLogs } from '../volume-logs.ts';
import type { ClusterLinks } from './cluster-links.ts';
import type { OpenReplicaMessage } from './messages.ts';
import { StreamCounts } from './stream-counts.ts';
import type { ReplicaSample } from '../thread-sample.ts';

const EIO = 5;
/** What the core takes for its own copying leaves so much to its streams; less than requests leave to it. */
const RESERVED_SLOTS = 64;
const RESERVED_BYTES = 4 * MIB;
const ZEROES = new Uint8Array(MIB);

export class ReplicaHost implements ReplicaPorts, GreetedHost, DataFileHost, FileUser, LogsHost {
  readonly index: number;
  readonly volumeId: string;
  readonly instance: number;
  readonly file: DataFile;
  readonly logs: VolumeLogs;
  readonly replica: Replica;
  readonly #thread: Thread;
  readonly #cluster: ClusterLinks;
  readonly #message: OpenReplicaMessage;
  readonly #windowMemory: NativeMemory;
  /** The superblock that is on its way to the disk. */
  #keeping: Superblock | undefined;
  #isMarkedClean = false;
  /** A call that starts a data operation is under way: an end of it is told after the call. */
  #isStarting = false;
  /** Extents whose saved stamps are to be read, and for which link; the first one is under way. */
  readonly #stampReads: { readonly link: number; readonly extent: number }[] = [];
  readonly #stampBuffer: number;
  readonly #stampOffset = new Float64Array(1);
  readonly #stamps = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT);
  /** One for each copy that was ever connected with, to count. */
  readonly #streams: StreamCounts[] = [];
  #tickedMs: number;
  #degradedMs = 0;
  /** Since when the primary that this copy follows says nothing; undefined: it does, or did again. */
  #silentSinceMs: number | undefined;

  constructor(thread: Thread, cluster: ClusterLinks, index: number, message: OpenReplicaMessage) {
    this.#thread = thread;
    this.#cluster = cluster;
    this.#message = message;
    this.index = index;
    this.volumeId = message.volumeId;
    this.instance = message.instance;
    this.file = new DataFile(thread, index, this, message);
    this.#tickedMs = thread.nowMs();
    this.logs = new VolumeLogs(thread, index, message, () => this);
    this.#stampBuffer = thread.memory.allocate(BLOCK_BYTES, 0);
    let windowMemory: NativeMemory | undefined;
    try {
      if (this.#stampBuffer < 0)
        throw new HoldfastError('BUSY', 'the data-plane thread has no memory free: try again');
      windowMemory = native.mapFile(message.windowFd, WINDOW_FILE_BYTES);
      this.#windowMemory = windowMemory;
      this.replica = this.#createReplica(message);
    } catch (error) {
      // The mapping would keep the window's description, and its lock, for as long as the thread lives.
      this.logs.dispose();
      if (windowMemory !== undefined) native.freeMemory(windowMemory);
      if (this.#stampBuffer >= 0) thread.memory.free(this.#stampBuffer);
      throw error;
    }
  }

  #createReplica(message: OpenReplicaMessage): Replica {
    return new Replica(this.#thread.slots, this, {
      replicaId: message.replicaId,
      bootId: message.bootId,
      superblock: message.superblock,
      intentBits: message.hotBits,
      window: new WindowFile(this.#windowMemory.buffer),
      windowOwner: message.windowOwner,
      windowEntries: message.windowEntries,
    });
  }

  /** Once the replica has stopped: nothing refers to its files any more. */
  dispose(): void {
    invariant(this.replica.state === 'stopped', 'only a replica that has stopped is closed');
    this.#thread.mappedReads.forget(this.index);
    this.logs.dispose();
    this.#thread.memory.free(this.#stampBuffer);
    native.freeMemory(this.#windowMemory);
  }

  /** The last superblock that reached the disk says that the copy was closed in order. */
  get isMarkedClean(): boolean {
    return this.#isMarkedClean;
  }

  /** The main thread has, or could not. */
  superblockDone(errno: number): void {
    this.#isMarkedClean = errno === 0 && (this.#keeping?.cleanMark ?? null) !== null;
    this.replica.superblockDone(errno);
  }

  /** As Thread asks; the protocol has ticks of its own. */
  tick(): boolean {
    this.file.tick();
    return this.replica.copy.extents.hotCount > 0;
  }

  protocolTick(): void {
    this.replica.tick();
    const nowMs = this.#thread.nowMs();
    if (this.replica.secondary?.isFollowing === true) this.#silentSinceMs = undefined;
    if (this.#isDegraded) this.#degradedMs += nowMs - this.#tickedMs;
    this.#tickedMs = nowMs;
  }

  /** As the primary knows: fewer copies are in sync than the volume has, or one that is named is not to be reached. */
  get #isDegraded(): boolean {
    const { replica } = this;
    if (replica.primary === undefined || !replica.hasKnown) return false;
    const { inSync, replicas } = replica.known.config;
    if (inSync.length < replicas.length) return true;
    for (const seat of replica.primary.seats) if (!seat.isOpen) return true;
    return false;
  }

  view(): ReplicaView {
    const { replica } = this;
    const { primary, secondary } = replica;
    const nowMs = this.nowMs();
    return {
      volumeId: this.volumeId,
      replicaId: replica.replicaId,
      state: replica.state,
      incarnation: replica.incarnation,
      epoch: replica.hasKnown ? replica.known.config.epoch : 0,
      isActive: primary?.isServing ?? secondary?.isFollowing ?? false,
      mayReply: primary?.mayReply ?? false,
      hasFailed: replica.copy.hasFailed,
      others: [...(primary?.seats ?? [])].map((seat) => ({
        replicaId: seat.replicaId,
        role: seat.role,
        isConnected: seat.isOpen,
        resyncBytesLeft: seat.resync?.bytesLeft,
        resyncBytesSent: seat.resyncBytesSent,
        isWaitingForTurn: seat.isWaitingForTurn,
        departureCount: seat.holdOut.departureCount,
        heldOutMs: seat.holdOut.isFlapping ? seat.holdOut.leftMs(nowMs) : 0,
      })),
    };
  }

  sample(): ReplicaSample {
    const { replica } = this;
    const isPrimary = replica.primary !== undefined && replica.hasKnown;
    const { inSync, replicas } = isPrimary ? replica.known.config : { inSync: [], replicas: [] };
    return {
      view: this.view(),
      backend: this.file.counts.sample(),
      isPrimary,
      inSyncCount: inSync.length,
      replicaCount: replicas.length,
      nodes: replicas.map(({ id, node }) => ({ replicaId: id, node })),
      degradedMs: this.#degradedMs,
      streams: this.#streams.map((stream) => stream.sample()),
    };
  }

  #streamOf(link: number): StreamCounts | undefined {
    for (const stream of this.#streams) if (stream.link === link) return stream;
    return undefined;
  }

  // ---- LogsHost

  get extents(): Extents {
    return this.replica.copy.extents;
  }

  /** A stamp that nobody knows counts as written now. */
  get epoch(): number {
    return this.replica.hasKnown ? this.replica.known.config.epoch : NEWEST_STAMP;
  }

  intentRoundDone(errno: number): void {
    this.replica.intentRoundDone(errno);
  }

  generationsMerged(errno: number): void {
    this.replica.generationsMerged(errno);
  }

  // ---- GreetedHost

  greeted(link: number, hello: Hello): void {
    this.replica.greeted(link, hello);
  }

  control(link: number, type: number, message: ControlMessage): void {
    this.replica.control(link, type, message);
  }

  frame(link: number, fields: FrameFields, request: number): void {
    if (fields.type === FRAME_DONE) this.#streamOf(link)?.answered(fields);
    if (request !== NONE) this.#thread.slots.volume[request] = this.index;
    this.replica.frame(link, fields, request);
  }

  linkClosed(link: number): void {
    this.#thread.clockIsBehind(); // perhaps by an error that sending met in this turn
    this.#streamEnded(link);
    this.replica.linkClosed(link);
  }

  // ---- DataFileHost

  requestDone(request: number, errno: number): void {
    this.file.counted(request, errno);
    if (this.#isClients(request)) this.#cluster.clientLoad.ended();
    if (this.#isStarting) {
      this.#cluster.endSoon(() => this.replica.dataDone(request, errno));
      return;
    }
    const slots = this.#thread.slots;
    const kind = slots.kind[request];
    if (kind === COPY_READ || kind === REWRITE)
      slots.isHole[request] = errno === 0 && this.#isZero(request) ? 1 : 0;
    this.replica.dataDone(request, errno);
  }

  mayAnswer(request: number): boolean {
    return this.replica.primary?.mayAnswer(request) === true;
  }

  #isZero(request: number): boolean {
    const { slots, memory } = this.#thread;
    const length = slots.lengthBytes[request] as number;
    const data = slots.data[request] as number;
    const bytes = Buffer.from(memory.region.buffer, data, length);
    for (let at = 0; at < length; at += ZEROES.length) {
      const count = Math.min(ZEROES.length, length - at);
      if (bytes.compare(ZEROES, 0, count, at, at + count) !== 0) return false;
    }
    return true;
  }

  flushDone(errno: number): void {
    this.replica.flushDone(errno);
  }

  // ---- DiskPorts

  /** An operation for a client, of this node or of another one, and not of a resync or a reconciliation. */
  #isClients(request: number): boolean {
    return (this.#thread.slots.kind[request] as number) < REWRITE;
  }

  startRead(request: number): void {
    this.#isStarting = true;
    if (this.#isClients(request)) this.#cluster.clientLoad.began();
    this.file.startRead(request);
    this.#isStarting = false;
  }

  startWrite(request: number): void {
    this.#isStarting = true;
    if (this.#isClients(request)) this.#cluster.clientLoad.began();
    this.file.startWrite(request);
    this.#isStarting = false;
  }

  startZero(request: number): void {
    this.#isStarting = true;
    if (this.#isClients(request)) this.#cluster.clientLoad.began();
    this.file.startZero(request);
    this.#isStarting = false;
  }

  startFlush(): void {
    this.file.startFlush();
  }

  startIntentRound(durable: boolean): void {
    this.#thread.wakeForTime();
    this.logs.startIntentRound(durable);
  }

  startGenerationMerge(): void {
    this.logs.startGenerationMerge();
  }

  startStampRead(link: number, extent: number): void {
    this.#stampReads.push({ link, extent });
    if (this.#stampReads.length === 1) this.#readStamps();
  }

  #readStamps(): void {
    const next = this.#stampReads[0];
    if (next === undefined) return;
    this.#stampOffset[0] = generationFileOffset(next.extent);
    this.#thread.ring.read(
      this.#message.generationsFd,
      this.#stampBuffer,
      GENERATION_SECTOR_BYTES,
      this.#stampOffset,
      0,
      this.index,
      TAG_STAMP,
    );
  }

  /** The kernel may still write into the buffer. */
  get isReadingStamps(): boolean {
    return this.#stampReads.length > 0;
  }

  stampsRead(result: number): void {
    const read = this.#stampReads.shift();
    invariant(read !== undefined, 'a read of stamps was asked for');
    const { state } = this.replica;
    if (state === 'stopping' || state === 'stopped') {
      this.#stampReads.length = 0;
      return;
    }
    const stamps = this.#stamps;
    const errno = result === GENERATION_SECTOR_BYTES ? 0 : result < 0 ? -result : EIO;
    if (errno === 0) this.#decodeStamps(read.extent);
    else stamps.fill(NEWEST_STAMP);
    this.#readStamps();
    this.replica.stampsRead(read.link, read.extent, errno, stamps);
  }

  /** A sector of another version says nothing: its blocks count as written just now. */
  #decodeStamps(extent: number): void {
    try {
      decodeGenerationSector(this.#thread.memory.bytes, this.#stampBuffer, extent, this.#stamps, 0);
    } catch {
      this.#stamps.fill(NEWEST_STAMP);
    }
  }

  startSuperblock(superblock: Superblock): void {
    this.#keeping = superblock;
    const { volumeId, instance } = this;
    this.#thread.tell({ type: 'superblock', volumeId, instance, superblock });
  }

  // ---- ReplicaPorts

  nowMs(): number {
    return this.#thread.eventMs();
  }

  drawId(): string {
    return randomBytes(16).toString('hex');
  }

  takeRequest(lengthBytes: number): number {
    const { slots, memory } = this.#thread;
    if (slots.freeCount <= RESERVED_SLOTS || memory.freeBytes - lengthBytes < RESERVED_BYTES) return NONE;
    const request = this.#cluster.peers.slots.take(lengthBytes);
    if (request !== NONE) slots.volume[request] = this.index;
    return request;
  }

  release(request: number): void {
    this.#cluster.peers.slots.release(request);
  }

  /** The primary's, to another copy. */
  connect(node: string, replicaId: string): number {
    const link = this.#cluster.connect(this, node, this.volumeId);
    let stream = this.#streams.find((one) => one.replicaId === replicaId);
    if (stream === undefined) {
      stream = new StreamCounts(this.#thread, replicaId);
      this.#streams.push(stream);
    }
    stream.link = link;
    return link;
  }

  #streamEnded(link: number): void {
    const stream = this.#streamOf(link);
    if (stream !== undefined) stream.link = NONE;
  }

  sendFrame(link: number, fields: FrameFields, request: number): void {
    const isData = fields.type === FRAME_WRITE;
    if (isData || fields.type === FRAME_ZERO) this.#streamOf(link)?.sent(fields, isData);
    this.#cluster.peers.sendFrame(link, fields, request);
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    this.#cluster.peers.sendControl(link, type, message);
  }

  closeLink(link: number): void {
    this.#streamEnded(link);
    this.#cluster.peers.closeLink(link);
  }

  beginResync(isFull: boolean, isUrgent: boolean): boolean {
    return this.#cluster.resyncPlaces.take(isFull, isUrgent);
  }

  endResync(isFull: boolean): void {
    this.#cluster.resyncPlaces.giveBack(isFull);
  }

  get pace(): Pace {
    return this.#cluster.pace;
  }

  /** The pace lets one resync of the thread go on. */
  resyncTurn(): void {
    if (this.replica.primary === undefined) return;
    this.replica.primary.resyncTurn();
  }

  readConfig(): void {
    const { volumeId, instance } = this;
    this.#thread.tell({ type: 'readConfig', volumeId, instance, asker: 'replica' });
  }

  propose(proposal: number, baseRevision: number, config: VolumeConfig): void {
    const { volumeId, instance } = this;
    this.#thread.tell({ type: 'propose', volumeId, instance, proposal, baseRevision, config });
  }

  event(event: ReplicaEvent): void {
    const nowMs = this.#thread.nowMs();
    if (event.type === 'suspected') this.#silentSinceMs = nowMs - event.silentMs;
    if (event.type === 'role') {
      // Nobody served meanwhile, and this one took over: it counts what nobody else has.
      if (this.#silentSinceMs !== undefined) this.#degradedMs += nowMs - this.#silentSinceMs;
      this.#silentSinceMs = undefined;
    }
    this.#thread.tell({ type: 'replica', volumeId: this.volumeId, event });
  }
}
