// What every sector of a volume may show, judged from what clients asked and were told, in the order in which this
// process saw it. Exact for values that are unique, as every write's id is: a write and the reads that show it form
// one visit of that value; one visit is before another when it was proven to be in effect before something of the
// other was asked for; and something is wrong if and only if two visits are each before the other (Gibbons and
// Korach, Testing Shared Memories, 1997). So a lost write, a stale read and a value that comes back are one rule.
//
// A write that was not answered may have happened, once, or not; one whose client is over, by then at the latest.
// After a power cut the sector may show every value that nothing flushed had replaced.
// It never complains of what is right. It lets pass what only these two would tell: zeroes carry no id, so a read of
// them is held against all writes of zeroes and decides only if one of them fits; and what a power cut may bring back
// is judged pair by pair with what was flushed.

export const INITIAL_ID = 0;

const NEVER = Number.POSITIVE_INFINITY;
const MOST_COMPLAINTS = 100;

export interface Write {
  readonly id: number;
  readonly writer: number;
  readonly firstSector: number;
  readonly isZeroes: boolean;
  /** If it happens at all, it has happened by then. */
  latestAt: number;
  isAcknowledged: boolean;
  /** One a sector. */
  visits: Visit[];
}

interface Visit {
  readonly write: Write;
  /** The first answer that proves it: the write's own, or a read's. */
  provenAt: number;
  /** The last request among the write and the reads that show it. */
  lastAskedAt: number;
  wasRead: boolean;
  /** Survives a power cut, or something later does. */
  isDurable: boolean;
}

export interface Read {
  readonly askedAt: number;
  readonly firstSector: number;
}

export interface Complaint {
  /** old: something newer had been acknowledged, or read. unknown: nobody wrote that. */
  readonly kind: 'old' | 'unknown' | 'damaged';
  readonly sector: number;
  readonly text: string;
}

/** What a read showed of one sector: the id of a write, 'zeroes', or what is wrong with it. */
export type Shown = number | 'zeroes' | { readonly damage: string };

export interface HistoryOptions {
  /** Machines will lose power: what was not flushed must be remembered, which costs memory between flushes. */
  readonly expectsPowerCuts?: boolean;
  /** Is given every event, in order; see history-journal.ts. */
  readonly onEvent?: (event: HistoryEvent) => void;
}

/** A call of one of the methods below, with writes and reads named by id and tick. */
export type HistoryEvent =
  | readonly ['writeAsked', writer: number, firstSector: number, count: number, isZeroes: boolean]
  | readonly ['writeAcknowledged', id: number, isStable: boolean]
  | readonly ['writeFailed', id: number]
  | readonly ['readAsked', firstSector: number]
  | readonly ['readAnswered', askedAt: number, shown: readonly Shown[]]
  | readonly ['readDropped', askedAt: number]
  | readonly ['flushAsked']
  | readonly ['flushAnswered', askedAt: number]
  | readonly ['writerFenced', writer: number]
  | readonly ['powerCut'];

export class SectorHistory {
  readonly complaints: Complaint[] = [];
  readonly #sectors = new Map<number, Visit[]>();
  readonly #reads = new Set<Read>();
  readonly #unanswered = new Set<Write>();
  /** In effect, but not known to be on stable storage; since when. */
  #unflushed: { visit: Visit; placedAt: number }[] = [];
  readonly #expectsPowerCuts: boolean;
  readonly #onEvent: (event: HistoryEvent) => void;
  #lastId = INITIAL_ID;
  /** Logical time: every event has a tick of its own. */
  #now = 0;

  constructor({ expectsPowerCuts = false, onEvent }: HistoryOptions = {}) {
    this.#expectsPowerCuts = expectsPowerCuts;
    this.#onEvent = onEvent ?? (() => undefined);
  }

  get unansweredWrites(): number {
    return this.#unanswered.size;
  }

