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
import { BLOCK_BYTES } from '../../core/units.ts';
import {
  type ControlMessage,
  FRAME_HELLO,
  FRAME_REFUSED,
  FRAME_REPLY,
  FRAME_WELCOME,
  FrameFields,
  type Hello,
  OFFSET,
} from '../../replication/frames.ts';
import { NONE } from '../../replication/requests.ts';
import { chooseVersion, DECODE_TEXTS, FrameReader, HEADER_BYTES, OK } from '../../replication/wire.ts';
import { decodeControl, helloVersions, welcomeVersion } from '../../replication/wire-control.ts';
import * as types from '../../replication/wire-types.ts';
import { native } from '../native.ts';
import { isInterruption } from '../ring.ts';
import { TAG_CLOSE, TAG_LINK_CONNECT } from '../tags.ts';
import { isMessageSealed } from './control-seal.ts';
import { GREETING_BYTES, Handshake, type LinkKeys } from './handshake.ts';
import type { GreetedConnection, LinkHost } from './hosts.ts';
import { SEAL_BYTES, SEALED_HEADER_BYTES, STAGING_AT } from './link-memory.ts';
import { LinkReceiver } from './link-receiver.ts';
import { LinkSender } from './link-sender.ts';
import type { PeerLink, Peers } from './peers.ts';

const CONNECTING = 0;
const PROVING = 1;
const GREETING = 2;
const OPEN = 3;
/** Silent for the host; what it said last still leaves. */
const LINGERING = 4;
const CLOSING = 5;

const EXPECT_HEADER = 0;
const EXPECT_SLOT = 1;
const EXPECT_PAYLOAD = 2;
const EXPECT_MESSAGE = 3;
/** The Hello has come, the connection goes to another thread. */
const EXPECT_NOTHING = 4;

/** To connect, prove and greet. */
const GREETING_LIMIT_MS = 5000;
const LINGER_LIMIT_MS = 1000;
/** While somebody waits for memory, a payload whose buffer is taken has to come within this. */
const PAYLOAD_STALL_LIMIT_MS = 10_000;
/** Of this much it hands over frames in one turn, then it is the others' turn. */
const TURN_BYTES = 256 * 1024;
/** From this size on the next header is received alone, so that the payload behind it comes without a copy. */
const LARGE_PAYLOAD_BYTES = 16 * 1024;

/** A dead machine is noticed within a dozen seconds even where nothing is sent; the core's leases are quicker. */
const KEEP_ALIVE_IDLE_SECONDS = 5;
const KEEP_ALIVE_INTERVAL_SECONDS = 2;
const KEEP_ALIVE_PROBES = 3;
const USER_TIMEOUT_MS = 10_000;

export class Link implements PeerLink {
  readonly number: number;
  readonly index: number;
  readonly fd: number;
  host: LinkHost | undefined;
  readonly #peers: Peers;
  readonly #isInitiator: boolean;
  readonly #peer: string;
  readonly #sender: LinkSender;
  readonly #receiver: LinkReceiver;
  #reader: FrameReader;
  #handshake: Handshake | undefined;
  #receiveKey = new Uint8Array();
  readonly #in = new FrameFields();
  readonly #headerSeal = new Uint8Array(SEAL_BYTES);
  #state: number;
  #expects = EXPECT_HEADER;
  #sinceMs: number;
  readonly #payloadSinceMs = new Float64Array(1);
  #turnBytes = 0;
  #isHeaderAlone = false;
  #isConnecting = false;
  #isWaiting = false;
  #isDirty = false;
  #isFdClosed = false;
  #isTold = false;
  #volumeId = '';
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
    this.#receiver = new LinkReceiver(thread, index, fd);
    this.#reader = new FrameReader(native.crc32cSigned, types.HEARER_ACCEPTOR);
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
    try {
      native.setPeerOptions(
        this.fd,
        KEEP_ALIVE_IDLE_SECONDS,
        KEEP_ALIVE_INTERVAL_SECONDS,
        KEEP_ALIVE_PROBES,
        USER_TIMEOUT_MS,
      );
      const { socketBufferBytes } = this.#peers.options;
      if (socketBufferBytes !== undefined) native.setSocketBuffers(this.fd, socketBufferBytes);
    } catch {
      // The other end has gone already: the receive says so.
    }
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
    this.#reader = new FrameReader(native.crc32cSigned, types.HEARER_ACCEPTOR, 1);
    // The volume may have gone elsewhere meanwhile: the other end will ask again.
    if (this.#greeted(connection.hello, connection.wireVersion)) this.#proceed();
    else this.end();
  }

