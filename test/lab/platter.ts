// The memory of a disk that forgets: what its reader sees, what is on stable storage, and the writes
// between the two. Pure: it knows no wire and no clock.
//
// At a power cut every sector (512 bytes, or larger physical ones) holds its flushed contents or those of any later write
// to it, torn and out of order; what a flush covered is never lost. Older contents never replace newer ones: a cache
// may write a sector back early, but not backwards.

import type { Random } from './random.ts';

const SECTOR_BYTES = 512;
/** A write is torn into at most this many pieces, so that discarding a whole disk stays cheap. */
const MAX_PIECES_PER_WRITE = 1024;

interface UnflushedWrite {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** undefined: zeroes. */
  readonly data: Buffer | undefined;
}

/** What one cut did to the writes that no flush had covered. */
export interface CutReport {
  readonly unflushedWrites: number;
  readonly lostPieces: number;
  readonly keptPieces: number;
}

export class Platter {
  readonly sizeBytes: number;
  readonly #sectorBytes: number;
  readonly #visible: Buffer;
  readonly #stable: Buffer;
  #unflushed: UnflushedWrite[] = [];

  /** `sectorBytes`: what is written whole or not at all. */
  constructor(sizeBytes: number, sectorBytes = SECTOR_BYTES) {
    this.sizeBytes = sizeBytes;
    this.#sectorBytes = sectorBytes;
    this.#visible = Buffer.alloc(sizeBytes);
    this.#stable = Buffer.alloc(sizeBytes);
  }

  /** A view that later writes change: copy it or send it at once. */
  read(offsetBytes: number, lengthBytes: number): Buffer {
    return this.#visible.subarray(offsetBytes, offsetBytes + lengthBytes);
  }

  /** Keeps `data`: the caller must not change it afterwards. */
  write(offsetBytes: number, data: Buffer): void {
    data.copy(this.#visible, offsetBytes);
    this.#unflushed.push({ offsetBytes, lengthBytes: data.length, data });
  }

  zero(offsetBytes: number, lengthBytes: number): void {
    this.#visible.fill(0, offsetBytes, offsetBytes + lengthBytes);
    this.#unflushed.push({ offsetBytes, lengthBytes, data: undefined });
  }

  /** Everything written so far is stable. */
  flush(): void {
    for (const write of this.#unflushed) land(this.#stable, write, 0, write.lengthBytes);
    this.#unflushed = [];
  }

  /** What was just written to the range is stable; other writes stay where they are. */
  flushRange(offsetBytes: number, lengthBytes: number): void {
    this.#visible.copy(this.#stable, offsetBytes, offsetBytes, offsetBytes + lengthBytes);
    // Older unflushed writes of the range must not come back over it at a cut.
    const endBytes = offsetBytes + lengthBytes;
    this.#unflushed = this.#unflushed.flatMap((write) => outside(write, offsetBytes, endBytes));
  }

  /** The power is gone: a random part of the unflushed writes is, too. */
  cut(random: Random): CutReport {
    const report = { unflushedWrites: this.#unflushed.length, lostPieces: 0, keptPieces: 0 };
    const keeps = chooseFate(random);
    for (const write of this.#unflushed) {
      const fate = keeps();
      const sector = this.#sectorBytes;
      const pieceBytes = sector * Math.ceil(write.lengthBytes / sector / MAX_PIECES_PER_WRITE);
      for (let start = 0, end = 0; start < write.lengthBytes; start = end) {
        const intoPiece = (write.offsetBytes + start) % pieceBytes;
        end = Math.min(start + pieceBytes - intoPiece, write.lengthBytes);
        if (fate()) {
          land(this.#stable, write, start, end);
          report.keptPieces++;
        } else {
          report.lostPieces++;
        }
      }
    }
    for (const { offsetBytes, lengthBytes } of this.#unflushed) {
      this.#stable.copy(this.#visible, offsetBytes, offsetBytes, offsetBytes + lengthBytes);
    }
    this.#unflushed = [];
    return report;
  }
}

/** For one cut: a function that chooses, for each write, a function that says of each piece whether it landed. */
function chooseFate(random: Random): () => () => boolean {
  const whole = (landed: boolean) => () => landed;
  switch (random.below(4)) {
    case 0: // the whole cache is gone
      return () => whole(false);
    case 1: // whole writes land, in any order
      return () => whole(random.chance(0.5));
    case 2: // nearly everything landed: the few that did not are the hardest to notice
      return () => (random.chance(0.9) ? whole(true) : () => random.chance(0.5));
    default: // torn anywhere
      return () => () => random.chance(0.5);
  }
}

function land(stable: Buffer, write: UnflushedWrite, start: number, end: number): void {
  const at = write.offsetBytes + start;
  if (write.data === undefined) stable.fill(0, at, write.offsetBytes + end);
  else write.data.copy(stable, at, start, end);
}

/** The parts of a write before and behind a range. */
function outside(write: UnflushedWrite, startBytes: number, endBytes: number): UnflushedWrite[] {
  const writeEnd = write.offsetBytes + write.lengthBytes;
  if (writeEnd <= startBytes || write.offsetBytes >= endBytes) return [write];
  return [part(write, write.offsetBytes, startBytes), part(write, endBytes, writeEnd)].filter(
    (piece) => piece.lengthBytes > 0,
  );
}

function part(write: UnflushedWrite, startBytes: number, endBytes: number): UnflushedWrite {
  const skip = startBytes - write.offsetBytes;
  const lengthBytes = Math.max(0, endBytes - startBytes);
  return { offsetBytes: startBytes, lengthBytes, data: write.data?.subarray(skip, skip + lengthBytes) };
}
