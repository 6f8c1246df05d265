// What the main thread and a data-plane thread say to each other about the replicas and frontends of a cluster.
// Plain data: it is cloned on the way.

import type { StoredConfig, VolumeConfig } from '../../replication/config.ts';
import type { Superblock } from '../../replication/layout/superblock.ts';
import type { WindowEntry } from '../../replication/layout/window.ts';
import type { ProposalOutcome, ReplicaEvent } from '../../replication/ports.ts';
import type { GreetedConnection, PeerEvent } from '../peers/hosts.ts';

export interface OpenReplicaMessage {
  /** Of this opening: what is answered to an earlier one is not taken for an answer to it. */
  readonly instance: number;
  readonly volumeId: string;
  readonly replicaId: string;
  readonly pool: string;
  readonly ioMode: 'direct' | 'buffered';
  readonly reserveBytes: number;
  /** Of the machine. */
  readonly bootId: string;
  /** What the window belongs to: see WindowFiles. */
  readonly windowOwner: string;
  /** As its last process left it. */
  readonly superblock: Superblock;
  readonly hotBits: Uint8Array;
  readonly windowEntries: readonly WindowEntry[] | 'unknown';
  /** The thread uses these until it has answered 'closeReplica'; the main thread owns and closes them. */
  readonly dataFd: number;
  readonly intentFd: number;
  readonly generationsFd: number;
  readonly windowFd: number;
}

export interface OpenFrontendMessage {
  readonly instance: number;
  readonly volumeId: string;
  readonly attachmentNumber: number;
  readonly firstSession: number;
  readonly sizeBytes: number;
  readonly giveUpAfterMs: number | undefined;
}

/** Who asked for the configuration. */
export type Asker = 'replica' | 'frontend';

export type ClusterCommand =
  /** Before any other of these. */
  | {
      readonly type: 'joinCluster';
      readonly node: string;
      readonly clusterId: string;
      readonly peerKey: Uint8Array;
      /** Shared by all threads of the node: see ResyncPlaces. */
      readonly resyncPlaces: SharedArrayBuffer;
      /** The same: see SharedClientLoad. */
      readonly clientLoad: SharedArrayBuffer;
      readonly threadIndex: number;
    }
  /** Every replica and frontend must be closed before. Answers when no link is left. */
  | { readonly type: 'leaveCluster' }
  | { readonly type: 'addresses'; readonly addresses: ReadonlyMap<string, string> }
  /** A connection of another daemon, and what was read of it. The thread owns `fd`. */
  | { readonly type: 'adoptPeer'; readonly fd: number; readonly received: Uint8Array }
  /** One that another thread has accepted. The thread owns its descriptor. */
  | { readonly type: 'adoptGreeted'; readonly connection: GreetedConnection }
  | { readonly type: 'openReplica'; readonly open: OpenReplicaMessage }
  /** Answers when nothing refers to the files any more: true if the clean mark is on the disk. */
  | { readonly type: 'closeReplica'; readonly volumeId: string }
  /** Its superblock could not be written. */
  | { readonly type: 'failReplica'; readonly volumeId: string; readonly errno: number }
  | { readonly type: 'replicaGrown'; readonly volumeId: string; readonly sizeBytes: number }
  | { readonly type: 'replicaView'; readonly volumeId: string }
  | { readonly type: 'handOver'; readonly volumeId: string; readonly toReplicaId: string }
  | { readonly type: 'readmit'; readonly volumeId: string; readonly replicaId: string }
  | { readonly type: 'storeChanged'; readonly volumeId: string }
  /** The outcome of a 'superblock' event. */
  | {
      readonly type: 'superblockDone';
      readonly volumeId: string;
      readonly instance: number;
      readonly errno: number;
    }
  /** The answer to a 'readConfig' event. */
  | {
      readonly type: 'configRead';
      readonly volumeId: string;
      readonly instance: number;
      readonly asker: Asker;
      readonly stored: StoredConfig | 'gone' | undefined;
    }
  /** The outcome of a 'propose' event. */
  | {
      readonly type: 'proposed';
      readonly volumeId: string;
      readonly instance: number;
      readonly proposal: number;
      readonly outcome: ProposalOutcome;
    }
  | { readonly type: 'openFrontend'; readonly open: OpenFrontendMessage }
  | { readonly type: 'closeFrontend'; readonly volumeId: string }
  | { readonly type: 'frontendView'; readonly volumeId: string }
  | { readonly type: 'growFrontend'; readonly volumeId: string; readonly sizeBytes: number };

/** Said without being asked. */
export type ClusterEvent =
  | {
      readonly type: 'readConfig';
      readonly volumeId: string;
      readonly instance: number;
      readonly asker: Asker;
    }
  | {
      readonly type: 'propose';
      readonly volumeId: string;
      readonly instance: number;
      readonly proposal: number;
      readonly baseRevision: number;
      readonly config: VolumeConfig;
    }
  | {
      readonly type: 'superblock';
      readonly volumeId: string;
      readonly instance: number;
      readonly superblock: Superblock;
    }
  | { readonly type: 'replica'; readonly volumeId: string; readonly event: ReplicaEvent }
  /** A connection for a volume that is not in this thread. Whoever hears it owns the descriptor. */
  | { readonly type: 'greeted'; readonly connection: GreetedConnection }
  | { readonly type: 'peer'; readonly event: PeerEvent };

const EVENTS: ReadonlySet<string> = new Set<ClusterEvent['type']>([
  'readConfig',
  'propose',
  'superblock',
  'replica',
  'greeted',
  'peer',
]);

export function isClusterEvent(event: { readonly type: string }): event is ClusterEvent {
  return EVENTS.has(event.type);
}
