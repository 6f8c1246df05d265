// Which versions of a format are believed.

import { expect, test } from 'vitest';
import { FORMATS, type Format } from '../../../src/replication/layout/formats.ts';
import { isReadableSector, SECTOR_BYTES, sealSector } from '../../../src/replication/layout/sector.ts';

const { magic } = FORMATS.superblock;
/** Of a release that reads a version before any release writes it. */
const FORMAT: Format = { name: 'superblock', magic, version: 2, reads: { min: 2, max: 3 } };

function sectorOf(version: number): Uint8Array {
  const sector = new Uint8Array(SECTOR_BYTES);
  sealSector(sector, 0, SECTOR_BYTES, { magic, version });
  return sector;
}

test('every format writes a version that it reads', () => {
  for (const { version, reads } of Object.values(FORMATS) as readonly Format[]) {
    expect(version).toBeGreaterThanOrEqual(reads.min);
    expect(version).toBeLessThanOrEqual(reads.max);
  }
});

test('versions that are read are believed, those before and after are refused by their numbers', () => {
  for (const version of [2, 3]) {
    expect(isReadableSector(sectorOf(version), 0, SECTOR_BYTES, FORMAT)).toBe(true);
  }
  for (const version of [1, 4]) {
    expect(() => isReadableSector(sectorOf(version), 0, SECTOR_BYTES, FORMAT)).toThrow(
      expect.objectContaining({
        code: 'CORRUPT',
        message: `the superblock is of version ${version} and this Holdfast reads versions 2 to 3: start the Holdfast version that wrote it`,
      }),
    );
  }
});
