// The options by which a daemon talks with others, checked together: nothing listens without a key, and others
// are never told an address that leads nowhere.

import { ClusterKey } from '../../control/cluster-key.ts';
import { HoldfastError } from '../../core/errors.ts';
import type { Config } from '../config-options.ts';
import type { HostPort } from '../config-schemas.ts';

export interface ClusterOptions {
  readonly listen: HostPort;
  /** undefined: what is listened on. */
  readonly advertise: HostPort | undefined;
  readonly key: ClusterKey;
}

const ALL_ADDRESSES = ['0.0.0.0', '::'];

/**
 * undefined: this daemon talks with no other, and listens nowhere. `--listen` without a key is a warning, so that a
 * daemon whose key is not there yet serves its own volumes. INVALID for other halves.
 */
export async function readClusterOptions(
  config: Config,
  warn: (text: string) => void,
): Promise<ClusterOptions | undefined> {
  const { listen, advertise, clusterKey } = config;
  if (listen === undefined) {
    const given = advertise === undefined ? clusterKey && '--cluster-key' : '--advertise';
    if (given === undefined) return undefined;
    throw new HoldfastError('INVALID', `${given} is for a daemon that others reach: give --listen as well`);
  }
  if (clusterKey === undefined) {
    warn(
      'no other daemon can reach this one: --listen needs --cluster-key FILE, and without it nothing listens there; ' +
        'make the key once with "holdfast cluster keygen FILE", copy it to every node, and start the daemon with it',
    );
    return undefined;
  }
  const shown = advertise?.host ?? listen.host;
  if (ALL_ADDRESSES.includes(shown)) {
    throw new HoldfastError(
      'INVALID',
      `others cannot reach this daemon at ${shown}: give --advertise HOST:PORT with an address of this node`,
    );
  }
  return { listen, advertise, key: await ClusterKey.read(clusterKey) };
}
