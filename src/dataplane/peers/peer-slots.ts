// Request slots that several may need at once: whoever took one, the links that still send from its buffer, the
// other end of an in-memory link. References are counted; the last to let go gives slot and buffer back.
//
// A link may hold as much as it leaves free, so that a peer which sends and sends cannot starve the others. The last
// slots and bytes are for those whose frames set something free elsewhere: a replica's writes (a primary waits for
// them, and holds slots of its own meanwhile), and the answers that a frontend waits for. Without them two nodes
// could each fill up with requests that wait for the other.
//
// Invariant: the bytes of a slot stay in place while anybody refers to it.

import { invariant } from '../../core/invariant.ts';
import { BLOCK_BYTES } from '../../core/units.ts';
import { NONE } from '../../replication/requests.ts';
import { native } from '../native.ts';
import type { Thread } from '../thread.ts';
import { REQUEST_CAPACITY } from '../thread-memory.ts';

/** As the link of a slot: taken by a host. */
const OF_HOST = -1;
/** As the link of a slot: another's (an NBD session's), which frees it itself. */
const TRACKED = -2;

const RESERVED_SLOTS = 256;

export class PeerSlots {
  readonly #thread: Thread;
  readonly #references = new Uint8Array(REQUEST_CAPACITY);
  readonly #link = new Int32Array(REQUEST_CAPACITY);
  /** The slot whose bytes a twin shares, or NONE. */
  readonly #source = new Int32Array(REQUEST_CAPACITY).fill(NONE);
  /** 1: it was taken as a twin, whoever owns the bytes now. */
  readonly #isTwin = new Uint8Array(REQUEST_CAPACITY);
  /** Checksums of what is being sent: the same bytes go to several replicas. */
  readonly #sum = new Int32Array(REQUEST_CAPACITY);
  readonly #summedBytes = new Int32Array(REQUEST_CAPACITY);
  /** By link: what it holds. */
  readonly heldCount: Int32Array;
  readonly heldBytes: Float64Array;
  #trackedCount = 0;
  #twinCount = 0;
  readonly #returned: (link: number) => void;
  readonly #freeTracked: (request: number) => void;

  /** `returned`: a link got back what it held last. `freeTracked`: nobody sends from a tracked slot any more. */
  constructor(
    thread: Thread,
    linkCount: number,
    returned: (link: number) => void,
    freeTracked: (request: number) => void,
  ) {
    this.#thread = thread;
    this.heldCount = new Int32Array(linkCount);
    this.heldBytes = new Float64Array(linkCount);
    this.#returned = returned;
    this.#freeTracked = freeTracked;
  }

  /** A slot with a buffer of this size for a host; NONE: there is none now. */
  take(byteCount: number, inBlock = 0): number {
    return this.#take(OF_HOST, inBlock, byteCount, 0);
  }

  /** A slot whose payload begins at `inBlock` of a block. NONE: none for this link now. */
  takeForLink(link: number, inBlock: number, byteCount: number, mayTakeLast: boolean): number {
    const { slots, memory } = this.#thread;
    const freeCount = slots.freeCount - (mayTakeLast ? 0 : RESERVED_SLOTS);
    if ((this.heldCount[link] as number) >= freeCount) return NONE;
    if (!mayTakeLast && !memory.hasRoomBesideCopies(byteCount, false)) return NONE;
    return this.#take(link, inBlock, byteCount, this.heldBytes[link] as number);
  }

  /** A second slot over the same bytes. NONE: there is none now. */
  takeTwin(source: number): number {
    const { slots } = this.#thread;
    if (slots.freeCount <= RESERVED_SLOTS) return NONE;
    const request = this.#take(OF_HOST, 0, 0, 0);
    if (request === NONE) return NONE;
    this.hold(source);
    this.#source[request] = source;
    this.#isTwin[request] = 1;
    this.#twinCount += 1;
    slots.buffer[request] = slots.buffer[source] as number;
    slots.data[request] = slots.data[source] as number;
    return request;
  }

  /** A slot that another has taken may be sent; the other releases it here as well, and frees it when it is told. */
  track(request: number): void {
    this.#references[request] = 1;
    this.#link[request] = TRACKED;
    this.#trackedCount += 1;
  }

