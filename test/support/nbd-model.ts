// What a block device may answer while requests overlap. Each cell of a range remembers which writes
// could still show: one whose reply came before another, later one was sent is gone for good; everything
// between sending and reply is open. A read is held against that, cell by cell.
//
// The rule is that of a register with overlapping writers: a read may see write W unless some W2 began
// after W ended and ended before the read began. A trimmed cell may show zero, or go on as it was.

export interface Cell {
  /** Writes that may still show. `endedAt` is Infinity while no reply has come. */
  candidates: Candidate[];
}

interface Candidate {
  readonly value: number;
  readonly startedAt: number;
  endedAt: number;
  /** A trim: adds a possible zero and takes nothing away. */
  readonly isOptional: boolean;
}

export class CellModel {
  readonly #cells: Cell[];
  /** Logical time: every event gets its own tick, in the order in which this process saw them. */
  #now = 0;

  constructor(cellCount: number) {
    this.#cells = Array.from({ length: cellCount }, () => ({
      candidates: [{ value: 0, startedAt: -1, endedAt: -1, isOptional: false }],
    }));
  }

  /** A write of `value` to cells [from, to) is sent now. Call what is returned when its reply is there. */
  write(from: number, to: number, value: number, isOptional = false): () => void {
    this.#now += 1;
    const startedAt = this.#now;
    const written = this.#cells.slice(from, to).map((cell) => {
      const candidate: Candidate = { value, startedAt, endedAt: Infinity, isOptional };
      cell.candidates.push(candidate);
      return candidate;
    });
    return () => {
      this.#now += 1;
      for (const candidate of written) candidate.endedAt = this.#now;
    };
  }

  /** A read of cells [from, to) is sent now; call what is returned with the values it gave. Returns complaints. */
  read(from: number, to: number): (values: readonly number[]) => string[] {
    this.#now += 1;
    const startedAt = this.#now;
    // What was overwritten for good before the read began cannot show; what comes while it is under way can.
    const cells = this.#cells.slice(from, to);
    const overwritten = cells.map((cell) => gone(cell.candidates, startedAt));
    return (values) =>
      cells.flatMap((cell, index) => {
        const allowed = cell.candidates.filter((candidate) => !overwritten[index]?.has(candidate));
        const value = values[index];
        if (allowed.some((candidate) => candidate.value === value)) return [];
        const expected = allowed.map((candidate) => candidate.value).join(', ');
        return [`cell ${from + index} reads ${value}; it may read ${expected}`];
      });
  }
}

/** The candidates that no read from `time` on may see. */
function gone(candidates: readonly Candidate[], time: number): Set<Candidate> {
  const latestStart = candidates.reduce(
    (latest, { isOptional, startedAt, endedAt }) =>
      !isOptional && endedAt < time ? Math.max(latest, startedAt) : latest,
    -Infinity,
  );
  return new Set(candidates.filter((candidate) => candidate.endedAt < latestStart));
}
