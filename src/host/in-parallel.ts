// Work on many things of which some may hang: a few at a time, and none keeps its place from the others for long.

import { setTimeout as sleep } from 'node:timers/promises';

export interface InParallelOptions {
  readonly limit: number;
  /** What takes longer goes on, beside the next. */
  readonly patienceMs: number;
}

/** Resolves when everything is done; rejects with the first error, when everything has begun. */
export async function inParallel<T extends {}>(
  items: Iterable<T>,
  { limit, patienceMs }: InParallelOptions,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const waiting = [...items];
  const begun: Promise<void>[] = [];
  const begin = async (): Promise<void> => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
      const done = work(item);
      begun.push(done);
      const isLong = new AbortController();
      const patience = sleep(patienceMs, undefined, { signal: isLong.signal }).catch(() => undefined);
      await Promise.race([done.catch(() => undefined), patience]);
      isLong.abort();
    }
  };
  await Promise.all(Array.from({ length: limit }, begin));
  await Promise.all(begun);
}
