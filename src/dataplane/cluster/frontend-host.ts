// Where a volume is used on this node: joins the sessions of its clients to the core's Frontend, and that to its
// link to the primary, wherever it is.
//
// The buffers of requests: a write's is shared with whoever sends or writes it, and a read's with a primary in
// this thread; PeerSlots counts who still has it, and only then the session frees it.

import type { StoredConfig } from '../../replication/config.ts';
import { type ControlMessage, FRAME_REQUEST, type FrameFields, SEQUENCE } from '../../replication/frames.ts';
import { Frontend, type FrontendPorts } from '../../replication/frontend.ts';
import { NONE, READ } from '../../replication/requests.ts';
import type { FrontendView } from '../cluster-storage.ts';
import { LayerCounts } from '../layer-counts.ts';
import { describeBlocks, describeData } from '../nbd/block-status.ts';
import type { ServedVolume, Session } from '../nbd/session.ts';
import type { LinkHost } from '../peers/hosts.ts';
import type { Thread } from '../thread.ts';
import type { FrontendSample } from '../thread-sample.ts';
import type { ClusterLinks } from './cluster-links.ts';
import type { OpenFrontendMessage } from './messages.ts';

/** A request that is older than this waits for more than its disk operations: a failover, most of all. */
const STALLED_AFTER_MS = 1000;

export class FrontendHost implements FrontendPorts, LinkHost, ServedVolume {
  readonly index: number;
  readonly volumeId: string;
  readonly instance: number;
  readonly attachmentNumber: number;
  sizeBytes: number;
  readonly sessions = new Set<Session>();
  inFlightCount = 0;
  /** What its clients ask for. */
  readonly counts: LayerCounts;
  /** Of that, what goes to a primary on another node; what is sent again counts again. */
  readonly networkCounts: LayerCounts;
  readonly #thread: Thread;
  readonly #cluster: ClusterLinks;
  readonly #frontend: Frontend;
  /** The link to a primary in this thread, or NONE. */
  #localLink = NONE;
  /** The primary that it is connected with is on this node. */
  #isOnThisNode = false;
  /** The node of the primary that it was connected with last, and of the one whose answer is the next to come. */
  #answeredBy = '';
  #connectedWith = '';
  /** [0]: when the last request was answered well; 0: none was. */
  readonly #lastGoodMs = new Float64Array(1);
  #isNewConnection = false;
  /** Of stalledMs: up to when it is counted. */
  #lookedMs = 0;
  #stalledMs = 0;

