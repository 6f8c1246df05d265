// Where a volume is consumed: passes requests to the primary, wherever that is, keeps what is unanswered and takes
// it to the next one.
//
// Invariants: no request is sent that overlaps an unanswered one, unless both are reads; after a change of the
// primary everything unanswered is sent again, in the order it came; a reply of an older session counts for
// nothing; it never goes back to a primary of a lower epoch; every request gets exactly one reply. A primary that is
// heard of is not asked again: however long the answers take, the requests stand there once.

import { replicaOf, type StoredConfig, type VolumeConfig } from './config.ts';
import {
  type ControlMessage,
  FRAME_HELLO,
  FRAME_HERE,
  FRAME_MOVED,
  FRAME_REFUSED,
  FRAME_REPLY,
  FRAME_REQUEST,
  FRAME_REVOKED,
  FRAME_WAITING,
  FRAME_WELCOME,
  FrameFields,
  OFFSET,
  type Refused,
  SEQUENCE,
  type SessionWelcome,
} from './frames.ts';
import { RangeLocks } from './range-locks.ts';
import { FLUSH, NONE, type RequestTable, WRITE } from './requests.ts';
import { type BrokenRules, NOTHING_BROKEN } from './rules.ts';
import { RECONNECT_MS, STORE_RETRY_MS } from './timing.ts';

const EIO = 5;
/** With requests unanswered: the store is asked whether the primary is another one by now. */
const ASK_AFTER_MS = 700;
/** The same, and not a sign of life, of which there are several a second: the connection is dead. */
const RECONNECT_AFTER_MS = 3000;

export interface FrontendPorts {
  nowMs(): number;
  /** Linearizable. Ends in configRead(current, or undefined: the store did not answer). One at a time. */
  readConfig(): void;
  connect(node: string, replicaId: string): number;
  sendFrame(link: number, fields: FrameFields, request: number): void;
  sendControl(link: number, type: number, message: ControlMessage): void;
  closeLink(link: number): void;
  /** Exactly once a request. A read's bytes are in its buffer. */
  reply(request: number, errno: number): void;
  /** A read's bytes came in another slot's buffer: into this request's. Then that slot is free. */
  takePayload(request: number, from: number): void;
  release(request: number): void;
}

export interface FrontendOptions {
  readonly volumeId: string;
  readonly node: string;
  readonly attachment: number;
  /** Higher than every session that this node had of this attachment. */
  readonly firstSession: number;
  /** Requests older than this fail; undefined: they wait as long as it takes. */
  readonly giveUpAfterMs?: number;
  readonly broken?: BrokenRules;
}

export class Frontend {
  readonly #table: RequestTable;
  readonly #ports: FrontendPorts;
  readonly #options: FrontendOptions;
  readonly #broken: BrokenRules;
  readonly #locks: RangeLocks;
  readonly #out = new FrameFields();
  #link = NONE;
  #isOpen = false;
  #session: number;
  /** Of the primary that served it last. */
  #epoch = 0;
  /** Of the newest configuration that the link is known to be of. */
  #linkEpoch = 0;
  #linkOpening: string | null = null;
  #isRevoked = false;
  #isReading = false;
  /** Something changed while the store was being read: the answer may be from before. */
  #mustReadAgain = false;
  #heardMs = 0;
  /** An answer, that is: the welcome, or a reply. */
  #answeredMs = 0;
  #nextAttemptMs = 0;
  #readAtMs = 0;
  /** Unanswered, from the oldest on. */
  readonly #previous: Int32Array;
  readonly #following: Int32Array;
  #first = NONE;
  #last = NONE;
  /** 1: it holds its range and is sent to whoever is the primary. */
  readonly #isReady: Uint8Array;
  readonly #isUnanswered: Uint8Array;

