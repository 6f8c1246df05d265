// One replica's core with everything around it in a test's hands: what it starts waits in a list until the test ends it,
// in order or one by one; its links lead to nobody but the test.

import { EXTENT_BYTES } from '../../src/core/units.ts';
import type { ReplicaConfig, StoredConfig, VolumeConfig } from '../../src/replication/config.ts';
import {
  type ControlMessage,
  FRAME_BEAT,
  FRAME_DONE,
  FRAME_EPOCH,
  FRAME_EPOCH_KEPT,
  FRAME_FLUSH,
  FRAME_FLUSHED,
  FRAME_GRANT,
  FRAME_HELLO,
  FRAME_REQUEST,
  FRAME_WELCOME,
  FRAME_WRITE,
  FRAME_ZERO,
  FrameFields,
  OFFSET,
  SEQUENCE,
  type SuspectRange,
  TIME,
} from '../../src/replication/frames.ts';
import type { Superblock } from '../../src/replication/layout/superblock.ts';
import { encodeWindow, type WindowEntry, WindowFile } from '../../src/replication/layout/window.ts';
import { type ClientLoad, Pace } from '../../src/replication/pace.ts';
import type { ReplicaEvent, ReplicaPorts } from '../../src/replication/ports.ts';
import { Replica } from '../../src/replication/replica.ts';
import { NONE, READ, RequestTable } from '../../src/replication/requests.ts';

export const OWN = 'own';
export const OTHER = 'other';
const BOOT = 'boot';

/** What the core has started and not been told the end of. */
interface Operation {
  readonly what: string;
  readonly request: number;
  readonly end: (errno: number) => void;
}

interface Link {
  readonly number: number;
  /** undefined: somebody else connected. */
  readonly node: string | undefined;
  isOpen: boolean;
}

/** A frame or message that the core sent. */
interface Sent {
  readonly link: number;
  readonly type: number;
  readonly errno: number;
  readonly sequence: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly message: ControlMessage | undefined;
}

export interface WorldOptions {
  readonly config?: Partial<VolumeConfig>;
  readonly superblock?: Partial<Superblock>;
  readonly windowEntries?: readonly WindowEntry[];
  readonly slots?: number;
}

export function replicaOn(id: string): ReplicaConfig {
  const node = `node of ${id}`;
  return { id, node, outSince: null, needsFullCopy: false, bootId: BOOT, report: null };
}

export class ReplicaWorld implements ReplicaPorts {
  readonly table: RequestTable;
  readonly replica: Replica;
  nowMilliseconds = 1000;
  stored: StoredConfig;
  readonly operations: Operation[] = [];
  readonly links: Link[] = [];
  readonly sent: Sent[] = [];
  readonly events: ReplicaEvent[] = [];
  readonly superblocks: Superblock[] = [];
  readonly reads: { readonly offsetBytes: number; readonly lengthBytes: number }[] = [];
  /** How often a swap was asked for. */
  swapCount = 0;
  /** The other copy's errno of each write; undefined: it answers nothing of that kind. */
  otherWrites: number | undefined = 0;
  /** How the own disk's writes end that settle. */
  ownWrites = 0;
  /** The node's other volumes are before it: false. */
  isResyncTurn = true;
  /** Whether each was urgent. */
  readonly resyncsAsked: boolean[] = [];
  resyncsEnded = 0;
  /** Of the node's other volumes. */
  readonly otherClients: { -readonly [key in keyof ClientLoad]: number } = { openCount: 0, begunCount: 0 };
  readonly pace = new Pace(this.otherClients);
  /** Its disk has nothing but zeroes. */
  isEmpty = false;
  #ids = 0;
  /** Writes that the other copy has taken in silence. */
  readonly #unanswered: { readonly link: number; readonly sequence: number }[] = [];

  constructor(options: WorldOptions = {}) {
    const config: VolumeConfig = {
      volumeId: 'v',
      sizeBytes: 2 * EXTENT_BYTES,
      lineage: 'l',
      epoch: 1,
      primary: { replicaId: OWN, opening: null },
      inSync: [{ replicaId: OWN, incarnation: null }],
      replicas: [replicaOn(OWN)],
      attachment: { number: 1, node: 'user' },
      durability: 'writeback',
      failureMode: 'soft',
      ...options.config,
    };
    this.table = new RequestTable(options.slots ?? 32);
    this.stored = { config, revision: 1 };
    this.replica = new Replica(this.table, this, {
      replicaId: OWN,
      bootId: BOOT,
      superblock: {
        volumeId: 'v',
        volumeName: 'volume',
        replicaId: OWN,
        sizeBytes: config.sizeBytes,
        lineage: 'l',
        promisedEpoch: 0,
        incarnation: 'incarnation of own',
        lastInSyncIncarnation: null,
        earlierIncarnations: [],
        bootId: null,
        earlierBootIds: [],
        storedBootId: null,
        cleanMark: { epoch: 0 },
        inSync: { epoch: 0, members: [] },
        attachmentNumber: 0,
        durability: 'writeback',
        failureMode: 'soft',
        wrappedKey: null,
        fileSystemMade: null,
        ...options.superblock,
      },
      intentBits: new Uint8Array(1),
      window: new WindowFile(encodeWindow(BOOT).buffer as ArrayBuffer),
      windowEntries: options.windowEntries ?? [],
    });
  }

