// What the daemon of a cluster has for its operations on volumes beside its own storage: the nodes, and what it may
// ask of their daemons. On one machine with its embedded store there is none.

import type { PeerCalls } from './channel/peer-calls.ts';
import type { Nodes } from './nodes.ts';

export interface ClusterContext {
  readonly nodes: Pick<Nodes, 'list' | 'find' | 'update'>;
  readonly calls: Pick<PeerCalls, 'call'>;
}
