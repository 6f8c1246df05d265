// One mapping a data-plane thread: everything the kernel reads or writes for it, at fixed places. Pages are
// touched when first used, so room for many sessions costs nothing until they come.

import { BLOCK_BYTES, MIB } from '../core/units.ts';
import { TICK_MS } from '../replication/timing.ts';
import { Arena } from './arena.ts';
import { type NativeMemory, native } from './native.ts';

export const REQUEST_CAPACITY = 2048;
export const SESSION_CAPACITY = 2048;
/** The largest payload of one request (the NBD protocol's default limit). */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;

/** A reply header: 16 bytes simple, up to 32 structured. */
export const REPLY_HEADER_BYTES = 32;
export const RECEIVE_BYTES = 64 * 1024;
/** A msghdr, then iovecs. */
export const MESSAGE_BYTES = 4096;
const SESSION_BYTES = RECEIVE_BYTES + MESSAGE_BYTES;

/** Requests up to this size share the ordinary arena; larger ones have one of their own, and wait for each other. */
export const ORDINARY_BUFFER_BYTES = 2 * 1024 * 1024;
const ARENA_BYTES = 128 * 1024 * 1024;
/** An unaligned request of the largest payload needs a little more than the payload. */
const LARGE_BUFFER_BYTES = 2 * MAX_PAYLOAD_BYTES;
const LARGE_ARENA_BYTES = 2 * LARGE_BUFFER_BYTES;

// What requests to a volume in a cluster leave to the copies, without which none of them would end.
const RESERVED_BYTES = 16 * MIB;
const RESERVED_LARGE_BYTES = LARGE_BUFFER_BYTES;

const EVENT_AT = 0;
const TIMESPEC_AT = 64;
const PROTOCOL_TIMESPEC_AT = 128;
const REST_TIMESPEC_AT = 192;
const HEADERS_AT = 4096;
const SESSIONS_AT = HEADERS_AT + REQUEST_CAPACITY * REPLY_HEADER_BYTES;
/** Nobody writes there. */
export const ZEROES_BYTES = 1024 * 1024;
const FIXED_BYTES = SESSIONS_AT + SESSION_CAPACITY * SESSION_BYTES + ZEROES_BYTES;
const ARENA_AT = Math.ceil(FIXED_BYTES / ARENA_BYTES) * ARENA_BYTES;
const ZEROES_AT = ARENA_AT - ZEROES_BYTES;
const LARGE_ARENA_AT = ARENA_AT + ARENA_BYTES;

/** Links to other daemons; how a link divides its part: peers/link-memory.ts. */
export const LINK_CAPACITY = 1024;
export const LINK_BYTES = 256 * 1024;
const LINKS_AT = LARGE_ARENA_AT + LARGE_ARENA_BYTES;

export class ThreadMemory {
  readonly region: NativeMemory = native.createMemory(LINKS_AT + LINK_CAPACITY * LINK_BYTES);
  readonly bytes = new Uint8Array(this.region.buffer);
  readonly words = new Int32Array(this.region.buffer);
  readonly view = new DataView(this.region.buffer);
  readonly eventOffset = EVENT_AT;
  /** A struct __kernel_timespec of one second. */
  readonly timespecOffset = TIMESPEC_AT;
  /** The same, of one tick of the replication protocol. */
  readonly protocolTimespecOffset = PROTOCOL_TIMESPEC_AT;
  /** ZEROES_BYTES to write from. */
  readonly zeroesOffset = ZEROES_AT;
  readonly #ordinary = new Arena(ARENA_AT, ARENA_BYTES, ORDINARY_BUFFER_BYTES);
  readonly #large = new Arena(LARGE_ARENA_AT, LARGE_ARENA_BYTES, LARGE_BUFFER_BYTES);

  constructor() {
    this.words[TIMESPEC_AT >> 2] = 1;
    // Seconds, then nanoseconds, of 64 bits each.
    this.words[(PROTOCOL_TIMESPEC_AT >> 2) + 2] = TICK_MS * 1_000_000;
  }

  /** Where a struct __kernel_timespec of this time, or of most of a second, stands until the next call. */
  setRest(restMs: number): number {
    this.words[(REST_TIMESPEC_AT >> 2) + 2] = Math.ceil(Math.min(restMs, 900) * 1e6);
    return REST_TIMESPEC_AT;
  }

  headerOffset(request: number): number {
    return HEADERS_AT + request * REPLY_HEADER_BYTES;
  }

  receiveOffset(session: number): number {
    return SESSIONS_AT + session * SESSION_BYTES;
  }

  messageOffset(session: number): number {
    return SESSIONS_AT + session * SESSION_BYTES + RECEIVE_BYTES;
  }

  linkOffset(link: number): number {
    return LINKS_AT + link * LINK_BYTES;
  }

  /** Of ordinary buffers, in bytes. */
  get freeBytes(): number {
    return this.#ordinary.freeBytes;
  }

  /** Whether a request of so many bytes to a volume in a cluster leaves enough to the copies. `isFirst`: of its client. */
  hasRoomBesideCopies(byteCount: number, isFirst: boolean): boolean {
    if (byteCount > ORDINARY_BUFFER_BYTES - 2 * BLOCK_BYTES)
      return this.#large.freeBytes - byteCount >= RESERVED_LARGE_BYTES;
    return this.#ordinary.freeBytes - byteCount >= (isFirst ? RESERVED_BYTES / 2 : RESERVED_BYTES);
  }

  /**
   * A buffer of at least `byteCount` bytes, aligned to 4 KiB, or -1 when none is free now. `heldBytes` is what
   * the same session holds already: a session may hold as much as it leaves free, so that one which never
   * gives anything back cannot starve the others.
   */
  allocate(byteCount: number, heldBytes: number): number {
    if (byteCount > ORDINARY_BUFFER_BYTES) return this.#large.allocate(byteCount);
    if (heldBytes > 0 && heldBytes + 2 * byteCount > this.#ordinary.freeBytes) return -1;
    return this.#ordinary.allocate(byteCount);
  }

  free(offset: number): void {
    if (offset >= LARGE_ARENA_AT) this.#large.free(offset);
    else this.#ordinary.free(offset);
  }

  dispose(): void {
    native.freeMemory(this.region);
  }
}
