// What happens to the copies of this node, in the log.

import type { ClusterConnection } from '../../dataplane/cluster-storage.ts';
import type { Logger } from '../../observe/log.ts';

const ENOSPC = 28;

export function reportReplica(log: Logger, event: Parameters<ClusterConnection['onReplicaEvent']>[0]): void {
  switch (event.type) {
    case 'role':
      return log.info(event, 'the part of a copy has changed');
    case 'memberAdded':
      return log.info(event, 'a copy joined the in-sync set');
    case 'memberSilent':
      return log.warn(event, 'a copy is silent');
    case 'memberDropped':
      return log.warn(event, 'a copy left the in-sync set');
    case 'heldOut':
      return log.warn(event, 'a copy leaves again and again: it is held out');
    case 'suspected':
      return log.warn(event, 'the primary is silent');
    case 'leaseOver':
      return log.warn(event, 'the lease of the primary is over, and this copy takes over');
    case 'firstIo':
      return log.info(event, 'requests are answered again');
    case 'reconciled':
      return log.info(event, 'the copies are equal after a change of the primary');
    case 'resync':
      return log.debug(event, 'a copy is being filled');
    case 'failed':
      if (event.errno === ENOSPC) return log.warn(event, 'the pool of a copy is full');
      return log.error(event, 'the disk of a copy failed');
  }
}