  /**
   * Slots that may be tracked now: each may need a twin, and what replicas need for the requests that are there is
   * not touched.
   */
  get trackableCount(): number {
    const wantedTwins = Math.max(0, this.#trackedCount - this.#twinCount);
    return Math.floor((this.#thread.slots.freeCount - RESERVED_SLOTS - wantedTwins) / 2);
  }

  /** The session's request whose buffer this twin reads into; NONE: the reader is not in this thread. */
  trackedSourceOf(request: number): number {
    const source = this.#source[request] as number;
    return source !== NONE && this.#link[source] === TRACKED ? source : NONE;
  }

  hold(request: number): void {
    const references = this.#references[request] as number;
    invariant(references > 0 && references < 255, 'a slot that is held was taken here, or is tracked');
    this.#references[request] = references + 1;
  }

  release(request: number): void {
    const references = this.#references[request] as number;
    invariant(references > 0, 'a slot is released as often as it was held');
    this.#references[request] = references - 1;
    // With one left nobody sends it any more: its owner may change the bytes before it is sent again.
    if (references === 2) this.#summedBytes[request] = 0;
    if (references === 1) this.#free(request);
  }

  /** The bytes of one become those of the other, without a copy. Nobody may be sending them. */
  exchangeBuffers(request: number, other: number): void {
    invariant(
      this.#source[request] === NONE && this.#source[other] === NONE,
      'only whole buffers are exchanged, not shared ones',
    );
    const { buffer, data } = this.#thread.slots;
    const kept = buffer[request] as number;
    const keptData = data[request] as number;
    buffer[request] = buffer[other] as number;
    data[request] = data[other] as number;
    buffer[other] = kept;
    data[other] = keptData;
  }

  /**
   * The bytes of `from` become those of `request`, without a copy, unless they are already: `from` may be its twin.
   * Another twin of `request`, for a read that somebody may still be making, keeps the old buffer.
   */
  takeBytes(request: number, from: number): void {
    if (this.#source[from] === request) return;
    if ((this.#references[request] as number) > 1) this.#separateTwins(request);
    this.exchangeBuffers(request, from);
  }

  /** By the owner of a tracked slot. `leavesTwins`: twins take the buffer over, and do not keep the slot. */
  releaseTracked(request: number, leavesTwins: boolean): void {
    if (leavesTwins && (this.#references[request] as number) > 1) {
      let twinCount = 0;
      for (let twin = 0; twin < REQUEST_CAPACITY; twin++) if (this.#source[twin] === request) twinCount += 1;
      // Who is sending from it knows it by this slot.
      if (twinCount === (this.#references[request] as number) - 1) this.#separateTwins(request);
    }
    this.release(request);
  }

  /** The first twin becomes the owner of the buffer, and the others its twins. */
  #separateTwins(request: number): void {
    let owner = NONE;
    for (let twin = 0; twin < REQUEST_CAPACITY; twin++) {
      if (this.#source[twin] !== request) continue;
      this.#source[twin] = owner;
      if (owner === NONE) owner = twin;
      else this.hold(owner);
      this.release(request);
    }
    if (owner !== NONE) this.#thread.slots.buffer[request] = NONE;
  }

  /** CRC-32C of the bytes of a slot that is held for sending, signed. They do not change meanwhile. */
  checksum(request: number, byteCount: number): number {
    if (this.#summedBytes[request] !== byteCount) {
      const { memory, slots } = this.#thread;
      this.#sum[request] = native.crc32cSigned(memory.bytes, slots.data[request] as number, byteCount, 0);
      this.#summedBytes[request] = byteCount;
    }
    return this.#sum[request] as number;
  }

  #take(link: number, inBlock: number, byteCount: number, heldBytes: number): number {
    const { slots, memory } = this.#thread;
    const request = slots.take();
    if (request === NONE) return NONE;
    let charged = 0;
    slots.buffer[request] = NONE;
    if (byteCount > 0) {
      const wholeBytes = Math.ceil((inBlock + byteCount) / BLOCK_BYTES) * BLOCK_BYTES;
      // Two blocks more where the disk wants whole blocks and these are not: as NBD requests have them.
      charged = wholeBytes === byteCount ? byteCount : wholeBytes + 2 * BLOCK_BYTES;
      const buffer = memory.allocate(charged, heldBytes);
      if (buffer === NONE) {
        slots.release(request);
        return NONE;
      }
      slots.buffer[request] = buffer;
      slots.data[request] = buffer + inBlock;
    }
    slots.charged[request] = charged;
    slots.session[request] = NONE;
    slots.startedMs[request] = this.#thread.clockMs[0] as number;
    this.#references[request] = 1;
    this.#link[request] = link;
    if (link >= 0) {
      this.heldCount[link] = (this.heldCount[link] as number) + 1;
      this.heldBytes[link] = (this.heldBytes[link] as number) + charged;
    }
    return request;
  }

  #free(request: number): void {
    const { slots, memory } = this.#thread;
    this.#summedBytes[request] = 0;
    const link = this.#link[request] as number;
    if (link === TRACKED) {
      this.#trackedCount -= 1;
      this.#freeTracked(request);
      return;
    }
    if (this.#isTwin[request] === 1) {
      this.#isTwin[request] = 0;
      this.#twinCount -= 1;
    }
    const source = this.#source[request] as number;
    const buffer = slots.buffer[request] as number;
    this.#source[request] = NONE;
    slots.buffer[request] = NONE;
    if (source !== NONE) this.release(source);
    else if (buffer !== NONE) memory.free(buffer);
    slots.release(request);
    this.#thread.somethingFreed();
    if (link < 0) return;
    this.heldCount[link] = (this.heldCount[link] as number) - 1;
    this.heldBytes[link] = (this.heldBytes[link] as number) - (slots.charged[request] as number);
    if (this.heldCount[link] === 0) this.#returned(link);
  }
}