  constructor(table: RequestTable, ports: FrontendPorts, options: FrontendOptions) {
    this.#table = table;
    this.#ports = ports;
    this.#options = options;
    this.#broken = options.broken ?? NOTHING_BROKEN;
    this.#session = options.firstSession - 1;
    this.#previous = new Int32Array(table.capacity).fill(NONE);
    this.#following = new Int32Array(table.capacity).fill(NONE);
    this.#isReady = new Uint8Array(table.capacity);
    this.#isUnanswered = new Uint8Array(table.capacity);
    this.#locks = new RangeLocks(table, (request) => this.#ready(request));
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  get isRevoked(): boolean {
    return this.#isRevoked;
  }

  get hasUnanswered(): boolean {
    return this.#first !== NONE;
  }

  /** When the oldest unanswered request came; undefined: all are answered. */
  get oldestAdmittedMs(): number | undefined {
    return this.#first === NONE ? undefined : this.#table.sentMs[this.#first];
  }

  /** The range is inside the volume, and not empty except of a flush. */
  admit(request: number): void {
    if (this.#isRevoked) {
      this.#ports.reply(request, EIO);
      return;
    }
    this.#table.sentMs[request] = this.#ports.nowMs();
    this.#append(request);
    this.#isReady[request] = 0;
    if (!this.#needsLock(request) || this.#locks.acquire(request)) this.#ready(request);
  }

  #needsLock(request: number): boolean {
    return this.#table.kind[request] !== FLUSH && !this.#broken.frontendHoldsOverlaps;
  }

  #ready(request: number): void {
    this.#isReady[request] = 1;
    if (this.#isOpen) this.#send(request);
  }

  #send(request: number): void {
    const table = this.#table;
    const out = this.#out;
    out.type = FRAME_REQUEST;
    out.errno = table.kind[request] as number;
    out.flags = table.flags[request] as number;
    out.lengthBytes = table.lengthBytes[request] as number;
    out.numbers[SEQUENCE] = request;
    out.numbers[OFFSET] = table.offsetBytes[request] as number;
    this.#ports.sendFrame(this.#link, out, table.kind[request] === WRITE ? request : NONE);
  }

  // ---- the session

