// This daemon as a member of the cluster: takes its name, says that it is alive, and keeps the record of its pools
// true enough for placement. The store sees a write when something has changed and the lease's keep-alive,
// nothing else. A membership that is lost (the store was away for longer than the lease) is taken again; what is
// served meanwhile is not concerned.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, HoldfastError } from '../core/errors.ts';
import type { NodeStorage } from '../dataplane/node-storage.ts';
import type { Logger } from '../observe/log.ts';
import { type KeptLease, keepLease } from './kept-lease.ts';
import type { Node, NodePool, Nodes } from './nodes.ts';
import type { Store } from './store.ts';

/** A daemon that dies is no place for new copies after this; failovers have timers of their own. */
const LEASE_MS = 15_000;
const RETRY_MS = 1000;
/** How long a stop waits for the store to take the lease back. */
const GOODBYE_MS = 2000;
const LOOK_INTERVAL_MS = 10_000;
/** Between two writes that are about nothing but room. */
const ROOM_INTERVAL_MS = 60_000;
/** Of a pool's size: a smaller change of its room is not worth a write. */
const ROOM_SHARE = 0.05;

/** What a daemon says of itself. */
export type NodeSelf = Pick<
  Node,
  'name' | 'id' | 'zone' | 'labels' | 'softwareVersion' | 'wire' | 'bootId' | 'process' | 'startedAt'
>;

export interface MembershipOptions {
  /** Others can open the store too: liveness needs a lease. */
  readonly isShared: boolean;
  /** HOST:PORT; null: it talks with no other. */
  readonly address: string | null;
  readonly log: Logger;
  readonly leaseMs?: number;
  readonly lookIntervalMs?: number;
  readonly roomIntervalMs?: number;
}

/**
 * Before this node looks at anything of its own. CONFLICT when the name is another node's; `takeOver` takes it even
 * then, unless that one is alive.
 */
export async function claimNodeName(nodes: Nodes, self: NodeSelf, takeOver: boolean): Promise<void> {
  const alive = await nodes.alive(self.name);
  const isHeld = alive !== undefined && alive.id !== self.id;
  await nodes.put(self.name, (node) => {
    if (isHeld || (node !== undefined && node.id !== self.id && !takeOver))
      throw nameTaken(self, node, isHeld);
    const kept = node ?? { address: null, pools: [], lostAt: null, cordoned: false, draining: false };
    return { ...kept, version: 1, ...self };
  });
}

function nameTaken(self: NodeSelf, node: Node | undefined, isHeld: boolean): HoldfastError {
  const place = node?.address ?? 'an unknown address';
  return new HoldfastError(
    'CONFLICT',
    isHeld
      ? `node "${self.name}" runs already, with another data directory (${place}): give this daemon another ` +
          '--node-name, or stop that one and wait until "holdfast node ls" calls it not alive'
      : `node "${self.name}" belongs to another data directory (node id ${node?.id}, this one is ${self.id}): give ` +
          'this daemon another --node-name; if that data directory is gone for good, start once with --accept-store any',
    { details: { node: self.name, nodeId: self.id, registeredNodeId: node?.id ?? '' } },
  );
}

export class NodeMembership {
  readonly #store: Store;
  readonly #nodes: Nodes;
  readonly #self: NodeSelf;
  readonly #storage: Pick<NodeStorage, 'pools' | 'closedPools'>;
  readonly #options: MembershipOptions;
  readonly #stop = new AbortController();
  readonly #tasks: Promise<void>[] = [];
  #published: { readonly pools: readonly NodePool[]; readonly at: number } | undefined;

  constructor(
    store: Store,
    nodes: Nodes,
    self: NodeSelf,
    storage: Pick<NodeStorage, 'pools' | 'closedPools'>,
    options: MembershipOptions,
  ) {
    this.#store = store;
    this.#nodes = nodes;
    this.#self = self;
    this.#storage = storage;
    this.#options = options;
  }

