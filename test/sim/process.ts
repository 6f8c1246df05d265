// One process of one replica on one node: the production core, plugged into the simulated world. Killed, it
// leaves its disk operations on their way; the next one starts when they have ended (the pool's lock).

import { BLOCK_BYTES } from '../../src/core/units.ts';
import {
  type ControlMessage,
  FRAME_DONE,
  FRAME_EPOCH_KEPT,
  FRAME_GRANT,
  FRAME_HELLO,
  FRAME_REPLY,
  FRAME_WELCOME,
  FrameFields,
  type Hello,
  SEQUENCE,
} from '../../src/replication/frames.ts';
import {
  decodeGenerationSector,
  encodeGenerationSector,
  GENERATION_SECTOR_BYTES,
  generationFileOffset,
  NEWEST_STAMP,
} from '../../src/replication/layout/generations.ts';
import {
  decodeIntent,
  encodeIntentSector,
  INTENT_SECTOR_BYTES,
  intentSectorOffset,
} from '../../src/replication/layout/intent.ts';
import {
  decodeSuperblockSlots,
  encodeSuperblock,
  type Superblock,
  superblockSlotOffset,
} from '../../src/replication/layout/superblock.ts';
import { WindowFile } from '../../src/replication/layout/window.ts';
import type { VolumeConfig } from '../../src/replication/config.ts';
import { Pace } from '../../src/replication/pace.ts';
import type { ReplicaEvent, ReplicaPorts } from '../../src/replication/ports.ts';
import { Replica } from '../../src/replication/replica.ts';
import { NONE, READ, RequestTable, UNTOUCHED } from '../../src/replication/requests.ts';
import { TICK_MS } from '../../src/replication/timing.ts';
import { bufferBytesOf, needsRequest } from '../../src/replication/wire-types.ts';
import { GENERATION_BLOCKS_PER_EXTENT } from '../../src/core/units.ts';
import type { Endpoint } from './network.ts';
import type { DiskAction, SimNode, World } from './world.ts';

const EIO = 5;
const SLOTS = 192;
/** Kept for what arrives. */
const RESERVED_SLOTS = 96;
/** So long the clients of other volumes are there, and then away. */
const OTHERS_MS = 3000;

export class SimProcess implements ReplicaPorts, Endpoint {
  readonly node: number;
  readonly replica: Replica;
  readonly table = new RequestTable(SLOTS);
  readonly pace: Pace;
  readonly #world: World;
  readonly #home: SimNode;
  readonly #buffers: (Int32Array | undefined)[] = new Array(SLOTS).fill(undefined);
  #isAlive = true;
  #storeGeneration = 0;
  #diskOperations = 0;
  #dataWrites = 0;
  #isStopping = false;
  #resyncCount = 0;
  /** By link: frames that wait for a slot, and what came behind them. */
  readonly #waiting = new Map<number, (() => boolean)[]>();

  constructor(world: World, home: SimNode) {
    this.#world = world;
    this.#home = home;
    this.node = home.index;
    this.#storeGeneration = world.store.generation;
    const { disk } = home;
    const othersBegun = (): number => this.#othersBegun();
    this.pace = new Pace({
      openCount: 0,
      get begunCount() {
        return othersBegun();
      },
    });
    // An earlier process marked these; its successor makes them durable before it relies on them.
    disk.intent.flush();
    const { superblock: kept, sequence } = decodeSuperblockSlots(disk.superblock.cache);
    const found = { ...kept, sizeBytes: disk.sizeBytes };
    disk.superblockSequence = sequence + 1;
    // A person has taken the failed copy up again: as it was, or as another incarnation, which has to be filled.
    const noBase = { lastInSyncIncarnation: null, earlierIncarnations: [] };
    const superblock = disk.isDoubted ? { ...found, ...noBase, incarnation: world.drawId() } : found;
    disk.isMarked = disk.isDoubted = false;
    const window = new WindowFile(disk.window);
    this.replica = new Replica(this.table, this, {
      replicaId: home.replicaId,
      bootId: home.bootId,
      superblock,
      intentBits: decodeIntent(disk.intent.cache, disk.extentCount).bits,
      window,
      windowEntries: window.readEntries(home.bootId),
      broken: world.broken,
    });
    this.#tick();
  }

  // ---- Endpoint

  isAlive(): boolean {
    return this.#isAlive;
  }

