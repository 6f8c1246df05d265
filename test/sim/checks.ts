// What the simulator, which sees every disk and the store at once, demands beyond what clients can notice.
//
// At every reply: it is backed by every member that the store names at this instant (acknowledged), by promises that
// are durable (promise), and by one opening an epoch (oneServes); at every reply taken: nobody of a later epoch had
// served when its request was sent (accepted). At every write: the mark stands before the data (marks). Now and then:
// where two members differ, a window or a mark says so (coverage); what an absent copy lacks, every member can
// tell (delta). At every Welcome: numbers rise, and nothing of an older stream is on its way to the disk (order).

import {
  BLOCK_BYTES,
  EXTENT_BYTES,
  GENERATION_BLOCK_BYTES,
  GENERATION_BLOCKS_PER_EXTENT,
} from '../../src/core/units.ts';
import { minimumInSync, type VolumeConfig } from '../../src/replication/config.ts';
import type { Hello } from '../../src/replication/frames.ts';
import {
  decodeGenerationSector,
  generationFileOffset,
  NEWEST_STAMP,
} from '../../src/replication/layout/generations.ts';
import { decodeSuperblockSlots, type Superblock } from '../../src/replication/layout/superblock.ts';
import { WindowFile } from '../../src/replication/layout/window.ts';
import { FLAG_FUA, FLUSH, READ } from '../../src/replication/requests.ts';
import type { Asked } from './consumer.ts';
import type { SimProcess } from './process.ts';
import type { SimNode, World } from './world.ts';

const BLOCKS_PER_EXTENT = EXTENT_BYTES / BLOCK_BYTES;
const BLOCKS_PER_GENERATION = GENERATION_BLOCK_BYTES / BLOCK_BYTES;

/** Who replied: an opening in an epoch. */
export interface Replier {
  readonly replicaId: string;
  readonly epoch: number;
}

interface Served extends Replier {
  readonly opening: string;
  readonly firstMs: number;
}

export class Checks {
  readonly #world: World;
  /** By epoch: who replied in it first. */
  readonly #served = new Map<number, Served>();
  #newestServed: Served | undefined;
  readonly #hellos = new Map<number, Hello>();
  readonly #numbers = new Map<SimProcess, Map<string, number>>();
  /** Incarnations that the store named at some time. */
  readonly #named = new Set<string>();
  readonly #boots = new Set<string>();
  #newestEpoch = 0;
  /** It was put back: what it names says nothing any more. */
  #isStoreFalse = false;

  constructor(world: World) {
    this.#world = world;
  }

  // ---- replies

