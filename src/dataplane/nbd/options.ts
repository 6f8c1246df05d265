// Reading the data of an option and building the replies to it: bounds are checked here, meaning is
// given in handshake.ts. Big-endian throughout.

import {
  MAX_STRING_BYTES,
  NBD_REP_MAGIC_HIGH,
  NBD_REP_MAGIC_LOW,
  OPTION_REPLY_HEADER_BYTES,
} from './protocol.ts';

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const encoder = new TextEncoder();
const nothing = new Uint8Array(0);

/**
 * A cursor that never reads past the end: once something is missing (or a string is over the protocol's
 * limit) `isShort` is set for good and everything read is 0 or ''.
 */
export class OptionReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #endBytes: number;
  #at = 0;
  #isShort = false;

  constructor(bytes: Uint8Array, endBytes: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#endBytes = endBytes;
  }

  get isShort(): boolean {
    return this.#isShort;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#endBytes;
  }

  u16(): number {
    const at = this.#advance(2);
    return at < 0 ? 0 : this.#view.getUint16(at);
  }

  u32(): number {
    const at = this.#advance(4);
    return at < 0 ? 0 : this.#view.getUint32(at);
  }

  /** A length (u32) and that many bytes of text. */
  countedText(): string {
    return this.#text(this.u32());
  }

  /** Everything up to the end; undefined when that is longer than a string of the protocol may be. */
  rest(): string | undefined {
    const text = this.#text(this.#endBytes - this.#at);
    return this.#isShort ? undefined : text;
  }

  #text(lengthBytes: number): string {
    if (lengthBytes > MAX_STRING_BYTES) this.#isShort = true;
    const at = this.#advance(lengthBytes);
    return at < 0 ? '' : decoder.decode(this.#bytes.subarray(at, at + lengthBytes));
  }

  /** The position of the next `count` bytes, or -1. */
  #advance(count: number): number {
    if (this.#isShort || count > this.#endBytes - this.#at) {
      this.#isShort = true;
      return -1;
    }
    const at = this.#at;
    this.#at += count;
    return at;
  }
}

/** A growing buffer of replies. `begin` … `end` frame one option reply; everything else appends. */
export class OptionReplies {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #replyAt = 0;

  begin(option: number, replyType: number): this {
    this.#replyAt = this.#length;
    return this.u32(NBD_REP_MAGIC_HIGH).u32(NBD_REP_MAGIC_LOW).u32(option).u32(replyType).u32(0);
  }

  end(): void {
    const dataAt = this.#replyAt + OPTION_REPLY_HEADER_BYTES;
    this.#view.setUint32(dataAt - 4, this.#length - dataAt);
  }

  u16(value: number): this {
    const at = this.#grow(2);
    this.#view.setUint16(at, value);
    return this;
  }

  u32(value: number): this {
    const at = this.#grow(4);
    this.#view.setUint32(at, value);
    return this;
  }

  /** Of a number below 2^53. */
  u64(value: number): this {
    return this.u32(Math.floor(value / 2 ** 32)).u32(value % 2 ** 32);
  }

  text(value: string): this {
    const bytes = encoder.encode(value);
    const at = this.#grow(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  /** Length (u32), then the text. */
  countedText(value: string): this {
    const lengthAt = this.#grow(4);
    this.text(value);
    this.#view.setUint32(lengthAt, this.#length - lengthAt - 4);
    return this;
  }

  zeroes(count: number): this {
    this.#grow(count);
    return this;
  }

  /** All that was appended; the buffer starts anew. */
  take(): Uint8Array {
    if (this.#length === 0) return nothing;
    const taken = this.#bytes.subarray(0, this.#length);
    this.#bytes = new Uint8Array(256);
    this.#view = new DataView(this.#bytes.buffer);
    this.#length = 0;
    return taken;
  }

  /** Makes room and returns where it starts. Call it before touching the view: growing replaces that. */
  #grow(count: number): number {
    const at = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#length, this.#bytes.length * 2));
      bytes.set(this.#bytes.subarray(0, at));
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer);
    }
    return at;
  }
}
