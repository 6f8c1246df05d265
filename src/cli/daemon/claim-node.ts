// What this daemon says of itself to the cluster, and its name there: taken before anything of the node is looked at,
// so that two daemons are never the same node.

import { join } from 'node:path';
import { CONTROL_VERSIONS } from '../../control/channel/protocol.ts';
import { drawId } from '../../control/names.ts';
import { loadNodeId } from '../../control/node-id.ts';
import { claimNodeName, type NodeSelf } from '../../control/node-membership.ts';
import { Nodes } from '../../control/nodes.ts';
import type { Store } from '../../control/store.ts';
import { readBootId } from '../../dataplane/boot-id.ts';
import { WIRE_VERSIONS } from '../../replication/wire.ts';
import type { Config } from '../config-options.ts';

/** CONFLICT when the name is another node's. */
export async function claimNode(
  config: Config,
  store: Store,
  version: string,
): Promise<{ nodes: Nodes; self: NodeSelf }> {
  const nodes = new Nodes(store, config.store.kind === 'level' ? config.nodeName : undefined);
  const self: NodeSelf = {
    name: config.nodeName,
    id: await loadNodeId(join(config.dataDir, 'node-id')),
    zone: config.zone ?? null,
    labels: config.nodeLabel,
    softwareVersion: version,
    wire: { control: CONTROL_VERSIONS, peer: WIRE_VERSIONS },
    bootId: await readBootId(),
    process: drawId(),
    startedAt: new Date().toISOString(),
  };
  await claimNodeName(nodes, self, config.acceptStore === 'any');
  return { nodes, self };
}
