// `holdfast preflight`: what this machine has and lacks, each with its remedy. Needs no daemon. Exits 1 when
// something is missing without which volumes cannot be held or attached here.

import { Command } from 'commander';
import { DEFAULT_DATA_DIRECTORY } from './config-options.ts';
import { printJson, printLine } from './output.ts';
import { preflight } from './preflight-checks.ts';

async function run(options: { dir: string; json?: boolean }): Promise<void> {
  const checks = await preflight(options.dir);
  process.exitCode = checks.some(({ level }) => level === 'problem') ? 1 : 0;
  if (options.json) return printJson({ checks });
  const mark = { ok: 'ok     ', warning: 'WARNING', problem: 'PROBLEM' } as const;
  for (const { name, level, found, remedy } of checks) {
    printLine(`${mark[level]} ${name.padEnd(13)} ${found}`);
    if (remedy !== '') printLine(`${' '.repeat(22)}${remedy}`);
  }
}

export function preflightCommand(): Command {
  return new Command('preflight')
    .description('look at what this machine has and lacks for Holdfast')
    .option('--dir <dir>', 'where a pool is to be: its flushes are measured', DEFAULT_DATA_DIRECTORY)
    .option('--json', 'print JSON')
    .action(run);
}
