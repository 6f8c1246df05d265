// The CSI contract's own test suite against the real controller and node services, in a guest whose kernel has
// nbd. A spec whose capability is not declared is skipped, not failed; so the names of the skipped specs and the
// number run are compared with skipped-specs.json: nothing drops out of the run unnoticed.

import { existsSync } from 'node:fs';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { GIB } from '../../src/core/units.ts';
import { LabDaemon, REPOSITORY } from '../lab/daemon.ts';
import { Guest } from '../lab/guest.ts';
import { LabError, mustRun, tail } from '../lab/machine.ts';

const SANITY = join(REPOSITORY, '.cache/csi-sanity-v5.5.0/csi-sanity');
const MODE_TIMEOUT_MS = 240_000;
/** The suite creates one volume more than this. */
const MAX_VOLUMES = 3;
const CSI = '/run/csi.sock';

const specSchema = z.object({
  ContainerHierarchyTexts: z.array(z.string()).nullable(),
  LeafNodeText: z.string(),
  LeafNodeType: z.string(),
  State: z.string(),
  Failure: z.object({ Message: z.string() }).partial().optional(),
});
const reportSchema = z.array(z.object({ SpecReports: z.array(specSchema).nullable() }));
const expectedSchema = z.record(
  z.enum(['mount', 'block']),
  z.object({ run: z.number(), skipped: z.array(z.string()) }),
);

interface Outcome {
  readonly run: number;
  readonly skipped: readonly string[];
  readonly failed: readonly string[];
}

async function readOutcome(path: string): Promise<Outcome> {
  const reports = reportSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  const specs = reports
    .flatMap((report) => report.SpecReports ?? [])
    .filter((spec) => spec.LeafNodeType === 'It');
  const name = (spec: z.output<typeof specSchema>) =>
    [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ').trim();
  const isIdle = (state: string) => state === 'skipped' || state === 'pending';
  return {
    run: specs.filter((spec) => !isIdle(spec.State)).length,
    skipped: specs
      .filter((spec) => isIdle(spec.State))
      .map(name)
      .sort(),
    failed: specs
      .filter((spec) => !isIdle(spec.State) && spec.State !== 'passed')
      .map((spec) => `${name(spec)}: ${spec.Failure?.Message ?? spec.State}`),
  };
}

describe('csi-sanity v5.5.0', () => {
  let dir: string;
  let guest: Guest;
  let daemon: LabDaemon;

  beforeAll(async () => {
    if (!existsSync(SANITY)) {
      throw new LabError(
        `${SANITY} is missing: run \`sh scripts/setup.sh test:csi\` (it needs Go 1.25 or newer)`,
      );
    }
    dir = await mkdtemp(join(tmpdir(), 'holdfast-sanity-'));
    const disk = await open(join(dir, 'disk'), 'w');
    await disk.truncate(8 * GIB);
    await disk.close();
    guest = await Guest.start({
      name: 'sanity',
      memoryMib: 1024,
      disks: [join(dir, 'disk')],
      modules: ['nbd max_part=0 nbds_max=16'],
      timeoutMs: 3 * MODE_TIMEOUT_MS,
    });
    await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir -p /mnt/pool && mount /dev/ubda /mnt/pool');
    daemon = await LabDaemon.start(guest, {
      dataDir: '/mnt/pool/daemon',
      poolDir: '/mnt/pool/replicas',
      apiPath: '/run/api.sock',
      csiPath: CSI,
      flags: ['--max-volumes', String(MAX_VOLUMES)],
    });
  });

  afterAll(async () => {
    await guest?.[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });

  test.for(['mount', 'block'] as const)(
    'passes in %s mode',
    { timeout: MODE_TIMEOUT_MS + 10_000 },
    async (mode) => {
      const report = join(guest.exchangeDir, `${mode}.json`);
      const flags = {
        'csi.endpoint': CSI,
        'csi.mountdir': `/run/${mode}-target`,
        'csi.stagingdir': `/run/${mode}-staging`,
        'csi.testvolumesize': 64 * 1024 * 1024,
        'csi.testvolumeexpandsize': 128 * 1024 * 1024,
        'csi.testvolumeaccesstype': mode,
        'csi.testnodevolumeattachlimit': true,
        'ginkgo.seed': 1,
        'ginkgo.no-color': true,
        'ginkgo.json-report': report,
      };
      const argv = [SANITY, ...Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`)];
      const { stdout } = await guest.run(argv, { timeoutMs: MODE_TIMEOUT_MS });
      const outcome = await readOutcome(report).catch((error: unknown) => {
        throw new LabError(`csi-sanity left no report:\n${tail(stdout)}`, { cause: error });
      });
      if (outcome.failed.length > 0) console.log(`${stdout}\n${await daemon.log()}`);
      expect(outcome.failed).toEqual([]);
      const path = join(import.meta.dirname, 'skipped-specs.json');
      const expected = expectedSchema.parse(JSON.parse(await readFile(path, 'utf8')));
      expect({ run: outcome.run, skipped: outcome.skipped }).toEqual(expected[mode]);
    },
  );

  test('leaves no volume, no device and no mount behind, and the daemon ends in order', async () => {
    expect(await daemon.cli('volume', 'ls')).toEqual({ volumes: [] });
    await daemon.stop();
    expect(
      await mustRun(guest, "grep -c '^/dev/nbd' /proc/mounts; cat /sys/block/nbd*/pid 2>/dev/null; true"),
    ).toBe('0\n');
  });
});
