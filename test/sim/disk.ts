// A replica's disk: keeps unflushed writes in a volatile cache, ends operations late, fails some, and at a power
// cut keeps any version of each unflushed block, and tears what was being written.
//
// Data is one number a block: the id of the write whose bytes stand there. Metadata is bytes, by sectors of 512.

import { BLOCK_BYTES, EXTENT_BYTES } from '../../src/core/units.ts';
import { GENERATION_SECTOR_BYTES } from '../../src/replication/layout/generations.ts';
import { encodeIntent, intentFileBytes, intentSectorOffset } from '../../src/replication/layout/intent.ts';
import {
  decodeSuperblockSlots,
  encodeSuperblock,
  SUPERBLOCK_FILE_BYTES,
  type Superblock,
} from '../../src/replication/layout/superblock.ts';
import { encodeWindow } from '../../src/replication/layout/window.ts';
import type { Random } from './random.ts';

const SECTOR_BYTES = 512;
/** Of a sector of the intent log: its header (layout/intent.ts). */
const INTENT_BITS_AT = 32;

/** A metadata file: what programs read, and what a power cut leaves. */
export class MetaFile {
  cache: Uint8Array;
  stable: Uint8Array;
  readonly #dirty = new Set<number>();

  constructor(bytes: Uint8Array) {
    this.cache = bytes.slice();
    this.stable = bytes.slice();
  }

  /** `arrives`: of each sector, where the operation ends with an error. */
  write(offset: number, bytes: Uint8Array, arrives: () => boolean = () => true): void {
    for (let at = 0; at < bytes.length; at += SECTOR_BYTES)
      if (arrives()) this.cache.set(bytes.subarray(at, at + SECTOR_BYTES), offset + at);
    const last = Math.ceil((offset + bytes.length) / SECTOR_BYTES);
    for (let sector = Math.floor(offset / SECTOR_BYTES); sector < last; sector++) this.#dirty.add(sector);
  }

  flush(): void {
    for (const sector of this.#dirty) this.#copy(sector, this.cache, this.stable);
    this.#dirty.clear();
  }

  /** Durably; what it had stays. */
  grow(bytes: Uint8Array): void {
    const [cache, stable] = [bytes.slice(), bytes.slice()];
    cache.set(this.cache);
    stable.set(this.stable);
    this.cache = cache;
    this.stable = stable;
  }

  /** `torn`: bytes that were being written; some of their sectors have arrived. */
  cutPower(random: Random): void {
    for (const sector of this.#dirty) {
      if (random.chance(0.5)) this.#copy(sector, this.cache, this.stable);
      else this.#copy(sector, this.stable, this.cache);
    }
    this.#dirty.clear();
  }

  #copy(sector: number, from: Uint8Array, to: Uint8Array): void {
    const at = sector * SECTOR_BYTES;
    to.set(from.subarray(at, at + SECTOR_BYTES), at);
  }
}

export class Disk {
  sizeBytes: number;
  /** What reads find. */
  blocks: Int32Array;
  /** What a power cut leaves, and perhaps more. */
  stable: Int32Array;
  /** By block: what was written since the last flush that covered it, in order. */
  readonly #unflushed = new Map<number, { value: number; number: number }[]>();
  #writeNumber = 0;
  readonly superblock: MetaFile;
  readonly intent: MetaFile;
  readonly generations: MetaFile;
  /** On a tmpfs: survives processes, not reboots. */
  window: ArrayBuffer;
  superblockSequence = 1;
  highestPromise = 0;
  /** A flush or log write failed: the copy stays closed until a person decides. */
  isMarked = false;
  /** By a flush: then its data is no base. What failed to be noted about them says nothing against the data. */
  isDoubted = false;
  /** It was put back. */
  isImage = false;

  constructor(superblock: Superblock) {
    this.sizeBytes = superblock.sizeBytes;
    this.blocks = new Int32Array(this.sizeBytes / BLOCK_BYTES);
    this.stable = new Int32Array(this.sizeBytes / BLOCK_BYTES);
    const file = new Uint8Array(SUPERBLOCK_FILE_BYTES);
    file.set(encodeSuperblock(superblock, 0), 0);
    this.superblock = new MetaFile(file);
    this.intent = new MetaFile(
      encodeIntent(new Uint8Array(intentFileBytes(this.extentCount)), this.extentCount),
    );
    this.generations = new MetaFile(new Uint8Array(this.extentCount * GENERATION_SECTOR_BYTES));
    this.window = encodeWindow('').buffer as ArrayBuffer;
  }