  // ---- what the test does

  /** Ends the oldest operation of this name. */
  end(what: string, errno = 0): void {
    const at = this.operations.findIndex((operation) => operation.what === what);
    if (at < 0) throw new Error(`no ${what} is under way, only ${this.waiting().join(', ')}`);
    this.operations.splice(at, 1)[0]?.end(errno);
  }

  waiting(): string[] {
    return this.operations.map(({ what }) => what);
  }

  /** Everything that was started ends well, and what that starts, but `held`. */
  settle(...held: readonly string[]): void {
    for (let count = 0; count < 1000; count++) {
      const next = this.operations.find(({ what }) => !held.includes(what));
      if (next === undefined) return;
      this.operations.splice(this.operations.indexOf(next), 1);
      next.end(next.what === 'write' ? this.ownWrites : 0);
    }
    throw new Error('the core starts one thing after the other');
  }

  /** Time goes by, and everything settles. */
  pass(milliseconds: number, ...held: readonly string[]): void {
    const endMs = this.nowMilliseconds + milliseconds;
    while (this.nowMilliseconds < endMs) {
      this.nowMilliseconds += 100;
      this.replica.tick();
      this.settle(...held);
    }
  }

  openLinks(): Link[] {
    return this.links.filter(({ isOpen }) => isOpen);
  }

  linkTo(replicaId: string): number {
    const link = this.openLinks().findLast(({ node }) => node === `node of ${replicaId}`);
    if (link === undefined) throw new Error(`no link to ${replicaId} is open`);
    return link.number;
  }

  /** The other copy takes the stream that leads to it. */
  welcomeStream(suspects: readonly SuspectRange[] = []): void {
    this.replica.control(this.linkTo(OTHER), FRAME_WELCOME, {
      kind: 'stream',
      incarnation: 'incarnation of other',
      opening: 'opening of other',
      bootId: BOOT,
      lastInSyncEpoch: this.stored.config.epoch,
      suspects,
      hotExtents: [],
      isDeltaBase: true,
    });
  }

  /** A frontend connects; the link. */
  openSession(session: number, attachment = 1): number {
    const link = this.#link(undefined);
    this.replica.greeted(link, {
      kind: 'session',
      volumeId: 'v',
      node: 'user',
      attachment,
      session,
      epoch: 0,
    });
    return link;
  }

  /** The other copy, being the primary, connects; the link. */
  openStream(stream: number): number {
    const link = this.#link(undefined);
    const { config, revision } = this.stored;
    const watermark = 0;
    this.replica.greeted(link, {
      kind: 'stream',
      volumeId: 'v',
      config,
      revision,
      replicaId: OWN,
      stream,
      watermark,
      role: 'member',
    });
    return link;
  }

  /** The record becomes another one, and the replica hears of it by the store. */
  changeStored(change: (config: VolumeConfig) => VolumeConfig): void {
    this.stored = { config: change(this.stored.config), revision: this.stored.revision + 1 };
    this.replica.storeChanged();
  }

  /** By the stream of the primary. */
  raiseEpoch(link: number): void {
    const { config, revision } = this.stored;
    this.stored = { config: { ...config, epoch: config.epoch + 1 }, revision: revision + 1 };
    this.replica.control(link, FRAME_EPOCH, { ...this.stored, role: 'member', unsettled: [] });
  }

  streamWrite(link: number, sequence: number): void {
    const fields = new FrameFields();
    fields.type = FRAME_WRITE;
    fields.lengthBytes = 4096;
    fields.numbers[SEQUENCE] = sequence;
    this.replica.frame(link, fields, this.table.take());
  }

  /** As a network does. */
  breakLink(link: number): void {
    this.closeLink(link);
    this.replica.linkClosed(link);
  }

  /** The other copy answers again, and what it has not answered first. */
  answerWrites(): void {
    this.otherWrites = 0;
    const unanswered = this.#unanswered.splice(0);
    for (const { link, sequence } of unanswered) {
      const write = new FrameFields();
      write.numbers[SEQUENCE] = sequence;
      this.#answer(link, FRAME_WRITE, write);
    }
  }

  /** False: no slot is left for it. */
  request(link: number, tag: number, kind: number, offsetBytes: number, lengthBytes: number): boolean {
    const request = this.table.take();
    if (request === NONE) return false;
    const fields = new FrameFields();
    fields.type = FRAME_REQUEST;
    fields.errno = kind;
    fields.lengthBytes = lengthBytes;
    fields.numbers[SEQUENCE] = tag;
    fields.numbers[OFFSET] = offsetBytes;
    this.replica.frame(link, fields, request);
    return true;
  }

  sentOn(link: number, type: number): Sent[] {
    return this.sent.filter((one) => one.link === link && one.type === type);
  }

  // ---- the other copy answers