  #useKeys(keys: LinkKeys): void {
    this.#sender.key = keys.sendKey;
    this.#receiveKey = keys.receiveKey as Uint8Array<ArrayBuffer>;
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
    this.#reader.hearer = kind === 'stream' ? types.HEARER_PRIMARY : types.HEARER_FRONTEND;
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
      this.#turnBytes = 0;
      while (!this.isEnding && !this.#isWaiting && this.#step());
      if (!this.isEnding && !this.#isWaiting && this.#expects !== EXPECT_NOTHING) {
        this.#receive();
        return;
      }
    }
    this.#endIfDone();
  }

  #receive(): void {
    const receiver = this.#receiver;
    let wantedBytes = 0;
    if (this.#handshake !== undefined) wantedBytes = this.#handshake.wantedBytes;
    else if (this.#state === GREETING || this.#isHeaderAlone) {
      wantedBytes = this.#expects === EXPECT_MESSAGE ? receiver.messageLeftBytes : SEALED_HEADER_BYTES;
    }
    receiver.receive(wantedBytes);
  }

  /** Consumes something of what was received; false when more is needed, or nothing more is wanted now. */
  #step(): boolean {
    const receiver = this.#receiver;
    if (this.#handshake !== undefined) return this.#prove(this.#handshake);
    switch (this.#expects) {
      case EXPECT_HEADER:
        return receiver.availableBytes >= SEALED_HEADER_BYTES && this.#header(receiver.at);
      case EXPECT_SLOT:
        return this.#takeSlot();
      case EXPECT_PAYLOAD:
        return receiver.takePayload() && this.#payloadComplete();
      case EXPECT_MESSAGE:
        return this.#message(receiver.takeMessage());
      default:
        return false;
    }
  }

  #prove(handshake: Handshake): boolean {
    const receiver = this.#receiver;
    const { wantedBytes } = handshake;
    if (receiver.availableBytes < wantedBytes) return false;
    const { bytes } = this.#peers.thread.memory;
    const answer = handshake.take(bytes.slice(receiver.at, receiver.at + wantedBytes));
    receiver.consume(wantedBytes);
    if (answer === undefined) {
      this.#refuse('it does not prove that it holds the key of this cluster');
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

  #header(at: number): boolean {
    const { thread, wire } = this.#peers;
    if (this.#turnBytes >= TURN_BYTES) return this.#wait(false);
    if (!native.isSealed(this.#receiveKey, thread.memory.bytes, at, HEADER_BYTES)) {
      return this.#damaged(
        'a frame does not bear the seal of this connection: damaged, or not of the other end',
      );
    }
    const fields = this.#in;
    const code = this.#reader.decode(wire, at, fields);
    if (code !== OK) return this.#damaged(DECODE_TEXTS[code] ?? '');
    const { payloadBytes } = this.#reader;
    this.#receiver.consume(SEALED_HEADER_BYTES);
    this.#turnBytes += payloadBytes + SEALED_HEADER_BYTES;
    this.#isHeaderAlone = false;
    if (types.payloadOf(fields.type) === types.PAYLOAD_CONTROL) {
      this.#headerSeal.set(thread.memory.bytes.subarray(at + HEADER_BYTES, at + SEALED_HEADER_BYTES));
      this.#receiver.expectMessage(new Uint8Array(payloadBytes + SEAL_BYTES));
      this.#expects = EXPECT_MESSAGE;
    } else if (types.needsRequest(fields)) {
      this.#expects = EXPECT_SLOT;
    } else {
      this.host?.frame(this.number, fields, NONE);
    }
    return true;
  }

  #takeSlot(): boolean {
    const fields = this.#in;
    const { hearer, payloadBytes } = this.#reader;
    // Where a read's answer came from is not said: its bytes may begin anywhere.
    const inBlock = fields.type === FRAME_REPLY ? 0 : (fields.numbers[OFFSET] as number) % BLOCK_BYTES;
    const request = this.#peers.slots.takeForLink(
      this.index,
      inBlock,
      types.bufferBytesOf(fields),
      hearer !== types.HEARER_SERVER,
    );
    if (request === NONE) return this.#wait(true);
    if (payloadBytes === 0) {
      this.#expects = EXPECT_HEADER;
      this.host?.frame(this.number, fields, request);
      return true;
    }
    this.#isHeaderAlone = payloadBytes >= LARGE_PAYLOAD_BYTES;
    this.#payloadSinceMs[0] = this.#peers.thread.clockMs[0] as number;
    this.#receiver.expectPayload(request, payloadBytes);
    this.#expects = EXPECT_PAYLOAD;
    return true;
  }

  #payloadComplete(): boolean {
    const { memory, slots } = this.#peers.thread;
    const request = this.#receiver.request;
    if (!this.#reader.isPayloadIntact(memory.bytes, slots.data[request] as number)) {
      return this.#damaged(
        'a payload was damaged on its way: check the network and the memory of both machines',
      );
    }
    this.#receiver.endPayload();
    this.#expects = EXPECT_HEADER;
    this.host?.frame(this.number, this.#in, request);
    return true;
  }

  #message(received: Uint8Array | undefined): boolean {
    if (received === undefined) return false;
    this.#expects = EXPECT_HEADER;
    if (!isMessageSealed(this.#receiveKey, this.#headerSeal, received)) {
      return this.#damaged(
        'a message does not bear the seal of this connection: damaged, or not of the other end',
      );
    }
    const { type } = this.#in;
    const bytes = received.subarray(0, received.length - SEAL_BYTES);
    try {
      if (type === FRAME_HELLO) return this.#takeHello(bytes);
      const message = decodeControl(type, bytes);
      if (type === FRAME_WELCOME) this.#useVersion(welcomeVersion(bytes, this.#peers.versions));
      this.host?.control(this.number, type, message);
      return true;
    } catch (error) {
      if (!isHoldfastError(error, 'CORRUPT')) throw error;
      return this.#damaged(error.message);
    }
  }

  // ---- the Hello of an accepted connection

  #takeHello(bytes: Uint8Array): boolean {
    const theirs = helloVersions(bytes);
    const { versions } = this.#peers;
    const version = chooseVersion(versions, theirs);
    if (version === undefined) {
      this.#peers.event({
        type: 'refused',
        peer: this.#peer,
        reason:
          `it speaks versions ${theirs.min} to ${theirs.max} of the wire format and this daemon ` +
          `${versions.min} to ${versions.max}: upgrade the older one`,
      });
      this.#state = OPEN;
      this.sendControl(FRAME_REFUSED, { reason: 'busy', epoch: 0 });
      this.close();
      return false;
    }
    const hello = decodeControl(FRAME_HELLO, bytes) as Hello;
    if (this.#greeted(hello, version)) return true;
    this.#expects = EXPECT_NOTHING;
    this.#handOver = {
      fd: this.fd,
      sendKey: this.#sender.key ?? new Uint8Array(),
      receiveKey: this.#receiveKey,
      wireVersion: version,
      hello,
    };
    this.#handOverIfDone();
    return false;
  }

  /** False: its volume is not in this thread. */
  #greeted(hello: Hello, version: number): boolean {
    this.#volumeId = hello.volumeId;
    const host = this.#peers.options.host.hostOf(hello);
    if (host === undefined) return false;
    this.#useVersion(version);
    this.#reader.hearer = hello.kind === 'stream' ? types.HEARER_REPLICA : types.HEARER_SERVER;
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
    this.#reader.version = version;
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

  #wait(forMemory: boolean): boolean {
    this.#isWaiting = true;
    if (forMemory) this.#peers.park(this);
    else this.#peers.interrupt(this);
    return false;
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
      this.#expects === EXPECT_PAYLOAD &&
      nowMs - (this.#payloadSinceMs[0] as number) > PAYLOAD_STALL_LIMIT_MS
    ) {
      this.end('it stopped in the middle of a payload while others wait for memory');
    }
  }

  // ---- the end

  #damaged(reason: string): boolean {
    this.end(reason);
    return false;
  }

  #refuse(reason: string): void {
    this.#peers.event({ type: 'refused', peer: this.#peer, reason });
    this.end();
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
