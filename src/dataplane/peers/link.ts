// One TCP connection to another daemon, from its connect or accept to its end.
//
//   connecting → proving → open → closing          the end that connects
//                proving → greeting → open → closing   the end that accepts; greeting: its Hello is awaited
//
// A frame that finds no slot or no buffer parks the link: it is not read until something is free, and the other end
// feels it (back-pressure). A link that has handed over enough for one turn goes on in the next, after the others.
//
// Invariants: at most one receive and one send are in the ring; the descriptor is closed only when neither is, and the
// index is free again only when nothing of the link is in flight: until then the kernel may still touch its memory.
// Until it is authenticated a connection costs an index and a page of memory, no slot and no buffer.

import { isHoldfastError } from '../../core/errors.ts';
import {
  type ControlMessage,
  FRAME_HELLO,
  FRAME_REFUSED,
  FRAME_WELCOME,
  type FrameFields,
  type Hello,
} from '../../replication/frames.ts';
import { NONE } from '../../replication/requests.ts';
import { decodeControl, welcomeVersion } from '../../replication/wire-control.ts';
import * as types from '../../replication/wire-types.ts';
import { native } from '../native.ts';
import { isInterruption } from '../ring.ts';
import { SocketReceiver } from '../socket-receiver.ts';
import { TAG_CLOSE, TAG_LINK_CONNECT, TAG_LINK_RECEIVE } from '../tags.ts';
import { GREETING_BYTES, Handshake, type LinkKeys } from './handshake.ts';
import { readHello, refusalNaming, refusedVersions } from './hello.ts';
import type { GreetedConnection, LinkHost } from './hosts.ts';
import { type FrameTaker, LinkFrames, STEP_DONE, STEP_MEMORY, STEP_TURN } from './link-frames.ts';
import { LINK_RECEIVE_AT, STAGING_AT } from './link-memory.ts';
import { LinkSender } from './link-sender.ts';
import { setUpPeerSocket } from './peer-socket.ts';
import type { PeerLink, Peers } from './peers.ts';

const CONNECTING = 0;
const PROVING = 1;
const GREETING = 2;
const OPEN = 3;
/** Silent for the host; what it said last still leaves. */
const LINGERING = 4;
const CLOSING = 5;

/** To connect, prove and greet. */
const GREETING_LIMIT_MS = 5000;
const LINGER_LIMIT_MS = 1000;
/** While somebody waits for memory, a payload whose buffer is taken has to come within this. */
const PAYLOAD_STALL_LIMIT_MS = 10_000;
export class Link implements PeerLink, FrameTaker {
  readonly number: number;
  readonly index: number;
  readonly fd: number;
  host: LinkHost | undefined;
  readonly #peers: Peers;
  readonly #isInitiator: boolean;
  readonly #peer: string;
  readonly #sender: LinkSender;
  readonly #receiver: SocketReceiver;
  readonly #frames: LinkFrames;
  #handshake: Handshake | undefined;
  #state: number;
  #sinceMs: number;
  #isConnecting = false;
  #isWaiting = false;
  #isDirty = false;
  #isFdClosed = false;
  #isTold = false;
  #volumeId = '';
  /** The Hello has come, the connection goes to another thread: nothing more is read. */
  #handOver: GreetedConnection | undefined;

