// The writes that store-writer.ts makes and store-check.ts expects: the value of a key follows from the key and
// a sequence number alone, so that a mixture of two writes, or bytes of neither, cannot pass for a write.

import { createHash } from 'node:crypto';

export const KEY_COUNT = 8;

export function keyName(index: number): string {
  return `pattern/${index}`;
}

/** From a hundred bytes to some forty thousand: writes that fit a log block and writes that span several. */
export function valueAt(key: string, sequence: number): string {
  const seed = createHash('sha256').update(`${key} ${sequence}`).digest('hex');
  const repeats = sequence % 16 === 15 ? 600 : (sequence % 7) + 1;
  return JSON.stringify({ key, sequence, filler: seed.repeat(repeats) });
}

/** The sequence number of a stored value; throws unless it is exactly the value of that write. */
export function sequenceOf(key: string, value: string): number {
  const { sequence } = JSON.parse(value) as { sequence: number };
  if (value !== valueAt(key, sequence)) throw new Error(`${key} holds a mixture: ${value.slice(0, 200)}`);
  return sequence;
}
