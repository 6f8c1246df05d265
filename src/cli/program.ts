// The commands: `holdfast NOUN VERB …`. Exit codes: 0, 1 (preflight found problems), and those of
// api-errors.ts (docs/cli.md).

import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { HoldfastError } from '../core/errors.ts';
import { packageFile } from '../dataplane/package-files.ts';
import { EXIT_CODE } from './api-errors.ts';
import { clientOptions } from './client-command.ts';
import { clusterCommand } from './cluster.ts';
import { daemonCommand } from './daemon.ts';
import { nodeCommand } from './node.ts';
import { reportError } from './output.ts';
import { poolCommand } from './pool.ts';
import { preflightCommand } from './preflight.ts';
import { statusCommand } from './status.ts';
import { volumeCommand } from './volume.ts';

function version(): string {
  const text = readFileSync(packageFile('package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** `holdfast volume create` */
function fullName(command: Command): string {
  return command.parent === null ? command.name() : `${fullName(command.parent)} ${command.name()}`;
}

/** Wrong usage throws instead of ending the process, in every command, and is reported as any other error. */
function throwing(command: Command, asJson: boolean): void {
  command.configureOutput({ outputError: () => undefined });
  command.exitOverride((error) => {
    const isHelp = error.code === 'commander.help';
    // Help for want of a verb goes to standard error, where --json has JSON only.
    if (error.exitCode === 0 || (isHelp && !asJson)) throw error;
    const text = isHelp
      ? 'a command is missing'
      : error.message.replace(/^error: /, '').replaceAll('\n', ' ');
    throw new HoldfastError('INVALID', `${text}; for usage: ${fullName(command)} --help`, { cause: error });
  });
  if (asJson) command.configureOutput({ writeErr: () => undefined });
  for (const child of command.commands) throwing(child, asJson);
}

/** --api and --json may also stand before the verb or the noun: the last one counts. */
function acceptEarlyOptions(program: Command): void {
  const nouns = program.commands.filter(({ commands }) => commands.length > 0);
  for (const command of [program, ...nouns]) clientOptions(command).enablePositionalOptions();
  program.hook('preAction', (_, action) => {
    for (const [name, value] of Object.entries(earlyOptions(action))) {
      const option = action.options.find((known) => known.attributeName() === name);
      if (option === undefined) {
        throw new HoldfastError(
          'INVALID',
          `--${name} is no option of this; for usage: ${fullName(action)} --help`,
        );
      }
      if (action.getOptionValueSource(name) !== 'cli') action.setOptionValueWithSource(name, value, 'cli');
    }
  });
}

function earlyOptions({ parent }: Command): Record<string, unknown> {
  return parent === null ? {} : { ...earlyOptions(parent), ...parent.opts() };
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
  acceptEarlyOptions(program);
  const asJson = process.argv.includes('--json');
  throwing(program, asJson);
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its text; help and version are no errors.
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_CODE.INVALID;
    } else process.exitCode = reportError(error, asJson);
  }
}