  constructor(thread: Thread, cluster: ClusterLinks, open: OpenFrontendMessage) {
    this.#thread = thread;
    this.#cluster = cluster;
    this.index = 0;
    this.volumeId = open.volumeId;
    this.instance = open.instance;
    this.attachmentNumber = open.attachmentNumber;
    this.sizeBytes = open.sizeBytes;
    this.counts = new LayerCounts(thread);
    this.networkCounts = new LayerCounts(thread);
    this.#frontend = new Frontend(thread.slots, this, {
      volumeId: open.volumeId,
      node: cluster.node,
      attachment: open.attachmentNumber,
      firstSession: open.firstSession,
      ...(open.giveUpAfterMs === undefined ? {} : { giveUpAfterMs: open.giveUpAfterMs }),
    });
  }

  /** Everything fails from here on. The sessions must have ended: nobody is to hear of that. */
  end(): void {
    this.#frontend.end();
  }

  view(): FrontendView {
    const { isOpen, isRevoked, hasUnanswered } = this.#frontend;
    const { volumeId, attachmentNumber } = this;
    return { volumeId, attachmentNumber, isConnected: isOpen, isRevoked, hasUnanswered };
  }

  tick(): void {
    this.#frontend.tick();
    this.#countStall();
  }

  sample(): FrontendSample {
    return {
      counts: this.counts.sample(),
      network: this.networkCounts.sample(),
      inFlight: this.inFlightCount,
      sessions: this.sessions.size,
      stalledMs: this.#stalledMs,
    };
  }

  /** Of all the time that it was open: while some request had waited for longer than a second, that second included. */
  #countStall(): void {
    const nowMs = this.nowMs();
    const oldestMs = this.#frontend.oldestAdmittedMs;
    if (oldestMs === undefined || nowMs - oldestMs < STALLED_AFTER_MS) return;
    this.#stalledMs += nowMs - Math.max(oldestMs, this.#lookedMs);
    this.#lookedMs = nowMs;
  }

  storeChanged(): void {
    this.#frontend.storeChanged();
  }

  configRead(stored: StoredConfig | undefined): void {
    this.#frontend.configRead(stored);
  }

  // ---- ServedVolume

  admit(request: number): void {
    const slots = this.#thread.slots;
    this.counts.began(request);
    slots.networkMs[request] = 0;
    this.#frontend.admit(request);
  }

  describeBlocks(request: number): number {
    const local = this.#cluster.replicas.get(this.volumeId);
    const isCurrent =
      this.#localLink !== NONE && this.#frontend.isOpen && local?.replica.primary?.mayReply === true;
    if (isCurrent) return describeBlocks(this.#thread, request, local.file.fd);
    return describeData(this.#thread, request);
  }

  // ---- LinkHost

  control(link: number, type: number, message: ControlMessage): void {
    this.#frontend.control(link, type, message);
  }

  frame(link: number, fields: FrameFields, request: number): void {
    this.#frontend.frame(link, fields, request);
  }

  linkClosed(link: number): void {
    this.#frontend.linkClosed(link);
  }

  // ---- FrontendPorts

  nowMs(): number {
    return this.#thread.nowMs();
  }

  readConfig(): void {
    const { volumeId, instance } = this;
    this.#thread.tell({ type: 'readConfig', volumeId, instance, asker: 'frontend' });
  }

  connect(node: string): number {
    const isLocal = this.#cluster.isLocal(node, this.volumeId);
    const link = this.#cluster.connect(this, node, this.volumeId);
    this.#localLink = isLocal ? link : NONE;
    this.#connectedWith = node;
    this.#isNewConnection = true;
    this.#isOnThisNode = node === this.#cluster.node;
    return link;
  }

  sendFrame(link: number, fields: FrameFields, request: number): void {
    const isRequest = fields.type === FRAME_REQUEST;
    if (isRequest && !this.#isOnThisNode) this.#countSending(fields.numbers[SEQUENCE] as number);
    const isLocalRead = link === this.#localLink && isRequest && fields.errno === READ;
    // A primary in this thread reads into the request's own buffer.
    this.#cluster.peers.sendFrame(link, fields, isLocalRead ? (fields.numbers[SEQUENCE] as number) : request);
  }

  #countSending(request: number): void {
    this.networkCounts.began(request);
    this.#thread.slots.networkMs[request] = this.#thread.clockMs[0] as number;
  }

  sendControl(link: number, type: number, message: ControlMessage): void {
    this.#cluster.peers.sendControl(link, type, message);
  }

  closeLink(link: number): void {
    this.#cluster.peers.closeLink(link);
  }

  reply(request: number, errno: number): void {
    const { startedMs, networkMs } = this.#thread.slots;
    this.counts.ended(startedMs, request, errno);
    if (networkMs[request] !== 0) {
      this.networkCounts.ended(networkMs, request, errno);
      this.#cluster.clientLoad.answeredElsewhere();
    }
    if (errno === 0) this.#answeredWell();
    this.#thread.sessionOf(request).reply(request, errno);
  }

  /** For the timeline: the first good answer after another connection, and how long ago the last one was. */
  #answeredWell(): void {
    const nowMs = this.#thread.clockMs[0] as number;
    const lastMs = this.#lastGoodMs[0] as number;
    this.#lastGoodMs[0] = nowMs;
    if (!this.#isNewConnection) return;
    this.#isNewConnection = false;
    const fromNode = this.#answeredBy;
    const toNode = this.#connectedWith;
    this.#answeredBy = toNode;
    if (lastMs === 0) return;
    const event = { type: 'firstIo', fromNode, toNode, pauseMs: nowMs - lastMs } as const;
    this.#thread.tell({ type: 'replica', volumeId: this.volumeId, event });
  }

  takePayload(request: number, from: number): void {
    this.#cluster.peers.slots.takeBytes(request, from);
  }

  release(request: number): void {
    this.#cluster.peers.slots.release(request);
  }
}
