// Fixed newstyle negotiation as a state machine: bytes in, bytes out, in the end the chosen export.
// Does no I/O and keeps no clock: the session sends what takeOutput() gives and ends a handshake that
// takes too long.
//
// Invariants: at most MAX_OPTION_DATA_BYTES of input are held, whatever lengths the client announces; at
// most MAX_OPTIONS options are answered; how the input is cut into pieces changes nothing; not one byte
// after the end of the negotiation is consumed. Nothing a client sends makes it throw.

import { OptionReader, OptionReplies } from './options.ts';
import {
  BASE_ALLOCATION,
  CLIENT_FLAGS_BYTES,
  EXPORT_NAME_ZEROES,
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_NO_ZEROES,
  NBD_FLAG_SEND_DF,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  NBDMAGIC_HIGH,
  NBDMAGIC_LOW,
  OPTION_HEADER_BYTES,
} from './protocol.ts';

/** Longer option data is skipped as it arrives and answered NBD_REP_ERR_TOO_BIG. */
export const MAX_OPTION_DATA_BYTES = 8192;
/** A client that has not decided after this many options is closed. */
export const MAX_OPTIONS = 128;
/** The id under which BLOCK_STATUS replies carry base:allocation. */
export const ALLOCATION_CONTEXT_ID = 1;

export interface ExportInfo {
  readonly name: string;
  readonly sizeBytes: number;
  /** NBD_FLAG_*. NBD_FLAG_SEND_DF is masked out for clients without structured replies. */
  readonly transmissionFlags: number;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maximumPayloadBytes: number;
  readonly description: string;
}

export interface HandshakeHost {
  /** Asked at every option anew: exports may come and go during a negotiation. */
  find(name: string): ExportInfo | undefined;
  names(): string[];
}

export interface Negotiated {
  readonly exportName: string;
  readonly structuredReplies: boolean;
  /** ALLOCATION_CONTEXT_ID, or 0: BLOCK_STATUS was not negotiated. */
  readonly allocationContextId: number;
}

export type HandshakeState = 'negotiating' | 'done' | 'closed';

/** What the next bytes are. `skipped` is option data that is too long to be kept. */
type Phase = 'clientFlags' | 'optionHeader' | 'optionData' | 'skipped';

export class Handshake {
  readonly #host: HandshakeHost;
  readonly #replies = new OptionReplies();
  readonly #header = new Uint8Array(OPTION_HEADER_BYTES);
  #phase: Phase = 'clientFlags';
  /** Where the bytes of this phase are gathered; how many there must be, and are. */
  #part: Uint8Array = this.#header;
  #wantBytes = CLIENT_FLAGS_BYTES;
  #haveBytes = 0;
  #option = 0;
  #optionCount = 0;
  #noZeroes = false;
  #structuredReplies = false;
  /** Export name for which base:allocation was selected; it counts only if the same export is then chosen. */
  #allocationOf: string | undefined;
  #state: HandshakeState = 'negotiating';
  #result: Negotiated | undefined;

