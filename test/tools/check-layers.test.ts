import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-layers-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function plant(path: string, text: string): Promise<void> {
  await mkdir(dirname(join(directory, path)), { recursive: true });
  await writeFile(join(directory, path), text);
}

async function check(): Promise<{ exitCode: number | undefined; stderr: string }> {
  const options = { reject: false, timeout: 20_000 } as const;
  const { exitCode, stderr } = await execa('node', ['scripts/check-layers.ts', directory], options);
  return { exitCode, stderr };
}

test('imports that point down pass', async () => {
  await plant('core/units.ts', 'export const KIB = 1024;\n');
  await plant(
    'dataplane/a.ts',
    "import { KIB } from '../core/units.ts';\nimport { log } from '../observe/log.ts';\n",
  );
  await plant('cli/daemon/start.ts', "import { startCsiServer } from '../../csi/server.ts';\n");
  expect(await check()).toMatchObject({ exitCode: 0, stderr: '' });
});

test('an import that points up is named with file, line and both layers', async () => {
  await plant('dataplane/a.ts', "// first line\nimport type { Store } from '../control/store.ts';\n");
  const { exitCode, stderr } = await check();
  expect(exitCode).toBe(1);
  expect(stderr).toBe('dataplane/a.ts:2: ../control/store.ts: dataplane may not import control');
});

test('a dynamic import, a re-export and a thread entry are imports too', async () => {
  await plant(
    'core/a.ts',
    [
      "const late = await import('../host/mounts.ts');",
      "export { b } from '../dataplane/b.ts';",
      "new Worker(new URL('../cli/worker.ts', import.meta.url));",
    ].join('\n'),
  );
  const { stderr } = await check();
  expect(stderr.split('\n')).toEqual([
    'core/a.ts:1: ../host/mounts.ts: core may not import host',
    'core/a.ts:2: ../dataplane/b.ts: core may not import dataplane',
    'core/a.ts:3: ../cli/worker.ts: core may not import cli',
  ]);
});

test('sources import neither tests nor neighbours of the same height', async () => {
  await plant('control/a.ts', "import { helper } from '../../test/helper.ts';\n");
  await plant('csi/b.ts', "import { main } from '../cli/main.ts';\n");
  const { stderr } = await check();
  expect(stderr).toContain('sources import nothing outside src');
  expect(stderr).toContain('csi may not import cli');
});