  /** A primary's reply without error leaves now. */
  replyLeaves(by: SimProcess, asked: Asked | undefined): void {
    const world = this.#world;
    const { replica } = by;
    const { primary } = replica;
    if (primary === undefined) return;
    const { epoch } = replica.known.config;
    this.#serves({ replicaId: replica.replicaId, epoch, opening: primary.opening });
    if (asked !== undefined) asked.repliedBy = { replicaId: replica.replicaId, epoch };
    const { config } = world.store.current;
    // The store names another already: that one has not served yet, and asks this one's members first.
    if (config.primary.opening !== primary.opening || this.#isStoreFalse) return;
    // By the failure mode and the copies wanted that it knows: a change of these alone is no new epoch.
    const wanted = minimumInSync(replica.known.config);
    if (config.epoch === epoch && config.inSync.length < wanted)
      world.violate('acknowledged', `a reply leaves while ${config.inSync.length} copies are in sync`);
    for (const { replicaId, incarnation } of config.inSync) {
      const node = world.nodeOf(replicaId);
      if (!this.#isNamed(node, incarnation)) continue;
      if (config.epoch === epoch && node.disk.highestPromise < epoch) {
        world.violate(
          'promise',
          `${node.name} has promised ${node.disk.highestPromise} durably when a reply of epoch ${epoch} leaves`,
        );
      }
      if (asked !== undefined && asked.kind !== READ) this.#isBacked(asked, node);
    }
  }

  #serves(by: Omit<Served, 'firstMs'>): void {
    const known = this.#served.get(by.epoch);
    if (known === undefined) {
      const served = { ...by, firstMs: this.#world.schedule.nowMs };
      this.#served.set(by.epoch, served);
      if (this.#newestServed === undefined || by.epoch > this.#newestServed.epoch)
        this.#newestServed = served;
    } else if (known.opening !== by.opening)
      this.#world.violate('oneServes', `two openings serve in epoch ${by.epoch}`);
  }

  /** The disk is the one that the set means: it has lost nothing since it got this incarnation. */
  #isNamed(node: SimNode, incarnation: string | null): boolean {
    const own = node.process?.replica;
    const found = own?.superblock ?? decodeSuperblockSlots(node.disk.superblock.cache).superblock;
    const now = own?.incarnation ?? found.incarnation;
    const isWhole = node.disk.sizeBytes >= this.#world.current.sizeBytes;
    return (incarnation === null || now === incarnation) && found.bootId === node.bootId && isWhole;
  }

  #isBacked(asked: Asked, node: SimNode): void {
    const world = this.#world;
    const isStable = (asked.flags & FLAG_FUA) !== 0 || world.history.isWritethrough;
    if (asked.kind === FLUSH) {
      for (const { block, value } of world.history.coveredBy(asked.operation.issuedMs)) {
        if (node.disk.stable[block] === value) continue;
        world.violate('acknowledged', `${node.name} has not flushed write ${value} of block ${block}`);
        return;
      }
      return;
    }
    for (let at = 0; at < asked.blockCount; at++) {
      const block = asked.block + at;
      const has = isStable ? node.disk.stable[block] : node.disk.blocks[block];
      if (has === asked.value) continue;
      world.violate(
        'acknowledged',
        `write ${asked.operation.id} is acknowledged, and ${node.name} holds ${has} in block ${block}${isStable ? ' on stable storage' : ''}`,
      );
      return;
    }
  }

  /** A frontend took it. */
  replyTaken(asked: Asked): void {
    const newest = this.#newestServed;
    const by = asked.repliedBy;
    if (by === undefined || newest === undefined || newest.epoch <= by.epoch) return;
    for (const later of this.#served.values()) {
      if (later.epoch <= by.epoch || later.replicaId === by.replicaId || later.firstMs >= asked.sentMs)
        continue;
      this.#world.violate(
        'accepted',
        `a request sent at ${asked.sentMs.toFixed(2)} was answered by ${by.replicaId} of epoch ${by.epoch}; ${later.replicaId} had served in epoch ${later.epoch} since ${later.firstMs.toFixed(2)}`,
      );
      return;
    }
  }

  // ---- streams and sessions

  /** A Hello arrived on this link. */
  greeted(link: number, hello: Hello): void {
    this.#hellos.set(link, hello);
  }