  deliver(run: () => void): void {
    this.#home.run(() => {
      if (this.#isAlive) this.#enter(run);
    });
  }

  /** Every call into the core. */
  #enter(run: () => void): void {
    this.#world.calls += 1;
    run();
    if (this.#waiting.size > 0) this.#retryWaiting();
    if (this.pace.isAnyoneWaiting && this.pace.waitMs(this.nowMs()) === 0) this.replica.primary?.resyncTurn();
    this.#world.checkStep();
  }

  linkClosed(link: number): void {
    this.#waiting.delete(link);
    this.replica.linkClosed(link);
  }

  controlled(link: number, type: number, message: ControlMessage): void {
    const waiting = this.#waiting.get(link);
    if (waiting === undefined) this.#control(link, type, message);
    else
      waiting.push(() => {
        this.#control(link, type, message);
        return true;
      });
  }

  #control(link: number, type: number, message: ControlMessage): void {
    if (type === FRAME_HELLO) this.#world.checks.greeted(link, message as Hello);
    if (type === FRAME_HELLO) this.replica.greeted(link, message as Hello);
    else this.replica.control(link, type, message);
  }

  framed(link: number, fields: FrameFields, payload: Int32Array | undefined): void {
    const waiting = this.#waiting.get(link);
    if (waiting === undefined && this.#take(link, fields, payload)) return;
    const kept = copyOf(fields);
    const attempt = (): boolean => this.#take(link, kept, payload);
    if (waiting === undefined) this.#waiting.set(link, [attempt]);
    else waiting.push(attempt);
  }

  /** False: no slot is free, and the rest of the link waits in its socket. */
  #take(link: number, fields: FrameFields, payload: Int32Array | undefined): boolean {
    let request = NONE;
    if (needsRequest(fields)) {
      request = this.table.take();
      if (request === NONE) return false;
      const bytes = bufferBytesOf(fields);
      this.#buffers[request] = payload ?? (bytes > 0 ? new Int32Array(bytes / BLOCK_BYTES) : undefined);
    }
    this.replica.frame(link, fields, request);
    return true;
  }

  #retryWaiting(): void {
    for (const [link, waiting] of this.#waiting) {
      let count = 0;
      while (count < waiting.length && (waiting[count] as () => boolean)()) count += 1;
      waiting.splice(0, count);
      if (waiting.length === 0) this.#waiting.delete(link);
    }
  }

  /** A clean stop, once; false: it is under way. */
  stop(stopped: () => void): boolean {
    if (this.#isStopping) return false;
    this.#isStopping = true;
    this.#enter(() => this.replica.stop(stopped));
    return true;
  }

  /** What a person asks for. False: not now. */
  handOver(replicaId: string): boolean {
    let isBegun = false;
    this.#enter(() => {
      isBegun = this.replica.handOver(replicaId);
    });
    return isBegun;
  }

  /** Its disk has grown. */
  grow(sizeBytes: number): void {
    this.deliver(() => this.replica.grow(sizeBytes));
  }

  storeChanged(): void {
    this.deliver(() => this.replica.storeChanged());
  }

  #tick(): void {
    if (!this.#isAlive) return;
    this.deliver(() => this.replica.tick());
    this.#world.schedule.after(TICK_MS * this.#world.random.process.between(0.8, 1.2), () => this.#tick());
  }

  // ---- its end

  kill(): void {
    this.#isAlive = false;
    this.#world.network.processEnded(this);
  }

  cutPower(): void {
    this.#isAlive = false;
    this.#world.network.machineEnded(this);
  }

  /** Nothing of it is on its way to the disk: the lock is free. */
  get hasLetGo(): boolean {
    return !this.#isAlive && this.#diskOperations === 0;
  }

  // ---- ports: time, slots

  nowMs(): number {
    return this.#home.nowMs();
  }

  drawId(): string {
    return this.#world.drawId();
  }

  takeRequest(lengthBytes: number): number {
    if (this.table.freeCount <= RESERVED_SLOTS) return NONE;
    const request = this.table.take();
    if (request !== NONE) this.#buffers[request] = new Int32Array(lengthBytes / BLOCK_BYTES);
    return request;
  }

  release(request: number): void {
    this.#buffers[request] = undefined;
    this.table.release(request);
  }

  // ---- ports: disk

  /**
   * Ends after a while, by `end` with an errno; `land` is what the kernel does even for a killed process, `write`
   * what of it may be on its way when the power goes, `tear` what an operation that failed may leave.
   */
  #operation(
    what: DiskAction,
    land: () => void,
    end: (errno: number) => void,
    write?: () => void,
    tear?: (arrives: () => boolean) => void,
  ): void {
    const home = this.#home;
    const { bootId } = home;
    this.#diskOperations += 1;
    const errno = home.diskErrno(what);
    if (write !== undefined) home.writesInFlight.add(write);
    this.#world.schedule.after(home.diskDelay(what), () => {
      this.#diskOperations -= 1;
      // A machine that lost power takes its operations with it; whether they had landed is a matter of chance.
      if (home.bootId !== bootId) return;
      if (write !== undefined) home.writesInFlight.delete(write);
      if (errno === 0) land();
      else if (what === 'write' && (errno & UNTOUCHED) === 0 && this.#world.random.disk.chance(0.3)) land();
      else tear?.(() => this.#world.random.disk.chance(0.5));
      this.deliver(() => end(errno));
    });
  }

  startRead(request: number): void {
    const { disk } = this.#home;
    const block = (this.table.offsetBytes[request] as number) / BLOCK_BYTES;
    const buffer = this.#buffers[request] as Int32Array;
    const count = (this.table.lengthBytes[request] as number) / BLOCK_BYTES;
    this.#operation(
      'read',
      () => buffer.set(disk.blocks.subarray(block, block + count)),
      (errno) => {
        this.table.isHole[request] =
          this.table.kind[request] !== READ && buffer.every((value) => value === 0) ? 1 : 0;
        this.replica.dataDone(request, errno);
      },
    );
  }

  startWrite(request: number): void {
    const { disk } = this.#home;
    const block = (this.table.offsetBytes[request] as number) / BLOCK_BYTES;
    const values = (this.#buffers[request] as Int32Array).slice();
    this.#world.checks.dataStarts(this.#home, block, values.length);
    const write = (): void => disk.write(block, values);
    this.#write(request, write);
  }

  startZero(request: number): void {
    const { disk } = this.#home;
    const block = (this.table.offsetBytes[request] as number) / BLOCK_BYTES;
    const count = (this.table.lengthBytes[request] as number) / BLOCK_BYTES;
    this.#world.checks.dataStarts(this.#home, block, count);
    const write = (): void => disk.write(block, new Int32Array(count));
    this.#write(request, write);
  }

  #write(request: number, write: () => void): void {
    this.#dataWrites += 1;
    const end = (errno: number): void => {
      this.#dataWrites -= 1;
      this.replica.dataDone(request, errno);
    };
    this.#operation('write', write, end, write);
  }

  startFlush(): void {
    const { disk } = this.#home;
    const point = disk.flushPoint();
    this.#operation(
      'flush',
      () => disk.flushed(point),
      (errno) => this.replica.flushDone(errno),
    );
  }

  startIntentRound(durable: boolean): void {
    const { disk } = this.#home;
    const { bits, roundSectors, roundSectorCount } = this.replica.copy.extents;
    const sectors: { offset: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < roundSectorCount; i++) {
      const sector = roundSectors[i] as number;
      const bytes = new Uint8Array(INTENT_SECTOR_BYTES);
      encodeIntentSector(bytes, 0, sector, bits);
      sectors.push({ offset: intentSectorOffset(sector), bytes });
    }
    const write = (arrives?: () => boolean): void => {
      for (const { offset, bytes } of sectors) disk.intent.write(offset, bytes, arrives);
    };
    this.#operation(
      'meta',
      () => {
        write();
        if (durable) disk.intent.flush();
      },
      (errno) => this.replica.intentRoundDone(errno),
      write,
      write,
    );
  }

  startGenerationMerge(): void {
    const { disk } = this.#home;
    const { extents } = this.replica.copy;
    const stamps = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT);
    const sectors: { offset: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < extents.coolingCount; i++) {
      const extent = extents.coolingExtents[i] as number;
      const offset = generationFileOffset(extent);
      decodeGenerationSector(disk.generations.cache, offset, extent, stamps, 0);
      const base = extents.stampOffset(extent);
      for (let block = 0; block < GENERATION_BLOCKS_PER_EXTENT; block++)
        stamps[block] = Math.max(stamps[block] as number, extents.stampMemory[base + block] as number);
      const bytes = new Uint8Array(GENERATION_SECTOR_BYTES);
      encodeGenerationSector(bytes, 0, extent, stamps, 0);
      sectors.push({ offset, bytes });
    }
    const write = (arrives?: () => boolean): void => {
      if (this.#world.broken.generationsBeforeCooling) return;
      for (const { offset, bytes } of sectors) disk.generations.write(offset, bytes, arrives);
    };
    this.#operation(
      'meta',
      () => {
        write();
        disk.generations.flush();
      },
      (errno) => this.replica.generationsMerged(errno),
      write,
      write,
    );
  }

  startStampRead(link: number, extent: number): void {
    const { disk } = this.#home;
    const stamps = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT).fill(NEWEST_STAMP);
    this.#operation(
      'meta',
      () => decodeGenerationSector(disk.generations.cache, generationFileOffset(extent), extent, stamps, 0),
      (errno) => this.replica.stampsRead(link, extent, errno, stamps),
    );
  }

  startSuperblock(superblock: Superblock): void {
    const { disk } = this.#home;
    const sequence = disk.superblockSequence;
    disk.superblockSequence += 1;
    const offset = superblockSlotOffset(sequence);
    // Whoever grows the files keeps their size, and not the core.
    const bytes = encodeSuperblock({ ...superblock, sizeBytes: disk.sizeBytes }, sequence);
    const world = this.#world;
    world.checks.keeps(this.#home, superblock);
    world.expect(superblock.promisedEpoch >= disk.highestPromise, 'a promised epoch never goes back');
    const write = (arrives?: () => boolean): void => disk.superblock.write(offset, bytes, arrives);
    this.#operation(
      'meta',
      () => {
        write();
        disk.superblock.flush();
        disk.highestPromise = Math.max(disk.highestPromise, superblock.promisedEpoch);
      },
      (errno) => this.replica.superblockDone(errno === 0 ? 0 : EIO),
      write,
      write,
    );
  }

  // ---- ports: links

  connect(node: string): number {
    return this.#world.connect(this, node);
  }

  sendFrame(link: number, fields: FrameFields, request: number): void {
    const { checks, frontendOfLink } = this.#world;
    const { type } = fields;
    if (type === FRAME_DONE || type === FRAME_GRANT || type === FRAME_EPOCH_KEPT)
      checks.speaksIn(this.#home, fields.epoch);
    else if (type === FRAME_REPLY && fields.errno === 0)
      checks.replyLeaves(this, frontendOfLink.get(link)?.askedOn(link, fields.numbers[SEQUENCE] as number));
    const payload = request === NONE ? undefined : (this.#buffers[request] as Int32Array);
    this.#world.network.send(link, this, fields, payload);
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    if (type === FRAME_WELCOME) this.#world.checks.welcomes(this, link, this.#dataWrites);
    this.#world.sendControl(this, link, type, message);
  }

  closeLink(link: number): void {
    this.#waiting.delete(link);
    this.#world.network.close(link, this);
  }

  /** By clients of the node's other volumes, where there are such: they come for some seconds, and go. */
  #othersBegun(): number {
    if (!this.#world.hasOtherVolumes) return 0;
    const nowMs = this.nowMs();
    return Math.floor(nowMs / (2 * OTHERS_MS)) * OTHERS_MS + Math.min(nowMs % (2 * OTHERS_MS), OTHERS_MS);
  }

  /** Other volumes of the node are before it, at times. */
  beginResync(_isFull: boolean, isUrgent: boolean): boolean {
    const isTurn = isUrgent || this.#world.isResyncTurn();
    if (isTurn) this.#resyncCount += 1;
    return isTurn;
  }

  endResync(): void {
    this.#resyncCount -= 1;
    this.#world.expect(this.#resyncCount >= 0, 'a turn is given back once');
  }

  // ---- ports: store

  /** It was put back since this process met it: the client takes it for another one, and asks it nothing more. */
  get #isOtherStore(): boolean {
    return this.#world.store.generation !== this.#storeGeneration;
  }

  readConfig(): void {
    if (this.#isOtherStore) {
      this.#world.schedule.after(1000, () => this.deliver(() => this.replica.configRead(undefined)));
      return;
    }
    this.#world.store.read(this.node, (stored) => this.deliver(() => this.replica.configRead(stored)));
  }

  propose(proposal: number, baseRevision: number, config: VolumeConfig): void {
    if (this.#isOtherStore) {
      this.#world.schedule.after(1000, () =>
        this.deliver(() => this.replica.proposed(proposal, { type: 'unknown' })),
      );
      return;
    }
    this.#world.store.swap(this.node, baseRevision, config, (outcome) =>
      this.deliver(() => this.replica.proposed(proposal, outcome)),
    );
  }

  event(event: ReplicaEvent): void {
    this.#world.event(this.#home, event);
  }
}

function copyOf(fields: FrameFields): FrameFields {
  const copy = new FrameFields();
  copy.type = fields.type;
  copy.flags = fields.flags;
  copy.errno = fields.errno;
  copy.epoch = fields.epoch;
  copy.lengthBytes = fields.lengthBytes;
  copy.numbers.set(fields.numbers);
  return copy;
}