  write(block: number, values: Int32Array): void {
    this.#writeNumber += 1;
    for (let at = 0; at < values.length; at++) {
      const value = values[at] as number;
      this.blocks[block + at] = value;
      const versions = this.#unflushed.get(block + at);
      if (versions === undefined) this.#unflushed.set(block + at, [{ value, number: this.#writeNumber }]);
      else versions.push({ value, number: this.#writeNumber });
    }
  }

  get extentCount(): number {
    return Math.ceil(this.sizeBytes / EXTENT_BYTES);
  }

  /** The files grow, durably: that comes before anybody hears of it. */
  grow(sizeBytes: number): void {
    if (sizeBytes <= this.sizeBytes) return;
    this.sizeBytes = sizeBytes;
    const resized = (old: Int32Array): Int32Array => {
      const blocks = new Int32Array(sizeBytes / BLOCK_BYTES);
      blocks.set(old);
      return blocks;
    };
    this.blocks = resized(this.blocks);
    this.stable = resized(this.stable);
    const { extentCount } = this;
    this.intent.grow(encodeIntent(new Uint8Array(intentFileBytes(extentCount)), extentCount));
    this.generations.grow(new Uint8Array(extentCount * GENERATION_SECTOR_BYTES));
  }

  /** Its bit of the intent log is set, as the next process would find it. */
  isExtentHot(extent: number): boolean {
    return isBitSet(this.intent.cache, extent);
  }

  /** The same after a power cut. */
  isExtentHotDurably(extent: number): boolean {
    return isBitSet(this.intent.stable, extent) && isBitSet(this.intent.cache, extent);
  }

  /** All that may stand there after a power cut. */
  versions(block: number): number[] {
    const unflushed = this.#unflushed.get(block) ?? [];
    return [this.stable[block] ?? 0, ...unflushed.map(({ value }) => value)];
  }

  /** A copy of it as it stands, for somebody who will put it back. */
  image(): Disk {
    const { superblock } = decodeSuperblockSlots(this.superblock.cache);
    const image = new Disk({ ...superblock, sizeBytes: this.sizeBytes });
    image.blocks.set(this.blocks);
    image.stable.set(this.blocks);
    for (const name of ['superblock', 'intent', 'generations'] as const) {
      image[name].write(0, this[name].cache);
      image[name].flush();
    }
    image.window = this.window.slice(0);
    image.isImage = true;
    image.highestPromise = this.highestPromise;
    return image;
  }

  /** What a flush that starts now covers. */
  flushPoint(): number {
    return this.#writeNumber;
  }

  flushed(point: number): void {
    for (const [block, versions] of this.#unflushed) {
      let covered = 0;
      while (covered < versions.length && (versions[covered] as { number: number }).number <= point)
        covered += 1;
      if (covered === 0) continue;
      this.stable[block] = (versions[covered - 1] as { value: number }).value;
      if (covered === versions.length) this.#unflushed.delete(block);
      else versions.splice(0, covered);
    }
  }

  /** `hasRebooted`: the tmpfs is gone as well. */
  cutPower(random: Random): void {
    for (const [block, versions] of this.#unflushed) {
      const kept = random.below(versions.length + 1) - 1;
      if (kept >= 0) this.stable[block] = (versions[kept] as { value: number }).value;
    }
    this.#unflushed.clear();
    this.blocks.set(this.stable);
    this.superblock.cutPower(random);
    this.intent.cutPower(random);
    this.generations.cutPower(random);
    this.window = encodeWindow('').buffer as ArrayBuffer;
  }
}

/** Volumes here are small: their bits stand in the log's first sector. */
function isBitSet(intent: Uint8Array, extent: number): boolean {
  const byte = intent[intentSectorOffset(0) + INTENT_BITS_AT + (extent >> 3)] as number;
  return (byte & (1 << (extent & 7))) !== 0;
}
