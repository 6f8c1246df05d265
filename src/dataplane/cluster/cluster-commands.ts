// Carries out, in a data-plane thread, what the main thread says about the replicas and frontends of a cluster.

import { HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import type { Thread } from '../thread.ts';
import type { Answer, ThreadCommands } from '../thread-commands.ts';
import { ClusterLinks } from './cluster-links.ts';
import { FrontendHost } from './frontend-host.ts';
import type { ClusterCommand, OpenFrontendMessage, OpenReplicaMessage } from './messages.ts';
import { ReplicaHost } from './replica-host.ts';

export const CLUSTER_COMMANDS: ReadonlySet<string> = new Set<ClusterCommand['type']>([
  'joinCluster',
  'leaveCluster',
  'addresses',
  'adoptPeer',
  'adoptGreeted',
  'openReplica',
  'closeReplica',
  'failReplica',
  'replicaGrown',
  'replicaView',
  'handOver',
  'readmit',
  'storeChanged',
  'superblockDone',
  'configRead',
  'proposed',
  'openFrontend',
  'closeFrontend',
  'frontendView',
  'growFrontend',
]);

const NO_REPLICAS: ReadonlyMap<string, ReplicaHost> = new Map();

export class ClusterCommands {
  readonly #thread: Thread;
  readonly #commands: ThreadCommands;
  #joined: ClusterLinks | undefined;

  constructor(thread: Thread, commands: ThreadCommands) {
    this.#thread = thread;
    this.#commands = commands;
  }

  get replicas(): ReadonlyMap<string, ReplicaHost> {
    return this.#joined?.replicas ?? NO_REPLICAS;
  }

  /** Answers later, or at once. Throws what the caller is to be told. */
  handle(command: ClusterCommand, answer: Answer): void {
    switch (command.type) {
      case 'leaveCluster':
        this.#leave(answer);
        return;
      case 'closeReplica':
        this.#closeReplica(command.volumeId, answer);
        return;
      case 'closeFrontend':
        this.#closeFrontend(command.volumeId, answer);
        return;
      case 'replicaView':
        answer({ value: this.#joined?.replicas.get(command.volumeId)?.view() });
        return;
      case 'frontendView':
        answer({ value: this.#joined?.frontends.get(command.volumeId)?.view() });
        return;
      case 'handOver':
        answer({ value: this.#replica(command.volumeId)?.replica.handOver(command.toReplicaId) ?? false });
        return;
      case 'readmit':
        answer({ value: this.#replica(command.volumeId)?.replica.readmit(command.replicaId) ?? false });
        return;
      case 'joinCluster':
        invariant(this.#joined === undefined, 'a thread joins one cluster, once');
        this.#joined = new ClusterLinks(this.#thread, command);
        break;
      case 'addresses':
        this.#cluster.setAddresses(command.addresses);
        break;
      case 'adoptPeer':
        this.#cluster.peers.adoptRaw(command.fd, command.received);
        break;
      case 'adoptGreeted':
        this.#cluster.peers.adopt(command.connection);
        break;
      case 'openReplica':
        this.#openReplica(command.open);
        break;
      case 'openFrontend':
        this.#openFrontend(command.open);
        break;
      case 'failReplica':
        this.#replica(command.volumeId)?.replica.copy.fail('superblock', command.errno);
        break;
      case 'replicaGrown':
        this.#replica(command.volumeId)?.replica.grow(command.sizeBytes);
        break;
      case 'growFrontend': {
        const frontend = this.#cluster.frontends.get(command.volumeId);
        if (frontend !== undefined) frontend.sizeBytes = Math.max(frontend.sizeBytes, command.sizeBytes);
        break;
      }
      case 'storeChanged':
        this.#replica(command.volumeId)?.replica.storeChanged();
        this.#cluster.frontends.get(command.volumeId)?.storeChanged();
        break;
      // What was asked for a replica or frontend that is gone, perhaps with another in its place, concerns nobody.
      case 'superblockDone':
        this.#asker(command)?.superblockDone(command.errno);
        break;
      case 'configRead': {
        const { volumeId, instance, stored } = command;
        if (command.asker === 'replica') {
          this.#asker(command)?.replica.configRead(stored);
          break;
        }
        const frontend = this.#cluster.frontends.get(volumeId);
        if (frontend?.instance === instance) frontend.configRead(stored === 'gone' ? undefined : stored);
        break;
      }
      case 'proposed':
        this.#asker(command)?.replica.proposed(command.proposal, command.outcome);
        break;
    }
    answer({ value: undefined });
  }

  #leave(answer: Answer): void {
    const { peers } = this.#cluster;
    peers.stop();
    this.#commands.begin(() => {
      if (!peers.isIdle) return false;
      answer({ value: undefined });
      return true;
    });
  }

  get #cluster(): ClusterLinks {
    invariant(this.#joined !== undefined, 'the thread is a part of the cluster first');
    return this.#joined;
  }

  #replica(volumeId: string): ReplicaHost | undefined {
    return this.#cluster.replicas.get(volumeId);
  }

  #asker({ volumeId, instance }: { volumeId: string; instance: number }): ReplicaHost | undefined {
    const host = this.#replica(volumeId);
    return host?.instance === instance ? host : undefined;
  }

  // ---- replicas

  #openReplica(message: OpenReplicaMessage): void {
    if (this.#thread.faults.stuckThread) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    const cluster = this.#cluster;
    const index = this.#thread.freeVolumeIndex();
    const host = new ReplicaHost(this.#thread, cluster, index, message);
    this.#thread.volumes[index] = host;
    cluster.replicas.set(message.volumeId, host);
    cluster.armTick();
    this.#thread.wakeForTime();
  }

  #closeReplica(volumeId: string, answer: Answer): void {
    const cluster = this.#cluster;
    const host = this.#replica(volumeId);
    if (host === undefined)
      throw new HoldfastError('NOT_FOUND', `no replica of volume ${volumeId} is open in this thread`);
    let isStopped = false;
    host.replica.stop(() => {
      isStopped = true;
    });
    this.#commands.begin(() => {
      if (!isStopped || host.isReadingStamps) return false;
      const isClean = host.isMarkedClean;
      cluster.replicas.delete(volumeId);
      this.#thread.volumes[host.index] = undefined;
      host.dispose();
      answer({ value: isClean });
      return true;
    });
  }

  // ---- frontends

  #openFrontend(open: OpenFrontendMessage): void {
    const cluster = this.#cluster;
    invariant(!cluster.frontends.has(open.volumeId), 'a volume has one frontend on a node');
    const frontend = new FrontendHost(this.#thread, cluster, open);
    cluster.frontends.set(open.volumeId, frontend);
    this.#commands.serve(open.volumeId, frontend);
    cluster.armTick();
    frontend.tick();
  }

  #closeFrontend(volumeId: string, answer: Answer): void {
    const cluster = this.#cluster;
    const frontend = cluster.frontends.get(volumeId);
    if (frontend === undefined) {
      answer({ value: undefined });
      return;
    }
    const clients = this.#commands.endClients(volumeId);
    // The clients are gone: nobody hears that their requests fail.
    frontend.end();
    this.#commands.begin(() => {
      if (!clients.isOver()) return false;
      cluster.frontends.delete(volumeId);
      answer({ value: undefined });
      return true;
    });
  }
}