  /** `peer`: its address, for the log. */
  constructor(peers: Peers, number: number, index: number, fd: number, isInitiator: boolean, peer: string) {
    const { thread } = peers;
    this.#peers = peers;
    this.number = number;
    this.index = index;
    this.fd = fd;
    this.#isInitiator = isInitiator;
    this.#peer = peer;
    this.#state = isInitiator ? CONNECTING : PROVING;
    this.#sinceMs = thread.nowMs();
    this.#handshake = new Handshake(peers.options.clusterKey, isInitiator);
    this.#sender = new LinkSender(
      thread,
      peers.slots,
      peers.wire,
      index,
      fd,
      peers.options.payloadChecksums ?? true,
    );
    const bufferAt = thread.memory.linkOffset(index) + LINK_RECEIVE_AT;
    this.#receiver = new SocketReceiver(thread, fd, bufferAt, index, TAG_LINK_RECEIVE);
    this.#frames = new LinkFrames(peers, index, this.#receiver, this);
  }

  // ---- beginnings

  connect(address: Uint8Array): void {
    const { memory, ring } = this.#peers.thread;
    const at = memory.linkOffset(this.index) + STAGING_AT;
    memory.bytes.set(address, at);
    this.#isConnecting = true;
    ring.connect(this.fd, at, address.length, this.index, TAG_LINK_CONNECT);
  }

  connected(result: number): void {
    this.#isConnecting = false;
    if (result < 0 && this.#state === CONNECTING) {
      this.#peers.event({
        type: 'unreachable',
        peer: this.#peer,
        reason: `no connection (errno ${-result})`,
      });
    }
    if (result < 0 || this.#state !== CONNECTING) {
      this.end();
      return;
    }
    this.#state = PROVING;
    if (this.#handshake !== undefined) this.#say(this.#handshake.greeting);
    this.accepted();
  }

  /** Starts to read. `received`: what has been read before. */
  accepted(received?: Uint8Array): void {
    setUpPeerSocket(this.fd, this.#peers.options.socketBufferBytes);
    if (received !== undefined) {
      // Its next words depend on our answer. And a stranger costs no more than a page of memory.
      if (received.length > GREETING_BYTES) {
        this.#refuse('it said more than its greeting before it was answered');
        return;
      }
      this.#receiver.put(received);
    }
    this.#proceed();
  }

  /** As the thread that accepted it left it. */
  adopt(connection: GreetedConnection): void {
    this.#useKeys(connection);
    this.#frames.skipHello();
    // The volume may have gone elsewhere meanwhile: the other end will ask again.
    if (this.#greeted(connection.hello, connection.wireVersion)) this.#proceed();
    else this.end();
  }

  #useKeys(keys: LinkKeys): void {
    this.#sender.key = keys.sendKey;
    this.#frames.key = keys.receiveKey as Uint8Array<ArrayBuffer>;
    this.#handshake = undefined;
  }

  get isAuthenticated(): boolean {
    return this.#handshake === undefined;
  }

  get isEnding(): boolean {
    return this.#state >= LINGERING;
  }

  // ---- for the host

  sendFrame(fields: FrameFields, request: number): void {
    if (this.isEnding) return;
    if (!this.#sender.push(fields, request)) this.end('it leaves more unread than any peer may');
    else this.#markDirty();
  }

  sendControl(type: number, message: ControlMessage): void {
    if (this.isEnding) return;
    if (type === FRAME_HELLO) this.#hello(message as Hello);
    const { versions, out } = this.#peers;
    if (!this.#sender.pushControl(out, type, message, versions)) {
      this.end('it leaves more unread than any peer may');
    } else {
      this.#markDirty();
    }
  }

  #hello({ kind, volumeId }: Hello): void {
    this.#volumeId = volumeId;
    this.#frames.hearer = kind === 'stream' ? types.HEARER_PRIMARY : types.HEARER_FRONTEND;
  }

  /** The host hears nothing any more. A refusal, say, still leaves; payloads do not. */
  close(): void {
    this.host = undefined;
    if (this.#state !== OPEN || this.#sender.isEmpty || !this.#sender.isSmall) {
      this.end();
      return;
    }
    this.#state = LINGERING;
    this.#sinceMs = this.#peers.thread.nowMs();
    this.#peers.thread.wakeForTime();
  }

  // ---- receiving

  received(result: number): void {
    const receiver = this.#receiver;
    receiver.isReceiving = false;
    if (isInterruption(result) && !this.isEnding) {
      this.#receive();
    } else if (result <= 0 || this.#state === CLOSING) {
      this.#left(result);
    } else {
      receiver.received(result);
      this.#proceed();
    }
  }

  /** Something was freed, or it is its turn again. */
  retry(): void {
    this.#isWaiting = false;
    this.#proceed();
  }

  #left(result: number): void {
    if (this.#state === PROVING && this.#isInitiator) {
      this.#refuse('it ended the connection unproven: its cluster key or its cluster is another');
    } else {
      this.end(
        result === 0 ? 'the other end closed the connection' : `the connection broke (errno ${-result})`,
      );
    }
  }

  #proceed(): void {
    if (!this.#receiver.isReceiving && !this.#isWaiting) {
      this.#frames.beginTurn();
      while (this.#isRead && this.#step());
      if (this.#isRead) {
        this.#receive();
        return;
      }
    }
    this.#endIfDone();
  }

  get #isRead(): boolean {
    return !this.isEnding && !this.#isWaiting && this.#handOver === undefined;
  }

  #receive(): void {
    const wantedBytes = this.#handshake?.wantedBytes ?? this.#frames.wantedBytes(this.#state === GREETING);
    this.#receiver.receive(wantedBytes);
  }

  /** Consumes something of what was received; false when more is needed, or nothing more is wanted now. */
  #step(): boolean {
    if (this.#handshake !== undefined) return this.#prove(this.#handshake);
    const step = this.#frames.step();
    if (step === STEP_TURN || step === STEP_MEMORY) this.#wait(step === STEP_MEMORY);
    return step === STEP_DONE;
  }

  #prove(handshake: Handshake): boolean {
    const receiver = this.#receiver;
    const { wantedBytes } = handshake;
    if (receiver.availableBytes < wantedBytes) return false;
    const { bytes } = this.#peers.thread.memory;
    const answer = handshake.take(bytes.slice(receiver.at, receiver.at + wantedBytes));
    receiver.consume(wantedBytes);
    if (answer === undefined) {
      this.#refuse(handshake.problem, handshake.lastWords);
      return false;
    }
    this.#say(answer);
    if (handshake.keys !== undefined) {
      this.#useKeys(handshake.keys);
      this.#state = this.#isInitiator ? OPEN : GREETING;
      this.#markDirty();
    }
    return true;
  }

  // ---- what has come

  takeFrame(fields: FrameFields, request: number): void {
    this.host?.frame(this.number, fields, request);
  }

  takeMessage(type: number, bytes: Uint8Array): void {
    try {
      if (type === FRAME_HELLO) {
        this.#takeHello(bytes);
        return;
      }
      const message = decodeControl(type, bytes);
      if (type === FRAME_WELCOME) this.#useVersion(welcomeVersion(bytes, this.#peers.versions));
      const reason = type === FRAME_REFUSED ? refusedVersions(bytes, this.#peers.versions) : undefined;
      if (reason !== undefined) this.#peers.event({ type: 'refused', peer: this.#peer, reason });
      this.host?.control(this.number, type, message);
    } catch (error) {
      if (!isHoldfastError(error, 'CORRUPT')) throw error;
      this.damaged(error.message);
    }
  }

  damaged(reason: string): void {
    this.end(reason);
  }

  // ---- the Hello of an accepted connection

  #takeHello(bytes: Uint8Array): void {
    const read = readHello(bytes, this.#peers.versions);
    if (typeof read === 'string') {
      this.#peers.event({ type: 'refused', peer: this.#peer, reason: read });
      this.#state = OPEN;
      this.sendControl(FRAME_REFUSED, refusalNaming(this.#peers.versions));
      this.close();
      return;
    }
    const { hello, version } = read;
    if (this.#greeted(hello, version)) return;
    this.#handOver = {
      fd: this.fd,
      sendKey: this.#sender.key ?? new Uint8Array(),
      receiveKey: this.#frames.key,
      wireVersion: version,
      hello,
    };
    this.#handOverIfDone();
  }

  /** False: its volume is not in this thread. */
  #greeted(hello: Hello, version: number): boolean {
    this.#volumeId = hello.volumeId;
    const host = this.#peers.options.host.hostOf(hello);
    if (host === undefined) return false;
    this.#useVersion(version);
    this.#frames.hearer = hello.kind === 'stream' ? types.HEARER_REPLICA : types.HEARER_SERVER;
    this.#state = OPEN;
    this.host = host;
    host.greeted(this.number, hello);
    return true;
  }

  /** The kernel has taken our proof: nothing of this connection is in the ring any more. */
  #handOverIfDone(): void {
    const connection = this.#handOver;
    if (connection === undefined || !this.#sender.isEmpty) return;
    this.#handOver = undefined;
    this.#state = CLOSING;
    this.#isFdClosed = true;
    this.#peers.gone(this);
    this.#peers.options.host.handOver(connection);
  }

  #useVersion(version: number): void {
    this.#frames.version = version;
    this.#sender.writer.version = version;
  }

  // ---- sending

  #say(bytes: Uint8Array): void {
    this.#sender.pushRaw(bytes);
    this.#markDirty();
  }

  #markDirty(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.#peers.dirty(this);
  }

  /** At the end of a turn. */
  flush(): void {
    this.#isDirty = false;
    if (this.#state === CLOSING || this.#state === CONNECTING) return;
    if (this.#sender.isSending || !this.#sender.hasQueued) return;
    this.#sender.send();
    this.#peers.sends.add(this.index, this.fd, this.#sender.vectorAt);
  }

  sent(result: number): void {
    const sender = this.#sender;
    if (!sender.sent(result) && !sender.isSending) this.end(`the connection broke (errno ${-result})`);
    if (this.#state === CLOSING) {
      this.#endIfDone();
    } else if (sender.hasQueued) {
      this.#markDirty();
    } else if (!sender.isSending) {
      if (this.#state === LINGERING) this.end();
      this.#handOverIfDone();
    }
  }

  // ---- waiting

  #wait(forMemory: boolean): void {
    this.#isWaiting = true;
    if (forMemory) this.#peers.park(this);
    else this.#peers.interrupt(this);
  }

  get isTimed(): boolean {
    return this.#state < OPEN || this.#state === LINGERING;
  }

  /** Ends what takes too long. */
  checkDeadlines(nowMs: number, isMemoryShort: boolean): void {
    const ageMs = nowMs - this.#sinceMs;
    if (this.#state < OPEN && ageMs >= GREETING_LIMIT_MS) {
      if (this.#isInitiator) {
        const reason = `no answer within ${GREETING_LIMIT_MS / 1000} seconds`;
        this.#peers.event({ type: 'unreachable', peer: this.#peer, reason });
      }
      this.end();
    } else if (this.#state === LINGERING && ageMs >= LINGER_LIMIT_MS) {
      this.end();
    } else if (
      isMemoryShort &&
      this.#receiver.payloadRequest !== NONE &&
      nowMs - (this.#receiver.payloadSinceMs[0] as number) > PAYLOAD_STALL_LIMIT_MS
    ) {
      this.end('it stopped in the middle of a payload while others wait for memory');
    }
  }

  // ---- the end

  #refuse(reason: string, lastWords?: Uint8Array): void {
    this.#peers.event({ type: 'refused', peer: this.#peer, reason });
    if (lastWords === undefined) {
      this.end();
      return;
    }
    this.#say(lastWords);
    this.#state = OPEN;
    this.close();
  }

  /** Ends the connection now. `reason`: for the log, of one that was not ended by this side's own will. */
  end(reason?: string): void {
    if (this.#state !== CLOSING) {
      // Strangers come and go unlogged, unless they fail the proof.
      if (reason !== undefined && this.host !== undefined) {
        this.#peers.event({ type: 'ended', peer: this.#peer, volumeId: this.#volumeId, reason });
      }
      this.#state = CLOSING;
      this.#handOver = undefined;
      if (this.#isConnecting) {
        this.#peers.thread.ring.cancel(this.index, TAG_LINK_CONNECT, this.index, TAG_CLOSE);
      } else {
        native.shutdownSocket(this.fd);
      }
      this.#peers.closed(this);
    }
    this.#endIfDone();
  }

  /** From the turn: the host may be told now. */
  tellClosed(): void {
    this.#isTold = true;
    const host = this.host;
    this.host = undefined;
    host?.linkClosed(this.number);
    this.goneIfDone();
  }

  #endIfDone(): void {
    if (this.#state !== CLOSING || this.#isFdClosed) return;
    if (this.#receiver.isReceiving || this.#sender.isSending || this.#isConnecting) return;
    const unfinished = this.#receiver.endPayload();
    if (unfinished !== NONE) this.#peers.slots.release(unfinished);
    this.#sender.abandon();
    this.#isFdClosed = true;
    this.#peers.thread.ring.close(this.fd, this.index, TAG_CLOSE);
    this.goneIfDone();
  }

  /** Its index is free when nobody needs anything of it any more. */
  goneIfDone(): void {
    if (this.#isFdClosed && this.#isTold && this.#peers.slots.heldCount[this.index] === 0) {
      this.#peers.gone(this);
    }
  }
}
