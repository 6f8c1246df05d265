// The formats of a replica's files and their versions, in one table.
//
// A release reads a version before any release writes it: of two that follow each other each reads what the other one
// wrote, so that nodes are upgraded one by one and a node can go back. What is further apart is refused (sector.ts),
// and nothing of the copy is changed.

import type { VersionRange } from '../wire.ts';

export interface Format {
  /** For people. */
  readonly name: string;
  readonly magic: number;
  /** What is written. */
  readonly version: number;
  /** What is understood; `version` is among them. */
  readonly reads: VersionRange;
}

export const FORMATS = {
  superblock: { name: 'superblock', magic: magicOf('HFSB'), version: 2, reads: { min: 2, max: 2 } },
  intent: { name: 'intent log', magic: magicOf('HFIL'), version: 1, reads: { min: 1, max: 1 } },
  generations: { name: 'generation table', magic: magicOf('HFGT'), version: 1, reads: { min: 1, max: 1 } },
  window: { name: 'in-flight window', magic: magicOf('HFWN'), version: 1, reads: { min: 1, max: 1 } },
} as const satisfies Record<string, Format>;

export function magicOf(fourLetters: string): number {
  let magic = 0;
  for (let index = 0; index < 4; index++) magic |= fourLetters.charCodeAt(index) << (8 * index);
  return magic >>> 0;
}
