// What may be asked of this node's storage beside NodeStorage: copies that follow the replication protocol
// (src/replication), and frontends, through which a volume is used on this node wherever its copies are. A daemon that is
// alone with its store is a cluster of one.

import type { StoredConfig, VolumeConfig } from '../replication/config.ts';
import type { ProposalOutcome, ReplicaEvent } from '../replication/ports.ts';
import type { OpeningReport } from './node-storage.ts';
import type { PeerEvent } from './peers/hosts.ts';

/** The volumes' configurations in the store. Never rejects: what went wrong is 'unknown', or no answer. */
export interface ConfigStore {
  /** Linearizable. undefined: the store did not answer. 'gone': there is no such volume any more. */
  read(volumeId: string): Promise<StoredConfig | 'gone' | undefined>;
  /** Compare-and-swap of the configuration; the rest of the volume's record stays as it is. */
  swap(volumeId: string, baseRevision: number, config: VolumeConfig): Promise<ProposalOutcome>;
}

export interface ClusterConnection {
  readonly configs: ConfigStore;
  /** Raw key for links between data planes; from ClusterKey.derive('peers'). */
  readonly peerKey: Uint8Array;
  /** The store's identity. */
  readonly clusterId: string;
  /** Higher than any number given to an earlier process of this daemon: session numbers rise with it. */
  readonly startNumber: number;
  /** Copies on other nodes that this one brings up to date at a time; of those that need everything half as many. */
  readonly resyncLimit?: number | undefined;
  readonly onReplicaEvent: (event: ReplicaEvent & { readonly volumeId: string }) => void;
  /** Of the links to other data planes. */
  readonly onPeerEvent?: ((event: PeerEvent) => void) | undefined;
}

export interface OpenFrontend {
  readonly volumeId: string;
  readonly attachmentNumber: number;
  readonly sizeBytes: number;
  /** Requests older than this fail; undefined: they wait as long as it takes. */
  readonly giveUpAfterMs?: number | undefined;
}

/** One replica as it is in this moment, for people and control loops. */
export interface ReplicaView {
  readonly volumeId: string;
  readonly replicaId: string;
  /** As in Replica: 'opening', 'following', 'changing', 'primary', 'held', 'gone', 'stopping', 'stopped'. */
  readonly state: string;
  readonly incarnation: string;
  readonly epoch: number;
  /** A primary: it serves; a secondary: it follows a primary. */
  readonly isActive: boolean;
  /** A primary: replies leave now. */
  readonly mayReply: boolean;
  readonly hasFailed: boolean;
  /** A primary: what it knows of the others. */
  readonly others: readonly {
    readonly replicaId: string;
    readonly role: string;
    readonly isConnected: boolean;
    /** undefined: nothing is being copied to it. */
    readonly resyncBytesLeft: number | undefined;
    /** Of data, by all resyncs since this primary has known the copy. */
    readonly resyncBytesSent: number;
    /** It could be filled, and others of this node are before it. */
    readonly isWaitingForTurn: boolean;
    /** In a row, each soon after it had joined. */
    readonly departureCount: number;
    /** It is flapping: not taken up for so long yet. 0: it is not held out. */
    readonly heldOutMs: number;
  }[];
}

export interface FrontendView {
  readonly volumeId: string;
  readonly attachmentNumber: number;
  /** A primary answers it. */
  readonly isConnected: boolean;
  readonly isRevoked: boolean;
  readonly hasUnanswered: boolean;
}

export interface ClusterStorage {
  /** Once, before any of the others. */
  connectCluster(connection: ClusterConnection): Promise<void>;
  /** Where the data planes of other nodes listen, by node name; HOST:PORT. Replaces what was said before. */
  setNodeAddresses(addresses: ReadonlyMap<string, string>): void;
  /** A connection from another daemon's data plane, and what was read of it already. The storage owns `fd`. */
  adoptPeer(fd: number, received: Uint8Array): void;

  /**
   * Opens this node's copy (BUSY while a dead daemon's requests may still land; NOT_FOUND, CORRUPT, IO, UNAVAILABLE) and
   * has it play its part from then on: the primary, or a secondary. Open already: nothing.
   */
  openReplica(volumeId: string): Promise<OpeningReport>;
  /** A clean stop: flushed and marked. Not open: nothing. */
  closeReplica(volumeId: string): Promise<void>;
  isReplicaOpen(volumeId: string): boolean;
  /** undefined: not open here. */
  replicaView(volumeId: string): Promise<ReplicaView | undefined>;
  /** The primary here drains and gives its place to this one. False: not now. */
  handOver(volumeId: string, toReplicaId: string): Promise<boolean>;
  /** The primary here takes this copy up, which it holds out. False: it does not, or is none. */
  readmit(volumeId: string, replicaId: string): Promise<boolean>;
  /** The volume's record has changed, or may have. */
  configChanged(volumeId: string): void;

  /**
   * The volume can be used on this node: exportUnix(), connectKernel() and counters() serve it. Open already with a
   * lower attachment: its sessions end and it begins anew.
   */
  openFrontend(frontend: OpenFrontend): Promise<void>;
  /** Sessions end; what was not answered is dropped. Not open: nothing. */
  closeFrontend(volumeId: string): Promise<void>;
  isFrontendOpen(volumeId: string): boolean;
  frontendView(volumeId: string): Promise<FrontendView | undefined>;
  /** All copies have the new size. */
  growFrontend(volumeId: string, sizeBytes: number): Promise<void>;
}