  /** Before it is sent. Its id has to stand in every sector, unless it writes zeroes. */
  writeAsked(writer: number, firstSector: number, count: number, isZeroes = false): Write {
    this.#event(['writeAsked', writer, firstSector, count, isZeroes]);
    this.#lastId += 1;
    const write: Write = {
      id: this.#lastId,
      writer,
      firstSector,
      isZeroes,
      latestAt: NEVER,
      isAcknowledged: false,
      visits: [],
    };
    for (let sector = firstSector; sector < firstSector + count; sector += 1) {
      const visit = {
        write,
        provenAt: NEVER,
        lastAskedAt: this.#now,
        wasRead: false,
        isDurable: false,
      };
      write.visits.push(visit);
      this.#of(sector).push(visit);
    }
    this.#unanswered.add(write);
    return write;
  }

  /** `isStable`: it was asked for with FUA, or the volume writes through. */
  writeAcknowledged(write: Write, isStable: boolean): void {
    this.#event(['writeAcknowledged', write.id, isStable]);
    this.#unanswered.delete(write);
    write.latestAt = this.#now;
    write.isAcknowledged = true;
    for (const [index, visit] of write.visits.entries()) {
      visit.provenAt = Math.min(visit.provenAt, this.#now);
      this.#placed(visit, isStable);
      this.#prune(write.firstSector + index);
    }
    write.visits = [];
  }

  /** Answered with an error: it may have happened until now, in any of its sectors. */
  writeFailed(write: Write): void {
    this.#event(['writeFailed', write.id]);
    this.#over(write);
  }

  readAsked(firstSector: number): Read {
    this.#event(['readAsked', firstSector]);
    const read = { askedAt: this.#now, firstSector };
    this.#reads.add(read);
    return read;
  }

  /** Adds to the complaints. */
  readAnswered(read: Read, shown: readonly Shown[]): void {
    this.#event(['readAnswered', read.askedAt, shown]);
    this.#reads.delete(read);
    for (const [index, value] of shown.entries()) {
      const sector = read.firstSector + index;
      if (typeof value === 'object') this.#complain('damaged', sector, value.damage);
      else this.#shown(sector, value, read.askedAt);
      this.#prune(sector);
    }
  }

  /** Its answer was an error, or nobody waits for it any more. */
  readDropped(read: Read): void {
    this.#event(['readDropped', read.askedAt]);
    this.#reads.delete(read);
  }

  /** Returns what flushAnswered() has to be called with. */
  flushAsked(): number {
    this.#event(['flushAsked']);
    return this.#now;
  }

  /** What was acknowledged before the flush was asked for is on stable storage. */
  flushAnswered(askedAt: number): void {
    this.#event(['flushAnswered', askedAt]);
    this.#unflushed = this.#unflushed.filter(({ visit, placedAt }) => {
      if (placedAt >= askedAt) return true;
      visit.isDurable = true;
      return false;
    });
  }

  /** That client's attachment is over: nothing that it has asked for happens from now on. */
  writerFenced(writer: number): void {
    this.#event(['writerFenced', writer]);
    for (const write of this.#unanswered) if (write.writer === writer) this.#over(write);
  }

  /** Every machine is off: nothing that was asked for happens any more, and what was not flushed may be gone. */
  powerCut(): void {
    if (!this.#expectsPowerCuts) throw new Error('this history has forgotten what was not flushed');
    this.#event(['powerCut']);
    for (const write of this.#unanswered) this.#over(write);
    this.#unflushed = [];
    for (const [sector, visits] of this.#sectors) {
      const durable = visits.filter(({ isDurable }) => isDurable);
      const possible = visits.filter(
        (visit) => !durable.some((other) => other !== visit && isBefore(visit, other)),
      );
      // What was read before the cut proves nothing about the time after it.
      const fresh = possible.map((visit) => ({
        ...visit,
        provenAt: NEVER,
        lastAskedAt: -1,
        wasRead: false,
      }));
      this.#sectors.set(sector, fresh);
    }
  }

  #event(event: HistoryEvent): void {
    this.#now += 1;
    this.#onEvent(event);
  }

  #of(sector: number): Visit[] {
    let visits = this.#sectors.get(sector);
    if (visits === undefined) {
      visits = [initialVisit()];
      this.#sectors.set(sector, visits);
    }
    return visits;
  }

  #over(write: Write): void {
    this.#unanswered.delete(write);
    write.latestAt = this.#now;
    write.visits = [];
  }