  /** It is answered: `dataOperations` of the process are on their way to the disk. */
  welcomes(by: SimProcess, link: number, dataOperations: number): void {
    const hello = this.#hellos.get(link);
    const isStream = hello?.kind === 'stream';
    if (hello === undefined) return;
    const of = isStream ? (hello.config.primary.opening ?? '') : String(hello.attachment);
    const number = isStream ? hello.stream : hello.session;
    let numbers = this.#numbers.get(by);
    if (numbers === undefined) {
      numbers = new Map();
      this.#numbers.set(by, numbers);
    }
    const key = `${hello.kind} ${of}`;
    if (number <= (numbers.get(key) ?? 0))
      this.#world.violate(
        'order',
        `node${by.node} answers ${key} number ${number} after ${numbers.get(key)}`,
      );
    numbers.set(key, number);
    if (isStream && hello.config.sizeBytes > by.replica.copy.sizeBytes)
      this.#world.violate(
        'order',
        `node${by.node} answers a stream of a volume that is larger than its copy`,
      );
    if (isStream && hello.config.epoch < by.replica.superblock.promisedEpoch)
      this.#world.violate(
        'order',
        `node${by.node} answers a stream of epoch ${hello.config.epoch}, below its promise`,
      );
    if (isStream && dataOperations > 0)
      this.#world.violate(
        'order',
        `node${by.node} answers a new stream while ${dataOperations} writes are under way`,
      );
  }

  // ---- disks

  /** The store's configuration is this one from now on. */
  named(config: VolumeConfig): void {
    if (config.epoch < this.#newestEpoch) this.#isStoreFalse = true;
    this.#newestEpoch = config.epoch;
    for (const { incarnation } of config.inSync) if (incarnation !== null) this.#named.add(incarnation);
    for (const { bootId } of config.replicas) if (bootId !== null) this.#boots.add(bootId);
  }

  /** A superblock is written. */
  keeps(by: SimNode, { lastInSyncIncarnation }: Superblock): void {
    if (lastInSyncIncarnation !== null && !this.#named.has(lastInSyncIncarnation))
      this.#world.violate(
        'promise',
        `${by.name} notes itself in sync as ${lastInSyncIncarnation}, which the store never named`,
      );
  }

  /** A replica promises, answers or grants in this epoch. */
  speaksIn(by: SimNode, epoch: number): void {
    if (by.disk.highestPromise < epoch)
      this.#world.violate(
        'promise',
        `${by.name} speaks in epoch ${epoch}, and its durable promise is ${by.disk.highestPromise}`,
      );
    const own = this.#world.current.replicas.find(({ id }) => id === by.replicaId);
    if (own !== undefined && !this.#boots.has(by.bootId))
      this.#world.violate('promise', `${by.name} answers in a boot that the store does not know`);
  }

  /** Data is on its way to the disk. */
  dataStarts(on: SimNode, firstBlock: number, blockCount: number): void {
    const last = Math.floor((firstBlock + blockCount - 1) / BLOCKS_PER_EXTENT);
    for (let extent = Math.floor(firstBlock / BLOCKS_PER_EXTENT); extent <= last; extent++)
      if (!on.disk.isExtentHotDurably(extent))
        this.#world.violate('marks', `${on.name} writes to extent ${extent} before its mark is durable`);
  }

  /** The checks of everything that was ever written: costly, so only now and then. */
  everything(): void {
    if (this.#isStoreFalse) return;
    const world = this.#world;
    const { config } = world.store.current;
    const members = config.inSync
      .map(({ replicaId, incarnation }) => ({ node: world.nodeOf(replicaId), incarnation }))
      .filter(({ node, incarnation }) => this.#isNamed(node, incarnation))
      .map(({ node }) => node);
    this.#coverage(members);
    for (const { id, outSince, needsFullCopy } of config.replicas) {
      const isMember = config.inSync.some(({ replicaId }) => replicaId === id);
      if (isMember || needsFullCopy || outSince === null) continue;
      const absent = world.nodeOf(id);
      if (isUnjudgedImage(absent)) continue;
      for (const member of members) this.#delta(member, absent, outSince);
    }
  }

  #coverage(members: readonly SimNode[]): void {
    const [first] = members;
    if (first === undefined || members.length < 2) return;
    const { history } = this.#world;
    const suspects = new Map<SimNode, Suspects>();
    const isSuspect = (node: SimNode, block: number): boolean => {
      let found = suspects.get(node);
      if (found === undefined) {
        found = new Suspects(node);
        suspects.set(node, found);
      }
      return found.has(block);
    };
    for (const block of history.blocks()) {
      if (members.every((node) => node.disk.blocks[block] === first.disk.blocks[block])) continue;
      for (let one = 0; one < members.length; one++) {
        for (let two = one + 1; two < members.length; two++) {
          const a = members[one] as SimNode;
          const b = members[two] as SimNode;
          if (a.disk.blocks[block] === b.disk.blocks[block]) continue;
          const extent = Math.floor(block / BLOCKS_PER_EXTENT);
          const isMarked = a.disk.isExtentHotDurably(extent) || b.disk.isExtentHotDurably(extent);
          if (isMarked && (isSuspect(a, block) || isSuspect(b, block))) continue;
          this.#world.violate(
            'coverage',
            `${a.name} holds ${a.disk.blocks[block]} and ${b.name} ${b.disk.blocks[block]} in block ${block}, and no ${isMarked ? 'window' : 'mark'} of theirs says so`,
          );
          return;
        }
      }
    }
  }

  #delta(member: SimNode, absent: SimNode, outSince: number): void {
    const { history } = this.#world;
    let ownSuspects: Suspects | undefined;
    let memberSuspects: Suspects | undefined;
    for (const block of history.blocks()) {
      // What a copy has not grown to reads as zeroes once it has.
      if (member.disk.blocks[block] === (absent.disk.blocks[block] ?? 0)) continue;
      if (stampOf(member, block) >= outSince) continue;
      ownSuspects ??= new Suspects(absent);
      if (ownSuspects.has(block)) continue;
      // Extents that are hot on the copy itself are brought whole.
      if (absent.disk.isExtentHotDurably(Math.floor(block / BLOCKS_PER_EXTENT))) continue;
      memberSuspects ??= new Suspects(member);
      if (memberSuspects.has(block)) continue;
      this.#world.violate(
        'delta',
        `${absent.name}, out since ${outSince}, holds ${absent.disk.blocks[block]} in block ${block} and ${member.name} ${member.disk.blocks[block]}, stamped ${stampOf(member, block)}: nobody would bring it`,
      );
      return;
    }
  }
}

