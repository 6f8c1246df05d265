import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import { countReport } from '../../scripts/test-report.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Runs vitest on files with these texts, and counts what it reports. */
async function report(files: Readonly<Record<string, string>>): Promise<ReturnType<typeof countReport>> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-report-'));
  try {
    const imports = `import { afterAll, expect, test } from '${root}node_modules/vitest/dist/index.js';\n`;
    for (const [name, text] of Object.entries(files))
      await writeFile(join(directory, `${name}.test.mjs`), imports + text);
    const output = join(directory, 'report.json');
    const args = ['run', '--root', directory, '--reporter', 'json', '--outputFile.json', output];
    const command = [join(root, 'node_modules/vitest/vitest.mjs'), ...args];
    await execa(process.execPath, command, { cwd: directory, reject: false, timeout: 25_000 });
    return countReport(await readFile(output, 'utf8'), directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

test('what failed is counted and named, be it a test, a file beside its tests, or one that does not load', async () => {
  const { passed, failed, failures } = await report({
    'a-good': `test('one', () => {});`,
    'b-test': `test('one', () => {}); test('two', () => { throw null; });`,
    'c-hook': `test('one', () => {}); afterAll(() => { throw new Error('left something behind'); });`,
    'd-load': `throw new Error('no such thing');`,
    'e-skip': `test.skip('one', () => {});`,
  });
  expect({ passed, failed }).toEqual({ passed: 3, failed: 4 });
  expect(failures.toSorted()).toEqual([
    expect.stringContaining('b-test.test.mjs > two: '),
    expect.stringMatching(/^c-hook.test.mjs: failed beside its tests: .*left something behind/),
    expect.stringMatching(/^d-load.test.mjs: not loaded: .*no such thing/),
    'e-skip.test.mjs > one: skipped',
  ]);
});