  #shown(sector: number, value: number | 'zeroes', askedAt: number): void {
    const visits = this.#of(sector);
    const matching = visits.filter(({ write }) =>
      value === 'zeroes' ? write.isZeroes : write.id === value && !write.isZeroes,
    );
    if (matching.length === 0) {
      const isGone = value === 'zeroes' || (value > INITIAL_ID && value <= this.#lastId);
      const what = isGone ? 'which had been replaced for good' : 'which nobody wrote';
      this.#complain(isGone ? 'old' : 'unknown', sector, `it shows ${named(value)}, ${what}`);
      return;
    }
    const fitting = matching.filter(
      (visit) => conflict(visits, visit, seen(visit, askedAt, this.#now)) === undefined,
    );
    if (fitting.length > 1) return;
    const [visit = matching[0]] = fitting;
    if (visit === undefined) return;
    const after = seen(visit, askedAt, this.#now);
    const other = conflict(visits, visit, after);
    if (other !== undefined) {
      this.#complain(
        'old',
        sector,
        `it shows ${named(value)} of client ${visit.write.writer}, though ${named(other.write.id)} of client ` +
          `${other.write.writer} had ${other.wasRead ? 'been read' : 'been acknowledged'} there`,
      );
      return;
    }
    Object.assign(visit, after);
    // One that was not answered and still may be is nobody's promise yet.
    if (visit.write.latestAt !== NEVER) this.#placed(visit, false);
  }

  #placed(visit: Visit, isStable: boolean): void {
    if (visit.isDurable) return;
    if (isStable || !this.#expectsPowerCuts) visit.isDurable = true;
    else this.#unflushed.push({ visit, placedAt: this.#now });
  }

  /** Forgets what no read can show any more without a complaint. */
  #prune(sector: number): void {
    const visits = this.#of(sector);
    if (visits.length < 2) return;
    // They are in the order in which they were asked.
    const [oldest] = this.#reads;
    const oldestAskedAt = oldest?.askedAt ?? this.#now + 1;
    const settled = visits.filter(({ isDurable, provenAt }) => isDurable && provenAt < oldestAskedAt);
    const kept = visits.filter(
      (visit) =>
        !settled.some(
          (other) => other !== visit && isBefore(visit, other) && visit.lastAskedAt <= other.lastAskedAt,
        ),
    );
    if (kept.length < visits.length) this.#sectors.set(sector, kept);
  }

  #complain(kind: Complaint['kind'], sector: number, text: string): void {
    if (this.complaints.length < MOST_COMPLAINTS)
      this.complaints.push({ kind, sector, text: `sector ${sector}: ${text}` });
  }
}

function initialVisit(): Visit {
  const write: Write = {
    id: INITIAL_ID,
    writer: 0,
    firstSector: 0,
    isZeroes: true,
    latestAt: -1,
    isAcknowledged: true,
    visits: [],
  };
  return { write, provenAt: -1, lastAskedAt: -1, wasRead: false, isDurable: true };
}

/** Every time at which `visit` was in effect is before the last time at which `other` was. */
function isBefore(visit: Visit, other: Visit): boolean {
  return Math.min(visit.provenAt, visit.write.latestAt) < other.lastAskedAt;
}

type Proof = Pick<Visit, 'provenAt' | 'lastAskedAt' | 'wasRead'>;

/** What a read that shows it says of a visit. */
function seen({ provenAt, lastAskedAt, write }: Visit, askedAt: number, now: number): Proof {
  return {
    provenAt: Math.min(provenAt, now, write.latestAt),
    lastAskedAt: Math.max(lastAskedAt, askedAt),
    wasRead: true,
  };
}

/** The visit that would be both before and after this one. */
function conflict(visits: readonly Visit[], visit: Visit, proof: Proof): Visit | undefined {
  return visits.find(
    (other) => other !== visit && other.provenAt < proof.lastAskedAt && proof.provenAt < other.lastAskedAt,
  );
}

function named(value: number | 'zeroes'): string {
  return value === 'zeroes' || value === INITIAL_ID ? 'zeroes' : `write ${value}`;
}
