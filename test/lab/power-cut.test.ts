// Power cuts on a disk that forgets what was not flushed. First the rig proves itself on another project's
// server, honest and not; then the daemon has to pass, and to fail with each of its flushes switched off.

import { describe, expect, test } from 'vitest';
import { type Fault, HoldfastTarget } from './power-cut/holdfast.ts';
import { onFileSystem } from './power-cut/on-file-system.ts';
import { PowerCutRig, type RigOptions, type RoundReport } from './power-cut/rig.ts';
import { standIn } from './power-cut/stand-in.ts';

const IS_SOAK = process.env['HOLDFAST_SOAK'] !== undefined;
const SEED = Number(process.env['HOLDFAST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
/** A cut and the boot after it, on a busy machine. */
const ROUND_MS = 60_000;

/** Cuts until something is wrong or enough cuts were survived; the last boot is checked as well. */
async function cutAndCheck(options: RigOptions, cutCount: number): Promise<RoundReport[]> {
  await using rig = await PowerCutRig.create(options);
  const reports: RoundReport[] = [];
  while (reports.length <= cutCount && !reports.some((report) => report.violations.length > 0)) {
    reports.push(reports.length < cutCount ? await rig.round() : await rig.finalCheck());
  }
  return reports;
}

/** The rule that each switched-off flush must be seen to break. */
const BROKEN_RULES: Readonly<Record<Fault, string>> = {
  'no-data-flush': 'what an acknowledged flush covered',
  'no-intent-flush': 'a cold extent is on stable storage',
  'no-store-sync': 'was answered and is gone',
};
const MAX_CUTS_TO_NOTICE = 10;

function violations(reports: readonly RoundReport[]): string[] {
  return reports.flatMap((report) => report.violations);
}

describe('the power-cut rig', () => {
  const cuts = IS_SOAK ? 10 : 3;
  test('lets an honest server pass', { timeout: (cuts + 1) * ROUND_MS }, async () => {
    const reports = await cutAndCheck({ target: standIn('none'), seed: SEED, fileSystem: 'xfs' }, cuts);
    expect(violations(reports).slice(0, 20)).toEqual([]);
    expect(reports.reduce((sum, report) => sum + report.flushes, 0)).toBeGreaterThan(0);
  });

  test('catches a server that ignores flushes', { timeout: 11 * ROUND_MS }, async () => {
    const reports = await cutAndCheck({ target: standIn('unsafe'), seed: SEED }, 10);
    expect(violations(reports).join('\n')).toContain('what an acknowledged flush covered');
  });
});

describe('the daemon under power cuts', () => {
  const cuts = IS_SOAK ? 30 : 4;
  const cases = [
    { use: 'on the raw device, its pool on ext4', target: new HoldfastTarget(), fileSystem: 'ext4' },
    {
      use: 'in a file of ext4 on the device, its pool on xfs',
      target: onFileSystem(new HoldfastTarget()),
      fileSystem: 'xfs',
    },
  ] as const;
  test.for(cases)(
    'loses nothing that was flushed or answered, written $use',
    { timeout: (cuts + 1) * ROUND_MS },
    async ({ use, target, fileSystem }) => {
      const reports = await cutAndCheck({ target, seed: SEED, fileSystem }, cuts);
      expect(violations(reports).slice(0, 20)).toEqual([]);
      const flushes = reports.reduce((sum, report) => sum + report.flushes, 0);
      const lost = reports.reduce((sum, report) => sum + report.cut.lostPieces, 0);
      console.log(`${cuts} cuts, written ${use}: ${flushes} flushes, ${lost} unflushed sectors lost`);
      expect(flushes).toBeGreaterThan(0);
    },
  );

  test.for(Object.keys(BROKEN_RULES) as Fault[])(
    'is caught within ten cuts with %s',
    { timeout: (MAX_CUTS_TO_NOTICE + 1) * ROUND_MS },
    async (fault) => {
      const reports = await cutAndCheck(
        { target: new HoldfastTarget(fault), seed: SEED },
        MAX_CUTS_TO_NOTICE,
      );
      console.log(`${fault}: caught after ${reports.length - 1} cuts`);
      expect(violations(reports).join('\n')).toContain(BROKEN_RULES[fault]);
    },
  );
});