  constructor(host: HandshakeHost) {
    this.#host = host;
    this.#replies.u32(NBDMAGIC_HIGH).u32(NBDMAGIC_LOW).u32(IHAVEOPT_HIGH).u32(IHAVEOPT_LOW);
    this.#replies.u16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  }

  get state(): HandshakeState {
    return this.#state;
  }

  /** Set when the state is 'done'. */
  get result(): Negotiated | undefined {
    return this.#result;
  }

  /** The bytes to send now, possibly none; they are the caller's. In every state, before closing as well. */
  takeOutput(): Uint8Array {
    return this.#replies.take();
  }

  /**
   * Takes bytes [from, to) and returns how many of them belonged to the negotiation: all of them unless it
   * ended. Keeps no reference to `bytes`.
   */
  receive(bytes: Uint8Array, from: number, to: number): number {
    let at = from;
    while (this.#state === 'negotiating' && at < to) {
      const count = Math.min(to - at, this.#wantBytes - this.#haveBytes);
      if (this.#phase !== 'skipped') this.#part.set(bytes.subarray(at, at + count), this.#haveBytes);
      this.#haveBytes += count;
      at += count;
      if (this.#haveBytes === this.#wantBytes) this.#partComplete();
    }
    return at - from;
  }

  #expect(phase: Phase, part: Uint8Array, wantBytes: number): void {
    this.#phase = phase;
    this.#part = part;
    this.#wantBytes = wantBytes;
    this.#haveBytes = 0;
  }

  #partComplete(): void {
    switch (this.#phase) {
      case 'clientFlags':
        this.#clientFlags(new OptionReader(this.#header, CLIENT_FLAGS_BYTES).u32());
        return;
      case 'optionHeader':
        this.#optionHeader(new OptionReader(this.#header, OPTION_HEADER_BYTES));
        return;
      case 'optionData':
        this.#runOption(new OptionReader(this.#part, this.#wantBytes));
        break;
      case 'skipped':
        // EXPORT_NAME has no way to report an error.
        if (this.#option === NBD_OPT_EXPORT_NAME) this.#state = 'closed';
        else if (this.#option === NBD_OPT_ABORT) this.#abort();
        else this.#refuse(NBD_REP_ERR_TOO_BIG, `option data is limited to ${MAX_OPTION_DATA_BYTES} bytes`);
        break;
    }
    this.#expect('optionHeader', this.#header, OPTION_HEADER_BYTES);
  }

  #clientFlags(flags: number): void {
    const known = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
    if ((flags & ~known) !== 0 || (flags & NBD_FLAG_C_FIXED_NEWSTYLE) === 0) {
      this.#state = 'closed';
      return;
    }
    this.#noZeroes = (flags & NBD_FLAG_C_NO_ZEROES) !== 0;
    this.#expect('optionHeader', this.#header, OPTION_HEADER_BYTES);
  }

  #optionHeader(header: OptionReader): void {
    const isOption = header.u32() === IHAVEOPT_HIGH && header.u32() === IHAVEOPT_LOW;
    this.#optionCount += 1;
    if (!isOption || this.#optionCount > MAX_OPTIONS) {
      this.#state = 'closed';
      return;
    }
    this.#option = header.u32();
    const lengthBytes = header.u32();
    if (lengthBytes > MAX_OPTION_DATA_BYTES) this.#expect('skipped', this.#header, lengthBytes);
    else this.#expect('optionData', new Uint8Array(lengthBytes), lengthBytes);
    if (lengthBytes === 0) this.#partComplete();
  }

  #runOption(data: OptionReader): void {
    switch (this.#option) {
      case NBD_OPT_EXPORT_NAME:
        return this.#exportName(data);
      case NBD_OPT_ABORT:
        return this.#abort();
      case NBD_OPT_LIST:
        return this.#list(data);
      case NBD_OPT_STARTTLS:
        return this.#refuse(NBD_REP_ERR_POLICY, 'this server does not offer TLS');
      case NBD_OPT_INFO:
      case NBD_OPT_GO:
        return this.#infoOrGo(data);
      case NBD_OPT_STRUCTURED_REPLY:
        if (!data.isAtEnd) return this.#refuse(NBD_REP_ERR_INVALID, 'this option takes no data');
        this.#structuredReplies = true;
        return this.#acknowledge();
      case NBD_OPT_LIST_META_CONTEXT:
      case NBD_OPT_SET_META_CONTEXT:
        return this.#metaContext(data);
      default:
        return this.#refuse(NBD_REP_ERR_UNSUP, 'unknown option');
    }
  }

  #exportName(data: OptionReader): void {
    const info = this.#find(data.rest());
    if (info === undefined) {
      this.#state = 'closed';
      return;
    }
    this.#replies.u64(info.sizeBytes).u16(this.#transmissionFlags(info));
    if (!this.#noZeroes) this.#replies.zeroes(EXPORT_NAME_ZEROES);
    this.#finish(info);
  }

  #abort(): void {
    this.#acknowledge();
    this.#state = 'closed';
  }