  /** Once. Record and liveness follow as store and disks allow: a start waits for neither. */
  start(): void {
    if (this.#options.isShared) this.#tasks.push(this.#stayAlive());
    this.#tasks.push(this.#followPools());
  }

  /** Not alive at once, where the store can be told. */
  async close(): Promise<void> {
    this.#stop.abort();
    // A disk that hangs must not hold up the stop.
    await Promise.race([Promise.all(this.#tasks), sleep(GOODBYE_MS, undefined, { ref: false })]);
  }

  /** Writes the record if the pools are others, or their room is considerably other than what it says. */
  async #publishPools(): Promise<void> {
    const pools = await poolsOf(this.#storage);
    const now = performance.now();
    if (this.#published !== undefined && !this.#isWorthWriting(this.#published, pools, now)) return;
    const { address } = this.#options;
    await this.#nodes.update(this.#self.name, (node) =>
      this.#ours(node, { ...node, address, pools: [...pools] }),
    );
    this.#published = { pools, at: now };
  }

  #isWorthWriting(
    published: { readonly pools: readonly NodePool[]; readonly at: number },
    pools: readonly NodePool[],
    now: number,
  ): boolean {
    if (!isSameBesideRoom(published.pools, pools)) return true;
    if (now - published.at < (this.#options.roomIntervalMs ?? ROOM_INTERVAL_MS)) return false;
    return pools.some(({ totalBytes, availableBytes }, index) => {
      const before = published.pools[index]?.availableBytes ?? 0;
      return Math.abs(availableBytes - before) >= totalBytes * ROOM_SHARE;
    });
  }

  /** A record that another daemon has taken meanwhile is left to it. */
  #ours(node: Node, changed: Node): Node {
    return node.id === this.#self.id && node.process === this.#self.process ? changed : node;
  }

  /** Never rejects. */
  async #followPools(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        await this.#publishPools();
      } catch (error) {
        this.#options.log.debug({ error }, "the pools' room could not be recorded");
      }
      await this.#pause(this.#options.lookIntervalMs ?? LOOK_INTERVAL_MS);
    }
  }

  /** Never rejects. */
  async #stayAlive(): Promise<void> {
    const { log, leaseMs = LEASE_MS } = this.#options;
    const { signal } = this.#stop;
    let wasRefused = false;
    while (!signal.aborted) {
      let kept: KeptLease | undefined;
      try {
        kept = await keepLease(this.#store, leaseMs);
        await this.#beAlive(kept);
        wasRefused = false;
        await aborted(AbortSignal.any([signal, kept.lost]));
        if (!signal.aborted)
          log.warn({ leaseMs }, 'the lease of this node is lost: no new copies come here until it is back');
      } catch (error) {
        // Once a trouble, not once a second.
        if (!wasRefused) log.warn({ reason: errorText(error) }, 'this node cannot say that it is alive');
        wasRefused = true;
      }
      // Where the store cannot be reached it runs out by itself.
      const goodbye = kept?.giveBack().catch(() => undefined);
      await Promise.race([goodbye, sleep(GOODBYE_MS, undefined, { ref: false })]);
      if (!signal.aborted) await this.#pause(RETRY_MS);
    }
  }

  async #beAlive({ lease }: KeptLease): Promise<void> {
    const { name, id, process } = this.#self;
    const registered = await this.#nodes.find(name);
    if (registered.id !== id || registered.process !== process) {
      throw new HoldfastError(
        'CONFLICT',
        `another daemon has started as node "${name}" (node id ${registered.id})`,
      );
    }
    await this.#nodes.setAlive(name, { id, process }, lease);
    await this.#nodes.update(name, (node) =>
      node.lostAt === null ? node : this.#ours(node, { ...node, lostAt: null }),
    );
  }

  /** A stop ends the pause. */
  async #pause(timeMs: number): Promise<void> {
    await sleep(timeMs, undefined, { signal: this.#stop.signal, ref: false }).catch(() => undefined);
  }
}

/** In the order of the configuration's names, so that nothing but a change looks like one. */
async function poolsOf(storage: Pick<NodeStorage, 'pools' | 'closedPools'>): Promise<NodePool[]> {
  const open = (await storage.pools()).map(
    ({ name, totalBytes, availableBytes, reserveBytes, overcommitRatio }): NodePool => ({
      name,
      totalBytes,
      availableBytes,
      reserveBytes,
      overcommitRatio,
      problem: null,
    }),
  );
  const closed = storage.closedPools().map(
    ({ name, problem }): NodePool => ({
      name,
      totalBytes: 0,
      availableBytes: 0,
      reserveBytes: 0,
      overcommitRatio: 1,
      problem,
    }),
  );
  return [...open, ...closed].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function isSameBesideRoom(before: readonly NodePool[], after: readonly NodePool[]): boolean {
  const facts = (pools: readonly NodePool[]): string =>
    JSON.stringify(pools.map((pool) => ({ ...pool, availableBytes: 0 })));
  return facts(before) === facts(after);
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  signal.addEventListener('abort', () => resolve(), { once: true });
  await promise;
}
