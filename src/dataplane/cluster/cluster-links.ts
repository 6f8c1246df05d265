// A data-plane thread's part of the cluster: its links to other daemons, who serves which volume here, and the time
// that the protocol needs.

import type { Hello } from '../../replication/frames.ts';
import { Pace } from '../../replication/pace.ts';
import { ClusterKey } from '../peers/handshake.ts';
import type { GreetedConnection, GreetedHost, LinkHost, PeerEvent, PeersHost } from '../peers/hosts.ts';
import { Peers } from '../peers/peers.ts';
import type { Thread } from '../thread.ts';
import { SharedClientLoad } from './client-load.ts';
import type { FrontendHost } from './frontend-host.ts';
import type { ReplicaHost } from './replica-host.ts';
import { ResyncPlaces } from './resync-places.ts';

export interface ClusterIdentity {
  readonly node: string;
  readonly clusterId: string;
  readonly peerKey: Uint8Array;
  readonly resyncPlaces: SharedArrayBuffer;
  readonly clientLoad: SharedArrayBuffer;
  readonly threadIndex: number;
}

export class ClusterLinks implements PeersHost {
  readonly node: string;
  readonly peers: Peers;
  readonly replicas = new Map<string, ReplicaHost>();
  readonly frontends = new Map<string, FrontendHost>();
  /** Of this node. */
  readonly resyncPlaces: ResyncPlaces;
  readonly clientLoad: SharedClientLoad;
  /** Of the thread's resyncs. */
  readonly pace: Pace;
  readonly #thread: Thread;
  #addresses: ReadonlyMap<string, string> = new Map();
  /** Ends of operations that failed at once: the core hears of them after the call that started them. */
  #ended: (() => void)[] = [];
  #isTickArmed = false;
  #isRestArmed = false;

  constructor(thread: Thread, identity: ClusterIdentity) {
    const { node, clusterId, peerKey } = identity;
    this.#thread = thread;
    this.resyncPlaces = new ResyncPlaces(identity.resyncPlaces);
    this.clientLoad = new SharedClientLoad(identity.clientLoad, identity.threadIndex);
    this.pace = new Pace(this.clientLoad);
    this.node = node;
    this.peers = new Peers(thread, {
      clusterKey: new ClusterKey(peerKey, clusterId),
      host: this,
      freeTracked: (request) => thread.sessionOf(request).freed(request),
    });
    thread.attachCluster(this);
  }

  setAddresses(addresses: ReadonlyMap<string, string>): void {
    this.#addresses = addresses;
  }

  // ---- links of the hosts

  /** True: the volume's replica is in this thread, and its link costs no socket. */
  isLocal(node: string, volumeId: string): boolean {
    return node === this.node && this.replicas.has(volumeId);
  }

  connect(host: LinkHost, node: string, volumeId: string): number {
    if (this.isLocal(node, volumeId)) return this.peers.connectLocal(host);
    // A node without an address is one that cannot be reached now: the link ends at once.
    return this.peers.connect(host, this.#addresses.get(node) ?? '');
  }

  // ---- PeersHost

  hostOf(hello: Hello): GreetedHost | undefined {
    return this.replicas.get(hello.volumeId);
  }

  handOver(connection: GreetedConnection): void {
    this.#thread.tell({ type: 'greeted', connection });
  }

  event(event: PeerEvent): void {
    this.#thread.tell({ type: 'peer', event });
  }

  // ---- the turn

  /** What has ended within the call that started it is told in this turn, but not within that call. */
  endSoon(end: () => void): void {
    this.#ended.push(end);
  }

  get hasWork(): boolean {
    return this.#ended.length > 0;
  }

  carryOut(): void {
    while (this.#ended.length > 0) {
      const ended = this.#ended;
      this.#ended = [];
      for (const end of ended) end();
    }
    if (this.pace.isAnyoneWaiting) this.#resyncTurn();
  }

  /** A resync waits until a rest is over, which a turn need not follow. */
  #resyncTurn(): void {
    const restMs = this.pace.waitMs(this.#thread.nowMs());
    if (restMs === undefined) return;
    if (restMs === 0) for (const replica of this.replicas.values()) replica.resyncTurn();
    else if (!this.#isRestArmed) {
      this.#isRestArmed = true;
      this.#thread.startRestTimer(restMs);
    }
  }

  /** The next carryOut() looks who waits. */
  restOver(): void {
    this.#isRestArmed = false;
  }

  // ---- time

  /** Ticks come while there is a replica or a frontend. */
  armTick(): void {
    if (this.#isTickArmed || (this.replicas.size === 0 && this.frontends.size === 0)) return;
    this.#isTickArmed = true;
    this.#thread.startProtocolTimer();
  }

  tick(): void {
    this.#isTickArmed = false;
    for (const replica of this.replicas.values()) replica.protocolTick();
    for (const frontend of this.frontends.values()) frontend.tick();
    this.armTick();
  }
}