/** An old image of a disk: until its process has looked at it, and if it finds it no base, nobody counts on what it holds. */
function isUnjudgedImage({ disk, process }: SimNode): boolean {
  return (
    disk.isImage &&
    (process === undefined || process.replica.state === 'opening' || !process.replica.isDeltaBase)
  );
}

/** What a copy says may differ: the ranges of its window, or, if nobody can believe that, all hot extents. */
class Suspects {
  readonly #blocks = new Set<number>();
  readonly #node: SimNode;
  readonly #isUnknown: boolean;

  constructor(node: SimNode) {
    this.#node = node;
    const entries = new WindowFile(node.disk.window).readEntries(node.bootId);
    this.#isUnknown = entries === 'unknown';
    if (entries === 'unknown') return;
    for (const { offsetBytes, lengthBytes } of entries)
      for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += BLOCK_BYTES)
        this.#blocks.add(at / BLOCK_BYTES);
  }

  has(block: number): boolean {
    if (this.#isUnknown) return this.#node.disk.isExtentHot(Math.floor(block / BLOCKS_PER_EXTENT));
    return this.#blocks.has(block);
  }
}

const onDisk = new Uint32Array(GENERATION_BLOCKS_PER_EXTENT);

/** The epoch of a block's last write, as far as the copy can tell. */
function stampOf(node: SimNode, block: number): number {
  const extent = Math.floor(block / BLOCKS_PER_EXTENT);
  const inExtent = Math.floor((block % BLOCKS_PER_EXTENT) / BLOCKS_PER_GENERATION);
  const extents = node.process?.replica.copy.extents;
  if (extents === undefined && node.disk.isExtentHot(extent)) return NEWEST_STAMP;
  const live =
    extents?.isHot(extent) === true ? extents.stampMemory[extents.stampOffset(extent) + inExtent] : 0;
  onDisk.fill(NEWEST_STAMP);
  decodeGenerationSector(node.disk.generations.cache, generationFileOffset(extent), extent, onDisk, 0);
  return Math.max(live as number, onDisk[inExtent] as number);
}