  #answer(link: number, type: number, fields: FrameFields): void {
    const answer = new FrameFields();
    answer.numbers.set(fields.numbers);
    answer.epoch = this.stored.config.epoch;
    if (type === FRAME_WRITE || type === FRAME_ZERO) {
      if (this.otherWrites === undefined) {
        this.#unanswered.push({ link, sequence: fields.numbers[SEQUENCE] as number });
        return;
      }
      answer.type = FRAME_DONE;
      // Zeroes need no room.
      answer.errno = type === FRAME_ZERO ? 0 : this.otherWrites;
    } else if (type === FRAME_FLUSH) answer.type = FRAME_FLUSHED;
    else if (type === FRAME_BEAT) answer.type = FRAME_GRANT;
    else return;
    answer.numbers[TIME] = fields.numbers[TIME] as number;
    this.#later('answer', NONE, () => {
      if (this.links[link]?.isOpen === true) this.replica.frame(link, answer, NONE);
    });
  }

  // ---- ports

  nowMs(): number {
    return this.nowMilliseconds;
  }

  drawId(): string {
    this.#ids += 1;
    return this.#ids.toString(16).padStart(32, '0');
  }

  beginResync(_isFull: boolean, isUrgent: boolean): boolean {
    this.resyncsAsked.push(isUrgent);
    return this.isResyncTurn;
  }

  endResync(): void {
    this.resyncsEnded += 1;
  }

  takeRequest(): number {
    return this.table.take();
  }

  release(request: number): void {
    this.table.release(request);
  }

  #later(what: string, request: number, end: (errno: number) => void): void {
    this.operations.push({ what, request, end });
  }

  #link(node: string | undefined): number {
    const number = this.links.length;
    this.links.push({ number, node, isOpen: true });
    return number;
  }

  connect(node: string): number {
    return this.#link(node);
  }

  sendFrame(link: number, fields: FrameFields): void {
    this.sent.push({
      link,
      type: fields.type,
      errno: fields.errno,
      sequence: fields.numbers[SEQUENCE] as number,
      offsetBytes: fields.numbers[OFFSET] as number,
      lengthBytes: fields.lengthBytes,
      message: undefined,
    });
    if (this.links[link]?.node !== undefined) this.#answer(link, fields.type, fields);
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    this.sent.push({ link, type, errno: 0, sequence: 0, offsetBytes: 0, lengthBytes: 0, message });
    if (type === FRAME_EPOCH) {
      const kept = new FrameFields();
      kept.type = FRAME_EPOCH_KEPT;
      kept.epoch = (message as { config: VolumeConfig }).config.epoch;
      this.#later('answer', NONE, () => {
        if (this.links[link]?.isOpen === true) this.replica.frame(link, kept, NONE);
      });
    }
    if (type === FRAME_HELLO)
      this.#later('greeting', NONE, () => {
        if (this.links[link]?.isOpen === true) this.onHello(link);
      });
  }

  /** The other copy has got a Hello. */
  onHello: (link: number) => void = () => undefined;

  closeLink(link: number): void {
    const known = this.links[link];
    if (known !== undefined) known.isOpen = false;
  }

  startRead(request: number): void {
    this.reads.push({
      offsetBytes: this.table.offsetBytes[request] as number,
      lengthBytes: this.table.lengthBytes[request] as number,
    });
    this.#later('read', request, (errno) => {
      this.table.isHole[request] = this.isEmpty && this.table.kind[request] !== READ ? 1 : 0;
      this.replica.dataDone(request, errno);
    });
  }

  startWrite(request: number): void {
    this.#later('write', request, (errno) => this.replica.dataDone(request, errno));
  }

  startZero(request: number): void {
    this.#later('write', request, (errno) => this.replica.dataDone(request, errno));
  }

  startFlush(): void {
    this.#later('flush', NONE, (errno) => this.replica.flushDone(errno));
  }

  startIntentRound(): void {
    this.#later('intent', NONE, (errno) => this.replica.intentRoundDone(errno));
  }

  startGenerationMerge(): void {
    this.#later('merge', NONE, (errno) => this.replica.generationsMerged(errno));
  }

  startStampRead(link: number, extent: number): void {
    this.#later('stamps', NONE, (errno) => this.replica.stampsRead(link, extent, errno, new Uint32Array(64)));
  }

  startSuperblock(superblock: Superblock): void {
    this.#later('superblock', NONE, (errno) => {
      if (errno === 0) this.superblocks.push(superblock);
      this.replica.superblockDone(errno);
    });
  }

  readConfig(): void {
    this.#later('store', NONE, () => this.replica.configRead(this.stored));
  }

  propose(proposal: number, baseRevision: number, config: VolumeConfig): void {
    this.swapCount += 1;
    this.#later('swap', NONE, () => {
      if (baseRevision !== this.stored.revision) {
        this.replica.proposed(proposal, { type: 'conflict', current: this.stored });
        return;
      }
      this.stored = { config, revision: baseRevision + 1 };
      this.replica.proposed(proposal, { type: 'committed', revision: this.stored.revision });
    });
  }

  event(event: ReplicaEvent): void {
    this.events.push(event);
  }
}
