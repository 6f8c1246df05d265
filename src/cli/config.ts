// The daemon's configuration, resolved: a flag wins over the environment, that over the file, that over the
// default. Everything is checked here, once; inside, types are trusted.

import { resolve } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import { didYouMean } from '../core/nearest.ts';
import {
  type Config,
  environmentName,
  OPTION_KEYS,
  OPTIONS,
  type Option,
  type OptionKey,
  optionName,
} from './config-options.ts';
import type { PoolOption } from './config-schemas.ts';

export interface ConfigSources {
  /** By option key; undefined: not given. Lists are arrays. */
  readonly flags: Readonly<Partial<Record<OptionKey, unknown>>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly file?: { readonly path: string; readonly text: string } | undefined;
}

/** Other variables that Holdfast's own programs read. */
const OTHER_VARIABLES = [
  'HOLDFAST_CONFIG',
  'HOLDFAST_ADDON',
  'HOLDFAST_TEST',
  'HOLDFAST_TEST_FAULTS',
  'HOLDFAST_SOAK',
];
/** Kubernetes puts these into every container when a Service is called `holdfast…`. */
const KUBERNETES_SERVICE = /^HOLDFAST_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\w+)?)$/;

/** Variables of our name that no option reads; not errors, since others set variables too. */
export function unknownVariables(environment: ConfigSources['environment']): string[] {
  const known = new Set([...OPTION_KEYS.map(environmentName), ...OTHER_VARIABLES]);
  return Object.keys(environment)
    .filter((name) => name.startsWith('HOLDFAST_') && !known.has(name) && !KUBERNETES_SERVICE.test(name))
    .map((name) => `unknown variable ${name} is ignored.${didYouMean(name, known)}`);
}

function parseFile(path: string, text: string): Record<string, unknown> {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new HoldfastError('INVALID', `${path} is not JSON: ${String(error)}`, { cause: error });
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw new HoldfastError('INVALID', `${path} must hold one JSON object, like {"node-name": "a"}`);
  }
  const names = OPTION_KEYS.map(optionName);
  for (const name of Object.keys(content)) {
    if (!names.includes(name)) {
      throw new HoldfastError('INVALID', `${path}: unknown key '${name}'.${didYouMean(name, names)}`);
    }
  }
  return content as Record<string, unknown>;
}

function check(key: OptionKey, value: unknown, source: string): unknown {
  const result = OPTIONS[key].schema.safeParse(value);
  if (result.success) return result.data;
  const reasons = result.error.issues.map(({ message }) => message).join('; ');
  const given = typeof value === 'string' ? `'${value}'` : JSON.stringify(value);
  throw new HoldfastError('INVALID', `${source}: ${given}: ${reasons}`, {
    details: { option: optionName(key) },
  });
}

/**
 * HOLDFAST_API also tells commands which daemon they ask. Whoever names another data directory starts another
 * daemon, which must not listen where that one does.
 */
function isForClients(key: OptionKey, flags: ConfigSources['flags']): boolean {
  return key === 'api' && flags.dataDir !== undefined;
}

/** Throws INVALID naming the source (flag, variable or file), the value and what would be right. */
export function resolveConfig({ flags, environment, file }: ConfigSources): Config {
  const fromFile = file === undefined ? {} : parseFile(file.path, file.text);
  const resolved: Partial<Record<OptionKey, unknown>> = {};
  for (const key of OPTION_KEYS) {
    const name = optionName(key);
    const o: Option = OPTIONS[key];
    const variable = isForClients(key, flags) ? undefined : environment[environmentName(key)];
    if (flags[key] !== undefined) resolved[key] = check(key, flags[key], `--${name}`);
    else if (variable !== undefined && variable !== '') {
      const value = o.isList ? variable.split(';').filter((item) => item.trim() !== '') : variable;
      resolved[key] = check(key, value, environmentName(key));
    } else if (fromFile[name] !== undefined)
      resolved[key] = check(key, fromFile[name], `${file?.path}: ${name}`);
    else if (o.default !== undefined) {
      resolved[key] = check(
        key,
        typeof o.default === 'function' ? o.default() : o.default,
        `default of --${name}`,
      );
    }
  }
  const config = resolved as Config;
  const pools: readonly PoolOption[] = (resolved.pool as PoolOption[] | undefined) ?? [];
  return {
    ...config,
    api:
      config.api ?? check('api', resolve(config.dataDir, 'api.sock'), '--data-dir (give --api another path)'),
    pool:
      pools.length > 0
        ? [...pools]
        : [{ name: 'default', directory: resolve(config.dataDir, 'pools/default'), ioMode: undefined }],
  } as Config;
}
