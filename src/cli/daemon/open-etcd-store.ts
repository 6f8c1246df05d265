// The etcd store as the configuration describes it.

import { readFile } from 'node:fs/promises';
import { EtcdStore } from '../../control/etcd/etcd-store.ts';
import type { StorePosition } from '../../control/etcd/history-guard.ts';
import { errorText, HoldfastError } from '../../core/errors.ts';
import { type Config, optionName } from '../config-options.ts';

const ETCD_ONLY = ['storeCa', 'storeCert', 'storeKey', 'storeUser', 'storePasswordFile'] as const;

/** INVALID for options that only etcd has, and for halves of pairs. */
export function checkStoreOptions(config: Config): void {
  const flag = (key: (typeof ETCD_ONLY)[number]): string => `--${optionName(key)}`;
  const given = ETCD_ONLY.filter((key) => config[key] !== undefined);
  const [first] = given;
  if (config.store.kind === 'level' && first !== undefined) {
    throw new HoldfastError('INVALID', `${flag(first)} is for etcd: give --store etcd://HOST:PORT as well`);
  }
  const requirements = [
    ['storeCert', 'storeKey'],
    ['storeKey', 'storeCert'],
    ['storeCert', 'storeCa'],
    ['storeUser', 'storePasswordFile'],
    ['storePasswordFile', 'storeUser'],
  ] as const;
  for (const [one, other] of requirements) {
    if (config[one] !== undefined && config[other] === undefined) {
      throw new HoldfastError('INVALID', `${flag(one)} needs ${flag(other)} as well`);
    }
  }
}

/** `seen` and `evidence` as EtcdStore takes them. */
export async function openEtcdStore(
  config: Config,
  endpoints: readonly string[],
  known: { readonly seen: StorePosition | undefined; readonly evidence: string | undefined },
): Promise<EtcdStore> {
  const { storeCa: ca, storeCert: cert, storeKey: key, storeUser: name, storePasswordFile } = config;
  const user =
    name === undefined || storePasswordFile === undefined
      ? {}
      : { user: { name, password: await readPassword(storePasswordFile) } };
  return await EtcdStore.open({
    endpoints,
    prefix: config.storePrefix,
    ...(ca === undefined ? {} : { tls: { ca, cert, key } }),
    ...user,
    ...known,
  });
}

async function readPassword(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).replace(/\r?\n$/, '');
  } catch (error) {
    throw new HoldfastError('INVALID', `--store-password-file: ${path} cannot be read: ${errorText(error)}`, {
      cause: error,
    });
  }
}
