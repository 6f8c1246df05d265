// A daemon that is alone with its store: a cluster of one, which reaches nobody and is reached by nobody. Its copies are
// opened for their users and closed after them (control/served-volumes.ts).

import { drawClusterKey } from '../../control/cluster-key.ts';
import { RecordConfigs } from '../../control/config-store.ts';
import type { Store } from '../../control/store.ts';
import { VolumeRecords } from '../../control/volume-records.ts';
import type { Storage } from '../../dataplane/storage.ts';
import type { Logger } from '../../observe/log.ts';
import { reportReplica } from './report-replica.ts';

export async function serveAlone(
  store: Store,
  storage: Storage,
  startNumber: number,
  log: Logger,
): Promise<void> {
  await storage.cluster.connectCluster({
    configs: new RecordConfigs(new VolumeRecords(store)),
    peerKey: new Uint8Array(drawClusterKey().derive('peers')),
    clusterId: store.identity,
    startNumber,
    onReplicaEvent: (event) => reportReplica(log, event),
  });
}
