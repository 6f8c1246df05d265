// What bench/nbd.ts measured, and what it makes of it.

import Table from 'cli-table3';
import type { Figures, Job } from './fio.ts';
import { median } from './statistics.ts';

export type Mode = 'buffered' | 'direct';
export type Placement = 'free' | 'pinned';

export interface NbdJob extends Job {
  /** Ours over the best peer, by requests a second (at depth 1 that is the inverse of the mean latency). */
  readonly goal: number;
}

export interface Sample extends Figures {
  readonly cpuMicrosPerRequest: number;
}

export interface Result {
  readonly mode: Mode;
  readonly placement: Placement;
  readonly job: string;
  readonly server: string;
  /** One a round: those of the same round were taken one right after the other. */
  readonly rounds: Sample[];
}

export const OURS = 'holdfast';
export const OURS_MANY = 'holdfast, 4 volumes';
/** The same job on a file, without any server. Neither ours nor a peer: it is the ceiling. */
export const DISK = 'the disk alone';

export interface Verdict {
  readonly mode: Mode;
  readonly placement: Placement;
  readonly what: string;
  readonly ratio: number;
  readonly goal: number;
  /** What a server that costs nothing would have reached, where that is known. */
  readonly ceiling: number | undefined;
}

export class Results {
  readonly all: Result[] = [];

  add(mode: Mode, placement: Placement, job: string, server: string, sample: Sample): void {
    const found = this.of(mode, placement, job).find((result) => result.server === server);
    if (found === undefined) this.all.push({ mode, placement, job, server, rounds: [sample] });
    else found.rounds.push(sample);
  }

  of(mode: Mode, placement: Placement, job: string): Result[] {
    return this.all.filter(
      (result) => result.mode === mode && result.placement === placement && result.job === job,
    );
  }

  verdicts(jobs: readonly NbdJob[]): Verdict[] {
    const places = new Map(
      this.all.map(({ mode, placement }) => [`${mode} ${placement}`, { mode, placement }]),
    );
    return [...places.values()].flatMap((place) =>
      jobs.flatMap((job) => {
        const here = this.of(place.mode, place.placement, job.name);
        const find = (name: string): Result[] => here.filter(({ server }) => server === name);
        const [ours] = find(OURS);
        const [many] = find(OURS_MANY);
        const [disk] = find(DISK);
        const peers = here.filter((result) => result !== ours && result !== many && result !== disk);
        const verdicts: Verdict[] = [];
        if (ours !== undefined && peers.length > 0) {
          const ceiling = disk === undefined ? undefined : ratioOf(disk, peers);
          const what = `${job.name} / best peer`;
          verdicts.push({ ...place, what, ratio: ratioOf(ours, peers), goal: job.goal, ceiling });
        }
        if (ours !== undefined && many !== undefined) {
          const what = `${job.name}, 4 volumes / 1`;
          verdicts.push({ ...place, what, ratio: ratioOf(many, [ours]), goal: 1, ceiling: undefined });
        }
        return verdicts;
      }),
    );
  }
}

/** Round by round, one over the best of the others; the median of that. */
function ratioOf(result: Result, others: readonly Result[]): number {
  const iops = (of: Result, round: number): number => of.rounds[round]?.iops ?? Number.NaN;
  return median(
    result.rounds.map(
      (_, round) => iops(result, round) / Math.max(...others.map((other) => iops(other, round))),
    ),
  );
}

export function printJob(results: readonly Result[]): void {
  const ours = results.find(({ server }) => server === OURS);
  if (ours === undefined) return;
  const table = new Table({
    head: ['', 'IOPS', 'MB/s', 'p50 µs', 'p99 µs', 'CPU µs/request', 'ours / this'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  });
  for (const result of results) {
    const middle = (pick: (sample: Sample) => number, digits = 0): string =>
      median(result.rounds.map(pick)).toFixed(digits);
    const isOurs = result === ours || result.server === OURS_MANY;
    table.push([
      result.server,
      middle((sample) => sample.iops),
      middle((sample) => sample.megabytesPerSecond),
      middle((sample) => sample.p50Micros, 1),
      middle((sample) => sample.p99Micros, 1),
      result.server === DISK ? '' : middle((sample) => sample.cpuMicrosPerRequest, 1),
      isOurs ? '' : ratioOf(ours, [result]).toFixed(2),
    ]);
  }
  const { job, mode, placement, rounds } = ours;
  console.log(`\n${job}, ${mode}, ${placement}: medians of ${rounds.length} rounds`);
  console.log(table.toString());
}

export function printVerdicts(verdicts: readonly Verdict[]): void {
  const table = new Table({
    head: ['', '', '', 'ratio', 'goal', '', 'disk alone'],
    style: { head: [], border: [], compact: true },
    colAligns: ['left', 'left', 'left', 'right', 'right', 'left', 'right'],
  });
  for (const { mode, placement, what, ratio, goal, ceiling } of verdicts) {
    const verdict = ratio >= goal ? 'met' : 'NOT MET';
    table.push([
      mode,
      placement,
      what,
      ratio.toFixed(2),
      goal.toFixed(1),
      verdict,
      ceiling?.toFixed(2) ?? '',
    ]);
  }
  console.log('\nGoals (medians of the ratios of each round)');
  console.log(table.toString());
}