  control(link: number, type: number, message: ControlMessage): void {
    if (link !== this.#link) return;
    this.#heardMs = this.#ports.nowMs();
    switch (type) {
      case FRAME_WELCOME:
        this.#welcomed(message as SessionWelcome);
        return;
      case FRAME_REFUSED:
        this.#drop();
        if ((message as Refused).reason === 'revoked') this.#revoked();
        // A primary that restarted has forgotten how high the numbers were; another frontend of ours may have had one.
        if ((message as Refused).reason === 'number') this.#session += 1;
        return;
      case FRAME_MOVED:
        this.#drop();
        this.#nextAttemptMs = 0;
        this.#read();
        return;
    }
  }

  #welcomed({ epoch, opening }: SessionWelcome): void {
    if (epoch < this.#epoch && !this.#broken.frontendNeverGoesBack) {
      this.#drop();
      return;
    }
    this.#epoch = epoch;
    // It may have taken its epoch after the configuration was read that led here.
    if (epoch > this.#linkEpoch) {
      this.#linkEpoch = epoch;
      this.#linkOpening = opening;
    }
    this.#isOpen = true;
    this.#answeredMs = this.#ports.nowMs();
    if (this.#broken.frontendReplays) {
      for (let request = this.#first; request !== NONE; request = this.#first) this.#answer(request, 0);
      return;
    }
    for (let request = this.#first; request !== NONE; request = this.#following[request] as number)
      if (this.#isReady[request] === 1) this.#send(request);
  }

  /** `payload`: a slot of the host's that holds a read's bytes, or NONE. */
  frame(link: number, fields: FrameFields, payload: number): void {
    const ports = this.#ports;
    if (link !== this.#link && !this.#broken.frontendIgnoresOldSessions) {
      if (payload !== NONE) ports.release(payload);
      return;
    }
    this.#heardMs = ports.nowMs();
    if (fields.type === FRAME_REVOKED) {
      this.#drop();
      this.#revoked();
      return;
    }
    if (fields.type === FRAME_WAITING) {
      this.#sayHere();
      return;
    }
    const request = fields.numbers[SEQUENCE] as number;
    const isKnown = fields.type === FRAME_REPLY && this.#isUnanswered[request] === 1;
    if (payload !== NONE) {
      if (isKnown && payload !== request) ports.takePayload(request, payload);
      if (payload !== request) ports.release(payload);
    }
    if (!isKnown) return;
    this.#answeredMs = this.#heardMs;
    this.#answer(request, fields.errno);
  }

  #sayHere(): void {
    const out = this.#out;
    out.type = FRAME_HERE;
    out.flags = 0;
    out.errno = 0;
    out.epoch = this.#epoch;
    out.lengthBytes = 0;
    this.#ports.sendFrame(this.#link, out, NONE);
  }

  #answer(request: number, errno: number): void {
    this.#remove(request);
    const isReady = this.#isReady[request] === 1;
    this.#isReady[request] = 0;
    if (isReady && this.#needsLock(request)) this.#locks.release(request);
    this.#ports.reply(request, errno);
  }

  /** The store may name another primary: whoever waits looks at once. */
  storeChanged(): void {
    if (this.#isReading) this.#mustReadAgain = true;
    else if (!this.#isOpen || this.#first !== NONE) this.#read();
  }

  /** Everything fails, now and from now on. */
  end(): void {
    this.#drop();
    this.#revoked();
  }

  linkClosed(link: number): void {
    if (link !== this.#link) return;
    this.#link = NONE;
    this.#isOpen = false;
    this.#read();
  }

  #drop(): void {
    if (this.#link !== NONE) this.#ports.closeLink(this.#link);
    this.#link = NONE;
    this.#isOpen = false;
    this.#nextAttemptMs = this.#ports.nowMs() + RECONNECT_MS;
  }

  /** Everything fails, now and from now on: what was acknowledged but not flushed may be gone, and another may write. */
  #revoked(): void {
    this.#isRevoked = true;
    for (let request = this.#last; request !== NONE; request = this.#last) {
      // The newest first: those that wait for a range are not granted it on the way.
      if (this.#isReady[request] === 0 && this.#needsLock(request)) this.#locks.forget(request);
      this.#answer(request, EIO);
    }
  }

  // ---- finding the primary

  configRead(stored: StoredConfig | undefined): void {
    this.#isReading = false;
    this.#follow(stored);
    if (!this.#mustReadAgain) return;
    this.#mustReadAgain = false;
    this.storeChanged();
  }

  #follow(stored: StoredConfig | undefined): void {
    if (stored === undefined || this.#isRevoked) return;
    const { config } = stored;
    if (config.attachment.number > this.#options.attachment && !this.#broken.revokedAttachmentRefused) {
      this.#drop();
      this.#revoked();
      return;
    }
    const nowMs = this.#ports.nowMs();
    if (this.#link !== NONE) {
      if (config.epoch === this.#linkEpoch) this.#linkOpening ??= config.primary.opening;
      // Another primary by now: this link leads to one that will not answer, alive as it may be.
      if (!this.#isNews(config) || nowMs - this.#answeredMs < ASK_AFTER_MS) return;
      this.#drop();
    } else if (nowMs < this.#nextAttemptMs && !this.#isNews(config)) return;
    this.#nextAttemptMs = nowMs + RECONNECT_MS;
    this.#linkEpoch = config.epoch;
    this.#linkOpening = config.primary.opening;
    this.#heardMs = nowMs;
    this.#answeredMs = nowMs;
    this.#session += 1;
    const { replicaId } = config.primary;
    this.#link = this.#ports.connect(replicaOf(config, replicaId).node, replicaId);
    this.#ports.sendControl(this.#link, FRAME_HELLO, {
      kind: 'session',
      volumeId: this.#options.volumeId,
      node: this.#options.node,
      attachment: this.#options.attachment,
      session: this.#session,
      epoch: this.#epoch,
    });
  }

  /** Not what the last attempt went by: there may be somebody now who serves. */
  #isNews({ epoch, primary }: VolumeConfig): boolean {
    return epoch > this.#linkEpoch && primary.opening !== this.#linkOpening;
  }

  #read(): void {
    if (this.#isReading || this.#isRevoked) return;
    this.#isReading = true;
    this.#readAtMs = this.#ports.nowMs() + STORE_RETRY_MS;
    this.#ports.readConfig();
  }

  tick(): void {
    if (this.#isRevoked) return;
    const nowMs = this.#ports.nowMs();
    if (this.#link === NONE) {
      if (nowMs >= this.#nextAttemptMs) this.#read();
    } else if (this.#first !== NONE || !this.#isOpen) {
      const askedMs = this.oldestAdmittedMs ?? 0;
      if (nowMs - Math.max(this.#heardMs, askedMs) >= RECONNECT_AFTER_MS) this.#drop();
      else if (nowMs - Math.max(this.#answeredMs, askedMs) >= ASK_AFTER_MS && nowMs >= this.#readAtMs)
        this.#read();
    }
    this.#giveUp(nowMs);
  }

  /** Requests that have waited for too long fail. */
  #giveUp(nowMs: number): void {
    const { giveUpAfterMs } = this.#options;
    if (giveUpAfterMs === undefined) return;
    const isOver = (): boolean => nowMs - (this.oldestAdmittedMs ?? nowMs) >= giveUpAfterMs;
    // Their replies may yet come in this session, when another request has the slot, and its name.
    if (isOver() && this.#isOpen) this.#drop();
    while (isOver()) {
      const request = this.#first;
      if (this.#isReady[request] === 0 && this.#needsLock(request)) this.#locks.forget(request);
      this.#answer(request, EIO);
    }
  }

  // ---- the list

  #append(request: number): void {
    this.#isUnanswered[request] = 1;
    this.#previous[request] = this.#last;
    this.#following[request] = NONE;
    if (this.#last === NONE) this.#first = request;
    else this.#following[this.#last] = request;
    this.#last = request;
  }

  #remove(request: number): void {
    this.#isUnanswered[request] = 0;
    const previous = this.#previous[request] as number;
    const following = this.#following[request] as number;
    if (previous === NONE) this.#first = following;
    else this.#following[previous] = following;
    if (following === NONE) this.#last = previous;
    else this.#previous[following] = previous;
  }
}
