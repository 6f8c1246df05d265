// Which pieces of which data files a thread has mapped: the ones that were read last, 1 GiB at most.
//
// Why pieces: a volume may be larger than all of the address space, and page tables cost memory. Why not at the
// first touch: mapping a piece costs more than the one copy it saves, so a piece is mapped when it is wanted
// twice without another between. Why not for ever: mapped pages count as resident memory of the process.

import { native } from './native.ts';

const WINDOW_COUNT = 16;
export const WINDOW_BYTES = 64 * 1024 * 1024;
/** A window that nobody used for so long is unmapped. */
const IDLE_TICKS = 5;
const NOBODY = -1;

export class FileWindows {
  /** By window: whose it is, which piece of its file, and when it was used. */
  readonly #volumes = new Int32Array(WINDOW_COUNT).fill(NOBODY);
  readonly #pieces = new Int32Array(WINDOW_COUNT);
  readonly #usedAt = new Int32Array(WINDOW_COUNT);
  readonly #idleTicks = new Int32Array(WINDOW_COUNT);
  #uses = 0;
  /** Windows used since then stay: a batch refers to them by number. */
  #batchSince = 0;
  /** Wanted last and not mapped. */
  #wantedVolume = NOBODY;
  #wantedPiece = 0;

  /** What find() answers from now on holds until the next batch starts. */
  startBatch(): void {
    this.#batchSince = (this.#uses + 1) | 0;
  }

  /** The window with this piece of the volume's data file, or -1. */
  find(volume: number, fd: number, piece: number): number {
    this.#uses = (this.#uses + 1) | 0;
    for (let window = 0; window < WINDOW_COUNT; window++) {
      if (this.#pieces[window] !== piece || this.#volumes[window] !== volume) continue;
      this.#usedAt[window] = this.#uses;
      this.#idleTicks[window] = 0;
      return window;
    }
    if (this.#wantedVolume === volume && this.#wantedPiece === piece) return this.#map(volume, fd, piece);
    this.#wantedVolume = volume;
    this.#wantedPiece = piece;
    return NOBODY;
  }

  /** The volume's file is let go. */
  forget(volume: number): void {
    if (this.#wantedVolume === volume) this.#wantedVolume = NOBODY;
    for (let window = 0; window < WINDOW_COUNT; window++) {
      if (this.#volumes[window] === volume) this.#unmap(window);
    }
  }

  /** About once a second. Unmaps one idle window at most: it takes a millisecond. False: nothing is mapped. */
  tick(): boolean {
    let idle = NOBODY;
    let isAnyMapped = false;
    for (let window = 0; window < WINDOW_COUNT; window++) {
      if (this.#volumes[window] === NOBODY) continue;
      isAnyMapped = true;
      this.#idleTicks[window] = (this.#idleTicks[window] as number) + 1;
      if ((this.#idleTicks[window] as number) > IDLE_TICKS) idle = window;
    }
    if (idle !== NOBODY) this.#unmap(idle);
    return isAnyMapped;
  }

  #unmap(window: number): void {
    native.unmapWindow(window);
    this.#volumes[window] = NOBODY;
  }

  /** -1 when the system refuses, or every window is used by this batch. */
  #map(volume: number, fd: number, piece: number): number {
    const window = this.#oldest();
    const isTaken = this.#volumes[window] !== NOBODY;
    if (isTaken && (((this.#usedAt[window] as number) - this.#batchSince) | 0) >= 0) return NOBODY;
    this.#volumes[window] = NOBODY;
    if (native.mapWindow(window, fd, piece * WINDOW_BYTES, WINDOW_BYTES) !== 0) return NOBODY;
    this.#volumes[window] = volume;
    this.#pieces[window] = piece;
    this.#usedAt[window] = this.#uses;
    this.#idleTicks[window] = 0;
    this.#wantedVolume = NOBODY;
    return window;
  }

  #oldest(): number {
    let oldest = 0;
    for (let window = 0; window < WINDOW_COUNT; window++) {
      if (this.#volumes[window] === NOBODY) return window;
      const isOlder = (((this.#usedAt[window] as number) - (this.#usedAt[oldest] as number)) | 0) < 0;
      if (isOlder) oldest = window;
    }
    return oldest;
  }
}
