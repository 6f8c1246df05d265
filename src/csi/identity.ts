// The identity service: who this plugin is, what it can do at large, whether it is ready.

import { DRIVER_NAME_RULE, isDriverName } from '../core/driver-name.ts';
import { HoldfastError } from '../core/errors.ts';
import { PLUGIN_CAPABILITIES } from './capabilities.ts';
import type { IdentityService } from './messages.ts';
import { invalid } from './requests.ts';

export const DEFAULT_DRIVER_NAME = 'csi.holdfast.dev';

export interface IdentityOptions {
  readonly driverName: string;
  readonly version: string;
  /** Why calls cannot be served now; undefined: they can. */
  readonly problem: () => Promise<string | undefined>;
}

/** INVALID unless the name is one that Kubernetes and csi-sanity take: it must begin and end with a letter. */
export function requireDriverName(name: string): void {
  if (!isDriverName(name)) throw invalid(`'${name}' is no name for a CSI driver: it ${DRIVER_NAME_RULE}`);
}

export function createIdentity({ driverName, version, problem }: IdentityOptions): IdentityService {
  requireDriverName(driverName);
  return {
    async GetPluginInfo() {
      return { name: driverName, vendor_version: version };
    },
    async GetPluginCapabilities() {
      return { capabilities: PLUGIN_CAPABILITIES };
    },
    async Probe() {
      const reason = await problem();
      if (reason !== undefined) throw new HoldfastError('CONFLICT', reason);
      return { ready: { value: true } };
    },
  };
}
