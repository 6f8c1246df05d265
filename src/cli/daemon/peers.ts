// The other daemons of the cluster, as this one talks with them: it listens for them, and calls them where their
// records say that they are.

import { ControlClient } from '../../control/channel/client.ts';
import { ClusterListener } from '../../control/channel/listener.ts';
import { RefusalLog } from '../../control/channel/refusal-log.ts';
import type { ControlHandlers } from '../../control/channel/protocol.ts';
import { ControlServer } from '../../control/channel/server.ts';
import type { NodeSelf } from '../../control/node-membership.ts';
import type { NodeView } from '../../control/nodes.ts';
import type { Store } from '../../control/store.ts';
import { HoldfastError, isHoldfastError } from '../../core/errors.ts';
import type { ClusterStorage } from '../../dataplane/cluster-storage.ts';
import { native } from '../../dataplane/native.ts';
import type { Logger } from '../../observe/log.ts';
import { formatHostPort } from '../config-schemas.ts';
import type { ClusterOptions } from './cluster-options.ts';

/** A person waits for the answer. */
const HELLO_TIMEOUT_MS = 3000;

export interface Peers {
  /** HOST:PORT as others are told. */
  readonly address: string;
  /** The caller closes it. */
  connect(node: Pick<NodeView, 'name' | 'address'>): ControlClient;
  /** Asks it. undefined: it answers, or it is this node, or one that is not alive anyway. */
  problemWith(node: NodeView): Promise<string | undefined>;
  close(graceMs: number): Promise<void>;
}

export async function listenForPeers(
  { listen, advertise, key }: ClusterOptions,
  context: {
    readonly store: Store;
    readonly self: NodeSelf;
    /** Of what others may call. */
    readonly handlers: ControlHandlers;
    /** Takes the links of other data planes; undefined: there is nothing here that they could be for. */
    readonly adoptPeer?: ClusterStorage['adoptPeer'];
    readonly log: Logger;
  },
): Promise<Peers> {
  const { store, self, handlers, adoptPeer = native.close, log } = context;
  const cluster = store.identity;
  const refusals = new RefusalLog(log);
  const server = new ControlServer({
    key,
    cluster,
    node: self.name,
    handlers,
    log,
    refusals,
  });
  const listener = await ClusterListener.listen({
    ...listen,
    onCall: (socket) => server.accept(socket),
    onLink: adoptPeer,
    refusals,
  });
  const address = formatHostPort(advertise ?? { host: listen.host, port: listener.port });
  log.info({ host: listen.host, port: listener.port, advertised: address }, 'listening for other daemons');

  const connect = (node: Pick<NodeView, 'name' | 'address'>): ControlClient => {
    if (node.address === null) {
      throw new HoldfastError(
        'UNAVAILABLE',
        `node "${node.name}" listens for no other daemon: start it with --listen and --cluster-key`,
      );
    }
    return new ControlClient({ address: node.address, key, cluster, from: self.name, to: node.name });
  };

  return {
    address,
    connect,
    async problemWith(node) {
      if (node.name === self.name || !node.isAlive) return undefined;
      let client: ControlClient | undefined;
      try {
        client = connect(node);
        await client.call('hello', {}, HELLO_TIMEOUT_MS);
        return undefined;
      } catch (error) {
        if (isHoldfastError(error)) return error.message;
        throw error;
      } finally {
        client?.close();
      }
    },
    async close(graceMs) {
      listener.close();
      await server.close(graceMs);
    },
  };
}
