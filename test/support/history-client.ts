// A client of a volume that checks it: random reads, writes, FUA writes, flushes and writes of zeroes over a Unix
// socket of `holdfast volume export`, many at once, every sector stamped (sector-format.ts), every answer held against
// the history (sector-history.ts). The history outlives its clients: the next one goes on where the last one ended.
//
//   const history = new VolumeHistory();
//   const client = await HistoryClient.connect(history, { socketPath, exportName });
//   const load = client.load({ depth: 16 });  …make trouble…  const report = await load.stop();
//   await client.readAll();
//   expect(history.complaints).toEqual([]);

import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { CMD, CMD_FLAG, NbdClient, type Reply, type Request } from './nbd-client.ts';
import { type Pause, PauseMeter } from './pauses.ts';
import { readSector, SECTOR_BYTES, stampSector } from './sector-format.ts';
import { SectorHistory } from './sector-history.ts';

const MOST_SECTORS = 32;
/** Half of the requests go to so few sectors that they overlap. */
const CROWDED_SECTORS = 64;
const READ_AHEAD = 8;

export class VolumeHistory extends SectorHistory {
  /** In every sector: a disk may show what an earlier run wrote. */
  readonly stamp = randomInt(1, 2 ** 32);
  #clients = 0;

  nextWriter(): number {
    this.#clients += 1;
    return this.#clients;
  }
}

export interface ConnectOptions {
  readonly socketPath: string;
  readonly exportName: string;
  /** How long an answer may take before the connection counts as broken. */
  readonly replyTimeoutMs?: number;
}

/** Weights, of which each counts against their sum. */
export interface Mix {
  readonly read: number;
  readonly write: number;
  readonly fua: number;
  readonly flush: number;
  readonly zeroes: number;
}

const MIX: Mix = { read: 30, write: 55, fua: 5, flush: 3, zeroes: 7 };

export interface LoadOptions {
  readonly depth: number;
  readonly mix?: Mix;
  /** Of the volume's beginning; all of it by default. */
  readonly sectors?: number;
  /** At most as many sectors a request; 32 by default. */
  readonly mostSectors?: number;
  /** 0 up to 1, without it. */
  readonly random?: () => number;
  /** Pauses that last as long are listed. */
  readonly pausesFromMs?: number;
  /** Between an answer and the next request in its place: for a load that leaves the machine some room. */
  readonly thinkMs?: number;
}

export interface LoadReport {
  readonly requests: number;
  /** Requests that were answered with an error, by the protocol's number. */
  readonly errors: ReadonlyMap<number, number>;
  /** Why the load ended before it was stopped: the connection broke. */
  readonly brokenBy: Error | undefined;
  readonly longestPause: Pause;
  readonly pauses: readonly Pause[];
}

export interface Load {
  /** So far. */
  readonly requests: number;
  /** Resolves when it ends by itself: the connection broke. */
  readonly ended: Promise<LoadReport>;
  /** No more requests; resolves when all that were sent have been answered, or never will be. */
  stop(): Promise<LoadReport>;
}

export class HistoryClient {
  readonly writer: number;
  readonly sectorCount: number;
  readonly #history: VolumeHistory;
  readonly #nbd: NbdClient;

  static async connect(history: VolumeHistory, options: ConnectOptions): Promise<HistoryClient> {
    const { socketPath, exportName, replyTimeoutMs = 60_000 } = options;
    return new HistoryClient(history, await NbdClient.connect(socketPath, exportName, { replyTimeoutMs }));
  }

  private constructor(history: VolumeHistory, nbd: NbdClient) {
    this.#history = history;
    this.#nbd = nbd;
    this.writer = history.nextWriter();
    this.sectorCount = Math.floor(nbd.facts.sizeBytes / SECTOR_BYTES);
  }

  /** Every sector, or those of the beginning. Throws when a read fails; what it shows wrong is in the complaints. */
  async readAll(sectors = this.sectorCount): Promise<void> {
    let next = 0;
    const reader = async (): Promise<void> => {
      while (next < sectors) {
        const first = next;
        next += MOST_SECTORS;
        const error = await this.#read(first, Math.min(MOST_SECTORS, sectors - first));
        if (error !== 0) throw new Error(`reading sector ${first} failed with ${error}`);
      }
    };
    await Promise.all(Array.from({ length: READ_AHEAD }, reader));
  }

  async flush(): Promise<void> {
    const error = await this.#flush();
    if (error !== 0) throw new Error(`a flush failed with ${error}`);
  }

