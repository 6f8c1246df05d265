// Whether two paths name one directory, through a symbolic link or a bind mount, though it may not be there yet.
// Only looks, and not for long: a path that does not answer is taken for a place of its own.

import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { hasErrno } from './durable-files.ts';
import { inTime } from './in-time.ts';

/** The first two of the paths that are one place; undefined: all are different. */
export async function findSamePlace(
  paths: readonly string[],
  limitMs: number,
): Promise<[string, string] | undefined> {
  const places = await Promise.all(
    paths.map((path) =>
      inTime(placeOf(resolve(path)), limitMs, () => new Error(`${path} does not answer`)).catch(
        () => undefined,
      ),
    ),
  );
  for (const [index, place] of places.entries()) {
    const first = places.indexOf(place);
    if (place !== undefined && first < index) return [paths[first] ?? '', paths[index] ?? ''];
  }
  return undefined;
}

/** Of a path that is not there: its nearest directory that is, and the way on from it. */
async function placeOf(path: string): Promise<string> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch (error) {
    if (!hasErrno(error, 'ENOENT') || dirname(path) === path) throw error;
    return join(await placeOf(dirname(path)), basename(path));
  }
}
