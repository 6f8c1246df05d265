// One machine that loses power again and again: a pool on a disk that forgets, a volume on the pool, a writer on
// the volume, and a check after every boot. What serves the volume is a Target; the rig does not know it.
//
// One round: boot, mount, start the target, check what the last cut left, write, cut. The writer's log lies on the
// host, where no cut reaches it.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXTENT_BYTES, KIB, MIB } from '../../../src/core/units.ts';
import { ForgetfulDisk } from '../forgetful-disk.ts';
import { Guest } from '../guest.ts';
import { LabError, mustRun, tail } from '../machine.ts';
import type { CutReport } from '../platter.ts';
import { type Random, seededRandom } from '../random.ts';
import { Journal, SECTOR_BYTES } from './journal.ts';

const DISK_BYTES = 1024 * MIB;
/** Cold extents stay plenty while what is used is read in a second. */
const LAYOUT: Layout = { extentBytes: EXTENT_BYTES, chunkBytes: 256 * KIB, extentCount: 64 };
const WRITER_THREADS = 4;
const ROUND_TIMEOUT_MS = 180_000;
/** No flush at all, few, or many, in turns: each hides what the others show. */
const FLUSH_PERCENTS = [0, 2, 15];
/** Enough for a flush, where many are asked for. */
const MIN_WRITING_MS = 200;
export const VOLUME_BYTES = LAYOUT.extentCount * LAYOUT.extentBytes + 32 * MIB;
export const POOL_DIR = '/mnt/pool';
/** What the disk writes whole or not at all. XFS must not lose a part of a metadata block: its recovery takes a block
 * whose first sector is new for new, leaves it alone, and then refuses the mount for its checksum. */
const SECTOR_BYTES_OF = { ext4: 512, xfs: 4096 } as const;

/** Which parts of the volume the writer uses: the first `chunkBytes` of every `extentBytes`. */
export interface Layout {
  readonly extentBytes: number;
  readonly chunkBytes: number;
  readonly extentCount: number;
}

/** What serves the volume in the guest. */
export interface Target {
  readonly modules: readonly string[];
  /** After a boot and before `start`: looks at what lies on the disk. Returns the cold extents, if it knows. */
  inspect(guest: Guest): Promise<ReadonlySet<number>>;
  /** Makes the volume if there is none; returns its block device once it serves. */
  start(guest: Guest, roundDir: string, layout: Layout): Promise<string>;
  /** Everything wrong with what the target itself keeps, in words. */
  check(): Promise<string[]>;
  /** Keeps the target's own metadata busy until the cut. */
  stir(): void;
}

export interface RoundReport {
  readonly round: number;
  readonly violations: readonly string[];
  readonly writes: number;
  readonly flushes: number;
  readonly cut: CutReport;
}

export class PowerCutRig implements AsyncDisposable {
  readonly #dir: string;
  readonly #disk: ForgetfulDisk;
  readonly #target: Target;
  readonly #random: Random;
  readonly #seed: number;
  readonly #fileSystem: 'ext4' | 'xfs';
  readonly #journal = new Journal();
  #round = 0;

  private constructor(dir: string, disk: ForgetfulDisk, options: RigOptions) {
    this.#dir = dir;
    this.#disk = disk;
    this.#target = options.target;
    this.#seed = options.seed;
    this.#random = seededRandom(options.seed);
    this.#fileSystem = options.fileSystem ?? 'ext4';
  }

  static async create(options: RigOptions): Promise<PowerCutRig> {
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-rig-'));
    const source = join(import.meta.dirname, 'writer.c');
    execFileSync('gcc', [
      '-O2',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-pthread',
      '-o',
      join(dir, 'writer'),
      source,
    ]);
    const disk = await ForgetfulDisk.create(DISK_BYTES, SECTOR_BYTES_OF[options.fileSystem ?? 'ext4']);
    return new PowerCutRig(dir, disk, options);
  }

