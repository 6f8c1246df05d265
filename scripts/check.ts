// `npm run check`: everything that can be said about the sources without running them. All checks run even
// when one fails, so that one call shows all there is to mend. Ends within a minute on two cores.
//   --fix   lets the formatter and the linter mend what they can, first

import { execa } from 'execa';

interface Check {
  readonly name: string;
  readonly command: readonly [string, ...string[]];
}

const CHECKS: readonly Check[] = [
  { name: 'types', command: ['tsc', '-p', 'tsconfig.json'] },
  { name: 'lint', command: ['oxlint'] },
  { name: 'format', command: ['biome', 'format', '--reporter=summary'] },
  { name: 'layers', command: ['node', 'scripts/check-layers.ts'] },
  { name: 'lockfile', command: ['node', 'scripts/complete-lock.ts', '--check'] },
  { name: 'reference pages', command: ['node', 'scripts/generate-reference.ts', '--check'] },
  { name: 'dead code', command: ['knip', '--no-progress'] },
];
const CONCURRENCY = 2;
const TIMEOUT_MS = 120_000;

const root = new URL('..', import.meta.url);

async function run([file, ...args]: readonly [string, ...string[]]): Promise<{
  ok: boolean;
  output: string;
}> {
  const result = await execa(file, args, {
    cwd: root,
    preferLocal: true,
    reject: false,
    all: true,
    stdin: 'ignore',
    timeout: TIMEOUT_MS,
  });
  const reason = result.timedOut ? `\nnot finished after ${TIMEOUT_MS / 1000} s` : '';
  return { ok: !result.failed, output: `${result.all}${reason}` };
}

async function main(): Promise<void> {
  if (process.argv.includes('--fix')) {
    await run(['oxlint', '--fix']);
    await run(['biome', 'format', '--write']);
  }
  const waiting = [...CHECKS];
  let failedCount = 0;
  const worker = async (): Promise<void> => {
    for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) {
      const started = performance.now();
      const { ok, output } = await run(check.command);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      console.log(`${ok ? 'ok    ' : 'FAILED'} ${check.name} (${seconds} s)`);
      if (!ok) {
        failedCount++;
        console.log(output.trimEnd());
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  if (failedCount > 0) console.log(`${failedCount} of ${CHECKS.length} checks failed`);
  process.exitCode = failedCount === 0 ? 0 : 1;
}

await main();
