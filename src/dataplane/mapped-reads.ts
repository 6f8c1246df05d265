// Large buffered reads of one turn for clients in this thread, sent from the page cache itself: header and mapped bytes
// leave by one call, without a copy into a buffer of ours, while the range lock is held. What cannot go that way goes on
// as every other read (read-batch.ts): bytes that are not cached, a connection with something else to send, a read across
// the edge of a window, one that may not be answered now. What a full socket left over is read into the request's buffer
// at once, so that the client never sees what is written later. See docs/adr/0009-mapped-reads.md.
//
// A read has two slots: the primary's, which is gathered here, and that of the client's session, whose header and
// connection are used.

import { NONE } from '../replication/requests.ts';
import { FileWindows, WINDOW_BYTES } from './file-windows.ts';
import { native } from './native.ts';
import type { FileUser, Thread } from './thread.ts';
import { REQUEST_CAPACITY } from './thread-memory.ts';

export const SMALLEST_MAPPED_BYTES = 64 * 1024;
/** A socket takes about 200 KiB at once: of larger reads the most would be left over. */
const LARGEST_BYTES = 1024 * 1024;
const NUMBERS_PER_SEND = 6;

export class MappedReads {
  readonly #thread: Thread;
  readonly #windows = new FileWindows();
  readonly #gathered = new Int32Array(REQUEST_CAPACITY);
  #gatheredCount = 0;
  readonly #entries = new Float64Array(REQUEST_CAPACITY * NUMBERS_PER_SEND);
  readonly #requests = new Int32Array(REQUEST_CAPACITY);
  #count = 0;

  constructor(thread: Thread) {
    this.#thread = thread;
  }

  /** False: this one is not for here. */
  add(request: number): boolean {
    const { slots } = this.#thread;
    const asked = this.#thread.peers.slots.trackedSourceOf(request);
    // Another thread's or node's; or its reply has begun, by a primary that could not end it.
    if (asked === NONE || (slots.sentBytes[asked] as number) > 0) return false;
    const length = slots.lengthBytes[request] as number;
    if (length < SMALLEST_MAPPED_BYTES || length > LARGEST_BYTES) return false;
    const inWindow = (slots.offsetBytes[request] as number) % WINDOW_BYTES;
    if (inWindow + length > WINDOW_BYTES) return false;
    this.#gathered[this.#gatheredCount] = request;
    this.#gatheredCount += 1;
    return true;
  }

  /** Sends what has gathered, and gives what cannot be sent to the other reads; also what that lets start. */
  run(): void {
    while (this.#gatheredCount > 0) {
      this.#prepare();
      if (this.#count > 0) this.#send();
    }
  }

  /** The volume's data file is let go. */
  forget(volume: number): void {
    this.#windows.forget(volume);
  }

  /** About once a second. False: nothing is mapped. */
  tick(): boolean {
    return this.#windows.tick();
  }

  #prepare(): void {
    const { memory, slots } = this.#thread;
    const entries = this.#entries;
    this.#windows.startBatch();
    this.#count = 0;
    for (let i = 0; i < this.#gatheredCount; i++) {
      const request = this.#gathered[i] as number;
      const asked = this.#thread.peers.slots.trackedSourceOf(request);
      const volume = this.#volumeOf(request);
      if (asked === NONE) {
        // Its session ended in this turn.
        this.#thread.reads.add(request, volume.file.fd);
        continue;
      }
      const session = this.#thread.sessionOf(asked);
      const offset = slots.offsetBytes[request] as number;
      // An integer in the engine's eyes too: it is passed on without being boxed.
      const piece = (offset / WINDOW_BYTES) | 0;
      const isFree = session.isFreeToSend && volume.mayAnswer(request);
      const window = isFree ? this.#windows.find(volume.index, volume.file.fd, piece) : -1;
      if (window < 0) {
        if (isFree) session.readsAreCached = false;
        this.#thread.reads.add(request, volume.file.fd);
        continue;
      }
      const at = this.#count * NUMBERS_PER_SEND;
      entries[at] = session.fd;
      entries[at + 1] = memory.headerOffset(asked);
      entries[at + 2] = session.prepareReply(asked);
      entries[at + 3] = window;
      entries[at + 4] = offset % WINDOW_BYTES;
      entries[at + 5] = slots.lengthBytes[request] as number;
      this.#requests[this.#count] = request;
      this.#count += 1;
    }
    this.#gatheredCount = 0;
  }

  #send(): void {
    // Time unmaps what is used no more.
    this.#thread.wakeForTime();
    native.sendMapped(this.#thread.memory.bytes, this.#entries, this.#count);
    this.#thread.clockIsBehind();
    for (let i = 0; i < this.#count; i++) {
      const at = i * NUMBERS_PER_SEND;
      const replyBytes = ((this.#entries[at + 2] as number) + (this.#entries[at + 5] as number)) | 0;
      this.#sent(this.#requests[i] as number, (this.#entries[at] as number) | 0, replyBytes);
    }
  }

  /** What did not work is left to the other way, which meets and tells the error that there may be. */
  #sent(request: number, sentBytes: number, replyBytes: number): void {
    const volume = this.#volumeOf(request);
    const asked = this.#thread.peers.slots.trackedSourceOf(request);
    const session = this.#thread.sessionOf(asked);
    session.readsAreCached = sentBytes !== 0;
    if (sentBytes <= 0) {
      this.#thread.reads.add(request, volume.file.fd);
      return;
    }
    session.replyBegun(asked, sentBytes, sentBytes === replyBytes);
    volume.file.replyBegun(request, replyBytes - sentBytes);
  }

  #volumeOf(request: number): FileUser {
    return this.#thread.volumes[this.#thread.slots.volume[request] as number] as FileUser;
  }
}
