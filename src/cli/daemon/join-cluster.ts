// A daemon that shares its store with others: its storage learns of the cluster, others can call it and reach its data
// plane, its copies are kept as the store wants them, and the addresses of the others are followed.
//
// A daemon without --listen and --cluster-key joins too: it keeps and serves what is on its own node, and reaches
// nobody.

import { setTimeout as sleep } from 'node:timers/promises';
import { PeerCalls } from '../../control/channel/peer-calls.ts';
import { replicaCalls } from '../../control/channel/replica-calls.ts';
import { drawClusterKey } from '../../control/cluster-key.ts';
import { RecordConfigs } from '../../control/config-store.ts';
import { Failovers } from '../../control/failovers.ts';
import { givePlaces } from '../../control/give-places.ts';
import { KeyedLock } from '../../control/keyed-lock.ts';
import type { NodeSelf } from '../../control/node-membership.ts';
import type { Nodes } from '../../control/nodes.ts';
import type { VolumeRecord } from '../../control/records.ts';
import { ReplicaKeeper } from '../../control/replica-keeper.ts';
import type { Store } from '../../control/store.ts';
import { Timelines } from '../../control/timeline.ts';
import { VolumeRecords } from '../../control/volume-records.ts';
import { errorText } from '../../core/errors.ts';
import type { Storage } from '../../dataplane/storage.ts';
import type { Logger } from '../../observe/log.ts';
import type { ClusterOptions } from './cluster-options.ts';
import { numericAddresses } from './numeric-addresses.ts';
import { listenForPeers, type Peers } from './peers.ts';
import { reportReplica } from './report-replica.ts';

const ADDRESSES_RETRY_MS = 1000;

export interface JoinClusterOptions {
  readonly store: Store;
  readonly nodes: Nodes;
  readonly self: NodeSelf;
  readonly storage: Storage;
  /** undefined: no other daemon is talked with. */
  readonly options: ClusterOptions | undefined;
  readonly startNumber: number;
  /** As ClusterConnection. */
  readonly resyncLimit: number;
  readonly log: Logger;
  readonly onBroken: (error: unknown) => void;
  /** A record as it stands now. */
  readonly onRecord: (record: VolumeRecord) => void;
}

export interface Cluster {
  /** undefined: nobody can call. */
  readonly peers: Peers | undefined;
  readonly calls: PeerCalls;
  readonly timelines: Timelines;
  readonly failovers: Failovers;
  readonly keeper: ReplicaKeeper;
  close(graceMs: number): Promise<void>;
}

/** The caller starts the keeper, when it can follow records. */
export async function joinCluster(options: JoinClusterOptions): Promise<Cluster> {
  const { store, nodes, self, storage, log } = options;
  const records = new VolumeRecords(store);
  const timelines = new Timelines();
  const failovers = new Failovers();
  const locks = new KeyedLock();
  const key = options.options?.key ?? drawClusterKey();
  const replication = storage.cluster;
  const { onBroken, onRecord } = options;
  const keeper = new ReplicaKeeper({
    node: self.name,
    records,
    storage,
    replication,
    locks,
    log,
    onBroken,
    onRecord,
  });
  const handlers = replicaCalls({
    self,
    storage,
    records,
    locks,
    replication,
    timelines,
    problemWith: (volumeId) => keeper.problemWith(volumeId),
    onMade: (volumeId) => keeper.look(volumeId),
  });

  await replication.connectCluster({
    configs: new RecordConfigs(records),
    peerKey: new Uint8Array(key.derive('peers')),
    clusterId: store.identity,
    startNumber: options.startNumber,
    resyncLimit: options.resyncLimit,
    onReplicaEvent: (event) => {
      timelines.note(event);
      failovers.note(event);
      reportReplica(log, event);
    },
    onPeerEvent: (event) => {
      if (event.type === 'refused') log.warn(event, 'a link between data planes was refused');
      else log.debug(event, 'a link to another data plane');
    },
  });
  const adoptPeer = (fd: number, received: Uint8Array): void => replication.adoptPeer(fd, received);
  const peers =
    options.options && (await listenForPeers(options.options, { store, self, handlers, adoptPeer, log }));
  const calls = new PeerCalls({ self: self.name, handlers, nodes, key, cluster: store.identity });
  const following = new AbortController();
  const followed = followAddresses(nodes, storage, log, following.signal);

  return {
    peers,
    calls,
    timelines,
    failovers,
    keeper,
    async close(graceMs) {
      following.abort();
      await keeper.close();
      await givePlaces(replication, keeper.openVolumeIds(), log);
      calls.close();
      await peers?.close(graceMs);
      await followed;
    },
  };
}

/** Never rejects. */
async function followAddresses(
  nodes: Nodes,
  storage: Storage,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  let hadTrouble = false;
  while (!signal.aborted) {
    try {
      for await (const addresses of nodes.addresses(signal)) {
        hadTrouble = false;
        storage.cluster.setNodeAddresses(await numericAddresses(addresses, log));
      }
    } catch (error) {
      // Once a trouble, not once a second.
      if (!hadTrouble && !signal.aborted)
        log.warn({ reason: errorText(error) }, 'the addresses of other nodes cannot be followed');
      hadTrouble = true;
    }
    await sleep(ADDRESSES_RETRY_MS, undefined, { signal, ref: false }).catch(() => undefined);
  }
}
