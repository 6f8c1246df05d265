// The buffers of a session's requests, and how much memory the session holds with them.

import { BLOCK_BYTES } from '../../core/units.ts';
import { NONE } from '../../replication/requests.ts';
import type { Thread } from '../thread.ts';
import { MAX_PAYLOAD_BYTES } from '../thread-memory.ts';
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_READ, NBD_CMD_WRITE } from './protocol.ts';

export class RequestBuffers {
  readonly #thread: Thread;
  #bytesHeld = 0;

  constructor(thread: Thread) {
    this.#thread = thread;
  }

  /**
   * Gives the request the buffer that it needs, if any: whole blocks around it; two more where the disk wants
   * whole blocks and the request is not of whole ones. False: there is no memory for it now.
   */
  take(request: number): boolean {
    const slots = this.#thread.slots;
    const command = slots.command[request] as number;
    const length = slots.lengthBytes[request] as number;
    if (command === NBD_CMD_BLOCK_STATUS) return this.#allocate(request, BLOCK_BYTES, 0);
    const hasData = command === NBD_CMD_READ || command === NBD_CMD_WRITE;
    if (!hasData || length === 0 || length > MAX_PAYLOAD_BYTES) return true;
    const inBlock = (slots.offsetBytes[request] as number) % BLOCK_BYTES;
    const wholeBytes = Math.ceil((inBlock + length) / BLOCK_BYTES) * BLOCK_BYTES;
    return this.#allocate(request, wholeBytes === length ? length : wholeBytes + 2 * BLOCK_BYTES, inBlock);
  }

  /** Twice without harm. */
  free(request: number): void {
    const slots = this.#thread.slots;
    const buffer = slots.buffer[request] as number;
    if (buffer === NONE) return;
    this.#thread.memory.free(buffer);
    this.#bytesHeld -= slots.charged[request] as number;
    slots.buffer[request] = NONE;
    this.#thread.somethingFreed();
  }

  #allocate(request: number, byteCount: number, dataAt: number): boolean {
    const slots = this.#thread.slots;
    const buffer = this.#thread.memory.allocate(byteCount, this.#bytesHeld);
    if (buffer === NONE) return false;
    slots.buffer[request] = buffer;
    slots.data[request] = buffer + dataAt;
    slots.charged[request] = byteCount;
    this.#bytesHeld += byteCount;
    return true;
  }
}
