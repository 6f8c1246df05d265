// `holdfast daemon`: turns flags, environment and file into a configuration and hands over to the daemon.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { errorText, HoldfastError } from '../core/errors.ts';
import { resolveConfig } from './config.ts';
import {
  environmentName,
  OPTION_KEYS,
  OPTIONS,
  type Option,
  type OptionKey,
  optionName,
} from './config-options.ts';

function readConfigFile(path: string | undefined): { path: string; text: string } | undefined {
  if (path === undefined || path === '') return undefined;
  try {
    return { path, text: readFileSync(path, 'utf8') };
  } catch (error) {
    throw new HoldfastError('INVALID', `the configuration file cannot be read: ${errorText(error)}`, {
      cause: error,
    });
  }
}

export function daemonCommand(): Command {
  const command = new Command('daemon')
    .description('run the daemon of this node, in the foreground')
    .option('--config <file>', 'a JSON file with these options as keys (HOLDFAST_CONFIG)');
  for (const key of OPTION_KEYS) {
    const o: Option = OPTIONS[key];
    // Commander splits flags at commas and bars.
    const argument = /[ |,]/.test(o.argument) ? 'SPEC' : o.argument;
    const text = `${argument === o.argument ? '' : `${o.argument}: `}${o.text} (${environmentName(key)})`;
    const flags = `--${optionName(key)} <${argument}>`;
    if (o.isList) command.option(flags, text, (item: string, all?: string[]) => [...(all ?? []), item]);
    else command.option(flags, text);
  }
  return command.action(async (flags: Partial<Record<OptionKey, unknown>> & { config?: string }) => {
    const file = readConfigFile(flags.config ?? process.env['HOLDFAST_CONFIG']);
    const config = resolveConfig({ flags, environment: process.env, file });
    const { runDaemon } = await import('./daemon/run.ts');
    await runDaemon(config);
  });
}
