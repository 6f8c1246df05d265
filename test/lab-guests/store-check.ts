// store-check.ts DIR LOGFILE: opens the level store in DIR and compares it with what store-writer.ts printed
// into LOGFILE (of one run or of several, one after the other). Every acknowledged write is there, or the next
// one of its key, which was under way; nothing is a mixture. Exits 0 and prints a line, or 1 with what is lost.

import { readFileSync } from 'node:fs';
import { LevelStore } from '../../src/control/level-store.ts';
import { KEY_COUNT, keyName, sequenceOf } from './store-pattern.ts';

export interface Acknowledged {
  identity: string | undefined;
  revision: number;
  readonly sequences: Map<string, number>;
}

/** A last line without its end was cut off while it was printed; it is not counted. */
export function readLog(text: string): Acknowledged {
  const acknowledged: Acknowledged = { identity: undefined, revision: 0, sequences: new Map() };
  for (const line of text.split('\n').slice(0, -1)) {
    const [first = '', second = '', third] = line.trim().split(' ');
    if (first === 'identity') acknowledged.identity = second;
    if (!first.startsWith('pattern/') || third === undefined) continue;
    acknowledged.sequences.set(first, Number(second));
    acknowledged.revision = Math.max(acknowledged.revision, Number(third));
  }
  return acknowledged;
}

/** What is lost or mixed up, in words; empty when all is well. */
export async function compare(directory: string, acknowledged: Acknowledged): Promise<string[]> {
  const losses: string[] = [];
  const store = await LevelStore.open(directory);
  if (acknowledged.identity !== undefined && store.identity !== acknowledged.identity) {
    losses.push(`identity was ${acknowledged.identity}, is ${store.identity}`);
  }
  const revision = await store.revision();
  if (revision < acknowledged.revision) losses.push(`revision was ${acknowledged.revision}, is ${revision}`);
  for (let index = 0; index < KEY_COUNT; index += 1) {
    const key = keyName(index);
    const entry = await store.get(key);
    const wanted = acknowledged.sequences.get(key) ?? 0;
    const found = entry === undefined ? 0 : sequenceOf(key, entry.value);
    if (found !== wanted && found !== wanted + 1) {
      losses.push(`${key}: acknowledged write ${wanted}, found ${found}`);
    }
  }
  await store.close();
  return losses;
}

if (import.meta.main) {
  const [directory, logFile] = process.argv.slice(2);
  if (directory === undefined || logFile === undefined) throw new Error('usage: store-check.ts DIR LOGFILE');
  const acknowledged = readLog(readFileSync(logFile, 'utf8'));
  const losses = await compare(directory, acknowledged);
  for (const loss of losses) console.log(`LOST ${loss}`);
  if (losses.length > 0) process.exit(1);
  console.log(`store ok: ${acknowledged.sequences.size} keys, revision ${acknowledged.revision}`);
}
