// Buffers for requests: a binary buddy allocator over one fixed range of memory. Every buffer is a power of
// two of 4 KiB blocks, contiguous and aligned to its size within the range, so that any request up to the
// largest payload goes to the disk and back in one piece. No allocation by the engine, ever.
//
// Invariant: a block is free in exactly one list, or inside exactly one allocated buffer.

import { invariant } from '../core/invariant.ts';
import { BLOCK_BYTES } from '../core/units.ts';

const NONE = -1;
const ALLOCATED = 0x80;
const INSIDE = 0xff;

export class Arena {
  /** First byte of the range, as an offset into the thread's memory. */
  readonly startBytes: number;
  readonly #orderCount: number;
  /** By block: the order of the free or allocated (| ALLOCATED) buffer that starts here, or INSIDE. */
  readonly #tag: Uint8Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #freeHead: Int32Array;
  #freeBlocks: number;

  /** `byteCount` is a multiple of `largestBytes`; `largestBytes` is 4 KiB times a power of two. */
  constructor(startBytes: number, byteCount: number, largestBytes: number) {
    const blocks = byteCount / BLOCK_BYTES;
    const largestBlocks = largestBytes / BLOCK_BYTES;
    invariant(Number.isInteger(Math.log2(largestBlocks)), 'the largest buffer is a power of two of blocks');
    invariant(byteCount % largestBytes === 0, 'the arena holds whole largest buffers');
    this.startBytes = startBytes;
    this.#orderCount = Math.log2(largestBlocks) + 1;
    this.#tag = new Uint8Array(blocks).fill(INSIDE);
    this.#next = new Int32Array(blocks).fill(NONE);
    this.#previous = new Int32Array(blocks).fill(NONE);
    this.#freeHead = new Int32Array(this.#orderCount).fill(NONE);
    this.#freeBlocks = blocks;
    for (let block = blocks - largestBlocks; block >= 0; block -= largestBlocks) {
      this.#putFree(block, this.#orderCount - 1);
    }
  }

  get freeBytes(): number {
    return this.#freeBlocks * BLOCK_BYTES;
  }

  /** The size of the buffer that allocate(byteCount) takes. */
  static bufferBytes(byteCount: number): number {
    return BLOCK_BYTES << orderOf(byteCount);
  }

  /** The offset of a buffer of at least `byteCount` bytes in the thread's memory, or -1 when there is none now. */
  allocate(byteCount: number): number {
    const order = orderOf(byteCount);
    let from = order;
    while (from < this.#orderCount && this.#freeHead[from] === NONE) from += 1;
    if (from >= this.#orderCount) return NONE;
    const block = this.#freeHead[from] as number;
    this.#takeFree(block, from);
    while (from > order) {
      from -= 1;
      this.#putFree(block + (1 << from), from);
    }
    this.#tag[block] = order | ALLOCATED;
    this.#freeBlocks -= 1 << order;
    return this.startBytes + block * BLOCK_BYTES;
  }

  free(offsetBytes: number): void {
    let block = (offsetBytes - this.startBytes) / BLOCK_BYTES;
    const tag = this.#tag[block] as number;
    invariant(tag !== INSIDE && (tag & ALLOCATED) !== 0, 'only an allocated buffer is freed');
    let order = tag & ~ALLOCATED;
    this.#freeBlocks += 1 << order;
    this.#tag[block] = INSIDE;
    while (order < this.#orderCount - 1) {
      const buddy = block ^ (1 << order);
      if (this.#tag[buddy] !== order) break;
      this.#takeFree(buddy, order);
      block = Math.min(block, buddy);
      order += 1;
    }
    this.#putFree(block, order);
  }

  #putFree(block: number, order: number): void {
    const head = this.#freeHead[order] as number;
    this.#tag[block] = order;
    this.#next[block] = head;
    this.#previous[block] = NONE;
    if (head !== NONE) this.#previous[head] = block;
    this.#freeHead[order] = block;
  }

  #takeFree(block: number, order: number): void {
    const next = this.#next[block] as number;
    const previous = this.#previous[block] as number;
    if (previous === NONE) this.#freeHead[order] = next;
    else this.#next[previous] = next;
    if (next !== NONE) this.#previous[next] = previous;
    this.#tag[block] = INSIDE;
  }
}

function orderOf(byteCount: number): number {
  const blocks = Math.ceil(byteCount / BLOCK_BYTES);
  return blocks <= 1 ? 0 : 32 - Math.clz32(blocks - 1);
}
