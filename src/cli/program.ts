// The commands: `holdfast NOUN VERB …`. Exit codes: 0, 1 (preflight found problems), and those of
// api-errors.ts (docs/cli.md).

import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { EXIT_CODE } from './api-errors.ts';
import { clusterCommand } from './cluster.ts';
import { daemonCommand } from './daemon.ts';
import { nodeCommand } from './node.ts';
import { reportError } from './output.ts';
import { poolCommand } from './pool.ts';
import { preflightCommand } from './preflight.ts';
import { statusCommand } from './status.ts';
import { volumeCommand } from './volume.ts';

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Wrong usage throws instead of ending the process, in every command. */
function throwing(command: Command): void {
  command.exitOverride();
  for (const child of command.commands) throwing(child);
}

/** Runs the command line; sets the exit code. */
export async function runProgram(): Promise<void> {
  const program = new Command('holdfast')
    .description('Replicated block storage that keeps databases running when nodes die')
    .version(version())
    .addCommand(daemonCommand())
    .addCommand(volumeCommand())
    .addCommand(poolCommand())
    .addCommand(nodeCommand())
    .addCommand(clusterCommand())
    .addCommand(statusCommand())
    .addCommand(preflightCommand());
  throwing(program);
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its text; help and version are no errors.
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_CODE.INVALID;
    } else process.exitCode = reportError(error, process.argv.includes('--json'));
  }
}
