// The hot extents of a Welcome: [first, count, first, count, …] in ascending order.
//
// Invariants: whatever is hot fits a message; the receiver gets every extent that was given, in ascending order
// and once, and perhaps others: to take a cold extent for hot costs time, never data.

import { EXTENT_BYTES, MAX_VOLUME_BYTES } from '../core/units.ts';
import { list, refuse, whole } from './wire-checks.ts';

export const MAX_EXTENTS = MAX_VOLUME_BYTES / EXTENT_BYTES;
/** Half a message's room at most. */
export const MAX_HOT_RUNS = 32_768;

/**
 * A large volume under random writes has more hot extents than a message has room for: then the gaps between
 * runs are filled, smallest first.
 */
export function runsOf(extents: readonly number[]): readonly number[] {
  const sorted = Uint32Array.from(extents).sort();
  for (let reach = 1; ; reach *= 2) {
    const runs = joined(sorted, reach);
    if (runs !== undefined) return runs;
  }
}

/**
 * An extent less than `reach` behind the end of a run is of that run, and so is what lies between. undefined:
 * too many runs.
 */
function joined(sorted: Uint32Array, reach: number): number[] | undefined {
  const runs: number[] = [];
  let first = 0;
  let end = 0;
  for (const extent of sorted) {
    if (end === 0 || extent >= end + reach) {
      if (end > 0) runs.push(first, end - first);
      if (runs.length >= 2 * MAX_HOT_RUNS) return undefined;
      first = extent;
    }
    end = extent + 1;
  }
  if (end > 0) runs.push(first, end - first);
  return runs;
}

const runNumbers = list(whole(0, MAX_EXTENTS), 2 * MAX_HOT_RUNS);

/** Checks what runsOf() made, as wire-checks.ts does. */
export function hotExtents(value: unknown, where: string): readonly number[] {
  const runs = runNumbers(value, where);
  const extents: number[] = [];
  let end = 0;
  for (let index = 0; index < runs.length; index += 2) {
    const first = runs[index] ?? 0;
    const next = first + (runs[index + 1] ?? 0);
    if (first < end || next <= first || next > MAX_EXTENTS) refuse(where, value, 'a list of rising runs');
    for (let extent = first; extent < next; extent++) extents.push(extent);
    end = next;
  }
  return extents;
}
