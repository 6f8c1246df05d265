// The nodes of the cluster as the store knows them: a record each, written by its daemon when something about it
// changes and by operators (cordon), always by compare-and-swap; and a key under a lease that says that its
// daemon runs. That key is for placement and for people. Who may serve a volume is never asked here.

import { z } from 'zod';
import { errorText, HoldfastError } from '../core/errors.ts';
import { didYouMean } from '../core/nearest.ts';
import { type Store, type StoreEntry, type StoreLease, UnknownSwapError } from './store.ts';

const NODE_PREFIX = 'nodes/';
const ALIVE_PREFIX = 'nodes-alive/';
/** Lost races in a row before a change gives up. */
const MAX_ATTEMPTS = 20;

const sizeBytes = z.number().int().min(0);
const versions = z.strictObject({ min: z.number().int(), max: z.number().int() });
const id = z.string().regex(/^[0-9a-f]{32}$/);

const nodePoolSchema = z.looseObject({
  name: z.string().min(1),
  totalBytes: sizeBytes,
  /** As the pool last told: it follows the disk in steps (node-membership.ts). */
  availableBytes: sizeBytes,
  reserveBytes: sizeBytes,
  overcommitRatio: z.number().positive(),
  /** Why it is not open; null: it is. */
  problem: z.string().nullable(),
});
export type NodePool = z.infer<typeof nodePoolSchema>;

/** Loose: during an upgrade older daemons change records of newer ones, and must keep what they do not know. */
const nodeSchema = z.looseObject({
  version: z.literal(1),
  name: z.string().min(1),
  /** Of its data directory (node-id.ts). */
  id,
  /** HOST:PORT for other daemons; null: it talks with none. */
  address: z.string().nullable(),
  zone: z.string().nullable(),
  labels: z.record(z.string(), z.string()),
  pools: z.array(nodePoolSchema),
  softwareVersion: z.string(),
  /** What it can speak with others. */
  wire: z.looseObject({ control: versions, peer: versions }),
  bootId: z.string(),
  /** Drawn at every start of its daemon. */
  process: id,
  startedAt: z.iso.datetime(),
  /** When the leader saw that it was not alive any more; null: it is, or nobody has looked yet. */
  lostAt: z.iso.datetime().nullable(),
  /** No new copies here. Set by operators only. */
  cordoned: z.boolean(),
  /** Its copies are to be moved away. Set by operators only. */
  draining: z.boolean(),
});
export type Node = z.infer<typeof nodeSchema>;

const aliveSchema = z.looseObject({ id, process: id });
type Alive = z.infer<typeof aliveSchema>;

export interface NodeView extends Node {
  readonly isAlive: boolean;
}

export class Nodes {
  readonly #store: Store;
  readonly #alone: string | undefined;

  /** `alone`: the one daemon of a store that nobody else can open; it is alive without a lease. */
  constructor(store: Store, alone?: string) {
    this.#store = store;
    this.#alone = alone;
  }

