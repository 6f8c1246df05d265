// Calls to the daemons of other nodes by the node's name: found where its record says that it is, over one connection
// a node that is kept while it is used. What concerns this node is handled here, by the same handlers and under the
// same locks, as if another had asked.

import { HoldfastError } from '../../core/errors.ts';
import type { ClusterKey } from '../cluster-key.ts';
import type { Nodes } from '../nodes.ts';
import { ControlClient } from './client.ts';
import type { ControlHandlers, ControlRequest, ControlResponse, Method } from './protocol.ts';

export interface PeerCallsOptions {
  /** This node's name. */
  readonly self: string;
  readonly handlers: ControlHandlers;
  readonly nodes: Pick<Nodes, 'find'>;
  readonly key: ClusterKey;
  /** The store's identity. */
  readonly cluster: string;
}

interface Connection {
  readonly address: string;
  readonly client: ControlClient;
}

export class PeerCalls {
  readonly #options: PeerCallsOptions;
  readonly #connections = new Map<string, Connection>();

  constructor(options: PeerCallsOptions) {
    this.#options = options;
  }

  /** As ControlClient.call; NOT_FOUND: there is no such node; UNAVAILABLE at once when it is not alive. */
  async call<M extends Method>(
    node: string,
    method: M,
    request: ControlRequest<M>,
    timeoutMs?: number,
  ): Promise<ControlResponse<M>> {
    const { self, handlers, nodes } = this.#options;
    if (node === self) return await handlers[method](request);
    const { address, isAlive, lostAt } = await nodes.find(node);
    if (!isAlive) {
      throw new HoldfastError(
        'UNAVAILABLE',
        `node "${node}" is not alive${lostAt === null ? '' : ` since ${lostAt}`}: start its daemon`,
        { details: { node } },
      );
    }
    return await this.#client(node, address).call(method, request, timeoutMs);
  }

  /** Calls that run end with UNAVAILABLE. */
  close(): void {
    for (const { client } of this.#connections.values()) client.close();
    this.#connections.clear();
  }

  #client(node: string, address: string | null): ControlClient {
    if (address === null) {
      throw new HoldfastError(
        'UNAVAILABLE',
        `node "${node}" listens for no other daemon: start it with --listen and --cluster-key`,
        { details: { node } },
      );
    }
    const standing = this.#connections.get(node);
    if (standing?.address === address) return standing.client;
    standing?.client.close();
    const { key, cluster, self } = this.#options;
    const client = new ControlClient({ address, key, cluster, from: self, to: node });
    this.#connections.set(node, { address, client });
    return client;
  }
}