  load(options: LoadOptions): Load {
    const { depth, mix = MIX, random = Math.random, pausesFromMs, thinkMs = 0 } = options;
    const pick = new Requests(
      Math.min(options.sectors ?? this.sectorCount, this.sectorCount),
      options.mostSectors ?? MOST_SECTORS,
      mix,
      random,
    );
    const pauses = new PauseMeter(pausesFromMs);
    const errors = new Map<number, number>();
    let [requests, isStopped] = [0, false];
    let brokenBy: Error | undefined;
    const worker = async (): Promise<void> => {
      while (!isStopped && brokenBy === undefined) {
        try {
          const error = await this.#perform(pick.next());
          pauses.answered();
          requests += 1;
          if (error !== 0) errors.set(error, (errors.get(error) ?? 0) + 1);
          if (thinkMs > 0) await sleep(thinkMs);
        } catch (error) {
          brokenBy ??= error as Error;
        }
      }
    };
    pauses.started();
    const ended = Promise.all(Array.from({ length: depth }, worker)).then(() => ({
      requests,
      errors,
      brokenBy,
      longestPause: pauses.longest,
      pauses: pauses.all,
    }));
    return {
      get requests() {
        return requests;
      },
      ended,
      stop: () => {
        isStopped = true;
        return ended;
      },
    };
  }

  /** Says goodbye. */
  async disconnect(): Promise<void> {
    await this.#nbd.disconnect();
  }

  /** As if this client's machine had died: what it asked for may still happen. */
  abandon(): void {
    this.#nbd.destroy();
  }

  #perform({ kind, first, count }: Picked): Promise<number> {
    switch (kind) {
      case 'read':
        return this.#read(first, count);
      case 'flush':
        return this.#flush();
      case 'write':
      case 'fua':
      case 'zeroes':
        return this.#write(kind, first, count);
    }
  }

  async #read(first: number, count: number): Promise<number> {
    const read = this.#history.readAsked(first);
    try {
      const { error, data } = await this.#ask({ type: CMD.read, ...range(first, count) });
      if (error !== 0) {
        this.#history.readDropped(read);
        return error;
      }
      const shown = Array.from({ length: count }, (_, index) => {
        const bytes = data.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
        return readSector(bytes, this.#history.stamp, first + index);
      });
      this.#history.readAnswered(read, shown);
      return 0;
    } catch (error) {
      this.#history.readDropped(read);
      throw error;
    }
  }

  async #write(kind: 'write' | 'fua' | 'zeroes', first: number, count: number): Promise<number> {
    const isZeroes = kind === 'zeroes';
    const write = this.#history.writeAsked(this.writer, first, count, isZeroes);
    const request: Request = isZeroes
      ? { type: CMD.writeZeroes, ...range(first, count) }
      : { type: CMD.write, offset: first * SECTOR_BYTES, payload: this.#payload(write.id, first, count) };
    // Unanswered, it stays open in the history.
    const { error } = await this.#ask({ ...request, flags: kind === 'fua' ? CMD_FLAG.fua : 0 });
    if (error === 0) this.#history.writeAcknowledged(write, kind === 'fua');
    else this.#history.writeFailed(write);
    return error;
  }

  async #flush(): Promise<number> {
    const askedAt = this.#history.flushAsked();
    const { error } = await this.#ask({ type: CMD.flush });
    if (error === 0) this.#history.flushAnswered(askedAt);
    return error;
  }

  #payload(id: number, first: number, count: number): Buffer {
    const payload = Buffer.allocUnsafe(count * SECTOR_BYTES);
    for (let index = 0; index < count; index += 1) {
      const bytes = payload.subarray(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
      stampSector(bytes, { writer: this.writer, history: this.#history.stamp, id, sector: first + index });
    }
    return payload;
  }

  #ask(request: Request): Promise<Reply> {
    return this.#nbd.request(request);
  }
}

function range(first: number, count: number): { offset: number; length: number } {
  return { offset: first * SECTOR_BYTES, length: count * SECTOR_BYTES };
}

interface Picked {
  readonly kind: keyof Mix;
  readonly first: number;
  readonly count: number;
}

/** What a load asks for next. */
class Requests {
  readonly #sectors: number;
  readonly #mostSectors: number;
  readonly #weights: readonly [keyof Mix, number][];
  readonly #random: () => number;

  constructor(sectors: number, mostSectors: number, mix: Mix, random: () => number) {
    this.#sectors = sectors;
    this.#mostSectors = mostSectors;
    this.#weights = Object.entries(mix) as [keyof Mix, number][];
    this.#random = random;
  }

  next(): Picked {
    // Most are small.
    const count = this.#random() < 0.8 ? 1 : 1 + this.#below(Math.min(this.#mostSectors, this.#sectors));
    const isCrowded = this.#random() < 0.5;
    const from = isCrowded ? Math.min(CROWDED_SECTORS, this.#sectors) : this.#sectors;
    return { kind: this.#kind(), first: Math.min(this.#below(from), this.#sectors - count), count };
  }

  #kind(): keyof Mix {
    let left = this.#random() * this.#weights.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [kind, weight] of this.#weights) {
      left -= weight;
      if (left < 0) return kind;
    }
    return 'read';
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }
}
