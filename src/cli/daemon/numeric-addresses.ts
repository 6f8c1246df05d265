// Addresses as rings connect to them: numbers, where a node may have advertised a name.

import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { errorText } from '../../core/errors.ts';
import type { Logger } from '../../observe/log.ts';

/** Those whose name means nothing now are left out: their node cannot be reached, and the log says why. */
export async function numericAddresses(
  addresses: ReadonlyMap<string, string>,
  log: Logger,
): Promise<Map<string, string>> {
  const numeric = new Map<string, string>();
  for (const [node, address] of addresses) {
    const colon = address.lastIndexOf(':');
    const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
    const port = address.slice(colon + 1);
    try {
      const found = isIP(host) === 0 ? (await lookup(host)).address : host;
      numeric.set(node, isIP(found) === 6 ? `[${found}]:${port}` : `${found}:${port}`);
    } catch (error) {
      log.warn(
        { node, address, reason: errorText(error) },
        'the name that a node advertises cannot be resolved',
      );
    }
  }
  return numeric;
}