  /** Sorted by name. */
  async list(): Promise<NodeView[]> {
    const alive = new Map((await this.#store.list(ALIVE_PREFIX)).map(parseAlive));
    const nodes = (await this.#store.list(NODE_PREFIX)).map(parseNode);
    return nodes.map((node) => ({ ...node, isAlive: this.#isAlive(node, alive.get(node.name)) }));
  }

  /**
   * HOST:PORT by name, of the nodes that have one: as it is, and again whenever it has changed. Ends on abort; throws
   * when the store cannot be asked, or has forgotten too much: begin anew.
   */
  async *addresses(signal: AbortSignal): AsyncGenerator<ReadonlyMap<string, string>> {
    const revision = await this.#store.revision();
    const addresses = new Map<string, string>();
    for (const { name, address } of await this.list()) if (address !== null) addresses.set(name, address);
    yield new Map(addresses);
    for await (const event of this.#store.watch(NODE_PREFIX, revision, signal)) {
      const name = (event.type === 'put' ? event.entry.key : event.key).slice(NODE_PREFIX.length);
      const address = event.type === 'put' ? parseNode(event.entry).address : null;
      if ((addresses.get(name) ?? null) === address) continue;
      if (address === null) addresses.delete(name);
      else addresses.set(name, address);
      yield new Map(addresses);
    }
  }

  async find(name: string): Promise<NodeView> {
    const node = await this.#read(name);
    if (node === undefined) throw await this.#notFound(name);
    return { ...node.value, isAlive: this.#isAlive(node.value, await this.alive(name)) };
  }

  /** One that is not cordoned is not drained either. */
  async setCordoned(name: string, cordoned: boolean): Promise<void> {
    await this.#mark(name, (node) => ({ cordoned, draining: cordoned && node.draining }));
  }

  async setDraining(name: string): Promise<void> {
    await this.#mark(name, () => ({ cordoned: true, draining: true }));
  }

  async #mark(name: string, marks: (node: Node) => Pick<Node, 'cordoned' | 'draining'>): Promise<void> {
    await this.update(name, (node) => {
      const { cordoned, draining } = marks(node);
      return node.cordoned === cordoned && node.draining === draining
        ? node
        : { ...node, cordoned, draining };
    });
  }

  /**
   * Applies `change` to what is stored at the very moment. It throws to refuse, returns what it was given to leave
   * it, and may run several times. NOT_FOUND.
   */
  async update(name: string, change: (node: Node) => Node): Promise<void> {
    await this.put(name, (node) => {
      if (node !== undefined) return change(node);
      throw new HoldfastError(
        'NOT_FOUND',
        `There is no node "${name}": "holdfast node ls" shows those there are.`,
      );
    });
  }

  /** As `update`, of a node that may not be there yet. */
  async put(name: string, change: (node: Node | undefined) => Node): Promise<void> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const stored = await this.#read(name);
      const changed = change(stored?.value);
      if (changed === stored?.value) return;
      const text = JSON.stringify(nodeSchema.parse(changed));
      try {
        const key = NODE_PREFIX + name;
        if ((await this.#store.compareAndSwap(key, stored?.revision ?? 0, text)).swapped) return;
      } catch (error) {
        // Whether it happened is seen in what stands there next; one that comes late meets another revision.
        if (!(error instanceof UnknownSwapError) || attempt === MAX_ATTEMPTS - 1) throw error;
      }
    }
    throw new HoldfastError('BUSY', `The record of node "${name}" is changed all the time: try again.`);
  }

  /** Whose daemon holds the key of liveness; undefined: nobody's. */
  async alive(name: string): Promise<Alive | undefined> {
    const entry = await this.#store.get(ALIVE_PREFIX + name);
    return entry && parseAlive(entry)[1];
  }

  /** The key stands for as long as `lease` lasts, in the place of that of an earlier process. BUSY when it is another node's. */
  async setAlive(name: string, alive: Alive, lease: StoreLease): Promise<void> {
    const key = ALIVE_PREFIX + name;
    const standing = await this.#store.get(key);
    if (standing !== undefined && parseAlive(standing)[1].id !== alive.id) throw nameHeld(name);
    const text = JSON.stringify({ id: alive.id, process: alive.process });
    const result = await this.#store.compareAndSwap(key, standing?.revision ?? 0, text, lease);
    if (!result.swapped) throw nameHeld(name);
  }

  #isAlive(node: Node, alive: Alive | undefined): boolean {
    return node.name === this.#alone || alive?.id === node.id;
  }

  async #read(name: string): Promise<{ value: Node; revision: number } | undefined> {
    const entry = await this.#store.get(NODE_PREFIX + name);
    return entry && { value: parseNode(entry), revision: entry.revision };
  }

  async #notFound(name: string): Promise<HoldfastError> {
    const names = (await this.list()).map((node) => node.name);
    return new HoldfastError(
      'NOT_FOUND',
      `There is no node "${name}".${didYouMean(name, names)} "holdfast node ls" shows those there are.`,
    );
  }
}

function nameHeld(name: string): HoldfastError {
  return new HoldfastError('BUSY', `Another daemon says that it is node "${name}".`);
}

function parseNode(entry: StoreEntry): Node {
  return parse(nodeSchema, entry);
}

function parseAlive(entry: StoreEntry): [name: string, alive: Alive] {
  return [entry.key.slice(ALIVE_PREFIX.length), parse(aliveSchema, entry)];
}

function parse<T>(schema: z.ZodType<T>, entry: StoreEntry): T {
  try {
    return schema.parse(JSON.parse(entry.value));
  } catch (error) {
    throw new HoldfastError(
      'CORRUPT',
      `The store's entry ${entry.key} cannot be understood (${errorText(error)}): another version of Holdfast wrote ` +
        'it, or it is damaged. Start the version that wrote it.',
      { cause: error },
    );
  }
}