  #list(data: OptionReader): void {
    if (!data.isAtEnd) return this.#refuse(NBD_REP_ERR_INVALID, 'this option takes no data');
    for (const name of this.#host.names()) {
      this.#replies.begin(this.#option, NBD_REP_SERVER).countedText(name).end();
    }
    this.#acknowledge();
  }

  #infoOrGo(data: OptionReader): void {
    const name = data.countedText();
    const requestCount = data.u16();
    const requested = new Set<number>();
    for (let index = 0; index < requestCount && !data.isShort; index += 1) requested.add(data.u16());
    if (data.isShort || !data.isAtEnd) return this.#refuse(NBD_REP_ERR_INVALID, 'malformed option data');
    const info = this.#find(name);
    if (info === undefined) return this.#refuse(NBD_REP_ERR_UNKNOWN, 'no such export');

    const flags = this.#transmissionFlags(info);
    this.#beginInfo(NBD_INFO_EXPORT).u64(info.sizeBytes).u16(flags).end();
    if (requested.has(NBD_INFO_NAME)) this.#beginInfo(NBD_INFO_NAME).text(info.name).end();
    if (requested.has(NBD_INFO_DESCRIPTION))
      this.#beginInfo(NBD_INFO_DESCRIPTION).text(info.description).end();
    if (requested.has(NBD_INFO_BLOCK_SIZE)) {
      const sizes = this.#beginInfo(NBD_INFO_BLOCK_SIZE).u32(info.minimumBlockBytes);
      sizes.u32(info.preferredBlockBytes).u32(info.maximumPayloadBytes).end();
    }
    this.#acknowledge();
    if (this.#option === NBD_OPT_GO) this.#finish(info);
  }

  #metaContext(data: OptionReader): void {
    const isSet = this.#option === NBD_OPT_SET_META_CONTEXT;
    // A SET replaces what an earlier one selected, even when it fails.
    if (isSet) this.#allocationOf = undefined;
    const name = data.countedText();
    const queryCount = data.u32();
    // LIST without a query asks for everything; SET without one selects nothing.
    let matches = queryCount === 0 && !isSet;
    for (let index = 0; index < queryCount && !data.isShort; index += 1) {
      const query = data.countedText();
      if (query === BASE_ALLOCATION || (query === 'base:' && !isSet)) matches = true;
    }
    if (data.isShort || !data.isAtEnd) return this.#refuse(NBD_REP_ERR_INVALID, 'malformed option data');
    if (!this.#structuredReplies) {
      return this.#refuse(NBD_REP_ERR_INVALID, 'negotiate structured replies before metadata contexts');
    }
    const info = this.#find(name);
    if (info === undefined) return this.#refuse(NBD_REP_ERR_UNKNOWN, 'no such export');
    if (matches) {
      // The id in an answer to LIST is reserved.
      const reply = this.#replies.begin(this.#option, NBD_REP_META_CONTEXT);
      reply
        .u32(isSet ? ALLOCATION_CONTEXT_ID : 0)
        .text(BASE_ALLOCATION)
        .end();
      if (isSet) this.#allocationOf = info.name;
    }
    this.#acknowledge();
  }

  /** The empty name stands for the only export, when there is exactly one. */
  #find(name: string | undefined): ExportInfo | undefined {
    if (name === undefined) return undefined;
    const found = this.#host.find(name);
    if (found !== undefined || name !== '') return found;
    const [only, ...others] = this.#host.names();
    return only === undefined || others.length > 0 ? undefined : this.#host.find(only);
  }

  #transmissionFlags(info: ExportInfo): number {
    const flags = info.transmissionFlags | NBD_FLAG_HAS_FLAGS;
    return this.#structuredReplies ? flags : flags & ~NBD_FLAG_SEND_DF;
  }

  #beginInfo(type: number): OptionReplies {
    return this.#replies.begin(this.#option, NBD_REP_INFO).u16(type);
  }

  #acknowledge(): void {
    this.#replies.begin(this.#option, NBD_REP_ACK).end();
  }

  #refuse(errorReply: number, message: string): void {
    this.#replies.begin(this.#option, errorReply).text(message).end();
  }

  #finish(info: ExportInfo): void {
    this.#state = 'done';
    this.#result = {
      exportName: info.name,
      structuredReplies: this.#structuredReplies,
      allocationContextId: this.#allocationOf === info.name ? ALLOCATION_CONTEXT_ID : 0,
    };
  }
}