  /** Boots, checks what the previous cut left, writes for a while, cuts. */
  async round(): Promise<RoundReport> {
    const round = ++this.#round;
    await using guest = await this.#boot(round);
    const { violations, device } = await this.#startAndCheck(guest, round);
    if (violations.length > 0) return { round, violations, writes: 0, flushes: 0, cut: NOTHING_CUT };

    // Its metadata's flushes cover the volume's data on the same disk: in every other round only.
    if ((this.#seed + round) % 2 === 0) this.#target.stir();
    const log = join(this.#dir, `log-${round}`);
    const writer = guest.start(this.#writerCommand(device, log, round), { timeoutMs: ROUND_TIMEOUT_MS });
    for (let tries = 0; tries < 1_000 && !existsSync(log); tries++) await sleep(10);
    await sleep(MIN_WRITING_MS + this.#random.below(3_000));
    await guest.cutPower();
    await writer.ended.then(
      async ({ exitCode, stderr }) => {
        const log = tail(await guest.kernelLog());
        throw new LabError(`the writer ended by itself, exit code ${exitCode}: ${stderr}\n${log}`);
      },
      () => {}, // it died with its machine, as it should
    );
    const cut = await this.#disk.cut(this.#random);
    await this.#disk.plugIn();
    this.#journal.replay(await readFile(log, 'utf8').catch(() => ''));
    await rm(log, { force: true });
    const { writes, acknowledgedFlushes, errors } = this.#journal.totals;
    return {
      round,
      violations: errors.map((line) => `I/O error: ${line}`),
      writes,
      flushes: acknowledgedFlushes,
      cut,
    };
  }

  /** A last look without a cut after it. */
  async finalCheck(): Promise<RoundReport> {
    const round = ++this.#round;
    await using guest = await this.#boot(round);
    const { violations } = await this.#startAndCheck(guest, round);
    return { round, violations, writes: 0, flushes: 0, cut: NOTHING_CUT };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#disk[Symbol.asyncDispose]();
    await rm(this.#dir, { recursive: true, force: true });
  }

  async #boot(round: number): Promise<Guest> {
    const guest = await Guest.start({
      name: `cut-${round}`,
      virtioDisks: [this.#disk.socketPath],
      memoryMib: 768,
      modules: this.#target.modules,
      shared: [this.#dir],
      timeoutMs: ROUND_TIMEOUT_MS,
    });
    await mountPool(guest, this.#fileSystem, round === 1);
    return guest;
  }

  async #startAndCheck(guest: Guest, round: number): Promise<{ device: string; violations: string[] }> {
    const cold = await this.#target.inspect(guest);
    const device = await this.#target.start(guest, this.#dir, LAYOUT);
    const image = join(this.#dir, 'image');
    await mustRun(
      guest,
      [join(this.#dir, 'writer'), 'dump', device, image, ...Object.values(LAYOUT)].map(String),
    );
    const violations = await this.#target.check();
    violations.push(...this.#checkImage(await readFile(image), cold));
    if (violations.length > 0) violations.push(`seed ${this.#seed}, round ${round}`);
    return { device, violations };
  }

  #checkImage(image: Buffer, cold: ReadonlySet<number>): string[] {
    const violations: string[] = [];
    const acknowledged = this.#journal.acknowledgedUnflushed();
    const { extentBytes, chunkBytes } = LAYOUT;
    for (let at = 0; at < image.length; at += SECTOR_BYTES) {
      const extent = Math.floor(at / chunkBytes);
      const sector = (extent * extentBytes + (at % chunkBytes)) / SECTOR_BYTES;
      const bytes = image.subarray(at, at + SECTOR_BYTES);
      const promised = cold.has(extent) ? acknowledged.get(sector) : undefined;
      const violation = this.#journal.check(sector, bytes, promised);
      if (violation !== undefined) {
        const { found, admissible, rule } = violation;
        violations.push(`sector ${sector}: found ${found}, not one of ${admissible.join(' ')} (${rule})`);
      }
      this.#journal.adopt(sector, bytes);
    }
    return violations;
  }

  #writerCommand(device: string, log: string, round: number): string[] {
    const flushPercent = FLUSH_PERCENTS[(this.#seed + round) % FLUSH_PERCENTS.length] ?? 0;
    const extents = Array.from({ length: 6 }, () => this.#random.below(LAYOUT.extentCount));
    const fixed = [join(this.#dir, 'writer'), 'write', device, log, this.#seed, round, WRITER_THREADS];
    return [...fixed, LAYOUT.extentBytes, LAYOUT.chunkBytes, flushPercent, ...extents].map(String);
  }
}

/** On the disk that forgets, at POOL_DIR. */
export async function mountPool(guest: Guest, fileSystem: 'ext4' | 'xfs', isNew: boolean): Promise<void> {
  const make = `mkfs.${fileSystem} -q ${fileSystem === 'xfs' ? '-f' : '-F'} /dev/vda`;
  // ext4 writes its superblock, two sectors with one checksum, outside its journal now and then: this disk may tear it,
  // and the kernel then refuses the mount. A person would mend that from a backup copy; files are not touched by it.
  const mend = fileSystem === 'ext4' ? 'e2fsck -y /dev/vda >&2; [ $? -le 2 ]' : 'false';
  const mount = `mount /dev/vda ${POOL_DIR} || { { ${mend}; } && mount /dev/vda ${POOL_DIR}; }`;
  const explain = '{ dmesg | tail -n 20 >&2; false; }';
  await mustRun(guest, `${isNew ? make : 'true'} && mkdir ${POOL_DIR} && { ${mount} || ${explain}; }`);
}

export interface RigOptions {
  readonly target: Target;
  /** Chooses lengths, patterns and losses; the guest's timing is its own. */
  readonly seed: number;
  readonly fileSystem?: 'ext4' | 'xfs';
}

const NOTHING_CUT: CutReport = { unflushedWrites: 0, lostPieces: 0, keptPieces: 0 };
