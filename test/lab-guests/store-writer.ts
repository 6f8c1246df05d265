// store-writer.ts DIR: writes to the level store in DIR for ever, several keys at once, and prints a line for
// every acknowledged write: "KEY SEQUENCE REVISION". The line before them is "identity HEX". What a run finds of
// an earlier one it prints as well: a write whose answer was cut off is settled once it has been read.
// To be killed, or to lose its power, at any moment; store-check.ts tells whether what it printed is there.
//
// HOLDFAST_TEST_UNSYNCED_STORE=1 leaves the flushes out, so that a test of power cuts can prove itself.

import { writeSync } from 'node:fs';
import { LevelStore } from '../../src/control/level-store.ts';
import { KEY_COUNT, keyName, sequenceOf, valueAt } from './store-pattern.ts';

const [directory] = process.argv.slice(2);
if (directory === undefined) throw new Error('usage: store-writer.ts DIR');

const store = await LevelStore.open(directory, { sync: process.env['HOLDFAST_TEST_UNSYNCED_STORE'] !== '1' });
writeSync(1, `identity ${store.identity}\n`);

async function writeKey(key: string): Promise<never> {
  const entry = await store.get(key);
  let revision = entry?.revision ?? 0;
  let sequence = entry === undefined ? 0 : sequenceOf(key, entry.value);
  for (;;) {
    if (revision > 0) writeSync(1, `${key} ${sequence} ${revision}\n`);
    sequence += 1;
    const result = await store.compareAndSwap(key, revision, valueAt(key, sequence));
    if (!result.swapped) throw new Error(`${key} was changed by somebody else`);
    revision = result.revision;
  }
}

await Promise.all(Array.from({ length: KEY_COUNT }, async (_, index) => await writeKey(keyName(index))));
